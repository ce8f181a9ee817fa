//! What a watch costs: CPU time of its own thread and of the loop that it watches.
//!
//! ```text
//! cargo bench -p offloop --features watch-stacks --bench watch              # minutes; results to quote
//! cargo bench -p offloop --features watch-stacks --bench watch -- --quick   # seconds; a smoke run
//! ```
//!
//! Each row is one loop, with a threshold of 100 ms, the default. *Idle* loops have nothing to do; their cost is the
//! difference of the process's CPU time with and without a watch, as a share of one core. A *loaded* loop has
//! 64 tasks that only yield, as fast as they can; its cost is the CPU time that the process needs more
//! for the same number of turns. Both are measured by turns, with and without a watch. A result is the median over the
//! rounds; under load it is the least, since other programs on the machine only add to it.

#[allow(dead_code, unused_imports, reason = "each bench uses its own part")]
mod support;

use std::time::{Duration, Instant};

use offloop::watch::{Monitor, RuntimeWatch, RuntimeWatchBuilder};
use support::{Effort, median};
use tokio::runtime::{self, Runtime};

/// The amount of work that is measured.
struct Plan {
    rounds: usize,
    idle: Duration,
    turns: u32,
}

/// The way in which a loop is watched.
#[derive(Clone, Copy, PartialEq)]
enum How {
    Not,
    /// The runtime is watched.
    Runtime,
    /// The runtime and each task are watched, the tasks with the lines that spawned them.
    Tasks,
}

#[derive(Clone, Copy)]
enum Flavor {
    Current,
    Multi,
}

fn main() {
    let effort = Effort::from_arguments();
    let plan = Plan {
        rounds: effort.pick(2, 9),
        idle: effort.pick(Duration::from_millis(300), Duration::from_secs(2)),
        turns: effort.pick(20_000, 1_000_000),
    };
    println!("| loop | watched | without | with | cost, % |");
    println!("| --- | --- | --: | --: | --: |");
    pulse(&plan);
    for (flavor, name) in [(Flavor::Current, "current-thread"), (Flavor::Multi, "multi-thread")] {
        let [without, with] =
            in_rounds(plan.rounds, [How::Not, How::Runtime], |how| idle(flavor, how, plan.idle)).map(median);
        row(&format!("{name}, idle"), "the runtime", (without, with), "% CPU", with - without);
        for (how, what) in [(How::Runtime, "the runtime"), (How::Tasks, "and each task")] {
            let [without, with] =
                in_rounds(5 * plan.rounds, [How::Not, how], |how| loaded(flavor, how, plan.turns)).map(least);
            row(
                &format!("{name}, loaded"),
                what,
                (without, with),
                "ns a turn",
                (with / without - 1.0) * 100.0,
            );
        }
    }
}

fn row(name: &str, what: &str, (without, with): (f64, f64), unit: &str, cost: f64) {
    println!("| {name} | {what} | {without:.2} {unit} | {with:.2} {unit} | {cost:.2} |");
}

fn least(values: Vec<f64>) -> f64 {
    values.into_iter().fold(f64::INFINITY, f64::min)
}

/// Measures both in each round, after a first round that does not count.
fn in_rounds<T: Copy>(rounds: usize, both: [T; 2], measure: impl Fn(T) -> f64) -> [Vec<f64>; 2] {
    let mut results = both.map(|how| {
        measure(how);
        Vec::with_capacity(rounds)
    });
    for round in 0..rounds {
        for turn in 0..2 {
            let at = (round + turn) % 2;
            results[at].push(measure(both[at]));
        }
    }
    results
}

/// Measures the watch of any loop: the monitor's thread beside beats at their interval, and the cost of one beat.
fn pulse(plan: &Plan) {
    let [without, with] = in_rounds(plan.rounds, [false, true], |watched| {
        let watch = watched.then(|| Monitor::new(THRESHOLD).start(|_| ()).expect("a thread"));
        share(plan.idle, || {
            let begun = Instant::now();
            while begun.elapsed() < plan.idle {
                std::thread::sleep(THRESHOLD / 4);
                if let Some((pulse, _)) = &watch {
                    pulse.beat();
                }
            }
        })
    })
    .map(median);
    row("any, idle", "by beats", (without, with), "% CPU", with - without);
    let (pulse, _guard) = Monitor::new(THRESHOLD).start(|_| ()).expect("a thread");
    let begun = Instant::now();
    (0..plan.turns).for_each(|_| pulse.beat());
    let beat = begun.elapsed().as_secs_f64() * 1e9 / f64::from(plan.turns);
    println!("| any | one beat | – | {beat:.1} ns | |");
}

const THRESHOLD: Duration = Duration::from_millis(100);

fn start(flavor: Flavor, how: How) -> (Runtime, Option<RuntimeWatch>) {
    let watch = RuntimeWatchBuilder::new().threshold(THRESHOLD);
    let mut builder = match flavor {
        Flavor::Current => runtime::Builder::new_current_thread(),
        Flavor::Multi => runtime::Builder::new_multi_thread(),
    };
    if how != How::Not {
        builder.on_thread_park(watch.on_thread_park());
    }
    let runtime = builder.enable_all().build().expect("a runtime");
    let watch = (how != How::Not).then(|| watch.start(runtime.handle()).expect("a thread"));
    (runtime, watch)
}

/// Returns the share of a core, in percent, that this process uses while the loop sleeps.
fn idle(flavor: Flavor, how: How, time: Duration) -> f64 {
    let (runtime, _watch) = start(flavor, how);
    share(time, || runtime.block_on(async { tokio::time::sleep(time).await }))
}

fn share(time: Duration, run: impl FnOnce()) -> f64 {
    let before = cpu_time();
    run();
    cpu_time().saturating_sub(before).as_secs_f64() / time.as_secs_f64() * 100.0
}

/// Returns the CPU time of one turn in nanoseconds, while enough tasks yield to keep all workers busy.
fn loaded(flavor: Flavor, how: How, turns: u32) -> f64 {
    const TASKS: u32 = 64;
    let (runtime, watch) = start(flavor, how);
    let yields = turns / TASKS;
    let before = cpu_time();
    runtime.block_on(async {
        let spawn = |_| match &watch {
            Some(watch) if how == How::Tasks => watch.spawn(give_way(yields)),
            _ => tokio::spawn(give_way(yields)),
        };
        let tasks: Vec<_> = (0..TASKS).map(spawn).collect();
        for task in tasks {
            task.await.expect("it only yields");
        }
    });
    cpu_time().saturating_sub(before).as_secs_f64() * 1e9 / f64::from(yields * TASKS)
}

async fn give_way(times: u32) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}

/// Returns the CPU time of all threads of this process.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` outlives the call.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) }, 0);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("below a second"))
}
