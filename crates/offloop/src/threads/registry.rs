//! The threads of a pool: how they take jobs, rest, leave and are shut down.

use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::builder::Config;
use super::injector::{Inbox, Left};
use super::scheduler::{Help, Role, Roster, Running, Survey, Worker};
use super::state;
use crate::base::fork::Generation;
use crate::base::panic::{self, drop_quietly};
use crate::base::sync::atomic::Ordering;
use crate::base::sync::{Condvar, Mutex, MutexGuard, has_passed, park_timeout, thread};
use crate::core::backlog::{Backlog, Offer};
use crate::core::cell::{Owner, Runnable};
use crate::core::compensation;
use crate::core::error::ErrorKind;
use crate::core::job::Core;
use crate::metrics::stats::{Counts, Shift};
use crate::metrics::{self, Advisor, Kind, Measured, Metrics, Outcome, Recorder};

/// How long a thread that came back without finding work looks for more before it parks. It gives its core away
/// between looks. A caller that awaits one job after the other is thus served without waking the thread, even
/// when its own wake-up, on a halted core, takes some tens of microseconds. A limit in time, not in looks: on
/// a crowded core one look may take milliseconds.
const SPIN: Duration = Duration::from_micros(50);

/// How often it looks before it asks what time it is. Few under the model checker, for which each is a step.
const FIRST_LOOKS: usize = if cfg!(shuttle) { 1 } else { 3 };

/// How long a scout watches threads that keep up before it looks again: at first, and at most.
const WATCH: (Duration, Duration) = (Duration::from_micros(50), Duration::from_micros(200));

pub(super) struct Crew {
    pub(super) config: Config,
    pub(super) roster: Mutex<Roster>,
    /// The way to the backlog for ordinary jobs.
    pub(super) inbox: Inbox,
    /// Signalled when a thread ends in a closed pool.
    pub(super) left: Condvar,
    /// Ends that no thread of the pool has brought about.
    pub(super) counts: Counts,
    advisor: Arc<Advisor>,
    born: Generation,
    cores: usize,
    me: Weak<Crew>,
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

impl Crew {
    pub(super) fn new(config: Config) -> Arc<Self> {
        let advisor =
            Advisor::new(&config.name, config.purpose, config.lock_wait.is_some(), config.on_advice.clone());
        let crew = Arc::new_cyclic(|me: &Weak<Self>| Self {
            counts: Counts::default(),
            advisor: Arc::new(advisor),
            roster: Mutex::new(Roster::new(
                Backlog::new(config.queue_capacity, config.on_full),
                config.min_threads,
                config.max_threads,
            )),
            config,
            inbox: Inbox::new(),
            left: Condvar::new(),
            born: Generation::now(),
            cores: crate::base::sync::cores(),
            me: me.clone(),
            owner: me.clone(),
        });
        if crew.config.is_listed {
            metrics::enrol(Arc::downgrade(&crew) as Weak<dyn Measured>);
        }
        crew
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
        match self.inbox.leave(job, &self.owner, self.config.queue_capacity) {
            Left::Unannounced => Ok(()),
            Left::Announce => {
                let mut roster = self.roster.lock();
                let help = self.changed(&mut roster);
                drop(roster);
                self.give(help);
                Ok(())
            }
            Left::Ended(job) => {
                self.counts.count_untold(job.core());
                drop_quietly(job);
                Ok(())
            }
            Left::Refused(job) => self.offer(job),
        }
    }

    /// Accepts a job that is not for the inbox: it has a priority, or there is no room, or the pool is closed.
    fn offer(&self, job: Arc<dyn Runnable>) -> Result<(), (Arc<dyn Runnable>, ErrorKind)> {
        let mut roster = self.roster.lock();
        if roster.closed {
            return Err((job, ErrorKind::Closed));
        }
        roster.ranked |= job.core().options.priority != 0;
        let is_open = roster.opens_inbox();
        let offer =
            self.inbox.collect(&mut roster.backlog, is_open, |backlog| backlog.offer(job, &self.owner));
        let help = self.changed(&mut roster);
        drop(roster);
        self.give(help);
        match offer {
            Offer::Taken => Ok(()),
            Offer::Ended(job) => {
                self.counts.count_untold(job.core());
                drop_quietly(job);
                Ok(())
            }
            Offer::Shed(victim) => {
                victim.fail(ErrorKind::Shed, &self.counts);
                drop_quietly(victim);
                Ok(())
            }
            Offer::CallerRuns(job) => {
                job.run(&self.counts);
                Ok(())
            }
            Offer::Full(job) => Err((job, ErrorKind::Full { capacity: self.config.queue_capacity })),
        }
    }

