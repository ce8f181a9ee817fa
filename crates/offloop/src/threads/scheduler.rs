//! Who works, who is idle, who looks out for work: the pool's decisions, all under one lock.
//!
//! At most one thread at a time is the *scout*: woken, started or spinning in order to take queued work.
//! While there is one, submitters wake nobody, so a burst of submissions costs one wake-up. The rule that
//! makes it safe:
//!
//! > If jobs are queued, then there is a scout, or no further thread may run, or as many threads are coming.
//!
//! Whoever takes a job as scout appoints the next scout if jobs remain ([`Scheduler::summon`]); a thread that
//! comes back from a job takes the next one before it thinks of resting. The proof is in the README beside
//! this file.

use std::sync::{Arc, OnceLock, Weak};

use crate::base::clock::Moment;
use crate::base::sync::atomic::{AtomicBool, Ordering};
use crate::base::sync::thread;
use crate::core::backlog::Backlog;
use crate::core::runnable::Runnable;
use crate::metrics::stats::{PoolStats, WorkerStats};
use crate::metrics::{Metrics, WorkerCounts};

/// One thread of the pool.
pub(super) struct Worker {
    pub(super) name: String,
    /// Set by the thread itself before it can become idle.
    pub(super) thread: OnceLock<thread::Thread>,
    /// Set under the scheduler's lock when it is called from idleness to be the scout; taken back by itself.
    pub(super) summoned: AtomicBool,
    /// What it has noted of its jobs.
    pub(super) stats: Arc<WorkerStats>,
    /// Its place in `Scheduler::seats`.
    seat: usize,
}

impl Worker {
    /// Wakes it; it is or was idle.
    pub(super) fn unpark(&self) {
        self.thread.get().expect("idle threads have started").unpark();
    }
}

struct Seat {
    worker: Arc<Worker>,
    /// The job that it runs, for reports and for shutdown: each accepted job is either here or in the backlog.
    running: Option<Running>,
}

pub(super) struct Running {
    /// Weak, so that the job's result, if nobody wants it, dies on its own thread and at its end.
    pub(super) job: Weak<dyn Runnable>,
    pub(super) since: Moment,
}

pub(super) struct Scheduler {
    pub(super) backlog: Backlog<dyn Runnable>,
    /// All threads until the very end of their lives. A seat that was left is given to the next one.
    seats: Vec<Option<Seat>>,
    /// Parked threads. The one that became idle last is woken first, so that the others can time out.
    pub(super) idle: Vec<Arc<Worker>>,
    /// Threads that take jobs, or are being started to.
    pub(super) threads: usize,
    /// Of these, threads whose job waits for another job.
    pub(super) blocked: usize,
    /// Threads that are about to look for a job, as if they came back from one: they were started in advance, or are
    /// on their way into a spell.
    pub(super) coming: usize,
    pub(super) scout: bool,
    /// Jobs taken by threads that came back from one: evidence that the queue moves without more threads.
    pub(super) returns: u64,
    /// `returns` when a scout last looked.
    returns_seen: u64,
    pub(super) closed: bool,
    /// The backlog has held jobs of other priorities than the ordinary since it was empty.
    pub(super) ranked: bool,
    pub(super) min_workers: usize,
    pub(super) max_workers: usize,
    next_name: u64,
    /// What the threads have noted that have left.
    past: PoolStats,
}

/// How a thread comes to look for a job.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It was started, woken or left spinning to take one.
    Scout,
    /// It counts among those that are coming: it was started in advance, or has entered a spell.
    Coming,
    /// It has just run one.
    Returning,
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

impl Scheduler {
    pub(super) fn new(backlog: Backlog<dyn Runnable>, min_workers: usize, max_workers: usize) -> Self {
        Self {
            backlog,
            seats: Vec::new(),
            idle: Vec::new(),
            threads: 0,
            blocked: 0,
            coming: 0,
            scout: false,
            returns: 0,
            returns_seen: 0,
            closed: false,
            ranked: false,
            min_workers,
            max_workers,
            next_name: 0,
            past: PoolStats::default(),
        }
    }

    /// Appoints a scout if jobs are queued and there is none: an idle thread, else a new one. Those that threads come
    /// for already need none.
    pub(super) fn summon(&mut self, name: &str) -> Help {
        if self.is_served() {
            return Help::None;
        }
        if let Some(worker) = self.idle.pop() {
            self.scout = true;
            worker.summoned.store(true, Ordering::Relaxed);
            return Help::Wake(worker);
        }
        self.scout = true;
        self.threads += 1;
        Help::Start(self.new_worker(name))
    }

