//! What submitters, waiters and the supervisor share: the queue, and which worker has which job.

use std::cmp::Reverse;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::base::fork::Generation;
use crate::base::sync::{Condvar, Mutex, thread, wait_until};
use crate::core::backlog::Backlog;
use crate::core::error::{BuildError, ErrorKind};
use crate::core::header::{Expected, Header};
use crate::core::id::{JobId, JobState};
use crate::core::outcome::Outcome;
use crate::core::runnable::{AbortIf, Owner};
use crate::core::shutdown::{ShutdownReport, StuckJob};
use crate::core::spin::{self, SpinOutcome};
use crate::metrics::stats::{OutcomeCounters, Timing};
use crate::metrics::{self, Activity, Advisor, Histogram, Measured, Metrics, PoolKind, Restarts};
use crate::processes::link::{Link, state};
use crate::processes::os::process::Bell;
use crate::processes::pool::builder::Config;
use crate::processes::pool::item_queue::ItemQueue;
use crate::processes::pool::output::Output;
use crate::processes::pool::remote::{Outbound, RemoteCall};
use crate::processes::pool::results as outcome;
use crate::processes::pool::supervisor::{STALL, Supervisor};
use crate::processes::pool::worker::{Finished, Member, Phase, Why};
use crate::wire::arena::Arena;
use crate::wire::task::KINDS;

/// To wake a worker for less expected work is not worth it.
const WAKE_UP: Duration = Duration::from_micros(20);

/// A call that will be answered within this may be waited for at once.
const SHORT: Duration = Duration::from_micros(100);

/// The lock is held for moments only, never over foreign code, and over a system call only to empty the pipes of a
/// captured job, so that nobody waits for long.
/// Whoever holds it may give queued jobs to workers and take answers from them: submitters do the former, those
/// who wait for a result the latter, and the supervisor whatever nobody else has done.
pub(crate) struct Desk {
    pub(crate) config: Config,
    inbox: Mutex<Inbox>,
    /// Wakes the supervisor.
    pub(crate) bell: Bell,
    /// Wakes whoever takes answers besides the supervisor.
    pub(crate) ear: Bell,
    /// There is somebody who does.
    has_listener: AtomicBool,
    /// Signalled when the supervisor has ended.
    changed: Condvar,
    /// The ends of jobs.
    pub(crate) counts: Arc<OutcomeCounters>,
    advisor: Advisor,
    born: Generation,
    owner: Weak<dyn Owner>,
}

pub(crate) struct Inbox {
    pub(crate) backlog: Backlog<dyn RemoteCall>,
    /// The workers. Only the supervisor adds and removes them.
    pub(crate) members: Vec<Member>,
    /// Jobs that wait for another attempt, and until when.
    pub(crate) later: Vec<(Instant, Arc<dyn RemoteCall>)>,
    /// How many workers were killed for the sake of their job.
    pub(crate) killed: usize,
    /// No more jobs are accepted.
    pub(crate) closed: bool,
    /// The supervisor has ended. Written by itself alone.
    pub(crate) over: bool,
    /// The bell was rung and the supervisor has not looked yet.
    rung: bool,
    /// When the supervisor looks again by itself; `None` if it sleeps in the belief that there is nothing to look after.
    looks_at: Option<Instant>,
    /// How many calls were given to workers.
    pub(crate) given: u64,
    /// How many workers there are to be.
    pub(crate) wanted: usize,
    /// How long jobs of each kind took lately; zero if that is not known.
    pace: Box<[Duration; KINDS]>,
    /// How long jobs waited and ran.
    queue_wait: Histogram,
    run_time: Histogram,
    /// AdaptiveSpin after the first.
    pub(crate) retried: u64,
    pub(crate) restarts: Restarts,
}

/// How the supervisor sleeps.
pub(crate) struct Sleep {
    pub(crate) until: Option<Instant>,
    /// The pool is in use.
    pub(crate) is_used: bool,
}

