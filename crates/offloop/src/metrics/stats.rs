//! How figures come about: each worker thread keeps its own, and whoever ends a job otherwise counts it with its pool.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
#[cfg(feature = "process")]
use std::time::Duration;

use super::advice::Advisor;
use super::histogram::{Histogram, Recorder, add_alone};
use super::{Outcome, Outcomes};
#[cfg(feature = "process")]
use crate::base::clock::Usage;
use crate::base::clock::{CpuMeter, Moment};
use crate::core::header::Header;
use crate::core::observer::Observer;

/// Counts outcomes, for any thread.
#[derive(Debug, Default)]
pub(crate) struct OutcomeCounters([AtomicU64; Outcome::ALL.len()]);

impl OutcomeCounters {
    pub(crate) fn count(&self, outcome: Outcome) {
        self.0[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_to(&self, outcomes: &mut Outcomes) {
        for (outcome, count) in Outcome::ALL.into_iter().zip(&self.0) {
            outcomes[outcome] += count.load(Ordering::Relaxed);
        }
    }
}

impl Observer for OutcomeCounters {
    fn ended(&self, outcome: Outcome) {
        self.count(outcome);
    }
}

/// What one thread notes of the jobs that it runs. Only that thread writes; anybody may read.
#[derive(Debug, Default)]
pub(crate) struct WorkerStats {
    outcomes: OutcomeCounters,
    queue_wait: Recorder,
    run_time: Recorder,
}

/// The sum of ledgers.
#[derive(Debug, Default, Clone)]
pub(crate) struct PoolStats {
    pub(crate) outcomes: Outcomes,
    pub(crate) queue_wait: Histogram,
    pub(crate) run_time: Histogram,
}

impl PoolStats {
    pub(crate) fn add(&mut self, stats: &WorkerStats) {
        stats.outcomes.add_to(&mut self.outcomes);
        self.queue_wait.merge(&stats.queue_wait.read());
        self.run_time.merge(&stats.run_time.read());
    }
}

/// A worker thread with its stats: the observer for what it runs.
pub(crate) struct WorkerClock {
    stats: Arc<WorkerStats>,
    advisor: Arc<Advisor>,
    began: Cell<Moment>,
    /// When the last job ended, if this thread has not waited since.
    ended: Cell<Option<Moment>>,
    cpu: RefCell<CpuMeter>,
}

impl WorkerClock {
    pub(crate) fn new(stats: Arc<WorkerStats>, advisor: Arc<Advisor>) -> Self {
        Self { stats, advisor, began: Cell::default(), ended: Cell::new(None), cpu: RefCell::default() }
    }

    /// The next job begins now.
    pub(crate) fn begin(&self) -> Moment {
        let now = self.ended.take().unwrap_or_else(Moment::now);
        self.began.set(now);
        self.cpu.borrow_mut().begin(now);
        now
    }

    /// The thread waits, so the end of its last job is not now any more.
    pub(crate) fn pause(&self) {
        self.ended.set(None);
    }
}

impl Observer for WorkerClock {
    fn returned(&self, header: &Header) {
        let (began, now) = (self.began.get(), Moment::now());
        let took = now.since(began);
        let waited = began.since(header.submitted);
        self.stats.queue_wait.record_alone(waited);
        self.stats.run_time.record_alone(took);
        header.span.record_times(waited, took);
        if let Some(usage) = self.cpu.borrow_mut().end(now, took) {
            self.advisor.note(header, took, usage);
        }
        self.ended.set(Some(now));
    }

    fn ended(&self, outcome: Outcome) {
        add_alone(&self.stats.outcomes.0[outcome as usize], 1);
    }
}

/// What the threads of other processes tell of a job.
#[cfg(feature = "process")]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    pub(crate) began: Moment,
    pub(crate) took: Duration,
    /// Only known of those that took long.
    pub(crate) usage: Option<Usage>,
}
