//! Where submitters leave jobs without taking the roster's lock, so that they and the threads of the pool do
//! not pass one cache line to and fro for each job.

use std::sync::{Arc, Weak};

use crate::base::sync::Mutex;
use crate::base::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::core::backlog::Backlog;
use crate::core::cell::{Owner, Runnable};
use crate::core::job::{Expected, JobState};

/// Jobs on their way to the backlog: those of the ordinary kind, for which it has room.
///
/// Its lock is taken after the roster's by those who need both. Whoever takes jobs from the backlog looks in
/// here when that is empty.
pub(super) struct Inbox {
    slot: Mutex<Slot>,
    /// Mirrors how many jobs are in the slot.
    arrived: AtomicUsize,
    /// Mirrors how many are in the backlog. It may lag behind takers; it rises only under the slot's lock.
    queued: AtomicUsize,
    /// Nobody needs to be told of a new job: there is a scout, or no further thread may run. Whoever ends that
    /// looks into the slot afterwards, so that its lock decides which of the two sees the other.
    attentive: AtomicBool,
    /// A scout is awake and looks for a job all the time.
    spinning: AtomicBool,
}

struct Slot {
    jobs: Vec<Arc<dyn Runnable>>,
    /// False when jobs must not come this way: the pool is closed, or its backlog holds other priorities, among
    /// which they would have their place.
    is_open: bool,
}

/// What became of a job that was to be left here.
pub(super) enum Left {
    /// It is in, and somebody will look.
    Unannounced,
    /// It is in, and a thread is to be found for it.
    Announce,
    /// It had ended already.
    Ended(Arc<dyn Runnable>),
    /// It is not for the inbox.
    Refused(Arc<dyn Runnable>),
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self {
            slot: Mutex::new(Slot { jobs: Vec::new(), is_open: true }),
            arrived: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
            attentive: AtomicBool::new(false),
            spinning: AtomicBool::new(false),
        }
    }

    /// Leaves a job, if it is of the ordinary priority and there is room.
    pub(super) fn leave(&self, job: Arc<dyn Runnable>, owner: &Weak<dyn Owner>, capacity: usize) -> Left {
        if job.core().options.priority != 0 {
            return Left::Refused(job);
        }
        let mut slot = self.slot.lock();
        let ahead = slot.jobs.len() + self.queued.load(Ordering::Relaxed);
        if !slot.is_open || ahead >= capacity {
            return Left::Refused(job);
        }
        // From here on an ending job withdraws itself, for which it needs the lock that we hold.
        job.attach(owner.clone(), JobState::Queued);
        if job.core().state() == JobState::Ended {
            return Left::Ended(job);
        }
        if ahead == 0 && self.spinning.load(Ordering::Relaxed) {
            job.core().expect(Expected::FromThread);
        }
        slot.jobs.push(job);
        self.arrived.store(slot.jobs.len(), Ordering::Relaxed);
        drop(slot);
        if self.attentive.load(Ordering::Relaxed) { Left::Unannounced } else { Left::Announce }
    }

    /// Hands all jobs over to `backlog`, in the order in which they came, and lets `change` go on with it while
    /// nobody can leave more. From then on the inbox is open or not.
    pub(super) fn collect<R>(
        &self,
        backlog: &mut Backlog<Arc<dyn Runnable>>,
        is_open: bool,
        change: impl FnOnce(&mut Backlog<Arc<dyn Runnable>>) -> R,
    ) -> R {
        let mut slot = self.slot.lock();
        for job in slot.jobs.drain(..) {
            backlog.append(job);
        }
        slot.is_open = is_open;
        let result = change(backlog);
        self.arrived.store(0, Ordering::Relaxed);
        self.queued.store(backlog.len(), Ordering::Relaxed);
        result
    }

    /// Whether there are jobs, here or in the backlog; from afar, so it may be a moment behind.
    pub(super) fn seems_empty(&self) -> bool {
        self.arrived.load(Ordering::Relaxed) + self.queued.load(Ordering::Relaxed) == 0
    }

    /// Notes the backlog's new length after jobs were taken from it.
    pub(super) fn set_queued(&self, jobs: usize) {
        self.queued.store(jobs, Ordering::Relaxed);
    }

    /// After `false`, look into the inbox.
    pub(super) fn set_attentive(&self, attentive: bool) {
        self.attentive.store(attentive, Ordering::Relaxed);
    }

    pub(super) fn set_spinning(&self, spinning: bool) {
        self.spinning.store(spinning, Ordering::Relaxed);
    }

    /// Gives unused memory back.
    pub(super) fn shrink(&self) {
        self.slot.lock().jobs.shrink_to(64);
    }
}
