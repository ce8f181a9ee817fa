//! `cargo xtask conformance`: Python's own tests of executors, run on ours and compared with the list of results.

use std::error::Error;
use std::process::ExitCode;

use clap::Args;

use crate::plan::{self, Plan};
use crate::python::Interpreter;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Renew the list, python/conformance/results.txt.
    #[arg(long)]
    write: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    match plan(arguments.write) {
        Plan::Run(lines) | Plan::RunPart(lines, _) => plan::run_all(lines)?,
        Plan::Skip(reason) => println!("skipped: {reason}"),
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn plan(write: bool) -> Plan {
    let environment = match Interpreter::with_its_tests() {
        Ok(interpreter) => interpreter.for_tests(),
        Err(reason) => return Plan::Skip(reason),
    };
    let mut lines = environment.made();
    let suite = environment.python("python/conformance/cpython_suite.py");
    lines.push(if write { suite.and(["--write"]) } else { suite });
    Plan::Run(lines)
}