    /// To be called after every change of the backlog or of who may run, before the lock is released: appoints a
    /// scout if one is needed, and sees to it that none will be needed unnoticed.
    pub(super) fn changed(&self, roster: &mut Roster) -> Help {
        if roster.ranked && roster.backlog.total() == 0 {
            roster.ranked = false;
        }
        loop {
            let help = roster.summon(&self.config.name);
            let attentive = roster.is_attentive();
            self.inbox.set_attentive(attentive);
            if !attentive {
                self.collect(roster);
            }
            if roster.is_served() {
                self.inbox.set_queued(roster.backlog.len());
                return help;
            }
        }
    }

    /// Moves what has arrived to the backlog. Says whether that has jobs now.
    pub(super) fn collect(&self, roster: &mut Roster) -> bool {
        let is_open = roster.opens_inbox();
        self.inbox.collect(&mut roster.backlog, is_open, |backlog| backlog.len() > 0)
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
            let recruit = self.roster.lock().recruit(wanted, &self.config.name);
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
        let crew = self.me.upgrade().expect("whoever calls holds the crew");
        if let Some(spawn) = &self.config.spawn {
            return crew.start_with(&**spawn, worker, role);
        }
        let mut builder = thread::Builder::new().name(worker.name.clone());
        if let Some(bytes) = self.config.stack_size {
            builder = builder.stack_size(bytes);
        }
        let worker = Arc::clone(worker);
        builder.spawn(move || crew.serve(&worker, role)).map(drop)
    }

    /// The system refused a thread. If others will come back for the jobs they wait for those; else each job
    /// ends with the reason, for it would wait for ever.
    pub(super) fn start_failed(&self, worker: &Arc<Worker>, role: Role, error: &io::Error) {
        let mut roster = self.roster.lock();
        roster.forget(worker);
        roster.threads -= 1;
        roster.scout &= role != Role::Scout;
        roster.coming -= usize::from(role == Role::Coming);
        // The next submission tries again. What came while this start was under way is seen to now.
        self.inbox.set_attentive(roster.scout);
        self.collect(&mut roster);
        let stranded = if roster.nobody_runs() { roster.backlog.drain() } else { Vec::new() };
        self.inbox.set_queued(roster.backlog.len());
        // Someone may have become idle meanwhile.
        let help = if roster.idle.is_empty() { Help::None } else { self.changed(&mut roster) };
        self.left.notify_all();
        drop(roster);
        self.give(help);
        for job in stranded {
            let reason = format!("starting a thread failed: {error}");
            job.fail(ErrorKind::CouldNotStart(reason.into()), &self.counts);
            drop_quietly(job);
        }
    }

    /// The life of one thread.
    pub(super) fn serve(self: Arc<Self>, worker: &Arc<Worker>, mut role: Role) {
        let _ = worker.thread.set(thread::current());
        compensation::join(Arc::clone(&self) as Arc<dyn compensation::Crew>);
        if let Some(hook) = &self.config.on_thread_start {
            drop_quietly(panic::catch(|| hook()));
        }
        let shift = Shift::new(Arc::clone(&worker.ledger), Arc::clone(&self.advisor));
        loop {
            role = match self.next(worker, &shift, role) {
                Turn::Run(job) => {
                    run(job, &shift);
                    Role::Returning
                }
                Turn::Spell(role) => self.spell(worker, &shift, role),
                Turn::Leave => break,
            };
            if self.is_forked() {
                // The job has forked and this is the child, where the pool's locks may be held for ever.
                return;
            }
        }
        state::close();
        compensation::leave();
        let mut roster = self.roster.lock();
        roster.forget(worker);
        if roster.is_empty() {
            roster.backlog.shrink();
            self.inbox.shrink();
        }
        self.left.notify_all();
    }

