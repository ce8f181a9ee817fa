//! The metrics of a pool as plain values.

use std::ops::{Index, IndexMut};
use std::sync::Arc;

use super::advice::{Advice, Advisor};
use crate::base::histogram::Histogram;
use crate::core::outcome::Outcome;

/// The number of jobs that have ended in each way: `outcomes[Outcome::Completed]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcomes([u64; Outcome::ALL.len()]);

impl Outcomes {
    /// Returns the number of all jobs that have ended.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Iterates over all outcomes and their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Outcome, u64)> + '_ {
        Outcome::ALL.into_iter().zip(self.0)
    }

    fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(ours, theirs)| *ours += theirs);
    }
}

impl Index<Outcome> for Outcomes {
    type Output = u64;

    fn index(&self, outcome: Outcome) -> &u64 {
        &self.0[outcome as usize]
    }
}

impl IndexMut<Outcome> for Outcomes {
    fn index_mut(&mut self, outcome: Outcome) -> &mut u64 {
        &mut self.0[outcome as usize]
    }
}

/// The kind of a pool's workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum PoolKind {
    /// Its workers are threads.
    Threads,
    /// Its workers are processes.
    Processes,
    /// Its jobs run elsewhere: see [`Remote`](crate::remote::Remote).
    Remote,
}

impl PoolKind {
    /// Returns the kind as a word for labels: `threads`, `processes`, `remote`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Processes => "processes",
            Self::Remote => "remote",
        }
    }
}

/// The number of a pool's workers in each state, at the moment of the reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct WorkerCounts {
    /// Workers that have a job.
    pub busy: usize,
    /// Workers that have no job, or look for one.
    pub idle: usize,
    /// Threads that wait for another job while a further thread stands in for each. They do not count as busy.
    pub blocked: usize,
    /// Processes that cannot take jobs yet.
    pub starting: usize,
    /// Processes that take no more jobs: they finish what they have, or are being ended.
    pub leaving: usize,
}

impl WorkerCounts {
    fn add(&mut self, other: Self) {
        let Self { busy, idle, blocked, starting, leaving } = other;
        self.busy += busy;
        self.idle += idle;
        self.blocked += blocked;
        self.starting += starting;
        self.leaving += leaving;
    }
}

/// The number of worker processes that were replaced, by reason, since the pool was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Restarts {
    /// Workers that died.
    pub crashed: u64,
    /// Workers that were killed because their job was cancelled or its run timeout had passed.
    pub job_ended: u64,
    /// Workers that used more memory than `max_rss` allows.
    pub max_rss: u64,
    /// Workers that had run `max_tasks_per_child` jobs.
    pub max_tasks_per_child: u64,
    /// Workers that had reached `max_worker_age`.
    pub max_worker_age: u64,
    /// Workers that violated the protocol of their link.
    pub protocol: u64,
    /// Workers that ended before they could take jobs.
    pub failed_start: u64,
    /// Workers that could not be ended and may run on: the system refuses to signal them, or they hang in a system call.
    pub lost: u64,
}

impl Restarts {
    /// Iterates over all reasons, as words for labels, and their counts.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let Self {
            crashed,
            job_ended,
            max_rss,
            max_tasks_per_child,
            max_worker_age,
            protocol,
            failed_start,
            lost,
        } = *self;
        [
            ("crashed", crashed),
            ("job_ended", job_ended),
            ("max_rss", max_rss),
            ("max_tasks_per_child", max_tasks_per_child),
            ("max_worker_age", max_worker_age),
            ("protocol", protocol),
            ("failed_start", failed_start),
            ("lost", lost),
        ]
        .into_iter()
    }

    /// Returns the number of all workers that were replaced.
    pub fn total(&self) -> u64 {
        self.iter().map(|(_, count)| count).sum()
    }

    fn add(&mut self, other: Self) {
        let Self {
            crashed,
            job_ended,
            max_rss,
            max_tasks_per_child,
            max_worker_age,
            protocol,
            failed_start,
            lost,
        } = other;
        self.crashed += crashed;
        self.job_ended += job_ended;
        self.max_rss += max_rss;
        self.max_tasks_per_child += max_tasks_per_child;
        self.max_worker_age += max_worker_age;
        self.protocol += protocol;
        self.failed_start += failed_start;
        self.lost += lost;
    }
}

