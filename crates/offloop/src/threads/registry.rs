//! The threads of a pool: how they take jobs, rest, leave and are shut down.

use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::builder::Config;
use super::injector::{Injector, Pushed};
use super::scheduler::{Help, Role, Running, Scheduler, Survey, Worker};
use super::state;
use crate::base::fork::Generation;
use crate::base::panic::{self, drop_quietly};
use crate::base::sync::atomic::Ordering;
use crate::base::sync::{Condvar, Mutex, MutexGuard, has_passed, park_timeout, thread};
use crate::core::backlog::Backlog;
use crate::core::compensation;
use crate::core::compensation::Compensate;
use crate::core::error::ErrorKind;
use crate::core::header::Header;
use crate::core::outcome::Outcome;
use crate::core::runnable::{Owner, Runnable};
use crate::metrics::stats::{OutcomeCounters, WorkerClock};
use crate::metrics::{self, Advisor, Measured, Metrics, PoolKind, Recorder};

/// How long a thread that came back without finding work looks for more before it parks. It gives its core away
/// between looks. A caller that awaits one job after the other is thus served without waking the thread, even
/// when its own wake-up, on a halted core, takes some tens of microseconds. A limit in time, not in looks: on
/// a crowded core one look may take milliseconds.
const SPIN: Duration = Duration::from_micros(50);

/// How often it looks before it asks what time it is. Few under the model checker, for which each is a step.
const FIRST_LOOKS: usize = if cfg!(shuttle) { 1 } else { 3 };

/// How long a scout watches threads that keep up before it looks again: at first, and at most.
const WATCH: (Duration, Duration) = (Duration::from_micros(50), Duration::from_micros(200));

pub(super) struct Registry {
    pub(super) config: Config,
    pub(super) scheduler: Mutex<Scheduler>,
    /// The way to the backlog for ordinary jobs.
    pub(super) injector: Injector,
    /// Signalled when a thread ends in a closed pool.
    pub(super) left: Condvar,
    /// Ends that no thread of the pool has brought about.
    pub(super) counts: OutcomeCounters,
    advisor: Arc<Advisor>,
    born: Generation,
    cores: usize,
    me: Weak<Registry>,
    /// `me` as the jobs see it.
    owner: Weak<dyn Owner>,
}

/// What a thread does next.
enum Turn {
    Run(Arc<dyn Runnable>),
    /// There is a job: to be taken within a spell, by a thread that has this role until then.
    Spell(Role),
    Leave,
}

impl Registry {
    pub(super) fn new(config: Config) -> Arc<Self> {
        let advisor =
            Advisor::new(&config.name, config.activity, config.lock_wait.is_some(), config.on_advice.clone());
        let registry = Arc::new_cyclic(|me: &Weak<Self>| Self {
            counts: OutcomeCounters::default(),
            advisor: Arc::new(advisor),
            scheduler: Mutex::new(Scheduler::new(
                Backlog::new(config.queue_capacity, config.on_full),
                config.min_workers,
                config.max_workers,
            )),
            config,
            injector: Injector::new(),
            left: Condvar::new(),
            born: Generation::now(),
            cores: crate::base::sync::cores(),
            me: me.clone(),
            owner: me.clone(),
        });
        if registry.config.is_listed {
            metrics::register(Arc::downgrade(&registry) as Weak<dyn Measured>);
        }
        registry
    }