/// What is to be done after the lock is released.
#[derive(Default)]
#[must_use]
pub(crate) struct Aftermath {
    /// Workers that sleep and have a call.
    wake: Vec<Arc<Link>>,
    /// Jobs that got room in the queue.
    admitted: Vec<Arc<dyn RemoteCall>>,
    /// Jobs that had ended when their turn came.
    ended: Vec<Arc<dyn RemoteCall>>,
    finished: Vec<Finished>,
    /// Whose jobs have sent items.
    told: Vec<Arc<ItemQueue>>,
    /// The supervisor has something to do.
    ring: bool,
}

impl Inbox {
    /// Gives queued jobs to workers that have room: first to those that have nothing to do, then behind calls that
    /// are expected to end soon.
    pub(crate) fn assign(&mut self, after: &mut Aftermath) {
        while let Some(next) = self.backlog.peek() {
            let is_captured = next.header().options.capture.is_some();
            for at in 0..self.members.len() {
                if self.members[at].has_passed_withdrawn() {
                    // Only removes what is withdrawn, unless an answer has come behind it.
                    self.collect(at, after);
                }
            }
            let Some(at) = self.choose(is_captured) else { return };
            let Some((job, admitted)) = self.backlog.take() else { return };
            after.admitted.extend(admitted);
            let Some(work) = job.start() else {
                after.ended.push(job);
                continue;
            };
            let pace = self.pace[usize::from(work.call.kind)];
            let expected = (!pace.is_zero()).then_some(pace);
            let member = &mut self.members[at];
            if expected.is_some_and(|expected| member.load() + expected < SHORT) {
                let is_awake = member.link.is_awake();
                job.header().expect(if is_awake { Expected::FromProcess } else { Expected::FromSleeper });
            }
            self.given += 1;
            member.last_given = self.given;
            if member.give(job, work, expected) {
                after.wake.push(Arc::clone(&member.link));
            }
            let member = &self.members[at];
            let due = member.run_deadline().into_iter().chain(member.stalls_at(STALL)).min();
            // Who believes that there is nothing to look after is to learn better.
            let is_sooner = self.looks_at.is_none_or(|looks_at| due.is_some_and(|due| due < looks_at));
            if is_sooner || member.is_spent() {
                self.ring(after);
            }
        }
    }

    /// The worker for the next job: an idle one that looks out for calls; else one that will soon have done what it
    /// has; else an idle one, which must be woken, of these the last that had a call; else the least busy.
    ///
    /// A captured job goes to an idle one alone: what others print must not mingle with what it prints.
    fn choose(&self, is_captured: bool) -> Option<usize> {
        let rank = |member: &Member| {
            let load = member.room().filter(|_| !is_captured || member.calls.is_empty())?;
            let preference = match (member.calls.is_empty(), member.link.is_awake()) {
                (true, true) => 0,
                (false, _) if load < WAKE_UP => 1,
                (true, false) => 2,
                (false, _) => 3,
            };
            Some((preference, load, Reverse(member.last_given)))
        };
        let ranked = self.members.iter().enumerate().filter_map(|(at, member)| Some((rank(member)?, at)));
        ranked.min().map(|(_, at)| at)
    }

    /// Takes the answers of a worker, and gives it more to do.
    pub(crate) fn harvest(&mut self, at: usize, after: &mut Aftermath) {
        self.collect(at, after);
        self.assign(after);
        if self.closed && self.is_idle() {
            self.ring(after);
        }
    }

    /// Takes the answers of a worker.
    pub(crate) fn collect(&mut self, at: usize, after: &mut Aftermath) {
        let member = &mut self.members[at];
        if !member.may_answer() {
            return;
        }
        let first_new = after.finished.len();
        let result = member.harvest(&mut after.finished, &mut after.told);
        for Finished { job, kind, answer, .. } in &after.finished[first_new..] {
            let Timing { began, took, .. } = answer.ran;
            self.queue_wait.record(began.since(job.header().submitted));
            self.run_time.record(took);
            let pace = &mut self.pace[usize::from(*kind)];
            let took = took.max(Duration::from_nanos(1));
            *pace = if pace.is_zero() { took } else { (*pace * 3 + took) / 4 };
        }
        let is_spent = member.is_done();
        if result.is_err() {
            self.dismiss(at, Why::BrokeOff, after);
        } else if is_spent {
            self.ring(after);
        }
    }

