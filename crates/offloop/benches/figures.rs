//! What it costs to keep figures: this program beside a build of itself that keeps none.
//!
//! ```text
//! cargo xtask bench figures            # builds both, and has them take turns
//! ```
//!
//! Each round starts both programs once; a cell is the median over the rounds, the last column that of the rounds' own
//! ratios, as a disturbance of the machine mostly lasts longer than a round.

#![allow(missing_docs, reason = "a program has no users")]

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use offloop::{ProcessPool, ThreadPool};

const LABELS: [&str; 3] =
    ["thread, no-op round trip, µs", "thread, burst of 1000, µs a job", "process, no-op round trip, µs"];

#[offloop::task]
fn nothing() {}

fn main() -> ExitCode {
    offloop::init();
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_quick = arguments.iter().any(|argument| argument == "--quick");
    arguments.retain(|argument| argument != "--quick");
    // The file of the build without figures, for the one that compares.
    let Some(other) = arguments.pop() else {
        for time in measure(is_quick) {
            println!("{}", time.as_nanos());
        }
        return ExitCode::SUCCESS;
    };
    let own = std::env::current_exe().expect("a program knows its file");
    let rounds = if is_quick { 2 } else { 41 };
    let mut times: Vec<[[f64; 2]; LABELS.len()]> = Vec::new();
    for round in 0..rounds {
        let mut both = [[0.0; 2]; LABELS.len()];
        for turn in 0..2 {
            // Who begins changes from round to round.
            let which = (turn + round) % 2;
            let mut program = Command::new([own.as_os_str(), other.as_ref()][which]);
            let output = program.args(is_quick.then_some("--quick")).output();
            let output = output.expect("both programs have been built");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            for (row, line) in both.iter_mut().zip(text.lines()) {
                row[which] = line.parse::<f64>().expect("it prints numbers") / 1000.0;
            }
        }
        times.push(both);
    }
    println!("| workload | with figures | without | with ÷ without |");
    println!("| --- | ---: | ---: | ---: |");
    for (row, label) in LABELS.iter().enumerate() {
        let column = |of: fn([f64; 2]) -> f64| median(times.iter().map(|both| of(both[row])).collect());
        let (with, without) = (column(|both| both[0]), column(|both| both[1]));
        let ratio = column(|[with, without]| with / without);
        println!("| {label} | {with:.3} | {without:.3} | {ratio:.3} |");
    }
    ExitCode::SUCCESS
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The median times of each workload, of a job.
fn measure(is_quick: bool) -> [Duration; LABELS.len()] {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be had");
    let samples = if is_quick { 5 } else { 60 };
    runtime.block_on(async {
        let threads = ThreadPool::builder().max_workers(2).build().expect("these settings are valid");
        let processes = ProcessPool::builder().max_workers(1).build().expect("the system has processes");
        let mut all = [const { Vec::new() }; LABELS.len()];
        for _ in 0..samples {
            all[0].push(timed(500, async || threads.run(|| ()).await.expect("nothing fails")).await);
            let burst = async || {
                let handles: Vec<_> = (0..1000).map(|_| threads.run(|| ())).collect();
                for handle in handles {
                    handle.await.expect("nothing fails");
                }
            };
            all[1].push(timed(5, burst).await / 1000);
            all[2]
                .push(timed(200, async || processes.run(nothing.with()).await.expect("nothing fails")).await);
        }
        all.map(|mut times| {
            // The first ones warm up.
            let mut warm = times.split_off(times.len() / 5);
            warm.sort();
            warm[warm.len() / 2]
        })
    })
}

/// How long one of so many takes.
async fn timed(times: u32, once: impl AsyncFn()) -> Duration {
    let began = Instant::now();
    for _ in 0..times {
        once().await;
    }
    began.elapsed() / times
}