    /// Accepts a job, or hands it back with the reason.
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
        match self.injector.push(job, &self.owner, self.config.queue_capacity) {
            Pushed::Unannounced => Ok(()),
            Pushed::Announce => {
                let mut scheduler = self.scheduler.lock();
                let help = self.changed(&mut scheduler);
                drop(scheduler);
                self.give(help);
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

    /// Accepts a job that is not for the injector: it has a priority, or there is no room, or the pool is closed.
    fn offer(&self, job: Arc<dyn Runnable>) -> Result<(), (Arc<dyn Runnable>, ErrorKind)> {
        let mut scheduler = self.scheduler.lock();
        if scheduler.closed {
            return Err((job, ErrorKind::Closed));
        }
        scheduler.ranked |= job.header().options.priority != 0;
        let is_open = scheduler.opens_inbox();
        let offer =
            self.injector.collect(&mut scheduler.backlog, is_open, |backlog| backlog.offer(job, &self.owner));
        let help = self.changed(&mut scheduler);
        drop(scheduler);
        self.give(help);
        offer.settle(&self.counts)
    }

    /// To be called after every change of the backlog or of who may run, before the lock is released: appoints a
    /// scout if one is needed, and sees to it that none will be needed unnoticed.
    pub(super) fn changed(&self, scheduler: &mut Scheduler) -> Help {
        if scheduler.ranked && scheduler.backlog.total() == 0 {
            scheduler.ranked = false;
        }
        loop {
            let help = scheduler.summon(&self.config.name);
            let attentive = scheduler.is_attentive();
            self.injector.set_attentive(attentive);
            if !attentive {
                self.collect(scheduler);
            }
            if scheduler.is_served() {
                self.injector.set_queued(scheduler.backlog.len());
                return help;
            }
        }
    }

    /// Moves what has arrived to the backlog. Says whether that has jobs now.
    pub(super) fn collect(&self, scheduler: &mut Scheduler) -> bool {
        let is_open = scheduler.opens_inbox();
        self.injector.collect(&mut scheduler.backlog, is_open, |backlog| backlog.len() > 0)
    }

    pub(super) fn give(&self, help: Help) {
        match help {
            Help::None => {}
            Help::Wake(worker) => worker.unpark(),
            Help::Start(worker) => {
                self.start(&worker, Role::Scout);
            }
        }
    }

    /// Starts threads until there are `wanted`, as far as the pool may have them, beside those that it starts by
    /// itself when work waits.
    pub(super) fn start_threads(&self, wanted: usize) {
        if self.is_forked() {
            return;
        }
        loop {
            let recruit = self.scheduler.lock().recruit(wanted, &self.config.name);
            match recruit {
                Some(worker) if self.start(&worker, Role::Coming) => {}
                _ => break,
            }
        }
    }

    /// Says whether the system gave the thread.
    fn start(&self, worker: &Arc<Worker>, role: Role) -> bool {
        let started = self.try_start(worker, role);
        if let Err(error) = &started {
            self.start_failed(worker, role, error);
        }
        started.is_ok()
    }

    fn try_start(&self, worker: &Arc<Worker>, role: Role) -> io::Result<()> {
        let registry = self.me.upgrade().expect("whoever calls holds the registry");
        if let Some(spawn) = &self.config.spawn {
            return registry.start_with(&**spawn, worker, role);
        }
        let mut builder = thread::Builder::new().name(worker.name.clone());
        if let Some(bytes) = self.config.stack_size {
            builder = builder.stack_size(bytes);
        }
        let worker = Arc::clone(worker);
        builder.spawn(move || registry.serve(&worker, role)).map(drop)
    }

    /// The system refused a thread. If others will come back for the jobs they wait for those; else each job
    /// ends with the reason, for it would wait for ever.
    pub(super) fn start_failed(&self, worker: &Arc<Worker>, role: Role, error: &io::Error) {
        let mut scheduler = self.scheduler.lock();
        scheduler.forget(worker);
        scheduler.threads -= 1;
        scheduler.scout &= role != Role::Scout;
        scheduler.coming -= usize::from(role == Role::Coming);
        // The next submission tries again. What came while this start was under way is seen to now.
        self.injector.set_attentive(scheduler.scout);
        self.collect(&mut scheduler);
        let stranded = if scheduler.nobody_runs() { scheduler.backlog.drain() } else { Vec::new() };
        self.injector.set_queued(scheduler.backlog.len());
        // Someone may have become idle meanwhile.
        let help = if scheduler.idle.is_empty() { Help::None } else { self.changed(&mut scheduler) };
        self.left.notify_all();
        drop(scheduler);
        self.give(help);
        for job in stranded {
            let reason = format!("starting a thread failed: {error}");
            job.fail(ErrorKind::WorkerStart(reason.into()), &self.counts);
            drop_quietly(job);
        }
    }

    /// The life of one thread.
    pub(super) fn serve(self: Arc<Self>, worker: &Arc<Worker>, mut role: Role) {
        let _ = worker.thread.set(thread::current());
        compensation::enter(Arc::clone(&self) as Arc<dyn Compensate>);
        if let Some(hook) = &self.config.on_worker_start {
            drop_quietly(panic::catch(|| hook()));
        }
        let clock = WorkerClock::new(Arc::clone(&worker.stats), Arc::clone(&self.advisor));
        loop {
            role = match self.next(worker, &clock, role) {
                Turn::Run(job) => {
                    run(job, &clock);
                    Role::Returning
                }
                Turn::Spell(role) => self.spell(worker, &clock, role),
                Turn::Leave => break,
            };
            if self.is_forked() {
                // The job has forked and this is the child, where the pool's locks may be held for ever.
                return;
            }
        }
        state::close();
        compensation::leave();
        let mut scheduler = self.scheduler.lock();
        scheduler.forget(worker);
        if scheduler.is_empty() {
            scheduler.backlog.shrink();
            self.injector.shrink();
        }
        self.left.notify_all();
    }

    /// Takes and runs jobs within the user's hook. Says which role the thread has afterwards.
    fn spell(&self, worker: &Worker, clock: &WorkerClock, mut role: Role) -> Role {
        let Some((limit, hook)) = &self.config.around_batch else { return role };
        let mut called = false;
        drop_quietly(panic::catch(|| {
            hook(&mut || {
                called = true;
                let begun = Instant::now();
                while let Some(job) = self.take_at_hand(worker, clock, &mut role) {
                    run(job, clock);
                    if self.is_forked() || begun.elapsed() >= *limit {
                        break;
                    }
                }
            });
        }));
        let stranded = if called { None } else { self.take_at_hand(worker, clock, &mut role) };
        if let Some(job) = stranded {
            job.fail(ErrorKind::Cancelled, &self.counts);
            drop_quietly(job);
        }
        role
    }

    /// The next job, if there is one already. If not, the thread becomes the scout where there is none, so that
    /// nobody else is called for a job that is submitted while it leaves the spell.
    fn take_at_hand(
        &self,
        worker: &Worker,
        clock: &WorkerClock,
        role: &mut Role,
    ) -> Option<Arc<dyn Runnable>> {
        let mut scheduler = self.scheduler.lock();
        *scheduler.running_of(worker) = None;
        scheduler.arrive(role);
        if scheduler.too_many_run() {
            return None;
        }
        if scheduler.backlog.len() == 0 && !self.injector.seems_empty() {
            self.collect(&mut scheduler);
        }
        if scheduler.backlog.len() == 0 {
            if !scheduler.scout && !scheduler.closed {
                *role = Role::Scout;
                scheduler.scout = true;
                self.injector.set_attentive(true);
            }
            return None;
        }
        Some(self.take(worker, clock, scheduler, std::mem::replace(role, Role::Returning)))
    }

    /// What this thread does next. When it is to leave, it no longer counts.
    fn next(&self, worker: &Arc<Worker>, clock: &WorkerClock, mut role: Role) -> Turn {
        let mut may_spin = role == Role::Returning || self.config.around_batch.is_some();
        let mut watch = WATCH.0;
        let mut scheduler = self.scheduler.lock();
        *scheduler.running_of(worker) = None;
        scheduler.arrive(&mut role);
        loop {
            if scheduler.too_many_run() {
                // Those that stay are as many as may run, so nobody new is needed.
                scheduler.scout &= role != Role::Scout;
                scheduler.threads -= 1;
                return Turn::Leave;
            }
            if scheduler.backlog.len() == 0 && !self.injector.seems_empty() {
                self.collect(&mut scheduler);
            }
            if role == Role::Returning {
                if scheduler.backlog.len() > 0 {
                    return self.begin(worker, clock, scheduler, role);
                }
            } else {
                match scheduler.survey(self.cores) {
                    Survey::Take => return self.begin(worker, clock, scheduler, role),
                    Survey::Watch => {
                        drop(scheduler);
                        clock.pause();
                        park_timeout(watch);
                        watch = (watch * 2).min(WATCH.1);
                        scheduler = self.scheduler.lock();
                        continue;
                    }
                    Survey::Rest => {}
                }
            }
            if may_spin && !scheduler.closed && (role == Role::Scout || !scheduler.scout) {
                may_spin = false;
                role = Role::Scout;
                scheduler.scout = true;
                self.injector.set_attentive(true);
                self.injector.set_spinning(true);
                drop(scheduler);
                clock.pause();
                self.spin();
                scheduler = self.scheduler.lock();
                self.injector.set_spinning(false);
                continue;
            }
            // From here on this thread looks for no job, so it looks once more for those that relied on it.
            if role == Role::Scout {
                scheduler.scout = false;
                role = Role::Returning;
            }
            self.injector.set_attentive(scheduler.scout);
            if self.collect(&mut scheduler) {
                continue;
            }
            if scheduler.closed || scheduler.has_surplus() {
                scheduler.threads -= 1;
                return Turn::Leave;
            }
            clock.pause();
            scheduler = match self.rest(worker, scheduler) {
                Some(scheduler) => scheduler,
                None => return Turn::Leave,
            };
            role = Role::Scout;
            watch = WATCH.0;
        }
    }

    /// The backlog has a job: takes it, or lets the hook that surrounds work come first.
    fn begin(
        &self,
        worker: &Worker,
        clock: &WorkerClock,
        mut scheduler: MutexGuard<'_, Scheduler>,
        role: Role,
    ) -> Turn {
        if self.config.around_batch.is_none() {
            return Turn::Run(self.take(worker, clock, scheduler, role));
        }
        if role == Role::Scout {
            return Turn::Spell(role);
        }
        scheduler.coming += 1;
        Turn::Spell(Role::Coming)
    }

    /// Takes the first job; the backlog has one.
    fn take(
        &self,
        worker: &Worker,
        clock: &WorkerClock,
        mut scheduler: MutexGuard<'_, Scheduler>,
        role: Role,
    ) -> Arc<dyn Runnable> {
        match role {
            Role::Scout => scheduler.scout = false,
            _ => scheduler.returns = scheduler.returns.wrapping_add(1),
        }
        let (job, admitted) = scheduler.backlog.take().expect("the caller has seen a job under this lock");
        *scheduler.running_of(worker) = Some(Running { job: Arc::downgrade(&job), since: clock.begin() });
        let help = self.changed(&mut scheduler);
        drop(scheduler);
        self.give(help);
        if let Some(admitted) = admitted {
            admitted.admit();
        }
        job
    }

    /// Waits for a job to be queued, for a while, without a lock.
    fn spin(&self) {
        // A caller on this very core answers at the first look, before a clock is worth reading.
        for _ in 0..FIRST_LOOKS {
            if !self.injector.seems_empty() {
                return;
            }
            thread::yield_now();
        }
        let deadline = Instant::now() + SPIN;
        while self.injector.seems_empty() && !has_passed(deadline) {
            thread::yield_now();
        }
    }

    /// Parks until summoned as a scout. `None` when the thread is to leave.
    fn rest<'a>(
        &'a self,
        worker: &Arc<Worker>,
        mut scheduler: MutexGuard<'a, Scheduler>,
    ) -> Option<MutexGuard<'a, Scheduler>> {
        scheduler.idle.push(Arc::clone(worker));
        let mut deadline = Instant::now().checked_add(self.config.idle_timeout);
        loop {
            drop(scheduler);
            match deadline {
                Some(deadline) => park_timeout(deadline.saturating_duration_since(Instant::now())),
                None => thread::park(),
            }
            scheduler = self.scheduler.lock();
            if worker.summoned.swap(false, Ordering::Relaxed) {
                return Some(scheduler);
            }
            let expired = deadline.is_some_and(has_passed);
            let is_superfluous =
                scheduler.has_surplus() || (expired && scheduler.threads > scheduler.min_workers);
            if scheduler.closed || is_superfluous {
                scheduler.idle.retain(|other| !Arc::ptr_eq(other, worker));
                scheduler.threads -= 1;
                return None;
            }
            if expired {
                // One of the minimum: it stays until it is wanted or the pool closes.
                deadline = None;
                scheduler.backlog.shrink();
            }
        }
    }

