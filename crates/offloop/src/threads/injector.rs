//! The queue in which submitters leave ordinary jobs without the scheduler's lock.
//!
//! If each submission took the scheduler's lock, submitters and workers would pass its cache line back and forth for
//! each job. A worker looks in here only when the backlog is empty, and then takes everything.

use std::sync::{Arc, Weak};

use crate::base::sync::Mutex;
use crate::base::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::core::backlog::Backlog;
use crate::core::header::Expected;
use crate::core::id::JobState;
use crate::core::runnable::{EndedEarly, Owner, Runnable};

/// Jobs on their way to the backlog: those of the ordinary priority for which it has room.
///
/// The atomics are hints and mirrors. Each is read without a lock, and the order of the lock below decides what a
/// reader may conclude. So all of them are relaxed.
pub(super) struct Injector {
    /// A thread that needs the scheduler's lock too takes that one first.
    arrivals: Mutex<Arrivals>,
    /// Mirrors the number of jobs in `arrivals`. Written under its lock.
    arrived: AtomicUsize,
    /// Mirrors the number of jobs in the backlog. Written under the scheduler's lock. It rises only under the lock of
    /// `arrivals` too, so that a submitter that holds that lock never sees more room than there is. It may lag behind
    /// while workers take jobs.
    queued: AtomicUsize,
    /// True if a new job is taken up although its submitter wakes nobody: a worker searches for jobs, or no further
    /// thread may run, in which case all that run come back. Written under the scheduler's lock.
    ///
    /// A thread that writes `false` looks into `arrivals` afterwards. So the lock of `arrivals` decides: either that
    /// thread sees the job, or the submitter sees `false`.
    covered: AtomicBool,
    /// True while the searcher is awake and looks for a job all the time. Written by that worker.
    spinning: AtomicBool,
    /// The number of queued jobs, here and in the backlog, from which on jobs must go through the scheduler. 0 if all
    /// of them must. Never changes.
    capacity: usize,
}

/// The jobs that have arrived and are not in the backlog.
struct Arrivals {
    /// In the order in which they came. Submitters append; a worker or anybody who needs the whole backlog takes all.
    jobs: Vec<Arc<dyn Runnable>>,
    /// False while jobs must go through the scheduler: the pool is closed, or its backlog holds several priorities,
    /// among which a job must get its place. Written by `collect`.
    is_open: bool,
}

/// The outcome of pushing a job.
pub(super) enum Pushed {
    /// The job is in, and a worker will come for it.
    Covered,
    /// The job is in, and a worker has to be found for it.
    Announce,
    /// The job had ended before it was pushed.
    Ended(Arc<dyn Runnable>, EndedEarly),
    /// The job must go through the scheduler.
    Refused(Arc<dyn Runnable>),
}

impl Injector {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            arrivals: Mutex::new(Arrivals { jobs: Vec::new(), is_open: true }),
            arrived: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
            covered: AtomicBool::new(false),
            spinning: AtomicBool::new(false),
            capacity,
        }
    }

    /// Appends a job, if it has the ordinary priority and there is room.
    pub(super) fn push(&self, job: Arc<dyn Runnable>, owner: &Weak<dyn Owner>) -> Pushed {
        if job.header().options.priority != 0 {
            return Pushed::Refused(job);
        }
        let mut arrivals = self.arrivals.lock();
        let ahead = arrivals.jobs.len() + self.queued.load(Ordering::Relaxed);
        if !arrivals.is_open || ahead >= self.capacity {
            return Pushed::Refused(job);
        }
        // From here on a job that is aborted withdraws itself, for which it needs the lock that this thread holds.
        if let Err(ended) = job.attach(owner.clone(), JobState::Queued) {
            return Pushed::Ended(job, ended);
        }
        if ahead == 0 && self.spinning.load(Ordering::Relaxed) {
            job.header().expect(Expected::FromThread);
        }
        arrivals.jobs.push(job);
        self.arrived.store(arrivals.jobs.len(), Ordering::Relaxed);
        drop(arrivals);
        if self.covered.load(Ordering::Relaxed) { Pushed::Covered } else { Pushed::Announce }
    }

    /// Moves all jobs to `backlog`, in the order in which they came, and calls `change` with it before another job can
    /// be pushed. Opens or closes the injector for what comes after.
    ///
    /// The caller holds the scheduler's lock.
    pub(super) fn collect<R>(
        &self,
        backlog: &mut Backlog<dyn Runnable>,
        is_open: bool,
        change: impl FnOnce(&mut Backlog<dyn Runnable>) -> R,
    ) -> R {
        let mut arrivals = self.arrivals.lock();
        for job in arrivals.jobs.drain(..) {
            backlog.append(job);
        }
        arrivals.is_open = is_open;
        let result = change(backlog);
        self.arrived.store(0, Ordering::Relaxed);
        self.queued.store(backlog.len(), Ordering::Relaxed);
        result
    }

    /// Returns whether there are no jobs, neither here nor in the backlog. Takes no lock, so it may be a moment behind.
    pub(super) fn seems_empty(&self) -> bool {
        self.arrived.load(Ordering::Relaxed) + self.queued.load(Ordering::Relaxed) == 0
    }

    /// Records the backlog's new length after jobs were taken from it.
    pub(super) fn set_queued(&self, jobs: usize) {
        self.queued.store(jobs, Ordering::Relaxed);
    }

    /// Records whether new jobs are taken up although their submitters wake nobody. After `false` the caller must
    /// [`collect`](Self::collect).
    pub(super) fn set_covered(&self, covered: bool) {
        // Workers record it with each job. A store would take the cache line away from the submitters.
        if self.covered.load(Ordering::Relaxed) != covered {
            self.covered.store(covered, Ordering::Relaxed);
        }
    }

    /// Records whether the searcher spins.
    pub(super) fn set_spinning(&self, spinning: bool) {
        self.spinning.store(spinning, Ordering::Relaxed);
    }

    /// Releases unused memory.
    pub(super) fn shrink(&self) {
        self.arrivals.lock().jobs.shrink_to(64);
    }
}
