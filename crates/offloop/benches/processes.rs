//! Compares offloop's processes with a peer and with the lower bounds that the hardware sets: the same job through
//! each, in one run.
//!
//! ```text
//! cargo bench -p offloop --bench processes              # minutes; results to quote
//! cargo bench -p offloop --bench processes -- --quick   # seconds; a smoke run
//! ```
//!
//! Every workload is measured in rounds. In a round each contender has its turn, and the next round begins with another
//! contender. So a disturbance of the machine affects all alike. A cell is the median over the rounds. Pools have two
//! workers, unless said otherwise.
//!
//! - *Round trip*: submit a no-op and await it, one after another.
//! - *Burst*: submit 1000 no-ops, then await them all.
//! - *Argument*: one job that reads one byte of each page of its argument.
//! - *Result*: one job that makes a `Vec<u8>`. The caller reads one byte of each page.
//! - *Rows*: one job that returns its argument, a list of structs with twenty fields. Encoding and decoding count, on both
//!   sides.
//! - *Cold start*: from building a pool of one worker to the first result.
//! - *Replacement*: from killing the only worker, while it is idle, to the next result.
//! - *Memory*: the proportional set size (PSS) of that worker, after its first job.
//! - *Busy*: a thread of normal priority spins for each core but one. *Idle*: nothing else runs.

#[path = "processes/alarm.rs"]
mod alarm;
#[path = "processes/contenders.rs"]
mod contenders;
mod support;

use std::time::Duration;

use alarm::Alarm;
use contenders::{BOUNDS, Contender, Life, OURS, PEERS};
use support::{Better, Comparison, Effort, Goal, Hogs, Row, Spread, median};

/// The amount of work that is measured.
struct Plan {
    rounds: usize,
    trips: usize,
    bursts: usize,
    payloads: [Payload; 2],
    /// The rounds and the calls in each round, for rows.
    rows: (usize, usize),
    lives: usize,
}

/// The amount of work that is measured for one size of arguments and results.
struct Payload {
    mib: usize,
    rounds: usize,
    times: usize,
}

fn main() {
    offloop::init();
    procspawn::init();
    if contenders::echo_if_asked() {
        return;
    }
    let effort = Effort::from_arguments();
    let plan = Plan {
        rounds: effort.pick(2, 40),
        trips: effort.pick(200, 800),
        bursts: effort.pick(1, 3),
        payloads: [
            Payload { mib: 1, rounds: effort.pick(2, 40), times: effort.pick(5, 20) },
            Payload { mib: 64, rounds: effort.pick(2, 20), times: 1 },
        ],
        rows: (effort.pick(2, 40), effort.pick(20, 100)),
        lives: effort.pick(2, 20),
    };
    let mut bench =
        Bench { contenders: contenders::all(), comparison: Comparison::new(&OURS, &PEERS, &BOUNDS) };
    bench.no_ops(&plan, "idle");
    {
        let _hogs = Hogs::release();
        bench.no_ops(&plan, "busy");
    }
    bench.rows(plan.rows);
    bench.lives(plan.lives);
    for payload in &plan.payloads {
        bench.payloads(payload);
    }
    print!("{}", bench.comparison);
}

struct Bench {
    contenders: Vec<Box<dyn Contender>>,
    comparison: Comparison,
}

impl Bench {
    /// Measures round trips and bursts.
    fn no_ops(&mut self, plan: &Plan, machine: &str) {
        let trips = self.in_rounds(plan.rounds, "round trips", |contender| contender.round_trips(plan.trips));
        let micros = |pick: fn(&Spread) -> Duration| {
            medians(&trips, move |spread: &Spread| Some(pick(spread).as_secs_f64() * 1e6))
        };
        for (name, values) in [("p50", micros(|spread| spread.p50)), ("p99", micros(|spread| spread.p99))] {
            self.comparison.add(Row {
                label: format!("no-op round trip {name}, {machine}, µs"),
                better: Better::Less,
                goals: &[Goal::Times(1.5, contenders::BARE_PIPE)],
                values,
            });
        }
        let rates = self.in_rounds(plan.rounds, "bursts", |contender| contender.bursts(plan.bursts));
        self.comparison.add(Row {
            label: format!("burst of 1000, {machine}, thousand/s"),
            better: Better::More,
            goals: &[Goal::Times(20.0, contenders::PROCSPAWN)],
            values: medians(&rates, |rate| Some(rate / 1e3)),
        });
    }

