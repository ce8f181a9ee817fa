//! The lock around a pool's scheduler, and what follows from the scheduler's decisions: jobs that are accepted, threads
//! that are woken and started.

use std::io;
use std::sync::{Arc, Weak};

use super::config::{Config, Growth};
use super::injector::{Injector, Pushed};
use super::scheduler::{Role, Scheduler, Wakeup, WorkerRecord};
use super::spawn;
use crate::base::cores::cores;
use crate::base::fork::OwnProcess;
use crate::base::line::Line;
use crate::base::panic::drop_quietly;
use crate::base::spawn::spawn;
use crate::base::sync::atomic::Ordering;
use crate::base::sync::{Condvar, Mutex, MutexGuard, thread};
use crate::core::compensation::Compensate;
use crate::core::error::ErrorKind;
use crate::core::header::Header;
use crate::core::outcome::Outcome;
use crate::core::runnable::{Owner, Runnable};
use crate::metrics::stats::OutcomeCounters;
#[cfg(feature = "observe")]
use crate::metrics::view::PoolView;
use crate::metrics::{self, Advisor, Measured, Metrics, PoolKind, Recorder};

/// The function that a worker thread runs, from its start to its end.
pub(super) type Serve = fn(&Arc<Registry>, &Arc<WorkerRecord>, Role);

/// A pool: what its clones, its threads and its jobs share.
pub(super) struct Registry {
    pub(super) config: Config,
    /// Locked by [`lock`](Self::lock).
    scheduler: OwnProcess<Line<Mutex<Scheduler>>>,
    /// The way to the backlog for ordinary jobs. Its lock is taken after the scheduler's by those that need both.
    pub(super) injector: Line<Injector>,
    /// Signalled when a thread has ended or could not be started. A shutdown waits for it.
    pub(super) worker_left: Condvar,
    /// Counts the ends that no thread of the pool has brought about. Written by any thread, read for metrics.
    pub(super) counts: OutcomeCounters,
    /// Finds jobs that do not suit the pool's purpose. Shared with the threads, which report to it.
    pub(super) advisor: Arc<Advisor>,
    /// The number of cores that the process may use, as it was when the pool was built.
    pub(super) cores: usize,
    /// Handed over by the builder, since this file is below the one that has the function.
    serve: Serve,
    me: Weak<Registry>,
    /// The same, as the jobs hold it.
    owner: Weak<dyn Owner>,
}

impl Registry {
    pub(super) fn new(config: Config, serve: Serve) -> Arc<Self> {
        let advisor =
            Advisor::new(&config.name, config.activity, config.lock_wait.is_some(), config.on_advice.clone());
        let through_injector = match config.growth {
            Growth::OnDemand => config.queue.capacity,
            // With each job the scheduler decides whether a thread is started.
            Growth::Eager => 0,
        };
        let registry = Arc::new_cyclic(|me: &Weak<Self>| Self {
            scheduler: OwnProcess::new(Line(Mutex::new(Scheduler::new(&config)))),
            injector: Line(Injector::new(through_injector)),
            worker_left: Condvar::new(),
            counts: OutcomeCounters::default(),
            advisor: Arc::new(advisor),
            config,
            cores: cores(),
            serve,
            me: me.clone(),
            owner: me.clone(),
        });
        if registry.config.is_listed {
            metrics::register(Arc::downgrade(&registry) as Weak<dyn Measured>);
        }
        registry
    }

    /// Accepts a job, or returns it with the reason.
    pub(super) fn execute(&self, job: Arc<dyn Runnable>) -> Result<(), (Arc<dyn Runnable>, ErrorKind)> {
        let result = self.accept(job);
        if let Err((_, kind)) = &result {
            self.counts.count(Outcome::of(kind));
        }
        result
    }

    fn accept(&self, job: Arc<dyn Runnable>) -> Result<(), (Arc<dyn Runnable>, ErrorKind)> {
        if self.is_forked() {
            return Err((job, ErrorKind::Forked));
        }
        match self.injector.push(job, &self.owner) {
            Pushed::Covered => Ok(()),
            Pushed::Announce => {
                self.release(self.lock_here());
                Ok(())
            }
            Pushed::Ended(job, ended) => {
                ended.count(&self.counts);
                drop_quietly(job);
                Ok(())
            }
            Pushed::Refused(job) => self.offer(job),
        }
    }