    /// Takes and runs jobs within the user's hook. Says which role the thread has afterwards.
    fn spell(&self, worker: &Worker, shift: &Shift, mut role: Role) -> Role {
        let Some((limit, hook)) = &self.config.around_work else { return role };
        let mut called = false;
        drop_quietly(panic::catch(|| {
            hook(&mut || {
                called = true;
                let begun = Instant::now();
                while let Some(job) = self.take_at_hand(worker, shift, &mut role) {
                    run(job, shift);
                    if self.is_forked() || begun.elapsed() >= *limit {
                        break;
                    }
                }
            });
        }));
        let stranded = if called { None } else { self.take_at_hand(worker, shift, &mut role) };
        if let Some(job) = stranded {
            job.fail(ErrorKind::Cancelled, &self.counts);
            drop_quietly(job);
        }
        role
    }

    /// The next job, if there is one already. If not, the thread becomes the scout where there is none, so that
    /// nobody else is called for a job that is submitted while it leaves the spell.
    fn take_at_hand(&self, worker: &Worker, shift: &Shift, role: &mut Role) -> Option<Arc<dyn Runnable>> {
        let mut roster = self.roster.lock();
        *roster.running_of(worker) = None;
        roster.arrive(role);
        if roster.too_many_run() {
            return None;
        }
        if roster.backlog.len() == 0 && !self.inbox.seems_empty() {
            self.collect(&mut roster);
        }
        if roster.backlog.len() == 0 {
            if !roster.scout && !roster.closed {
                *role = Role::Scout;
                roster.scout = true;
                self.inbox.set_attentive(true);
            }
            return None;
        }
        Some(self.take(worker, shift, roster, std::mem::replace(role, Role::Returning)))
    }

    /// What this thread does next. When it is to leave, it no longer counts.
    fn next(&self, worker: &Arc<Worker>, shift: &Shift, mut role: Role) -> Turn {
        let mut may_spin = role == Role::Returning || self.config.around_work.is_some();
        let mut watch = WATCH.0;
        let mut roster = self.roster.lock();
        *roster.running_of(worker) = None;
        roster.arrive(&mut role);
        loop {
            if roster.too_many_run() {
                // Those that stay are as many as may run, so nobody new is needed.
                roster.scout &= role != Role::Scout;
                roster.threads -= 1;
                return Turn::Leave;
            }
            if roster.backlog.len() == 0 && !self.inbox.seems_empty() {
                self.collect(&mut roster);
            }
            if role == Role::Returning {
                if roster.backlog.len() > 0 {
                    return self.begin(worker, shift, roster, role);
                }
            } else {
                match roster.survey(self.cores) {
                    Survey::Take => return self.begin(worker, shift, roster, role),
                    Survey::Watch => {
                        drop(roster);
                        shift.pause();
                        park_timeout(watch);
                        watch = (watch * 2).min(WATCH.1);
                        roster = self.roster.lock();
                        continue;
                    }
                    Survey::Rest => {}
                }
            }
            if may_spin && !roster.closed && (role == Role::Scout || !roster.scout) {
                may_spin = false;
                role = Role::Scout;
                roster.scout = true;
                self.inbox.set_attentive(true);
                self.inbox.set_spinning(true);
                drop(roster);
                shift.pause();
                self.spin();
                roster = self.roster.lock();
                self.inbox.set_spinning(false);
                continue;
            }
            // From here on this thread looks for no job, so it looks once more for those that relied on it.
            if role == Role::Scout {
                roster.scout = false;
                role = Role::Returning;
            }
            self.inbox.set_attentive(roster.scout);
            if self.collect(&mut roster) {
                continue;
            }
            if roster.closed || roster.has_surplus() {
                roster.threads -= 1;
                return Turn::Leave;
            }
            shift.pause();
            roster = match self.rest(worker, roster) {
                Some(roster) => roster,
                None => return Turn::Leave,
            };
            role = Role::Scout;
            watch = WATCH.0;
        }
    }

    /// The backlog has a job: takes it, or lets the hook that surrounds work come first.
    fn begin(&self, worker: &Worker, shift: &Shift, mut roster: MutexGuard<'_, Roster>, role: Role) -> Turn {
        if self.config.around_work.is_none() {
            return Turn::Run(self.take(worker, shift, roster, role));
        }
        if role == Role::Scout {
            return Turn::Spell(role);
        }
        roster.coming += 1;
        Turn::Spell(Role::Coming)
    }