    /// Measures arguments and results of one size.
    fn payloads(&mut self, payload: &Payload) {
        let Payload { mib, rounds, times } = *payload;
        let length = mib << 20;
        let bytes = contenders::make(length);
        let arguments =
            self.in_rounds(rounds, "arguments", |it| median_millis(times, || it.argument(&bytes)));
        let results = self.in_rounds(rounds, "results", |it| median_millis(times, || it.result(length)));
        let argument_goals: &[Goal] = match mib {
            64 => &[Goal::Times(2.0, contenders::SHM_COPY), Goal::Times(1.0 / 15.0, contenders::PROCSPAWN)],
            _ => &[Goal::BestPeer],
        };
        for (name, goals, measured) in
            [("argument", argument_goals, arguments), ("result", &[Goal::BestPeer], results)]
        {
            self.comparison.add(Row {
                label: format!("{name} of {mib} MiB, ms"),
                better: Better::Less,
                goals,
                values: medians(&measured, |millis| Some(*millis)),
            });
        }
    }

    /// Measures structs that go to a worker and come back.
    fn rows(&mut self, (rounds, times): (usize, usize)) {
        for count in [1, 1000] {
            let measured = self.in_rounds(rounds, "rows", |it| median_millis(times, || it.rows(count)));
            self.comparison.add(Row {
                label: format!("{count} rows of 20 fields, there and back, µs"),
                better: Better::Less,
                goals: &[],
                values: medians(&measured, |millis| Some(millis * 1e3)),
            });
        }
    }

    /// Measures the start of a pool of one worker, and the replacement and the memory of that worker.
    fn lives(&mut self, rounds: usize) {
        let lives = self.in_rounds(rounds, "lives of a pool", |contender| contender.life());
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        let cold = medians(&lives, |life: &Life| Some(millis(life.cold_start)));
        let replaced = medians(&lives, |life: &Life| life.replacement.map(millis));
        let memory = medians(&lives, |life: &Life| life.idle_kib);
        for (label, values) in [
            ("cold start, pool of 1 to first result, ms", cold),
            ("replacement, killed worker to next result, ms", replaced),
            ("memory per idle worker (PSS), KiB", memory),
        ] {
            let goals = &[Goal::BestPeer];
            self.comparison.add(Row { label: label.to_owned(), better: Better::Less, goals, values });
        }
    }

    /// Measures each contender in each round, after a first round that does not count. Returns a list of rounds for
    /// each contender. A contender that returns `None` has `None` there and gets no further turn.
    fn in_rounds<R>(
        &mut self,
        rounds: usize,
        what: &str,
        measure: impl Fn(&mut dyn Contender) -> Option<R>,
    ) -> Vec<Option<Vec<R>>> {
        let count = self.contenders.len();
        let mut results: Vec<Option<Vec<R>>> = (0..count).map(|_| Some(Vec::with_capacity(rounds))).collect();
        for round in 0..=rounds {
            for turn in 0..count {
                let at = (round + turn) % count;
                let Some(list) = &mut results[at] else { continue };
                let contender = &mut *self.contenders[at];
                let _alarm = Alarm::set(format!("{what} of {}", contender.name()));
                match measure(contender) {
                    Some(_) if round == 0 => {}
                    Some(result) => list.push(result),
                    None => results[at] = None,
                }
            }
        }
        results
    }
}

/// Returns for each contender the median, over its rounds, of the value that `pick` takes from a round. Returns `None`
/// for it if a round has no such value.
fn medians<R>(results: &[Option<Vec<R>>], pick: impl Fn(&R) -> Option<f64>) -> Vec<Option<f64>> {
    let of_one = |rounds: &Option<Vec<R>>| {
        let values: Option<Vec<f64>> = rounds.as_ref()?.iter().map(&pick).collect();
        values.map(median)
    };
    results.iter().map(of_one).collect()
}

/// Measures several times. Returns the median in milliseconds.
fn median_millis(times: usize, mut measure: impl FnMut() -> Option<Duration>) -> Option<f64> {
    let values: Option<Vec<f64>> = (0..times).map(|_| Some(measure()?.as_secs_f64() * 1e3)).collect();
    values.map(median)
}
