//! How metrics come about: each worker thread counts the jobs that it runs, and all other ends are counted with the
//! pool.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::advice::Advisor;
use super::cpu::CpuMeter;
use super::cpu::Usage;
use super::values::Outcomes;
use crate::base::clock::Moment;
use crate::base::histogram::{Histogram, Recorder, add_as_only_writer};
use crate::core::header::Header;
use crate::core::observer::Observer;
use crate::core::outcome::Outcome;

/// Counters of outcomes, one each, which any thread may increment.
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

/// The stats of one worker thread. Only that thread writes them; any thread may read.
#[derive(Debug, Default)]
pub(crate) struct WorkerStats {
    /// The ends of jobs that this thread has run.
    outcomes: OutcomeCounters,
    /// The times from the submission of these jobs to their begin.
    queue_wait: Recorder,
    /// The times from the begin of these jobs to the return of their functions.
    run_time: Recorder,
}

/// The sum of the stats of many workers.
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

/// The clock of a worker thread: measures the jobs that it runs, and records them in its stats.
pub(crate) struct WorkerClock {
    stats: Arc<WorkerStats>,
    advisor: Arc<Advisor>,
    /// When the current job began.
    began: Cell<Moment>,
    /// When the last job ended, if this thread has not waited since: then the next one begins at the same moment, which
    /// saves a reading of the clock.
    ended: Cell<Option<Moment>>,
    cpu: RefCell<CpuMeter>,
}

impl WorkerClock {
    pub(crate) fn new(stats: Arc<WorkerStats>, advisor: Arc<Advisor>) -> Self {
        Self { stats, advisor, began: Cell::default(), ended: Cell::new(None), cpu: RefCell::default() }
    }

    /// Records that the next job begins now. Returns that moment.
    pub(crate) fn begin(&self) -> Moment {
        let now = self.ended.take().unwrap_or_else(Moment::now);
        self.began.set(now);
        self.cpu.borrow_mut().begin(now);
        now
    }

    /// Records that the thread waits: the next job does not begin at the end of the last one.
    pub(crate) fn pause(&self) {
        self.ended.set(None);
    }
}

impl Observer for WorkerClock {
    fn returned(&self, header: &Header) {
        let (began, now) = (self.began.get(), Moment::now());
        let took = now.since(began);
        let waited = began.since(header.submitted);
        self.stats.queue_wait.record_as_only_writer(waited);
        self.stats.run_time.record_as_only_writer(took);
        header.span.record_times(waited, took);
        if let Some(usage) = self.cpu.borrow_mut().end(now, took) {
            self.advisor.record(header, took, usage);
        }
        self.ended.set(Some(now));
    }

    fn ended(&self, outcome: Outcome) {
        add_as_only_writer(&self.stats.outcomes.0[outcome as usize], 1);
    }
}

/// The times of a job that another process has run, as that process reports them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    pub(crate) began: Moment,
    pub(crate) took: Duration,
    /// How the job used its time. Only known of jobs that took long.
    pub(crate) usage: Option<Usage>,
}