    /// Accepts a job that is not for the injector: it has a priority, or there is no room, or the pool is closed or
    /// grows eagerly.
    fn offer(&self, job: Arc<dyn Runnable>) -> Result<(), (Arc<dyn Runnable>, ErrorKind)> {
        let mut scheduler = self.lock_here();
        if scheduler.closed {
            return Err((job, ErrorKind::Closed));
        }
        scheduler.has_priorities |= job.header().options.priority != 0;
        let is_open = scheduler.opens_injector();
        let offer =
            self.injector.collect(&mut scheduler.backlog, is_open, |backlog| backlog.offer(job, &self.owner));
        let wakeup = self.restore_rule(&mut scheduler);
        let added = scheduler.grow(&self.config.name);
        drop(scheduler);
        self.wake(wakeup);
        if let Some(worker) = added {
            self.start(&worker, Role::Coming);
        }
        offer.settle(&self.counts)
    }

    /// Takes the scheduler's lock. Returns `None` in a child that was forked from the pool's process: the pool's
    /// threads are not there, and one of them may have held the lock at that moment.
    pub(super) fn lock(&self) -> Option<MutexGuard<'_, Scheduler>> {
        self.scheduler.get().map(|scheduler| scheduler.lock())
    }

    /// Takes the scheduler's lock where the process cannot be a forked child: on one of the pool's threads, or after
    /// another look.
    pub(super) fn lock_here(&self) -> MutexGuard<'_, Scheduler> {
        self.lock().expect("the pool's threads are in this process")
    }

    /// Returns whether this is a child that was forked from the pool's process.
    pub(super) fn is_forked(&self) -> bool {
        self.scheduler.get().is_none()
    }

    /// Releases the lock after a change of the backlog or of who may run, with the rule restored.
    pub(super) fn release(&self, mut scheduler: MutexGuard<'_, Scheduler>) {
        let wakeup = self.restore_rule(&mut scheduler);
        drop(scheduler);
        self.wake(wakeup);
    }

    /// Appoints a searcher if one is needed, and makes sure that the need for another one will be noticed.
    ///
    /// To be called after every change of the backlog or of who may run, before the lock is released. The caller
    /// carries the wake-up out afterwards.
    pub(super) fn restore_rule(&self, scheduler: &mut Scheduler) -> Wakeup {
        if scheduler.has_priorities && scheduler.backlog.total() == 0 {
            scheduler.has_priorities = false;
        }
        loop {
            let wakeup = scheduler.wake_or_spawn(&self.config.name);
            let covered = scheduler.is_covered();
            self.injector.set_covered(covered);
            if !covered {
                // A submitter that saw the former value relies on this look.
                self.collect(scheduler);
            }
            if scheduler.rule_holds() {
                self.injector.set_queued(scheduler.backlog.len());
                return wakeup;
            }
        }
    }

    /// Moves what has arrived in the injector to the backlog. Returns whether the backlog has jobs now.
    pub(super) fn collect(&self, scheduler: &mut Scheduler) -> bool {
        let is_open = scheduler.opens_injector();
        self.injector.collect(&mut scheduler.backlog, is_open, |backlog| backlog.len() > 0)
    }

    /// Carries a wake-up out. To be called without the lock.
    pub(super) fn wake(&self, wakeup: Wakeup) {
        match wakeup {
            Wakeup::None => {}
            Wakeup::Wake(worker) => worker.unpark(),
            Wakeup::Start(worker) => {
                self.start(&worker, Role::Searcher);
            }
        }
    }

    /// Starts threads until there are `wanted`, at most as many as the pool may have, beside those that it starts by
    /// itself when work waits.
    pub(super) fn prestart(&self, wanted: usize) {
        loop {
            let added = self.lock().and_then(|mut scheduler| scheduler.prestart(wanted, &self.config.name));
            match added {
                Some(worker) if self.start(&worker, Role::Coming) => {}
                _ => break,
            }
        }
    }

    /// Sets the largest number of threads that are not blocked, at least 1.
    pub(super) fn set_max_workers(&self, max_workers: usize) {
        let Some(mut scheduler) = self.lock() else { return };
        scheduler.max_workers = max_workers.max(1);
        let wakeup = self.restore_rule(&mut scheduler);
        let surplus = if scheduler.has_surplus() { scheduler.idle.clone() } else { Vec::new() };
        drop(scheduler);
        self.wake(wakeup);
        // Each looks again whether there are too many. Those at work look when they come back.
        for worker in surplus {
            worker.unpark();
        }
    }

    /// Starts a thread that the scheduler counts already. Returns whether the system granted it.
    fn start(&self, worker: &Arc<WorkerRecord>, role: Role) -> bool {
        let started = self.try_start(worker, role);
        if let Err(error) = &started {
            self.start_failed(worker, role, error);
        }
        started.is_ok()
    }

    fn try_start(&self, worker: &Arc<WorkerRecord>, role: Role) -> io::Result<()> {
        let registry = self.me.upgrade().expect("the caller holds the registry");
        let (serve, worker) = (self.serve, Arc::clone(worker));
        let name = worker.name.clone();
        if let Some(handler) = &self.config.spawn {
            let on_start = move |started: io::Result<()>| match started {
                Ok(()) => serve(&registry, &worker, role),
                Err(error) => registry.start_failed(&worker, role, &error),
            };
            return spawn::start(&**handler, name, Box::new(on_start));
        }
        let mut builder = thread::Builder::new().name(name);
        if let Some(bytes) = self.config.stack_size {
            builder = builder.stack_size(bytes);
        }
        spawn(builder, move || serve(&registry, &worker, role)).map(drop)
    }

    /// Gives a thread up that could not be started.
    ///
    /// If other threads will come back for the queued jobs, the jobs wait for those. Otherwise each job ends with the
    /// reason, for it would wait forever.
    fn start_failed(&self, worker: &Arc<WorkerRecord>, role: Role, error: &io::Error) {
        let mut scheduler = self.lock_here();
        scheduler.remove(worker);
        scheduler.threads -= 1;
        scheduler.searching &= role != Role::Searcher;
        scheduler.coming -= usize::from(role == Role::Coming);
        // The next submission tries again. Jobs that came while this start was under way are handled now.
        self.injector.set_covered(scheduler.searching);
        self.collect(&mut scheduler);
        let stranded = if scheduler.none_come_back() { scheduler.backlog.drain() } else { Vec::new() };
        self.injector.set_queued(scheduler.backlog.len());
        // A thread may have become idle meanwhile.
        let wakeup = if scheduler.idle.is_empty() { Wakeup::None } else { self.restore_rule(&mut scheduler) };
        self.worker_left.notify_all();
        drop(scheduler);
        self.wake(wakeup);
        for job in stranded {
            let reason = format!("starting a thread failed: {error}");
            job.fail(ErrorKind::WorkerStart(reason.into()), &self.counts);
            drop_quietly(job);
        }
    }

    /// Returns the metrics, and what `look` finds under the same lock. It finds nothing in a forked child.
    pub(super) fn measure<R>(&self, look: impl FnOnce(&Scheduler) -> R) -> (Metrics, Option<R>) {
        let mut metrics = Metrics::new(&self.advisor, PoolKind::Threads);
        let found = self.lock().map(|mut scheduler| {
            self.collect(&mut scheduler);
            scheduler.measure(&mut metrics);
            look(&scheduler)
        });
        self.counts.add_to(&mut metrics.outcomes);
        metrics.lock_wait = self.config.lock_wait.as_deref().map(Recorder::read);
        (metrics, found)
    }

    pub(super) fn worker_count(&self) -> usize {
        self.lock().map_or(0, |scheduler| scheduler.threads)
    }

    pub(super) fn queued(&self) -> usize {
        self.lock().map_or(0, |mut scheduler| {
            self.collect(&mut scheduler);
            scheduler.backlog.total()
        })
    }
}

