//! `cargo xtask test`: every check there is, one after another, and a summary of what ran and what did not.

mod steps;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use steps::Step;

use crate::plan::{self, Plan};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Run this step only.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Print the steps' names and run none.
    #[arg(long)]
    list: bool,
}

/// How a step ended.
enum Outcome {
    Passed,
    /// With something left out.
    PassedInPart(String),
    Failed(String),
    Skipped(String),
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let mut steps = steps::all();
    if arguments.list {
        for step in steps {
            println!("{}", step.name);
        }
        return ExitCode::SUCCESS;
    }
    if let Some(only) = &arguments.only {
        steps.retain(|step| step.name == only);
        if steps.is_empty() {
            eprintln!("there is no step `{only}`; `cargo xtask test --list` prints the names");
            return ExitCode::FAILURE;
        }
    }
    let outcomes: Vec<_> = steps.iter().map(|step| (step.name, perform(step))).collect();
    summarise(&outcomes)
}

/// Runs one step; the ones after it run whatever comes of it.
fn perform(step: &Step) -> (Outcome, Duration) {
    println!("\n== {}", step.name);
    let begin = Instant::now();
    let outcome = match (step.plan)() {
        Plan::Skip(reason) => Outcome::Skipped(reason),
        Plan::Run(lines) => plan::run_all(lines).map_or_else(Outcome::Failed, |()| Outcome::Passed),
        Plan::RunPart(lines, missing) => {
            plan::run_all(lines).map_or_else(Outcome::Failed, |()| Outcome::PassedInPart(missing))
        }
    };
    let taken = begin.elapsed();
    println!("-- {}: {}", step.name, describe(&outcome, taken));
    (outcome, taken)
}

fn describe(outcome: &Outcome, taken: Duration) -> String {
    match outcome {
        Outcome::Passed => format!("passed in {:.1} s", taken.as_secs_f64()),
        Outcome::PassedInPart(missing) => {
            format!("passed in {:.1} s, but in part: {missing}", taken.as_secs_f64())
        }
        Outcome::Failed(reason) => format!("FAILED after {:.1} s: {reason}", taken.as_secs_f64()),
        Outcome::Skipped(reason) => format!("skipped: {reason}"),
    }
}

fn summarise(outcomes: &[(&str, (Outcome, Duration))]) -> ExitCode {
    println!("\n== summary");
    for (name, (outcome, taken)) in outcomes {
        println!("{name:<20} {}", describe(outcome, *taken));
    }
    let count =
        |is_it: fn(&Outcome) -> bool| outcomes.iter().filter(|(_, (outcome, _))| is_it(outcome)).count();
    let passed = count(|outcome| matches!(outcome, Outcome::Passed | Outcome::PassedInPart(_)));
    let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
    let skipped = count(|outcome| matches!(outcome, Outcome::Skipped(_)));
    println!("\n{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