    /// Notes a job that has run without an answer since then, or may have.
    pub(crate) fn note_unanswered(&mut self, header: &Header, since: Instant) {
        let ran = since.elapsed();
        self.queue_wait.record(header.submitted.elapsed().saturating_sub(ran));
        self.run_time.record(ran);
    }

    /// Takes back what a worker has not begun with, to the front of the queue.
    pub(crate) fn recall(&mut self, at: usize, after: &mut Aftermath) {
        for (job, work) in self.members[at].recall() {
            self.requeue(job, work, after);
        }
    }

    /// Puts a job back whose worker did not begin with it.
    pub(crate) fn requeue(&mut self, job: Arc<dyn RemoteCall>, work: Outbound, after: &mut Aftermath) {
        if job.take_back(work) {
            self.backlog.put_back(job);
        } else {
            after.ended.push(job);
        }
    }

    /// Marks a worker for its end; the supervisor brings it about.
    pub(crate) fn dismiss(&mut self, at: usize, why: Why, after: &mut Aftermath) {
        if !self.members[at].is_leaving() {
            self.recall(at, after);
            self.members[at].phase = Phase::Leaving(why);
            self.ring(after);
        }
    }

    fn ring(&mut self, after: &mut Aftermath) {
        after.ring |= !std::mem::replace(&mut self.rung, true);
    }

    /// Whether no job is queued or running any more.
    pub(crate) fn is_idle(&self) -> bool {
        self.unstarted() == 0 && self.running() == 0
    }

    /// How many jobs no worker has.
    fn unstarted(&self) -> usize {
        self.backlog.total() + self.later.len()
    }

    /// How many jobs workers have.
    fn running(&self) -> usize {
        self.flights().count()
    }

    pub(crate) fn flights(&self) -> impl Iterator<Item = (&Member, &Arc<dyn RemoteCall>)> {
        let all = self.members.iter().flat_map(|member| member.calls.iter().map(move |call| (member, call)));
        all.filter_map(|(member, call)| Some((member, &call.work.as_ref()?.0)))
    }

    /// Every job that no worker has, out of the queue.
    pub(crate) fn drain(&mut self) -> Vec<Arc<dyn RemoteCall>> {
        let mut jobs = self.backlog.drain();
        jobs.extend(self.later.drain(..).map(|(_, job)| job));
        jobs
    }
}

impl Desk {
    /// Opens a desk and starts its supervisor.
    pub(crate) fn open(config: Config) -> Result<Arc<Self>, BuildError> {
        let system = |what| move |source| BuildError::System { what, source };
        let bell = Bell::new().map_err(system("opening the pool's eventfd"))?;
        let ear = Bell::new().map_err(system("opening the pool's second eventfd"))?;
        let desk = Arc::new_cyclic(|me: &Weak<Self>| Self {
            inbox: Mutex::new(Inbox {
                backlog: Backlog::new(config.queue_capacity, config.on_full),
                members: Vec::new(),
                later: Vec::new(),
                killed: 0,
                closed: false,
                over: false,
                rung: false,
                looks_at: None,
                given: 0,
                wanted: config.workers,
                pace: Box::new([Duration::ZERO; KINDS]),
                queue_wait: Histogram::default(),
                run_time: Histogram::default(),
                retried: 0,
                restarts: Restarts::default(),
            }),
            counts: Arc::default(),
            advisor: Advisor::new(&config.name, Some(Activity::Computes), false, config.on_advice.clone()),
            config,
            bell,
            ear,
            has_listener: AtomicBool::new(false),
            changed: Condvar::new(),
            born: Generation::now(),
            owner: me.clone(),
        });
        metrics::register(Arc::downgrade(&desk) as Weak<dyn Measured>);
        let output = Output::open(desk.config.stderr_tail).map_err(system("opening the workers' output"))?;
        let supervisor = Supervisor::new(Arc::clone(&desk), Arc::clone(&output));
        thread::Builder::new()
            .name("offloop-supervisor".into())
            .spawn(move || supervisor.run())
            .inspect_err(|_| output.close())
            .map_err(system("starting the pool's supervisor thread"))?;
        Ok(desk)
    }

