//! The metrics of pools and of watched loops in the text format of Prometheus.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::histogram::Histogram;
use crate::metrics::families::{Family, Sample, Samples};
use crate::metrics::{self, PoolKind};
use crate::watch::record::{self, StallCounts};

/// Returns the metrics of all pools of this process, as [`metrics::prometheus()`](crate::metrics::prometheus()) writes
/// them, and those that only the live view knows: the capacity of queues, the age of their oldest jobs, and how late the
/// watched loops are.
pub fn prometheus() -> String {
    text()
}

/// The queues of the pools of one name and kind.
#[derive(Default)]
struct Queues {
    capacity: u64,
    /// The age of the oldest job of all.
    oldest: Duration,
}

/// The loops of one name and kind, added up.
#[derive(Default)]
struct Loops {
    lateness: Histogram,
    /// The lateness of the one that is late the most.
    late_now: Duration,
    counts: StallCounts,
}

pub(super) fn text() -> String {
    let mut pools = Vec::new();
    let mut queues: BTreeMap<(String, PoolKind), Queues> = BTreeMap::new();
    metrics::for_each(|_, _, pool| {
        let view = pool.view();
        let sum = queues.entry((view.metrics.pool.to_string(), view.metrics.kind)).or_default();
        sum.capacity += view.capacity.unwrap_or_default() as u64;
        sum.oldest = sum.oldest.max(view.oldest_queued.unwrap_or_default());
        pools.push(view.metrics);
    });
    let mut loops: BTreeMap<(String, String), Loops> = BTreeMap::new();
    for watched in record::all() {
        let record = &watched.record;
        let sum = loops.entry((record.name.to_string(), record.kind.to_string())).or_default();
        sum.lateness.merge(&record.lateness.read());
        sum.late_now = sum.late_now.max(watched.late_now());
        let StallCounts { stalls, stalled, starved, starved_time } = record.counts();
        sum.counts.stalls += stalls;
        sum.counts.stalled += stalled;
        sum.counts.starved += starved;
        sum.counts.starved_time += starved_time;
    }
    let mut text = metrics::prometheus(&pools);
    text.push_str(&metrics::write(of_queues(&queues).into_iter().chain(of_loops(&loops))));
    text
}

/// Returns no family without samples.
fn of_queues(queues: &BTreeMap<(String, PoolKind), Queues>) -> Vec<Family<'_>> {
    if queues.is_empty() {
        return Vec::new();
    }
    vec![
        Family {
            name: "offloop_queue_capacity_jobs",
            help: "The number of jobs that the queue can hold.",
            samples: Samples::Gauges(of_pools(queues, |queues| queues.capacity)),
        },
        Family {
            name: "offloop_oldest_queued_seconds",
            help: "The time that the oldest job without a worker has been waiting.",
            samples: Samples::GaugeSeconds(of_pools(queues, |queues| queues.oldest)),
        },
    ]
}

fn of_pools<T>(
    queues: &BTreeMap<(String, PoolKind), Queues>,
    value: impl Fn(&Queues) -> T,
) -> Vec<Sample<'_, T>> {
    let sample = |pair| {
        let ((pool, kind), queues): (&(String, PoolKind), &Queues) = pair;
        Sample { labels: vec![("pool", pool.as_str()), ("kind", kind.as_str())], value: value(queues) }
    };
    queues.iter().map(sample).collect()
}

fn of_loops(loops: &BTreeMap<(String, String), Loops>) -> Vec<Family<'_>> {
    if loops.is_empty() {
        return Vec::new();
    }
    let counters =
        |value: fn(&StallCounts) -> u64| Samples::Counters(samples(loops, |sum| value(&sum.counts)));
    let seconds =
        |value: fn(&StallCounts) -> Duration| Samples::Seconds(samples(loops, |sum| value(&sum.counts)));
    vec![
        Family {
            name: "offloop_loop_lateness_seconds",
            help: "The lateness of the beats of watched event loops.",
            samples: Samples::Histograms(samples(loops, |sum| &sum.lateness)),
        },
        Family {
            name: "offloop_loop_late_seconds",
            help: "The time for which a beat of a watched event loop is overdue at this moment.",
            samples: Samples::GaugeSeconds(samples(loops, |sum| sum.late_now)),
        },
        Family {
            name: "offloop_loop_stalls_total",
            help: "Stalls of watched event loops.",
            samples: counters(|counts| counts.stalls),
        },
        Family {
            name: "offloop_loop_stalled_seconds_total",
            help: "The time that watched event loops were stalled.",
            samples: seconds(|counts| counts.stalled),
        },
        Family {
            name: "offloop_loop_starved_total",
            help: "The number of times that a watched event loop was late for want of a core.",
            samples: counters(|counts| counts.starved),
        },
        Family {
            name: "offloop_loop_starved_seconds_total",
            help: "The time that watched event loops had no core while they were late.",
            samples: seconds(|counts| counts.starved_time),
        },
    ]
}

fn samples<'a, T>(
    loops: &'a BTreeMap<(String, String), Loops>,
    value: impl Fn(&'a Loops) -> T,
) -> Vec<Sample<'a, T>> {
    let sample = |((name, kind), sum): (&'a (String, String), &'a Loops)| Sample {
        labels: vec![("loop", name.as_str()), ("loop_kind", kind.as_str())],
        value: value(sum),
    };
    loops.iter().map(sample).collect()
}
