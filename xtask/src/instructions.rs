//! `cargo xtask instructions`: counts the instructions of one call in Python, and compares them with the recorded numbers.

use std::error::Error;
use std::process::ExitCode;

use clap::Args;

use crate::plan::{self, CommandLine, Plan};
use crate::python::Interpreter;

#[derive(Args)]
pub(crate) struct InstructionsArguments {
    /// Write the numbers into python/benches/instructions.toml, instead of failing if one has grown.
    #[arg(long)]
    write: bool,
}

/// Returns the plan of the step `instructions`.
pub(crate) fn plan() -> Plan {
    match commands(false) {
        Ok(lines) => Plan::Run(lines),
        Err(reason) => Plan::Skip(reason),
    }
}

/// Returns the commands that count in a Debian system of their own: other builds of Python and of the C library take
/// other numbers of instructions.
fn commands(write: bool) -> Result<Vec<CommandLine>, String> {
    let environment = Interpreter::beside_valgrind()?.for_counting();
    let count = environment.python("python/benches/instructions.py");
    let count = if write { count.and(["--write"]) } else { count };
    Ok(environment.commands().into_iter().chain([count]).collect())
}

pub(crate) fn run(arguments: &InstructionsArguments) -> Result<ExitCode, Box<dyn Error>> {
    plan::run_all(commands(arguments.write)?)?;
    Ok(ExitCode::SUCCESS)
}
