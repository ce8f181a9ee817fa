//! The pool's decisions: which thread works, which is idle, and which is woken or started. All of them under one lock.
//!
//! At most one thread at a time is the *searcher*: woken, started or spinning in order to take queued work. While there
//! is one, submitters wake nobody, so a burst of submissions costs one wake-up. The rule that makes it safe:
//!
//! > If jobs are queued, then there is a searcher, or no further thread may run, or as many threads are coming as jobs
//! > are queued.
//!
//! A searcher that takes a job appoints the next searcher if jobs remain ([`Scheduler::wake_or_spawn`]). A thread that
//! comes back from a job takes the next one before it rests. The proof is in the README beside this file.

use std::sync::{Arc, OnceLock, Weak};

use super::config::{Config, Growth};
use crate::base::clock::Moment;
use crate::base::sync::atomic::{AtomicBool, Ordering};
use crate::base::sync::thread;
use crate::core::backlog::Backlog;
use crate::core::runnable::Runnable;
use crate::metrics::stats::{PoolStats, WorkerStats};
use crate::metrics::{Metrics, WorkerCounts};

/// One thread of the pool, as the thread itself, the scheduler and those that wake the thread share it.
pub(super) struct WorkerRecord {
    pub(super) name: String,
    /// Set by the thread itself, before it can become idle.
    pub(super) thread: OnceLock<thread::Thread>,
    /// Set under the scheduler's lock when the idle thread is made the searcher. Reset by the thread itself, under the
    /// same lock, when it sees it. So a thread that is unparked for another reason can tell.
    pub(super) woken: AtomicBool,
    /// The thread's record of its jobs. Written by the thread alone, read for metrics.
    pub(super) stats: Arc<WorkerStats>,
    /// Whether its job waits for another job, while a further thread stands in. Written under the scheduler's lock.
    pub(super) is_blocked: AtomicBool,
    /// Its index in `Scheduler::seats`.
    seat: usize,
    /// What the thread says about itself when it starts. Written once, by itself.
    #[cfg(feature = "observe")]
    pub(super) birth: OnceLock<super::birth::Birth>,
}

impl WorkerRecord {
    /// Wakes the thread, which is or was idle.
    pub(super) fn unpark(&self) {
        self.thread.get().expect("a thread becomes idle only after it has started").unpark();
    }
}

/// The place of one thread in the scheduler.
struct Seat {
    worker: Arc<WorkerRecord>,
    /// The job that the thread runs, for metrics, reports and shutdown. Each accepted job is either here or queued.
    /// Written by the thread, when it takes a job and when it comes back.
    running: Option<RunningJob>,
}

/// A job that a thread runs.
pub(super) struct RunningJob {
    /// Weak, so that a result that nobody wants is dropped by the thread that made it, as soon as its job has ended.
    pub(super) job: Weak<dyn Runnable>,
    pub(super) since: Moment,
}

/// The state of a pool. One lock guards it, and every decision is taken under that lock.
pub(super) struct Scheduler {
    /// The queued jobs, those still in the injector excepted.
    pub(super) backlog: Backlog<dyn Runnable>,
    /// All threads, from the decision to start them to their very end. A seat that was left is given to the next
    /// thread.
    seats: Vec<Option<Seat>>,
    /// Parked threads. The thread that became idle last is woken first, so that the others can time out. A thread
    /// enters itself, and is taken out by the one that wakes it, or by itself when it leaves.
    pub(super) idle: Vec<Arc<WorkerRecord>>,
    /// Counts the threads that take jobs, idle ones included, from the decision to start them to their decision to
    /// leave.
    pub(super) threads: usize,
    /// Counts those of `threads` whose job waits for another job. Changed when a job begins to wait and when it goes
    /// on.
    pub(super) blocked: usize,
    /// Counts those of `threads` that are about to look for a job, as if they came back from one. A thread that is
    /// started in advance, or that enters a batch, is counted until it takes the lock again.
    pub(super) coming: usize,
    /// Whether there is a searcher. Set with its appointment. Reset by the searcher, when it takes a job, rests or
    /// leaves, or if it could not be started.
    pub(super) searching: bool,
    /// Counts the jobs that were taken by threads which came back from a job: evidence that the queue moves without
    /// more threads. Wraps around.
    pub(super) handoffs: u64,
    /// The value of `handoffs` when a searcher last looked. Written by searchers.
    handoffs_seen: u64,
    /// Whether the pool accepts no more jobs. Set once.
    pub(super) closed: bool,
    /// Whether the backlog has held jobs of other priorities than the ordinary one since it was last empty. Set by
    /// submitters, reset when the backlog is empty. Meanwhile the injector is closed.
    pub(super) has_priorities: bool,
    /// The number of threads that stay although they are idle. Never changes.
    pub(super) min_workers: usize,
    /// The largest number of threads that are not blocked. At least 1.
    pub(super) max_workers: usize,
    /// Never changes.
    growth: Growth,
    /// Counts the threads that were ever named, for the names of the next ones.
    named: u64,
    /// The sum of what the threads that have left had recorded.
    past: PoolStats,
}

