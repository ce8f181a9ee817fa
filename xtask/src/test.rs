//! `cargo xtask test`: runs all checks one after another, and prints a summary of the steps.

mod steps;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use steps::Step;
pub(crate) use steps::{nats_server, workspace};

use crate::plan::{self, Failure, Plan};

#[derive(Args)]
pub(crate) struct TestArguments {
    /// Run only this step, which may be one of those that are run on request.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Print the names of the steps and run none.
    #[arg(long)]
    list: bool,
}

/// How a step ended.
enum StepResult {
    Passed,
    /// Passed, except for a part that could not run here.
    PassedInPart(String),
    Failed(Failure),
    Skipped(String),
}

pub(crate) fn run(arguments: &TestArguments) -> ExitCode {
    let mut steps = steps::all();
    if arguments.list {
        for step in steps {
            println!("{}", step.name);
        }
        for step in steps::on_request() {
            println!("{} (on request)", step.name);
        }
        return ExitCode::SUCCESS;
    }
    if let Some(only) = &arguments.only {
        steps.extend(steps::on_request());
        steps.retain(|step| step.name == only);
        if steps.is_empty() {
            eprintln!("there is no step `{only}`; `cargo xtask test --list` prints the names");
            return ExitCode::FAILURE;
        }
    }
    let results: Vec<_> = steps.iter().map(|step| (step.name, perform(step))).collect();
    summarise(&results)
}

/// Runs one step. A failure does not prevent the next steps.
fn perform(step: &Step) -> (StepResult, Duration) {
    println!("\n== {}", step.name);
    let begin = Instant::now();
    let result = match (step.plan)() {
        Plan::Skip(reason) => StepResult::Skipped(reason),
        Plan::Run(lines) => plan::run_all(lines).map_or_else(StepResult::Failed, |()| StepResult::Passed),
        Plan::RunPart(lines, missing) => {
            plan::run_all(lines).map_or_else(StepResult::Failed, |()| StepResult::PassedInPart(missing))
        }
    };
    let taken = begin.elapsed();
    println!("-- {}: {}", step.name, describe(&result, taken));
    (result, taken)
}

fn describe(result: &StepResult, taken: Duration) -> String {
    match result {
        StepResult::Passed => format!("passed in {:.1} s", taken.as_secs_f64()),
        StepResult::PassedInPart(missing) => {
            format!("passed in {:.1} s, but in part: {missing}", taken.as_secs_f64())
        }
        StepResult::Failed(failure) => {
            format!("FAILED after {:.1} s: {failure}", taken.as_secs_f64())
        }
        StepResult::Skipped(reason) => format!("skipped: {reason}"),
    }
}

fn summarise(results: &[(&str, (StepResult, Duration))]) -> ExitCode {
    for (name, (result, _)) in results {
        match result {
            StepResult::Failed(Failure { tail, .. }) if !tail.is_empty() => {
                println!("\n== the end of what `{name}` printed\n{tail}");
            }
            _ => {}
        }
    }
    println!("\n== summary");
    for (name, (result, taken)) in results {
        println!("{name:<20} {}", describe(result, *taken));
    }
    let count =
        |matches: fn(&StepResult) -> bool| results.iter().filter(|(_, (result, _))| matches(result)).count();
    let passed = count(|result| matches!(result, StepResult::Passed | StepResult::PassedInPart(_)));
    let failed = count(|result| matches!(result, StepResult::Failed(_)));
    let skipped = count(|result| matches!(result, StepResult::Skipped(_)));
    println!("\n{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
