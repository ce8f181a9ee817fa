//! `cargo xtask conformance`: runs Python's own tests of executors on offloop's, and compares the results with the
//! recorded ones.

use std::error::Error;
use std::process::ExitCode;

use clap::Args;

use crate::plan::{self, Plan};
use crate::python::Interpreter;

#[derive(Args)]
pub(crate) struct ConformanceArguments {
    /// Record the results in python/conformance/results.txt.
    #[arg(long)]
    write: bool,
}

pub(crate) fn run(arguments: &ConformanceArguments) -> Result<ExitCode, Box<dyn Error>> {
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
    let mut lines = environment.commands();
    let suite = environment.python("python/conformance/cpython_suite.py");
    lines.push(if write { suite.and(["--write"]) } else { suite });
    Plan::Run(lines)
}