impl Owner for Registry {
    fn count(&self, outcome: Outcome) {
        self.counts.count(outcome);
    }

    fn withdraw(&self, header: &Header) {
        let Some(mut scheduler) = self.lock() else { return };
        // The job may still be in the injector.
        self.collect(&mut scheduler);
        let (removed, admitted) = scheduler.backlog.withdraw(header);
        self.release(scheduler);
        drop_quietly(removed);
        if let Some(admitted) = admitted {
            admitted.admit();
        }
    }

    /// Does nothing: a thread cannot be stopped from outside, and the job has its stop request already.
    fn interrupt(&self, _: &Header) {}
}

impl Measured for Registry {
    fn metrics(&self) -> Metrics {
        self.measure(|_| ()).0
    }

    fn is_over(&self) -> bool {
        self.lock().is_none_or(|scheduler| scheduler.closed && scheduler.is_empty())
    }

    #[cfg(feature = "observe")]
    fn view(&self) -> PoolView {
        Registry::view(self)
    }

    #[cfg(feature = "observe")]
    fn cancel_running(&self, job: u64) -> bool {
        Registry::cancel_running(self, job)
    }
}

/// One thread of a pool, as the jobs that it runs may block it.
pub(super) struct Blockable {
    pub(super) registry: Arc<Registry>,
    pub(super) worker: Arc<WorkerRecord>,
}

impl Compensate for Blockable {
    fn block(&self) {
        if let Some(mut scheduler) = self.registry.lock() {
            scheduler.blocked += 1;
            self.worker.is_blocked.store(true, Ordering::Relaxed);
            self.registry.release(scheduler);
        }
    }

    fn unblock(&self) {
        let Some(mut scheduler) = self.registry.lock() else { return };
        scheduler.blocked -= 1;
        self.worker.is_blocked.store(false, Ordering::Relaxed);
        // If the stand-in has gone to rest meanwhile, there is one thread too many.
        let surplus = if scheduler.has_surplus() { scheduler.idle.first().cloned() } else { None };
        drop(scheduler);
        if let Some(worker) = surplus {
            worker.unpark();
        }
    }
}
