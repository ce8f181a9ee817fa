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
    match plan(arguments.write, &debian::VERSIONS) {
        Plan::Run(lines) => plan::run_all(lines)?,
        Plan::RunPart(lines, missing) => {
            plan::run_all(lines)?;
            println!("not run: {missing}");
        }
        Plan::Skip(reason) => println!("skipped: {reason}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the plan that runs the tests of a version of Python that is installed with its tests, and of these versions of
/// Debian's unstable suite.
pub(crate) fn plan(write: bool, of_debian: &[&str]) -> Plan {
    let of_debian = of_debian.iter().copied().map(Interpreter::of_debian);
    let (mut lines, mut missing) = (Vec::new(), Vec::new());
    for interpreter in [Interpreter::with_its_tests()].into_iter().chain(of_debian) {
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