    /// Takes the first job; the backlog has one.
    fn take(
        &self,
        worker: &Worker,
        shift: &Shift,
        mut roster: MutexGuard<'_, Roster>,
        role: Role,
    ) -> Arc<dyn Runnable> {
        match role {
            Role::Scout => roster.scout = false,
            _ => roster.returns = roster.returns.wrapping_add(1),
        }
        let (job, admitted) = roster.backlog.take().expect("the caller has seen a job under this lock");
        *roster.running_of(worker) = Some(Running { job: Arc::downgrade(&job), since: shift.begin() });
        let help = self.changed(&mut roster);
        drop(roster);
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
            if !self.inbox.seems_empty() {
                return;
            }
            thread::yield_now();
        }
        let deadline = Instant::now() + SPIN;
        while self.inbox.seems_empty() && !has_passed(deadline) {
            thread::yield_now();
        }
    }

    /// Parks until summoned as a scout. `None` when the thread is to leave.
    fn rest<'a>(
        &'a self,
        worker: &Arc<Worker>,
        mut roster: MutexGuard<'a, Roster>,
    ) -> Option<MutexGuard<'a, Roster>> {
        roster.idle.push(Arc::clone(worker));
        let mut deadline = Instant::now().checked_add(self.config.idle_timeout);
        loop {
            drop(roster);
            match deadline {
                Some(deadline) => park_timeout(deadline.saturating_duration_since(Instant::now())),
                None => thread::park(),
            }
            roster = self.roster.lock();
            if worker.summoned.swap(false, Ordering::Relaxed) {
                return Some(roster);
            }
            let expired = deadline.is_some_and(has_passed);
            let is_superfluous = roster.has_surplus() || (expired && roster.threads > roster.min_threads);
            if roster.closed || is_superfluous {
                roster.idle.retain(|other| !Arc::ptr_eq(other, worker));
                roster.threads -= 1;
                return None;
            }
            if expired {
                // One of the minimum: it stays until it is wanted or the pool closes.
                deadline = None;
                roster.backlog.shrink();
            }
        }
    }

    /// Whether this is a child forked from the pool's process: its threads are not here, its locks may be
    /// held for ever.
    pub(super) fn is_forked(&self) -> bool {
        self.born.is_past()
    }

    pub(super) fn threads(&self) -> usize {
        if self.is_forked() { 0 } else { self.roster.lock().threads }
    }

    pub(super) fn queued(&self) -> usize {
        if self.is_forked() {
            return 0;
        }
        let mut roster = self.roster.lock();
        self.collect(&mut roster);
        roster.backlog.total()
    }
}

/// Runs a job on a worker's thread.
fn run(job: Arc<dyn Runnable>, shift: &Shift) {
    job.run(shift);
    compensation::end_job();
}

impl Owner for Crew {
    fn withdraw(&self, core: &Core) {
        self.counts.count_early(core);
        let mut roster = self.roster.lock();
        // It may still be on its way.
        self.collect(&mut roster);
        let (removed, admitted) = roster.backlog.withdraw(core);
        let help = self.changed(&mut roster);
        drop(roster);
        self.give(help);
        drop_quietly(removed);
        if let Some(admitted) = admitted {
            admitted.admit();
        }
    }

    /// A thread cannot be stopped from outside; its job's token has turned.
    fn interrupt(&self, core: &Core) {
        self.counts.count_early(core);
    }
}

impl Measured for Crew {
    fn metrics(&self) -> Metrics {
        let mut metrics = Metrics::new(&self.advisor, Kind::Threads);
        if !self.is_forked() {
            let mut roster = self.roster.lock();
            self.collect(&mut roster);
            roster.measure(&mut metrics);
        }
        self.counts.add_to(&mut metrics.outcomes);
        metrics.lock_wait = self.config.lock_wait.as_deref().map(Recorder::read);
        metrics
    }

    fn is_over(&self) -> bool {
        if self.is_forked() {
            return true;
        }
        let roster = self.roster.lock();
        roster.closed && roster.is_empty()
    }
}

impl compensation::Crew for Crew {
    fn block(&self) {
        if self.is_forked() {
            return;
        }
        let mut roster = self.roster.lock();
        roster.blocked += 1;
        let help = self.changed(&mut roster);
        drop(roster);
        self.give(help);
    }

    fn unblock(&self) {
        if self.is_forked() {
            return;
        }
        let mut roster = self.roster.lock();
        roster.blocked -= 1;
        // If its stand-in has gone to rest meanwhile, it is one too many.
        let surplus = if roster.has_surplus() { roster.idle.first().cloned() } else { None };
        drop(roster);
        if let Some(worker) = surplus {
            worker.unpark();
        }
    }
}