    /// Enters one more thread beside the scout's, if there are fewer than `wanted` and there may be more.
    pub(super) fn recruit(&mut self, wanted: usize, name: &str) -> Option<Arc<Worker>> {
        if self.closed || self.threads >= wanted.min(self.max_workers) {
            return None;
        }
        self.threads += 1;
        self.coming += 1;
        Some(self.new_worker(name))
    }

    /// A thread that was coming is there.
    pub(super) fn arrive(&mut self, role: &mut Role) {
        if *role == Role::Coming {
            *role = Role::Returning;
            self.coming -= 1;
        }
    }

    fn new_worker(&mut self, name: &str) -> Arc<Worker> {
        self.next_name += 1;
        let seat = self.seats.iter().position(Option::is_none).unwrap_or_else(|| {
            self.seats.push(None);
            self.seats.len() - 1
        });
        let worker = Arc::new(Worker {
            name: format!("{name}-{}", self.next_name),
            thread: OnceLock::new(),
            summoned: AtomicBool::new(false),
            stats: Arc::default(),
            seat,
        });
        self.seats[seat] = Some(Seat { worker: Arc::clone(&worker), running: None });
        worker
    }

    /// The job that this thread runs.
    pub(super) fn running_of(&mut self, worker: &Worker) -> &mut Option<Running> {
        &mut self.seats[worker.seat].as_mut().expect("a thread has its seat until it is forgotten").running
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

    /// Whether the queued jobs need nobody else: the rule.
    pub(super) fn is_served(&self) -> bool {
        self.backlog.len() <= self.coming || self.is_attentive()
    }

    /// Whether a new job needs nobody to be told: there is a scout, or no further thread may run.
    pub(super) fn is_attentive(&self) -> bool {
        self.scout || self.active() >= self.max_workers + self.blocked
    }

    /// Whether jobs may come through the injector.
    pub(super) fn opens_inbox(&self) -> bool {
        !self.ranked && !self.closed
    }

    /// Threads that run jobs or look for one.
    fn active(&self) -> usize {
        self.threads - self.idle.len()
    }

    /// Whether a thread must leave instead of running another job, now that fewer are blocked. If it does,
    /// those that stay still come back for every queued job.
    pub(super) fn too_many_run(&self) -> bool {
        self.active() > self.max_workers + self.blocked
    }

    /// Whether there are more threads, idle ones included, than may ever run, now that fewer are blocked.
    pub(super) fn has_surplus(&self) -> bool {
        self.threads > self.max_workers + self.blocked
    }

    /// The jobs that run, each with its thread and since when. To be dropped after the lock, as one of these may
    /// be the last to hold its job by then, and with it the user's result.
    pub(super) fn running(&self) -> Vec<(Arc<Worker>, Arc<dyn Runnable>, Moment)> {
        let running = |seat: &Seat| {
            let Running { job, since } = seat.running.as_ref()?;
            Some((Arc::clone(&seat.worker), job.upgrade()?, *since))
        };
        self.seats.iter().flatten().filter_map(running).collect()
    }

    /// Whether nobody is left to come back for the queued jobs.
    pub(super) fn nobody_runs(&self) -> bool {
        self.threads <= self.blocked
    }

    /// Strikes a thread that was about to start, or that ends, from the list.
    pub(super) fn forget(&mut self, worker: &Worker) {
        self.past.add(&worker.stats);
        self.seats[worker.seat] = None;
        while let Some(None) = self.seats.last() {
            self.seats.pop();
        }
    }

    /// Fills in what is known here.
    pub(super) fn measure(&self, metrics: &mut Metrics) {
        let mut all = self.past.clone();
        let seats = self.seats.iter().flatten();
        seats.clone().for_each(|seat| all.add(&seat.worker.stats));
        (metrics.outcomes, metrics.queue_wait, metrics.run_time) =
            (all.outcomes, all.queue_wait, all.run_time);
        metrics.queued = self.backlog.total();
        metrics.running = seats.filter(|seat| seat.running.is_some()).count();
        let blocked = self.blocked.min(metrics.running);
        let busy = metrics.running - blocked;
        metrics.workers = WorkerCounts {
            busy,
            blocked,
            idle: self.threads.saturating_sub(busy + blocked),
            ..WorkerCounts::default()
        };
    }

    /// Whether no thread is left at all.
    pub(super) fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }
}