    /// Whether this is a child forked from the pool's process: its threads are not here, its locks may be
    /// held for ever.
    pub(super) fn is_forked(&self) -> bool {
        self.born.is_past()
    }

    pub(super) fn worker_count(&self) -> usize {
        if self.is_forked() { 0 } else { self.scheduler.lock().threads }
    }

    pub(super) fn queued(&self) -> usize {
        if self.is_forked() {
            return 0;
        }
        let mut scheduler = self.scheduler.lock();
        self.collect(&mut scheduler);
        scheduler.backlog.total()
    }
}

/// Runs a job on a worker's thread.
fn run(job: Arc<dyn Runnable>, clock: &WorkerClock) {
    job.run(clock);
    compensation::end_job();
}

impl Owner for Registry {
    fn withdraw(&self, header: &Header, outcome: Outcome) {
        self.counts.count(outcome);
        let mut scheduler = self.scheduler.lock();
        // It may still be on its way.
        self.collect(&mut scheduler);
        let (removed, admitted) = scheduler.backlog.withdraw(header);
        let help = self.changed(&mut scheduler);
        drop(scheduler);
        self.give(help);
        drop_quietly(removed);
        if let Some(admitted) = admitted {
            admitted.admit();
        }
    }

    /// A thread cannot be stopped from outside; its job's token has turned.
    fn interrupt(&self, _: &Header, outcome: Outcome) {
        self.counts.count(outcome);
    }
}

