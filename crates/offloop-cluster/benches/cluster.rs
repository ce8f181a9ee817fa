//! The Rust side of `cargo xtask bench cluster`, which runs it beside its peers: one turn of one contender. It prints what
//! it has measured as JSON: times in seconds, rates a second, memory in KiB.
//!
//! ```text
//! cargo bench -p offloop-cluster --bench cluster -- --turn offloop    # jobs through worker processes
//! cargo bench -p offloop-cluster --bench cluster -- --turn bare       # the protocol, without anything around it
//! ```
//!
//! Without `--turn` it takes a short turn of each, to see that it works. `--quick` shortens a turn. The program of the
//! server is `nats-server`, or what the variable `OFFLOOP_NATS_SERVER` names; without it there is nothing to measure.
//!
//! - *Round trip*: submit a no-op and wait for its result, one after another.
//! - *Burst*: submit 1000 no-ops, then wait for them all.
//! - *Payload*: a job returns its argument of 64 MiB.
//! - *Cancel*: from the call until the process that runs the job is dead.
//! - *First*: from nothing to the first result: starts a server and an agent with two processes.
//! - *Memory*: of the idle server, agent and its processes, as proportional set size (PSS).
//! - *Lost*: from killing the agent that runs a job to its next start by another one.
//! - *Restart*: from starting the server again, which was killed, to the result of a job that was submitted while it was
//!   away.

#[path = "cluster/bare.rs"]
mod bare;
#[path = "cluster/own.rs"]
mod own;
#[allow(dead_code, reason = "each bench needs a part")]
mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use support::median;

/// The results of a turn, by name.
type Results = BTreeMap<&'static str, f64>;

/// The amount of work of a turn.
#[derive(Clone, Copy)]
struct Effort {
    trips: usize,
    bursts: usize,
    /// Also measures what takes many seconds.
    is_full: bool,
}

const BURST: usize = 1000;

fn main() {
    offloop::init();
    offloop_cluster::init().expect("the worker serves");
    let words: Vec<String> = std::env::args().skip(1).collect();
    let after = |option: &str| {
        let at = words.iter().position(|word| word == option)?;
        words.get(at + 1).cloned()
    };
    if let Some(url) = after("--bare-worker") {
        return bare::work(&url);
    }
    let turn = after("--turn");
    let is_full = turn.is_some() && !words.iter().any(|word| word == "--quick");
    let effort = if is_full {
        Effort { trips: 500, bursts: 5, is_full }
    } else {
        Effort { trips: 20, bursts: 1, is_full }
    };
    match turn.as_deref() {
        Some("offloop") => print(&own::measure(effort)),
        Some("bare") => print(&bare::measure(effort)),
        Some(other) => panic!("there is no contender `{other}`"),
        None if support::has_server() => {
            print(&bare::measure(effort));
            print(&own::measure(effort));
        }
        None => println!("skipped: `nats-server` is not installed"),
    }
}

fn print(results: &Results) {
    println!("{}", serde_json::to_string(results).expect("numbers"));
}

/// Returns the median time of a round trip.
fn round_trips(effort: Effort, mut trip: impl FnMut()) -> f64 {
    // The first ones find nothing warm.
    (0..20).for_each(|_| trip());
    median((0..effort.trips).map(|_| timed(&mut trip).as_secs_f64()).collect())
}

/// Returns the median rate of bursts.
fn bursts(effort: Effort, mut burst: impl FnMut()) -> f64 {
    burst();
    median((0..effort.bursts).map(|_| 1000.0 / timed(&mut burst).as_secs_f64()).collect())
}

fn timed(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}
