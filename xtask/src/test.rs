//! `cargo xtask test`: runs all checks, and prints a summary of the steps.
//!
//! Several steps run at a time, so what they print goes into a file each, in `target/logs`. The end of it is printed if a
//! step fails.

mod steps;

use std::fs::{self, File};
use std::io;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use steps::{Lanes, Step};
pub(crate) use steps::{nats_server, workspace};

use crate::host;
use crate::plan::{self, Failure, Plan};
use crate::tail::Output;

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

/// The name of a step, how it ended, and the time that it took.
type Outcome = (&'static str, StepResult, Duration);

pub(crate) fn run(arguments: &TestArguments) -> ExitCode {
    if arguments.list {
        for step in steps::all().into_steps() {
            println!("{}", step.name);
        }
        for step in steps::on_request() {
            println!("{} (on request)", step.name);
        }
        return ExitCode::SUCCESS;
    }
    let Some(only) = &arguments.only else { return summarise(&run_lanes(steps::all())) };
    let mut steps = steps::all().into_steps().into_iter().chain(steps::on_request());
    if let Some(step) = steps.find(|step| step.name == only) {
        summarise(&[perform(&step, Output::PassedOn)])
    } else {
        eprintln!("there is no step `{only}`; `cargo xtask test --list` prints the names");
        ExitCode::FAILURE
    }
}

/// Runs all steps. A failure does not prevent the next steps.
fn run_lanes(lanes: Lanes) -> Vec<Outcome> {
    let Lanes { rust, apart, wheel, python, alone } = lanes;
    let (built, is_built) = mpsc::channel();
    let first_lane = move || {
        let mut outcomes = perform_all(&rust);
        // It is sent, unless the other lane has panicked.
        let _ = is_built.recv();
        outcomes.extend(perform_all(&apart));
        outcomes
    };
    let first_lane = thread::spawn(first_lane);
    let mut second = perform_all(&[wheel]);
    let _ = built.send(());
    second.extend(perform_all(&python));
    let first = first_lane.join().expect("steps do not panic");
    first.into_iter().chain(second).chain(perform_all(&alone)).collect()
}

/// Runs steps one after another, each with a log.
fn perform_all(steps: &[Step]) -> Vec<Outcome> {
    let logged = |step: &Step| match log_of(step) {
        Ok(log) => perform(step, Output::Logged(&log)),
        Err(error) => {
            let failure = Failure { reason: format!("its log cannot be made: {error}"), tail: String::new() };
            (step.name, StepResult::Failed(failure), Duration::ZERO)
        }
    };
    steps.iter().map(logged).collect()
}

/// Makes the file that has what a step prints.
fn log_of(step: &Step) -> io::Result<File> {
    let directory = host::target_dir().join("logs");
    fs::create_dir_all(&directory)?;
    File::create(directory.join(format!("{}.txt", step.name)))
}

/// Runs one step.
fn perform(step: &Step, output: Output<'_>) -> Outcome {
    println!("== {}", step.name);
    let begin = Instant::now();
    let result = match (step.plan)() {
        Plan::Skip(reason) => StepResult::Skipped(reason),
        Plan::Run(lines) => {
            plan::run_with(lines, output).map_or_else(StepResult::Failed, |()| StepResult::Passed)
        }
        Plan::RunPart(lines, missing) => plan::run_with(lines, output)
            .map_or_else(StepResult::Failed, |()| StepResult::PassedInPart(missing)),
    };
    let taken = begin.elapsed();
    println!("-- {}: {}", step.name, describe(&result, taken));
    (step.name, result, taken)
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

fn summarise(outcomes: &[Outcome]) -> ExitCode {
    for (name, result, _) in outcomes {
        match result {
            StepResult::Failed(Failure { tail, .. }) if !tail.is_empty() => {
                println!("\n== the end of what `{name}` printed\n{tail}");
            }
            _ => {}
        }
    }
    println!("\n== summary");
    for (name, result, taken) in outcomes {
        println!("{name:<20} {}", describe(result, *taken));
    }
    let count = |matches: fn(&StepResult) -> bool| outcomes.iter().filter(|it| matches(&it.1)).count();
    let passed = count(|result| matches!(result, StepResult::Passed | StepResult::PassedInPart(_)));
    let failed = count(|result| matches!(result, StepResult::Failed(_)));
    let skipped = count(|result| matches!(result, StepResult::Skipped(_)));
    println!("\n{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