impl Measured for Registry {
    fn metrics(&self) -> Metrics {
        let mut metrics = Metrics::new(&self.advisor, PoolKind::Threads);
        if !self.is_forked() {
            let mut scheduler = self.scheduler.lock();
            self.collect(&mut scheduler);
            scheduler.measure(&mut metrics);
        }
        self.counts.add_to(&mut metrics.outcomes);
        metrics.lock_wait = self.config.lock_wait.as_deref().map(Recorder::read);
        metrics
    }

    fn is_over(&self) -> bool {
        if self.is_forked() {
            return true;
        }
        let scheduler = self.scheduler.lock();
        scheduler.closed && scheduler.is_empty()
    }
}

impl Compensate for Registry {
    fn block(&self) {
        if self.is_forked() {
            return;
        }
        let mut scheduler = self.scheduler.lock();
        scheduler.blocked += 1;
        let help = self.changed(&mut scheduler);
        drop(scheduler);
        self.give(help);
    }

    fn unblock(&self) {
        if self.is_forked() {
            return;
        }
        let mut scheduler = self.scheduler.lock();
        scheduler.blocked -= 1;
        // If its stand-in has gone to rest meanwhile, it is one too many.
        let surplus = if scheduler.has_surplus() { scheduler.idle.first().cloned() } else { None };
        drop(scheduler);
        if let Some(worker) = surplus {
            worker.unpark();
        }
    }
}