    /// Accepts a job, or says why not.
    pub(crate) fn execute(&self, job: Arc<dyn RemoteCall>) -> Result<(), ErrorKind> {
        self.accept(job).inspect_err(|kind| self.counts.count(Outcome::of(kind)))
    }

    fn accept(&self, job: Arc<dyn RemoteCall>) -> Result<(), ErrorKind> {
        if self.born.is_past() {
            return Err(ErrorKind::Forked);
        }
        let offer = self.change(|inbox, after| {
            if inbox.closed {
                return Err(ErrorKind::Closed);
            }
            let offer = inbox.backlog.offer(job, &self.owner);
            inbox.assign(after);
            if inbox.members.is_empty() {
                // After failed starts the supervisor waits for somebody who needs a worker.
                inbox.ring(after);
            }
            Ok(offer)
        })?;
        offer.settle(&*self.counts).map_err(|(_, kind)| kind)
    }

    /// Changes something under the lock, and does what follows from it after the lock is released.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut Inbox, &mut Aftermath) -> R) -> R {
        let mut after = Aftermath::default();
        let result = change(&mut self.inbox.lock(), &mut after);
        self.settle(after);
        result
    }

    fn settle(&self, after: Aftermath) {
        after.wake.iter().for_each(|link| link.wake());
        if after.ring {
            self.bell.ring();
        }
        after.admitted.iter().for_each(|job| job.admit());
        after.told.iter().for_each(|tray| tray.wake());
        for finished in after.finished {
            let Timing { began, took, usage } = finished.answer.ran;
            let header = finished.job.header();
            header.span.record_times(began.since(header.submitted), took);
            if let Some(usage) = usage {
                self.advisor.record(header, took, usage);
            }
            outcome::finish(finished, &self.counts);
        }
        drop(after.ended);
    }

    /// The supervisor's way in. Whoever has something for it rings again from now on.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&mut Inbox, &mut Aftermath) -> R) -> R {
        self.change(|inbox, after| {
            inbox.rung = false;
            look(inbox, after)
        })
    }

    /// The supervisor goes to sleep until what `deadline` says; that is `None` if something has come up meanwhile. It
    /// asks and goes under one lock, so that who gives a worker a job then knows whether that was taken into account.
    pub(crate) fn fall_asleep(&self, deadline: impl FnOnce(&Inbox) -> Sleep) -> Option<Sleep> {
        let mut inbox = self.inbox.lock();
        if inbox.rung || inbox.members.iter().any(Member::has_news) {
            return None;
        }
        let sleep = deadline(&inbox);
        inbox.looks_at = if sleep.is_used { sleep.until } else { None };
        Some(sleep)
    }

    /// The supervisor has ended: nothing is to be had here any more. Returns the jobs that are left.
    pub(crate) fn end(&self) -> Vec<Arc<dyn RemoteCall>> {
        let mut inbox = self.inbox.lock();
        inbox.closed = true;
        inbox.over = true;
        let mut left = inbox.drain();
        let members = std::mem::take(&mut inbox.members);
        drop(inbox);
        for flight in members.into_iter().flat_map(|member| member.calls) {
            left.extend(flight.work.map(|(job, _)| job));
        }
        self.changed.notify_all();
        left
    }

    /// Takes no more jobs from now on. Those accepted are still run, then the workers leave. Says how many
    /// jobs those are.
    pub(crate) fn close(&self) -> usize {
        if self.born.is_past() {
            return 0;
        }
        self.change(|inbox, after| {
            inbox.closed = true;
            // Somebody must run what was accepted, or its handles would wait for ever.
            inbox.wanted = inbox.wanted.max(1);
            inbox.ring(after);
            inbox.unstarted() + inbox.running()
        })
    }

    /// Drains a closed pool of its `pending` jobs, then cancels and kills, then reports.
    pub(crate) fn shut_down(&self, pending: usize, drain: Duration) -> ShutdownReport {
        if self.born.is_past() {
            return ShutdownReport::default();
        }
        let mut inbox = self.inbox.lock();
        let killed_before = inbox.killed;
        inbox = wait_until(&self.changed, inbox, drain, |inbox| inbox.over);

        let mut left = inbox.drain();
        left.extend(inbox.flights().map(|(_, job)| Arc::clone(job)));
        drop(inbox);
        // Whoever is in a worker is interrupted by that.
        let cancelled = left.iter().filter(|job| job.abort(ErrorKind::Cancelled, AbortIf::Live)).count();
        self.change(Inbox::ring);

        // SIGKILL follows after one grace period, and what it ends is collected within the second.
        let grace = self.config.grace.saturating_mul(2).saturating_add(Duration::from_secs(1));
        let inbox = wait_until(&self.changed, self.inbox.lock(), grace, |inbox| inbox.over);
        let stuck: Vec<StuckJob> = inbox
            .members
            .iter()
            .filter_map(|member| {
                let (job, since) = member.running()?;
                Some(StuckJob::new(job.header(), format!("process {}", member.pid), since.elapsed()))
            })
            .collect();
        let killed = (inbox.killed - killed_before).min(cancelled).saturating_sub(stuck.len());
        ShutdownReport {
            drained: pending.saturating_sub(cancelled),
            cancelled: cancelled.saturating_sub(killed + stuck.len()),
            killed,
            stuck,
        }
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        if self.born.is_past() {
            return Vec::new();
        }
        let inbox = self.inbox.lock();
        inbox.members.iter().filter(|member| !member.is_done()).map(|member| member.pid).collect()
    }

    /// From now on somebody takes answers when the ear's eventfd is readable.
    pub(crate) fn listen(&self) {
        self.has_listener.store(true, Ordering::Relaxed);
        self.take_answers();
    }

    pub(crate) fn is_listened_to(&self) -> bool {
        self.has_listener.load(Ordering::Relaxed)
    }

    /// Takes the answers that have come, for the listener.
    pub(crate) fn take_answers(&self) {
        if self.born.is_past() {
            return;
        }
        self.ear.silence();
        self.change(|inbox, after| {
            for at in 0..inbox.members.len() {
                inbox.members[at].link.listen();
                inbox.harvest(at, after);
            }
        });
    }

    /// There is room for more items of a job.
    pub(crate) fn resume(&self, job: JobId) {
        self.change(|inbox, after| {
            if let Some(at) = inbox.members.iter().position(|member| member.find(job).is_some()) {
                inbox.harvest(at, after);
            }
        });
    }

    /// Cancels the jobs that no worker has; says how many those were.
    pub(crate) fn cancel_queued(&self) -> usize {
        if self.born.is_past() {
            return 0;
        }
        let queued = self.inbox.lock().drain();
        let cancelled = queued.iter().filter(|job| job.abort(ErrorKind::Cancelled, AbortIf::Live)).count();
        self.change(Inbox::ring);
        cancelled
    }

    /// Has the pool have so many workers from now on.
    pub(crate) fn resize(&self, workers: usize) {
        if !self.born.is_past() {
            self.change(|inbox, after| {
                inbox.wanted = if inbox.closed { workers.max(1) } else { workers };
                inbox.ring(after);
            });
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.born.is_past() || self.inbox.lock().over
    }

    pub(crate) fn outstanding(&self) -> usize {
        if self.born.is_past() {
            return 0;
        }
        let inbox = self.inbox.lock();
        inbox.unstarted() + inbox.running()
    }

    pub(crate) fn queued(&self) -> usize {
        if self.born.is_past() { 0 } else { self.inbox.lock().unstarted() }
    }
}