/// The shared memory that carries large payloads from a pool to its workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ArenaBytes {
    /// Memory in use by payloads, in bytes.
    pub used: u64,
    /// Freed memory that is kept for later payloads, in bytes. It goes back to the system when it is not needed for a
    /// while.
    pub kept: u64,
}

impl ArenaBytes {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { used: self.used + other.used, kept: self.kept + other.kept }
    }
}

/// The metrics of one pool. Counts and histograms begin when the pool is built.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Metrics {
    /// The pool's name.
    pub pool: Arc<str>,
    /// The kind of its workers.
    pub kind: PoolKind,
    /// The number of jobs that have ended, by outcome.
    pub outcomes: Outcomes,
    /// The number of times that a job was given to another worker because its own had died.
    pub retried: u64,
    /// The time that jobs waited for a worker: from submission to their begin.
    pub queue_wait: Histogram,
    /// The time that jobs ran. Jobs that were cancelled or timed out meanwhile are included when they return.
    pub run_time: Histogram,
    /// The number of accepted jobs that wait for a worker, those that wait for room in the queue included.
    pub queued: usize,
    /// The number of jobs that run.
    pub running: usize,
    /// The number of workers in each state.
    pub workers: WorkerCounts,
    /// The number of worker processes that were replaced, by reason.
    pub restarts: Restarts,
    /// The pool's shared memory. Only of process pools.
    pub arena: Option<ArenaBytes>,
    /// The time that threads waited for an interpreter's lock, if the pool was built with
    /// [`lock_wait`](crate::embed::ThreadPoolBuilderExt::lock_wait).
    pub lock_wait: Option<Histogram>,
    /// The jobs that would be better off elsewhere, those with the longest run time first.
    pub advice: Vec<Advice>,
}

impl Metrics {
    /// Makes the metrics of a pool that has done nothing yet, except for its advice.
    pub(crate) fn new(advisor: &Advisor, kind: PoolKind) -> Self {
        Self {
            pool: advisor.pool(),
            kind,
            outcomes: Outcomes::default(),
            retried: 0,
            queue_wait: Histogram::default(),
            run_time: Histogram::default(),
            queued: 0,
            running: 0,
            workers: WorkerCounts::default(),
            restarts: Restarts::default(),
            arena: None,
            lock_wait: None,
            advice: advisor.all(),
        }
    }

    /// Iterates over the states that workers of this kind can be in, as words for labels, and the number of workers in
    /// each.
    pub fn workers_by_state(&self) -> impl Iterator<Item = (&'static str, usize)> + use<> {
        let WorkerCounts { busy, idle, blocked, starting, leaving } = self.workers;
        let own = match self.kind {
            PoolKind::Threads => vec![("blocked", blocked)],
            PoolKind::Processes => vec![("starting", starting), ("leaving", leaving)],
            PoolKind::Remote => Vec::new(),
        };
        [("busy", busy), ("idle", idle)].into_iter().chain(own)
    }

    /// Adds the metrics of another pool of the same name and kind.
    pub(super) fn merge(&mut self, other: &Self) {
        self.outcomes.add(&other.outcomes);
        self.retried += other.retried;
        self.queue_wait.merge(&other.queue_wait);
        self.run_time.merge(&other.run_time);
        self.queued += other.queued;
        self.running += other.running;
        self.workers.add(other.workers);
        self.restarts.add(other.restarts);
        self.arena = self
            .arena
            .zip(other.arena)
            .map(|(ours, theirs)| ours.plus(theirs))
            .or(self.arena)
            .or(other.arena);
        if let Some(theirs) = &other.lock_wait {
            self.lock_wait.get_or_insert_default().merge(theirs);
        }
        for theirs in &other.advice {
            match self.advice.iter_mut().find(|ours| ours.is_about_same(theirs)) {
                Some(ours) => ours.merge(theirs),
                None => self.advice.push(theirs.clone()),
            }
        }
    }
}
