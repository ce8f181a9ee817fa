//! `cargo xtask conformance`: runs Python's own tests of executors on offloop's, and compares the results with the
//! recorded ones.

use std::error::Error;
use std::process::ExitCode;

use clap::Args;

use crate::debian;
use crate::plan::{self, Plan};
use crate::python::Interpreter;

#[derive(Args)]
pub(crate) struct ConformanceArguments {
    /// Record the results in `python/conformance/results-<version>.txt`.
    #[arg(long)]
    write: bool,
}

pub(crate) fn run(arguments: &ConformanceArguments) -> Result<ExitCode, Box<dyn Error>> {
    for plan in [plan_here(arguments.write), plan_of_debian(arguments.write, &debian::VERSIONS)] {
        match plan {
            Plan::Run(lines) => plan::run_all(lines)?,
            Plan::RunPart(lines, missing) => {
                plan::run_all(lines)?;
                println!("not run: {missing}");
            }
            Plan::Skip(reason) => println!("skipped: {reason}"),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the plan that runs the tests of a version of Python that is installed with its tests.
pub(crate) fn plan_here(write: bool) -> Plan {
    plan([Interpreter::with_its_tests()], write)
}

/// Returns the plan that runs the tests of these versions of Debian's unstable suite.
pub(crate) fn plan_of_debian(write: bool, versions: &[&str]) -> Plan {
    plan(versions.iter().copied().map(Interpreter::of_debian), write)
}

fn plan(interpreters: impl IntoIterator<Item = Result<Interpreter, String>>, write: bool) -> Plan {
    let (mut lines, mut missing) = (Vec::new(), Vec::new());
    for interpreter in interpreters {
        let environment = match interpreter {
            Ok(interpreter) => interpreter.for_tests(),
            Err(reason) if missing.contains(&reason) => continue,
            Err(reason) => {
                missing.push(reason);
                continue;
            }
        };
        lines.extend(environment.commands());
        let suite = environment.python("python/conformance/cpython_suite.py");
        lines.push(if write { suite.and(["--write"]) } else { suite });
    }
    match (lines.is_empty(), missing.is_empty()) {
        (true, _) => Plan::Skip(missing.join("; ")),
        (false, true) => Plan::Run(lines),
        (false, false) => Plan::RunPart(lines, missing.join("; ")),
    }
}
