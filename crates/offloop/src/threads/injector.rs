//! Where submitters leave jobs without taking the scheduler's lock, so that they and the threads of the pool do
//! not pass one cache line to and fro for each job.

use std::sync::{Arc, Weak};

use crate::base::sync::Mutex;
use crate::base::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::core::backlog::Backlog;
use crate::core::header::Expected;
use crate::core::id::JobState;
use crate::core::runnable::{EndedEarly, Owner, Runnable};

/// Jobs on their way to the backlog: those of the ordinary kind, for which it has room.
///
/// Its lock is taken after the scheduler's by those who need both. Whoever takes jobs from the backlog looks in
/// here when that is empty.
pub(super) struct Injector {
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
pub(super) enum Pushed {
    /// It is in, and somebody will look.
    Unannounced,
    /// It is in, and a thread is to be found for it.
    Announce,
    /// It had ended already.
    Ended(Arc<dyn Runnable>, EndedEarly),
    /// It is not for the injector.
    Refused(Arc<dyn Runnable>),
}

impl Injector {
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
    pub(super) fn push(&self, job: Arc<dyn Runnable>, owner: &Weak<dyn Owner>, capacity: usize) -> Pushed {
        if job.header().options.priority != 0 {
            return Pushed::Refused(job);
        }
        let mut slot = self.slot.lock();
        let ahead = slot.jobs.len() + self.queued.load(Ordering::Relaxed);
        if !slot.is_open || ahead >= capacity {
            return Pushed::Refused(job);
        }
        // From here on an ending job withdraws itself, for which it needs the lock that we hold.
        if let Err(ended) = job.attach(owner.clone(), JobState::Queued) {
            return Pushed::Ended(job, ended);
        }
        if ahead == 0 && self.spinning.load(Ordering::Relaxed) {
            job.header().expect(Expected::FromThread);
        }
        slot.jobs.push(job);
        self.arrived.store(slot.jobs.len(), Ordering::Relaxed);
        drop(slot);
        if self.attentive.load(Ordering::Relaxed) { Pushed::Unannounced } else { Pushed::Announce }
    }

    /// Hands all jobs over to `backlog`, in the order in which they came, and lets `change` go on with it while
    /// nobody can leave more. From then on the injector is open or not.
    pub(super) fn collect<R>(
        &self,
        backlog: &mut Backlog<dyn Runnable>,
        is_open: bool,
        change: impl FnOnce(&mut Backlog<dyn Runnable>) -> R,
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

    /// After `false`, look into the injector.
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
