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
use crate::core::job::Core;

/// Whether figures are kept. They always are, but for the bench that measures what they cost.
pub(crate) const KEPT: bool = !cfg!(offloop_without_figures);

/// Where an executor notes what becomes of its jobs. It is told before anybody else learns of a job's end; of an end
/// that another hand has brought about, it hears as the job's [`Owner`](crate::cell::Owner).
pub(crate) trait Books {
    /// The job's function has returned.
    fn returned(&self, _core: &Core) {}
    /// The job ends, by the executor. Called under the job's lock.
    fn ended(&self, outcome: Outcome);
}

/// Keeps none.
pub(crate) struct NoBooks;

impl Books for NoBooks {
    fn ended(&self, _: Outcome) {}
}

/// Counts outcomes, for any thread.
#[derive(Debug, Default)]
pub(crate) struct Counts([AtomicU64; Outcome::ALL.len()]);

impl Counts {
    pub(crate) fn count(&self, outcome: Outcome) {
        self.0[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a job that another hand than its pool's has ended, of which the pool is told.
    pub(crate) fn count_early(&self, core: &Core) {
        if let Some(outcome) = core.early_end() {
            self.count(outcome);
        }
    }

    /// Counts a job that had ended before a pool had it, so that nobody has told the pool.
    pub(crate) fn count_untold(&self, core: &Core) {
        if let Some(outcome) = core.untold_end() {
            self.count(outcome);
        }
    }

    pub(crate) fn add_to(&self, outcomes: &mut Outcomes) {
        for (outcome, count) in Outcome::ALL.into_iter().zip(&self.0) {
            outcomes[outcome] += count.load(Ordering::Relaxed);
        }
    }
}

impl Books for Counts {
    fn ended(&self, outcome: Outcome) {
        self.count(outcome);
    }
}

/// What one thread notes of the jobs that it runs. Only that thread writes; anybody may read.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    outcomes: Counts,
    queue_wait: Recorder,
    run_time: Recorder,
}

/// The sum of ledgers.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tally {
    pub(crate) outcomes: Outcomes,
    pub(crate) queue_wait: Histogram,
    pub(crate) run_time: Histogram,
}

impl Tally {
    pub(crate) fn add(&mut self, ledger: &Ledger) {
        ledger.outcomes.add_to(&mut self.outcomes);
        self.queue_wait.merge(&ledger.queue_wait.read());
        self.run_time.merge(&ledger.run_time.read());
    }
}

/// A worker thread with its ledger: the books for what it runs.
pub(crate) struct Shift {
    ledger: Arc<Ledger>,
    advisor: Arc<Advisor>,
    began: Cell<Moment>,
    /// When the last job ended, if this thread has not waited since.
    ended: Cell<Option<Moment>>,
    cpu: RefCell<CpuMeter>,
}

impl Shift {
    pub(crate) fn new(ledger: Arc<Ledger>, advisor: Arc<Advisor>) -> Self {
        Self { ledger, advisor, began: Cell::default(), ended: Cell::new(None), cpu: RefCell::default() }
    }

    /// The next job begins now.
    pub(crate) fn begin(&self) -> Moment {
        let now = self.ended.take().unwrap_or_else(Moment::now);
        if !KEPT {
            return now;
        }
        self.began.set(now);
        self.cpu.borrow_mut().begin(now);
        now
    }

    /// The thread waits, so the end of its last job is not now any more.
    pub(crate) fn pause(&self) {
        self.ended.set(None);
    }
}

impl Books for Shift {
    fn returned(&self, core: &Core) {
        if !KEPT {
            return;
        }
        let (began, now) = (self.began.get(), Moment::now());
        let took = now.since(began);
        let waited = began.since(core.submitted);
        self.ledger.queue_wait.record_alone(waited);
        self.ledger.run_time.record_alone(took);
        core.span.tell_times(waited, took);
        if let Some(usage) = self.cpu.borrow_mut().end(now, took) {
            self.advisor.note(core, took, usage);
        }
        self.ended.set(Some(now));
    }

    fn ended(&self, outcome: Outcome) {
        if !KEPT {
            return;
        }
        add_alone(&self.ledger.outcomes.0[outcome as usize], 1);
    }
}

/// What the threads of other processes tell of a job.
#[cfg(feature = "process")]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ran {
    pub(crate) began: Moment,
    pub(crate) took: Duration,
    /// Only known of those that took long.
    pub(crate) usage: Option<Usage>,
}
