//! Who works, who is idle, who looks out for work: the pool's decisions, all under one lock.
//!
//! At most one thread at a time is the *scout*: woken, started or spinning in order to take queued work.
//! While there is one, submitters wake nobody, so a burst of submissions costs one wake-up. The rule that
//! makes it safe:
//!
//! > If jobs are queued, then there is a scout, or no further thread may run.
//!
//! Whoever takes a job as scout appoints the next scout if jobs remain ([`Roster::summon`]); a thread that
//! comes back from a job takes the next one before it thinks of resting. The proof is in the README beside
//! this file.

use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Instant;

use crate::backlog::Backlog;
use crate::cell::Runnable;
use crate::job::JobState;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, thread};

/// One thread of the pool.
pub(super) struct Worker {
    pub(super) name: String,
    /// Set by the thread itself before it can become idle.
    pub(super) thread: OnceLock<thread::Thread>,
    /// Set under the roster's lock when it is called from idleness to be the scout; taken back by itself.
    pub(super) summoned: AtomicBool,
    /// The job that it runs, for reports and for shutdown. Set under the roster's lock, so that a shutdown
    /// finds each accepted job either here or in the backlog.
    pub(super) running: Mutex<Option<Running>>,
}

pub(super) struct Running {
    pub(super) job: Arc<dyn Runnable>,
    pub(super) since: Instant,
}

pub(super) struct Roster {
    pub(super) backlog: Backlog<Arc<dyn Runnable>>,
    /// All threads until the very end of their lives.
    pub(super) workers: Vec<Arc<Worker>>,
    /// Parked threads. The one that became idle last is woken first, so that the others can time out.
    pub(super) idle: Vec<Arc<Worker>>,
    /// Threads that take jobs, or are being started to.
    pub(super) threads: usize,
    /// Of these, threads whose job waits for another job.
    pub(super) blocked: usize,
    pub(super) scout: bool,
    /// Jobs taken by threads that came back from one: evidence that the queue moves without more threads.
    pub(super) returns: u64,
    /// `returns` when a scout last looked.
    returns_seen: u64,
    pub(super) closed: bool,
    pub(super) min_threads: usize,
    pub(super) max_threads: usize,
    next_name: u64,
}

/// What a scout does next.
pub(super) enum Survey {
    /// Take a job.
    Take,
    /// The threads at work keep up; look again a little later.
    Watch,
    /// There is no job.
    Rest,
}

/// The help that queued jobs need, to be given after the lock is released.
#[must_use]
pub(super) enum Help {
    None,
    /// Unpark this thread; it is the scout now.
    Wake(Arc<Worker>),
    /// Start a thread; it is the scout already.
    Start(Arc<Worker>),
}

impl Roster {
    pub(super) fn new(backlog: Backlog<Arc<dyn Runnable>>, min_threads: usize, max_threads: usize) -> Self {
        Self {
            backlog,
            workers: Vec::new(),
            idle: Vec::new(),
            threads: 0,
            blocked: 0,
            scout: false,
            returns: 0,
            returns_seen: 0,
            closed: false,
            min_threads,
            max_threads,
            next_name: 0,
        }
    }

    /// Appoints a scout if jobs are queued and there is none: an idle thread, else a new one.
    pub(super) fn summon(&mut self, name: &str) -> Help {
        if self.scout || self.backlog.len() == 0 {
            return Help::None;
        }
        if self.active() >= self.max_threads + self.blocked {
            return Help::None;
        }
        if let Some(worker) = self.idle.pop() {
            self.scout = true;
            worker.summoned.store(true, Ordering::Relaxed);
            return Help::Wake(worker);
        }
        self.scout = true;
        self.threads += 1;
        self.next_name += 1;
        let worker = Arc::new(Worker {
            name: format!("{name}-{}", self.next_name),
            thread: OnceLock::new(),
            summoned: AtomicBool::new(false),
            running: Mutex::new(None),
        });
        self.workers.push(Arc::clone(&worker));
        Help::Start(worker)
    }

    /// What the scout should do. More threads than `cores` are put to work only when the others have not come
    /// back for a job since the last look: when they block, that is, or compute for long.
    pub(super) fn survey(&mut self, cores: usize) -> Survey {
        if self.backlog.len() == 0 {
            return Survey::Rest;
        }
        let at_work = self.active() - 1;
        let moves = self.returns != self.returns_seen;
        self.returns_seen = self.returns;
        if moves && at_work >= cores && !self.closed { Survey::Watch } else { Survey::Take }
    }

    /// Threads that run jobs or look for one.
    fn active(&self) -> usize {
        self.threads - self.idle.len()
    }

    /// Whether a thread must leave instead of running another job, now that fewer are blocked. If it does,
    /// those that stay still come back for every queued job.
    pub(super) fn too_many_run(&self) -> bool {
        self.active() > self.max_threads + self.blocked
    }

    /// Whether there are more threads, idle ones included, than may ever run, now that fewer are blocked.
    pub(super) fn has_surplus(&self) -> bool {
        self.threads > self.max_threads + self.blocked
    }

    /// How many jobs are queued, waiting or running and have not ended.
    pub(super) fn live_jobs(&self) -> usize {
        let is_live = |running: &Running| running.job.core().state() != JobState::Ended;
        let runs = |worker: &&Arc<Worker>| worker.running.lock().as_ref().is_some_and(is_live);
        self.backlog.total() + self.workers.iter().filter(runs).count()
    }

    /// Whether nobody is left to come back for the queued jobs.
    pub(super) fn nobody_runs(&self) -> bool {
        self.threads <= self.blocked
    }

    /// Strikes a thread that was about to start, or that ends, from the list.
    pub(super) fn forget(&mut self, worker: &Arc<Worker>) {
        self.workers.retain(|other| !Arc::ptr_eq(other, worker));
    }
}