impl Measured for Desk {
    fn metrics(&self) -> Metrics {
        let mut metrics = Metrics::new(&self.advisor, PoolKind::Processes);
        self.counts.add_to(&mut metrics.outcomes);
        if self.born.is_past() {
            return metrics;
        }
        metrics.arena = Arena::of_this_process().map(Arena::bytes);
        let inbox = self.inbox.lock();
        metrics.queue_wait = inbox.queue_wait.clone();
        metrics.run_time = inbox.run_time.clone();
        (metrics.retried, metrics.restarts) = (inbox.retried, inbox.restarts);
        (metrics.queued, metrics.running) = (inbox.unstarted(), inbox.running());
        let workers = &mut metrics.workers;
        for member in &inbox.members {
            *match member.phase {
                Phase::Starting | Phase::Initialising => &mut workers.starting,
                Phase::Ready if member.calls.is_empty() => &mut workers.idle,
                Phase::Ready => &mut workers.busy,
                Phase::Retiring | Phase::Leaving(_) => &mut workers.leaving,
            } += 1;
        }
        metrics
    }

    fn is_over(&self) -> bool {
        Self::is_over(self)
    }
}

impl Owner for Desk {
    fn withdraw(&self, header: &Header, outcome: Outcome) {
        self.counts.count(outcome);
        let removed = self.change(|inbox, after| {
            let (mut removed, admitted) = inbox.backlog.withdraw(header);
            after.admitted.extend(admitted);
            if removed.is_none() {
                let at = inbox.later.iter().position(|(_, job)| job.header().id == header.id);
                removed = at.map(|at| inbox.later.swap_remove(at).1);
            }
            if inbox.closed {
                inbox.ring(after);
            }
            removed
        });
        drop(removed);
    }

