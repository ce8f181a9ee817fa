//! Compares offloop's threads with its peers: the same no-op job through each, in one run.
//!
//! ```text
//! cargo bench -p offloop --bench threads              # minutes; results to quote
//! cargo bench -p offloop --bench threads -- --quick   # seconds; a smoke run
//! ```
//!
//! Every workload is measured in rounds. In a round each contender has its turn, and the next round begins with another
//! contender. So a disturbance of the machine affects all alike. A cell is the median over the rounds.
//!
//! - *Round trip*: submit and await, one after another, on a current-thread runtime of tokio.
//! - *Burst*: submit 1000 jobs, then await them all, on the same runtime.
//! - *16 submitters*: 16 bursts at the same time, from 16 tasks on a multi-thread runtime or from 16 threads. The queues of
//!   the lanes have room for 10,000 of these jobs, and the others wait for room. That of `ThreadPool(2)` has room for all.
//! - *Busy*: a thread of normal priority spins for each core but one. *Idle*: nothing else runs.
//! - *rayon + locks* is no peer: tokio-rayon, with as many locks and readings of the clock for each job as ours.
//! - *Memory*: the growth of the anonymous pages of a fresh process, per thread that has run a job and is idle.

#[path = "threads/contenders.rs"]
mod contenders;
mod support;

use std::time::Duration;

use contenders::{BOUNDS, CONTENDERS, Contender, OURS, PEERS};
use support::{Better, Comparison, Effort, Goal, Hogs, Row, Spread, median};

/// The amount of work that is measured.
struct Plan {
    rounds: usize,
    trips: usize,
    bursts: usize,
    crowd_bursts: u32,
    idle_threads: usize,
}

fn main() {
    if contenders::measure_memory_if_asked() {
        return;
    }
    let effort = Effort::from_arguments();
    let plan = Plan {
        rounds: effort.pick(2, 40),
        trips: effort.pick(200, 800),
        bursts: effort.pick(2, 10),
        crowd_bursts: effort.pick(1, 2),
        idle_threads: effort.pick(32, 200),
    };
    let mut comparison = Comparison::new(&OURS, &PEERS, &BOUNDS);
    single_submitter(&plan, "idle", &mut comparison);
    crowds(&plan, &mut comparison);
    {
        let _hogs = Hogs::release();
        single_submitter(&plan, "busy", &mut comparison);
    }
    comparison.add(Row {
        label: "memory per idle thread, KiB".to_owned(),
        better: Better::Less,
        goals: &[],
        values: CONTENDERS.iter().map(|contender| contender.idle_thread_kib(plan.idle_threads)).collect(),
    });
    print!("{comparison}");
}

/// Measures round trips and bursts from one thread.
fn single_submitter(plan: &Plan, machine: &str, comparison: &mut Comparison) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let trips = in_rounds(plan.rounds, |contender| contender.round_trips(&runtime, plan.trips));
    let micros = |pick: fn(&Spread) -> Duration| {
        trips
            .iter()
            .map(move |rounds| Some(median(rounds.iter().map(|spread| pick(spread).as_secs_f64() * 1e6))))
    };
    for (name, values) in [("p50", micros(|spread| spread.p50)), ("p99", micros(|spread| spread.p99))] {
        comparison.add(Row {
            label: format!("round trip {name}, {machine}, µs"),
            better: Better::Less,
            goals: &[Goal::BestPeer],
            values: values.collect(),
        });
    }
    let rates = in_rounds(plan.rounds, |contender| contender.bursts(&runtime, plan.bursts));
    comparison.add(Row {
        label: format!("burst of 1000, {machine}, thousand/s"),
        better: Better::More,
        goals: &[Goal::BestPeer],
        values: thousands(rates),
    });
}

/// Measures bursts from 16 submitters at the same time.
fn crowds(plan: &Plan, comparison: &mut Comparison) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let tasks = in_rounds(plan.rounds, |contender| contender.crowd_of_tasks(&runtime, plan.crowd_bursts));
    let threads = in_rounds(plan.rounds, |contender| contender.crowd_of_threads(&runtime, plan.crowd_bursts));
    for (submitters, rates) in [("tasks", tasks), ("threads", threads)] {
        comparison.add(Row {
            label: format!("16 submitters ({submitters}), idle, thousand/s"),
            better: Better::More,
            goals: &[Goal::Times(4.0, "spawn_blocking")],
            values: thousands(rates),
        });
    }
}

/// Measures each contender in each round, after a first round that does not count. Returns a list of rounds for each
/// contender.
fn in_rounds<R>(rounds: usize, measure: impl Fn(&dyn Contender) -> R) -> Vec<Vec<R>> {
    for contender in CONTENDERS {
        measure(contender);
    }
    let mut results: Vec<Vec<R>> = CONTENDERS.iter().map(|_| Vec::with_capacity(rounds)).collect();
    for round in 0..rounds {
        for turn in 0..CONTENDERS.len() {
            let at = (round + turn) % CONTENDERS.len();
            results[at].push(measure(CONTENDERS[at]));
        }
    }
    results
}

/// Returns the median rate of each contender, in thousands.
fn thousands(rates: Vec<Vec<f64>>) -> Vec<Option<f64>> {
    rates.into_iter().map(|rounds| Some(median(rounds) / 1e3)).collect()
}