/// The reason why a thread looks for a job.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It is the searcher: it was started, woken or left spinning to take a job.
    Searcher,
    /// It is counted in `coming`: it was started in advance, or is about to enter a batch.
    Coming,
    /// It has just run a job.
    Returning,
}

/// A searcher's next step.
pub(super) enum SearchStep {
    /// Take a job.
    Take,
    /// The threads at work keep up: look again a little later.
    Watch,
    /// There is no job: rest.
    Rest,
}

/// The wake-up that queued jobs need. To be carried out after the lock is released.
#[must_use]
pub(super) enum Wakeup {
    None,
    /// Unpark this thread, which is the searcher now.
    Wake(Arc<WorkerRecord>),
    /// Start this thread, which is the searcher already.
    Start(Arc<WorkerRecord>),
}

impl Scheduler {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            backlog: Backlog::new(config.queue),
            seats: Vec::new(),
            idle: Vec::new(),
            threads: 0,
            blocked: 0,
            coming: 0,
            searching: false,
            handoffs: 0,
            handoffs_seen: 0,
            closed: false,
            has_priorities: false,
            min_workers: config.min_workers,
            max_workers: config.max_workers,
            growth: config.growth,
            named: 0,
            past: PoolStats::default(),
        }
    }

    /// Appoints a searcher if the rule demands one: an idle thread, or else a new one.
    pub(super) fn wake_or_spawn(&mut self, name: &str) -> Wakeup {
        if self.rule_holds() {
            return Wakeup::None;
        }
        if let Some(worker) = self.idle.pop() {
            self.searching = true;
            worker.woken.store(true, Ordering::Relaxed);
            return Wakeup::Wake(worker);
        }
        self.searching = true;
        self.threads += 1;
        Wakeup::Start(self.new_worker(name))
    }

    /// Adds one more thread if there are fewer than `wanted` and there may be more. The caller starts it.
    pub(super) fn prestart(&mut self, wanted: usize, name: &str) -> Option<Arc<WorkerRecord>> {
        let may_start = !self.closed && self.threads < wanted.min(self.max_workers);
        may_start.then(|| self.new_coming_worker(name))
    }

    /// Adds a thread for the job that was queued last, if the pool grows eagerly and no thread is free for it. The
    /// caller starts it.
    ///
    /// Free threads are those that rest and those that are about to take a job. The jobs before this one have theirs.
    pub(super) fn grow(&mut self, name: &str) -> Option<Arc<WorkerRecord>> {
        if self.growth == Growth::OnDemand {
            return None;
        }
        let free = self.idle.len() + self.coming + usize::from(self.searching);
        let may_start = self.backlog.len() > free && self.threads < self.max_workers + self.blocked;
        may_start.then(|| self.new_coming_worker(name))
    }

    /// Records that a thread that was coming has come.
    pub(super) fn arrive(&mut self, role: &mut Role) {
        if *role == Role::Coming {
            *role = Role::Returning;
            self.coming -= 1;
        }
    }

    fn new_coming_worker(&mut self, name: &str) -> Arc<WorkerRecord> {
        self.threads += 1;
        self.coming += 1;
        self.new_worker(name)
    }

    fn new_worker(&mut self, name: &str) -> Arc<WorkerRecord> {
        self.named += 1;
        let seat = self.seats.iter().position(Option::is_none).unwrap_or_else(|| {
            self.seats.push(None);
            self.seats.len() - 1
        });
        let worker = Arc::new(WorkerRecord {
            name: format!("{name}-{}", self.named),
            thread: OnceLock::new(),
            woken: AtomicBool::new(false),
            stats: Arc::default(),
            is_blocked: AtomicBool::new(false),
            seat,
            #[cfg(feature = "observe")]
            birth: OnceLock::new(),
        });
        self.seats[seat] = Some(Seat { worker: Arc::clone(&worker), running: None });
        worker
    }

    /// Returns the record of the job that this thread runs, to be written by that thread.
    pub(super) fn running_of(&mut self, worker: &WorkerRecord) -> &mut Option<RunningJob> {
        &mut self.seats[worker.seat].as_mut().expect("a thread has its seat until it is removed").running
    }

    /// Decides the searcher's next step.
    ///
    /// More threads than `cores` are put to work only when the others have not come back for a job since the last look:
    /// that is, when they block, or compute for long.
    pub(super) fn next_step(&mut self, cores: usize) -> SearchStep {
        if self.backlog.len() == 0 {
            return SearchStep::Rest;
        }
        let at_work = self.active() - 1;
        let moves = self.handoffs != self.handoffs_seen;
        self.handoffs_seen = self.handoffs;
        if moves && at_work >= cores && !self.closed { SearchStep::Watch } else { SearchStep::Take }
    }

    /// Returns whether every queued job will be taken although nobody is woken: the rule.
    pub(super) fn rule_holds(&self) -> bool {
        self.backlog.len() <= self.coming || self.is_covered()
    }

    /// Returns whether a new job will be taken although nobody is woken: there is a searcher, or no further thread may
    /// run.
    pub(super) fn is_covered(&self) -> bool {
        self.searching || self.active() >= self.max_workers + self.blocked
    }

    /// Returns whether jobs may come through the injector.
    pub(super) fn opens_injector(&self) -> bool {
        !self.has_priorities && !self.closed
    }

    /// Returns the number of threads that run jobs or look for one.
    fn active(&self) -> usize {
        self.threads - self.idle.len()
    }

    /// Returns whether a thread must leave instead of running another job, now that fewer are blocked or may run. The
    /// threads that stay still come back for every queued job.
    pub(super) fn too_many_run(&self) -> bool {
        self.active() > self.max_workers + self.blocked
    }

    /// Returns whether there are more threads, idle ones included, than may run, now that fewer are blocked or may run.
    pub(super) fn has_surplus(&self) -> bool {
        self.threads > self.max_workers + self.blocked
    }

    /// Returns the jobs that run, each with its thread and the time when it began.
    ///
    /// To be dropped after the lock is released: one of these may be the last to hold its job by then, and so the
    /// user's result.
    pub(super) fn running(&self) -> Vec<(Arc<WorkerRecord>, Arc<dyn Runnable>, Moment)> {
        let running = |seat: &Seat| {
            let RunningJob { job, since } = seat.running.as_ref()?;
            Some((Arc::clone(&seat.worker), job.upgrade()?, *since))
        };
        self.seats.iter().flatten().filter_map(running).collect()
    }

    /// Returns whether no thread is left that would come back for the queued jobs.
    pub(super) fn none_come_back(&self) -> bool {
        self.threads <= self.blocked
    }

    /// Removes a thread that could not be started, or that ends.
    pub(super) fn remove(&mut self, worker: &WorkerRecord) {
        self.past.add(&worker.stats);
        self.seats[worker.seat] = None;
        while let Some(None) = self.seats.last() {
            self.seats.pop();
        }
    }

    /// Writes what the scheduler knows into `metrics`.
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

    /// Returns whether no thread is left at all.
    pub(super) fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }
}