    fn interrupt(&self, header: &Header, outcome: Outcome) {
        self.counts.count(outcome);
        self.change(|inbox, after| {
            let has_it = |member: &Member| member.find(header.id).is_some();
            if let Some(at) = inbox.members.iter().position(has_it) {
                // What was answered is not to be killed for, and what was not begun with not to be killed.
                inbox.recall(at, after);
                inbox.collect(at, after);
                if has_it(&inbox.members[at]) {
                    if let Some((_, since)) = inbox.members[at].running() {
                        inbox.note_unanswered(header, since);
                    }
                    inbox.killed += usize::from(!inbox.members[at].is_leaving());
                    inbox.dismiss(at, Why::JobEnded, after);
                }
                inbox.assign(after);
            }
            if inbox.closed {
                inbox.ring(after);
            }
        });
    }

    fn spin_for_end(&self, header: &Header, spinning: Duration, sleeping: Duration) -> SpinOutcome {
        let place = {
            let inbox = self.inbox.lock();
            let found = inbox.members.iter().find_map(|member| member.find(header.id));
            found.map(|(link, slot)| (Arc::clone(link), slot))
        };
        let ended = |how| if header.state() == JobState::Ended { how } else { SpinOutcome::InVain };
        let Some((link, slot)) = place else { return ended(SpinOutcome::Spinning) };
        let spinning = if link.is_elsewhere() { spinning } else { Duration::ZERO };
        let began = Instant::now();
        let mut how = SpinOutcome::Spinning;
        while header.state() != JobState::Ended && link.state(slot) != state::ANSWERED {
            let waited = began.elapsed();
            if waited < spinning {
                spin::pause();
            } else if waited < spinning + sleeping {
                how = SpinOutcome::Sleeping;
                link.await_answer(slot, sleeping);
            } else {
                break;
            }
        }
        if how == SpinOutcome::Sleeping || header.state() != JobState::Ended {
            self.take_answers_of(&link);
        }
        ended(how)
    }
}

impl Desk {
    fn take_answers_of(&self, link: &Arc<Link>) {
        self.change(|inbox, after| {
            let at = inbox.members.iter().position(|member| Arc::ptr_eq(&member.link, link));
            if let Some(at) = at {
                inbox.harvest(at, after);
            }
        });
    }
}
