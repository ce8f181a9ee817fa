//! The families in which metrics are published: their names, kinds, labels and samples.
//!
//! The Prometheus page and the publisher both read this list, and so agree on every name.

use std::time::Duration;

use super::advice::Advice;
use super::values::{Metrics, PoolKind};
use crate::base::histogram::Histogram;

/// A metric of all pools.
pub(crate) struct Family<'a> {
    pub(crate) name: &'static str,
    /// A sentence for people who read the page.
    pub(crate) help: &'static str,
    pub(crate) samples: Samples<'a>,
}

/// The samples of a family, whose kind decides their type.
pub(crate) enum Samples<'a> {
    /// Numbers that only grow.
    Counters(Vec<Sample<'a, u64>>),
    /// Times that only grow.
    Seconds(Vec<Sample<'a, Duration>>),
    /// Numbers of this moment.
    Gauges(Vec<Sample<'a, u64>>),
    /// Times of this moment.
    #[cfg(feature = "observe")]
    GaugeSeconds(Vec<Sample<'a, Duration>>),
    Histograms(Vec<Sample<'a, &'a Histogram>>),
}

pub(crate) struct Sample<'a, T> {
    pub(crate) labels: Labels<'a>,
    pub(crate) value: T,
}

/// Names and values of a sample's labels, in the order in which they are written.
pub(crate) type Labels<'a> = Vec<(&'static str, &'a str)>;

impl<'a, T> Sample<'a, T> {
    /// Makes a sample of one pool. `labels` follow those that name the pool.
    fn of_pool(pool: &'a Metrics, labels: &[(&'static str, &'a str)], value: T) -> Self {
        let pool = [("pool", &*pool.pool), ("kind", pool.kind.as_str())];
        Self { labels: [&pool, labels].concat(), value }
    }
}

/// Lists the families of these pools, except for those of [`advice`].
pub(super) fn families(pools: &[Metrics]) -> impl Iterator<Item = Family<'_>> {
    [
        Some(jobs(pools)),
        Some(Family {
            name: "offloop_job_retries_total",
            help: "Attempts that followed the death of a worker.",
            samples: Samples::Counters(
                processes(pools).map(|pool| Sample::of_pool(pool, &[], pool.retried)).collect(),
            ),
        }),
        Some(gauge("offloop_queued_jobs", "Accepted jobs that wait for a worker.", pools, |pool| {
            pool.queued
        })),
        Some(gauge("offloop_running_jobs", "Jobs that run.", pools, |pool| pool.running)),
        histogram("offloop_queue_wait_seconds", "The time that jobs waited for a worker.", pools, |pool| {
            Some(&pool.queue_wait)
        }),
        histogram("offloop_run_seconds", "The time that jobs ran.", pools, |pool| Some(&pool.run_time)),
        histogram(
            "offloop_lock_wait_seconds",
            "The time that threads waited for the interpreter's lock.",
            pools,
            |pool| pool.lock_wait.as_ref(),
        ),
        Some(workers(pools)),
        Some(restarts(pools)),
        arena(pools),
    ]
    .into_iter()
    .flatten()
}

/// Lists the families of jobs that would be better off elsewhere.
pub(super) fn advice(pools: &[Metrics]) -> impl Iterator<Item = Family<'_>> {
    fn samples<T>(pools: &[Metrics], value: impl Fn(&Advice) -> T) -> Vec<Sample<'_, T>> {
        let all = pools.iter().flat_map(|pool| pool.advice.iter().map(move |advice| (pool, advice)));
        all.map(|(pool, advice)| {
            let labels = [("task", advice.task.as_str()), ("activity", advice.activity.as_str())];
            Sample::of_pool(pool, &labels, value(advice))
        })
        .collect()
    }
    [
        Family {
            name: "offloop_misplaced_jobs_total",
            help: "Jobs that would be better off elsewhere, by task.",
            samples: Samples::Counters(samples(pools, |advice| advice.jobs)),
        },
        Family {
            name: "offloop_misplaced_seconds_total",
            help: "The time that those jobs ran, by task.",
            samples: Samples::Seconds(samples(pools, |advice| advice.ran)),
        },
    ]
    .into_iter()
}

fn processes(pools: &[Metrics]) -> impl Iterator<Item = &Metrics> {
    pools.iter().filter(|pool| pool.kind == PoolKind::Processes)
}

fn jobs(pools: &[Metrics]) -> Family<'_> {
    let samples = pools.iter().flat_map(|pool| {
        pool.outcomes
            .iter()
            .map(move |(outcome, count)| Sample::of_pool(pool, &[("outcome", outcome.as_str())], count))
    });
    Family {
        name: "offloop_jobs_total",
        help: "Jobs that have ended, by outcome.",
        samples: Samples::Counters(samples.collect()),
    }
}

fn workers(pools: &[Metrics]) -> Family<'_> {
    let samples = pools.iter().flat_map(|pool| {
        pool.workers_by_state()
            .map(move |(state, count)| Sample::of_pool(pool, &[("state", state)], count as u64))
    });
    Family {
        name: "offloop_workers",
        help: "Workers, by state.",
        samples: Samples::Gauges(samples.collect()),
    }
}

fn restarts(pools: &[Metrics]) -> Family<'_> {
    let samples = processes(pools).flat_map(|pool| {
        pool.restarts.iter().map(move |(reason, count)| Sample::of_pool(pool, &[("reason", reason)], count))
    });
    Family {
        name: "offloop_worker_restarts_total",
        help: "Worker processes that were replaced, by reason.",
        samples: Samples::Counters(samples.collect()),
    }
}

/// Returns `None` if no pool has shared memory.
fn arena(pools: &[Metrics]) -> Option<Family<'_>> {
    let samples = pools.iter().filter_map(|pool| Some((pool, pool.arena?))).flat_map(|(pool, arena)| {
        let sample = |state, value| Sample::of_pool(pool, &[("state", state)], value);
        [sample("used", arena.used), sample("kept", arena.kept)]
    });
    let samples: Vec<_> = samples.collect();
    (!samples.is_empty()).then_some(Family {
        name: "offloop_arena_bytes",
        help: "Shared memory for large payloads to the workers.",
        samples: Samples::Gauges(samples),
    })
}

fn gauge<'a>(
    name: &'static str,
    help: &'static str,
    pools: &'a [Metrics],
    value: impl Fn(&Metrics) -> usize,
) -> Family<'a> {
    let samples = pools.iter().map(|pool| Sample::of_pool(pool, &[], value(pool) as u64));
    Family { name, help, samples: Samples::Gauges(samples.collect()) }
}

/// Returns `None` if no pool has such a histogram.
fn histogram<'a>(
    name: &'static str,
    help: &'static str,
    pools: &'a [Metrics],
    value: impl Fn(&'a Metrics) -> Option<&'a Histogram>,
) -> Option<Family<'a>> {
    let samples = pools.iter().filter_map(|pool| Some(Sample::of_pool(pool, &[], value(pool)?)));
    let samples: Vec<_> = samples.collect();
    (!samples.is_empty()).then_some(Family { name, help, samples: Samples::Histograms(samples) })
}
