//! The state of a process pool, and the decisions about it. All of it happens under the dispatcher's lock.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::config::Config;
use super::item_queue::ItemQueue;
use super::remote::{Outbound, RemoteCall};
use super::worker::{Contact, Finished, LeaveReason, WorkerPhase, WorkerRecord, WorkerState};
use super::workers::Workers;
use crate::core::backlog::{Backlog, Offer};
use crate::core::error::{ErrorKind, WorkerExit};
use crate::core::header::{Expected, Header};
use crate::core::id::JobId;
use crate::core::runnable::Owner;
use crate::core::shutdown::StuckJob;
use crate::metrics::stats::Timing;
use crate::metrics::{Histogram, Metrics, Restarts};
use crate::processes::link::Link;
use crate::processes::os::process::End;
use crate::wire::call::KINDS;

/// A call that is answered within this time may be waited for at once.
const SHORT: Duration = Duration::from_micros(100);

/// The number of ended workers of which the pool remembers how they ended.
const EXITS: usize = 64;

/// The state of a pool. Any thread that holds the lock may give queued jobs to workers and take answers from them:
/// submitters do the former, callers that wait for a result do both, and the supervisor does what is left.
pub(super) struct Scheduler {
    /// The jobs that no worker has, in the order in which they are given to workers.
    pub(super) backlog: Backlog<dyn RemoteCall>,
    /// The records of the workers. Only the supervisor adds and removes them.
    pub(super) workers: Workers,
    /// Jobs whose worker has died and which wait for another attempt, each with the time of that. The supervisor adds
    /// them. They leave when they are due, withdrawn or drained.
    pub(super) later: Vec<(Instant, Arc<dyn RemoteCall>)>,
    /// Counts the workers that were killed because of their job. Incremented when a running job is aborted.
    pub(super) killed: usize,
    /// The pool accepts no more jobs. Set when it is closed or broken, or when the supervisor has ended; never cleared.
    pub(super) closed: bool,
    /// The reason why the pool is broken. Set once, by the first thread that breaks it.
    pub(super) broken: Option<String>,
    /// The supervisor has ended. Set by the supervisor, once.
    pub(super) over: bool,
    /// Woken when the supervisor has ended. Taken by the supervisor.
    pub(super) at_end: Vec<Waker>,
    /// The supervisor was notified and has not looked since. Set by the thread that notifies it, cleared by the
    /// supervisor.
    notified: bool,
    /// When the supervisor looks again without a notification. `None` if it sleeps in the belief that there is nothing
    /// to look after. Written by the supervisor when it goes to sleep.
    looks_at: Option<Instant>,
    /// Counts the calls that were given to workers.
    pub(super) given: u64,
    /// The number of workers that the pool should have. Changed by `resize`, by growth on demand, and at the pool's
    /// end.
    pub(super) target: usize,
    /// The number of workers up to which the pool grows on demand. `None` in a pool that does not. Changed by `resize` and
    /// `set_max_workers`.
    pub(super) grow_to: Option<usize>,
    /// The number of workers that stay although they are idle. Never changes.
    min_workers: usize,
    /// The time without a job after which others leave. Never changes.
    idle_timeout: Option<Duration>,
    /// The program ends all workers at once, in this way. Set by `stop`; a kill replaces the other.
    pub(super) stopped: Option<End>,
    /// The last workers that have ended, the oldest first. Written by the supervisor.
    exits: VecDeque<(u32, WorkerExit)>,
    /// The time that jobs of each kind took lately, as a moving average; zero for a kind without an answer so far.
    /// Written when answers are taken.
    pace: Box<[Duration; KINDS]>,
    /// The times that jobs waited before they began. Recorded when an answer is taken, or when a running job is aborted.
    queue_wait: Histogram,
    /// The times that jobs ran. Recorded at the same time.
    run_time: Histogram,
    /// The workers that were given up although they may live, with the jobs that they run. Written by the supervisor.
    lost: Vec<LostWorker>,
    /// Counts the attempts after the first. Incremented by the supervisor.
    pub(super) retried: u64,
    /// Counts the workers that were replaced, by the reason. Written by the supervisor.
    pub(super) restarts: Restarts,
}

/// A worker that could not be ended.
struct LostWorker {
    pid: u32,
    /// The job that it ran when it was given up, if any, and when that began.
    job: Option<(StuckJob, Instant)>,
}

/// How the supervisor sleeps.
pub(super) struct Sleep {
    /// When it wakes up without a notification.
    pub(super) until: Option<Instant>,
    /// The pool is in use, so `until` may be relied on.
    pub(super) is_used: bool,
}

/// Actions that have to wait until the lock is released.
#[derive(Default)]
#[must_use]
pub(super) struct Deferred {
    /// Workers that sleep and have been given a call.
    pub(super) wake: Vec<Arc<Link>>,
    /// Jobs that waited for room in the queue and have got it.
    pub(super) admitted: Vec<Arc<dyn RemoteCall>>,
    /// Jobs that had ended when their turn came. They are only dropped.
    pub(super) ended: Vec<Arc<dyn RemoteCall>>,
    /// Jobs that have been answered.
    pub(super) finished: Vec<Finished>,
    /// Queues that have got items for their readers.
    pub(super) with_items: Vec<Arc<ItemQueue>>,
    /// The supervisor has something to do and has to be notified.
    pub(super) notify: bool,
}

impl Scheduler {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            backlog: Backlog::new(config.queue),
            workers: Workers::default(),
            later: Vec::new(),
            killed: 0,
            closed: false,
            broken: None,
            over: false,
            at_end: Vec::new(),
            notified: false,
            looks_at: None,
            given: 0,
            target: config.first_workers(),
            grow_to: config.min_workers.map(|_| config.max_workers),
            min_workers: config.first_workers(),
            idle_timeout: config.idle_timeout,
            stopped: None,
            exits: VecDeque::new(),
            pace: Box::new([Duration::ZERO; KINDS]),
            queue_wait: Histogram::default(),
            run_time: Histogram::default(),
            lost: Vec::new(),
            retried: 0,
            restarts: Restarts::default(),
        }
    }

    /// Queues a job, and gives queued jobs to workers.
    pub(super) fn accept(
        &mut self,
        job: Arc<dyn RemoteCall>,
        owner: &Weak<dyn Owner>,
        after: &mut Deferred,
    ) -> Result<Offer<dyn RemoteCall>, ErrorKind> {
        if self.closed {
            return Err(ErrorKind::Closed);
        }
        let offer = self.backlog.offer(job, owner);
        self.assign(after);
        self.grow(after);
        if self.workers.is_empty() {
            // After failed starts the supervisor waits for a job that needs a worker.
            self.notify(after);
        }
        Ok(offer)
    }

    /// Raises the target by one if every worker has a job, in a pool that grows on demand.
    fn grow(&mut self, after: &mut Deferred) {
        if self.grow_to.is_some_and(|most| self.target < most) && self.outstanding() > self.target {
            self.target += 1;
            self.notify(after);
        }
    }

    /// Gives queued jobs to workers that have room: to idle ones first, then behind calls that are expected to end
    /// soon.
    pub(super) fn assign(&mut self, after: &mut Deferred) {
        while let Some(next) = self.backlog.peek() {
            let is_captured = next.header().options.extras().capture.is_some();
            if self.workers.may_have_passed_withdrawn() {
                for at in 0..self.workers.len() {
                    if self.workers[at].has_passed_withdrawn() {
                        // Removes withdrawn calls. An answer may have come behind them.
                        self.collect(at, after);
                    }
                }
            }
            let Some(at) = self.workers.choose(is_captured, self.target) else { return };
            let Some((job, admitted)) = self.backlog.take() else { return };
            after.admitted.extend(admitted);
            let Some(work) = job.start() else {
                after.ended.push(job);
                continue;
            };
            let pace = self.pace[usize::from(work.call.kind)];
            let expected = (!pace.is_zero()).then_some(pace);
            let mut worker = self.workers.edit(at);
            if expected.is_some_and(|expected| worker.load() + expected < SHORT) {
                let is_awake = worker.link.is_awake();
                job.header().expect(if is_awake { Expected::FromProcess } else { Expected::FromSleeper });
            }
            self.given += 1;
            worker.last_given = self.given;
            if worker.give(job, work, expected) {
                after.wake.push(Arc::clone(&worker.link));
            }
            let due = worker.run_deadline().into_iter().chain(worker.stalls_at()).min();
            // A supervisor that believes that there is nothing to look after has to be notified of the first call.
            let is_sooner = self.looks_at.is_none_or(|looks_at| due.is_some_and(|due| due < looks_at));
            let is_news = is_sooner || worker.is_spent();
            drop(worker);
            if is_news {
                self.notify(after);
            }
        }
    }

    /// Takes the answers of a worker, and gives queued jobs to workers.
    pub(super) fn harvest(&mut self, at: usize, after: &mut Deferred) {
        self.collect(at, after);
        self.assign(after);
        if self.closed && self.is_idle() {
            self.notify(after);
        }
    }

    /// Takes the answers of a worker, and learns from them how long jobs take.
    pub(super) fn collect(&mut self, at: usize, after: &mut Deferred) {
        if !self.workers[at].may_answer() {
            return;
        }
        let mut worker = self.workers.edit(at);
        let first_new = after.finished.len();
        let result = worker.harvest(&mut after.finished, &mut after.with_items);
        for Finished { job, kind, answer, .. } in &after.finished[first_new..] {
            let Timing { began, took, .. } = answer.ran;
            self.queue_wait.record(began.since(job.header().submitted));
            self.run_time.record(took);
            let pace = &mut self.pace[usize::from(*kind)];
            let took = took.max(Duration::from_nanos(1));
            *pace = if pace.is_zero() { took } else { (*pace * 3 + took) / 4 };
        }
        let is_worn = !worker.over_memory && worker.link.is_worn();
        worker.over_memory |= is_worn;
        let has_ended = worker.is_done() && after.finished.len() > first_new;
        drop(worker);
        if result.is_err() {
            self.dismiss(at, LeaveReason::ProtocolError, after);
        } else if has_ended || is_worn {
            self.notify(after);
        }
    }

    /// Records the times of a job that has no answer and has run since `since`.
    pub(super) fn record_unanswered(&mut self, header: &Header, since: Instant) {
        let ran = since.elapsed();
        self.queue_wait.record(header.submitted.elapsed().saturating_sub(ran));
        self.run_time.record(ran);
    }

    /// Puts the jobs that a worker has not begun with back to their places in the queue.
    pub(super) fn recall(&mut self, at: usize, after: &mut Deferred) {
        let recalled = self.workers.edit(at).recall();
        for (job, work) in recalled {
            self.requeue(job, work, after);
        }
    }

    /// Puts a job back whose worker did not begin with it.
    pub(super) fn requeue(&mut self, job: Arc<dyn RemoteCall>, work: Outbound, after: &mut Deferred) {
        if job.take_back(work) {
            self.backlog.put_back(job);
        } else {
            after.ended.push(job);
        }
    }

    /// Marks a worker for its end, which the supervisor brings about.
    pub(super) fn dismiss(&mut self, at: usize, reason: LeaveReason, after: &mut Deferred) {
        if !self.workers[at].is_leaving() {
            self.recall(at, after);
            self.workers.edit(at).phase = WorkerPhase::Leaving(reason);
            self.notify(after);
        }
    }

    /// Notifies the supervisor after the lock is released, unless it was notified and has not looked since.
    pub(super) fn notify(&mut self, after: &mut Deferred) {
        after.notify |= !std::mem::replace(&mut self.notified, true);
    }

    /// Records that the supervisor looks now, so that it is notified of what comes later.
    pub(super) fn note_look(&mut self) {
        self.notified = false;
    }

    /// Lets the supervisor go to sleep until what `deadline` returns. Returns `None` if something has come up
    /// meanwhile.
    pub(super) fn fall_asleep(&mut self, deadline: impl FnOnce(&Self) -> Sleep) -> Option<Sleep> {
        if self.notified || self.workers.iter().any(WorkerRecord::has_news) {
            return None;
        }
        let sleep = deadline(self);
        self.looks_at = if sleep.is_used { sleep.until } else { None };
        Some(sleep)
    }

    /// Returns whether no job is queued or running.
    pub(super) fn is_idle(&self) -> bool {
        self.queued() == 0 && self.running() == 0
    }

    /// Returns the number of accepted jobs that no worker has.
    pub(super) fn queued(&self) -> usize {
        self.backlog.total() + self.later.len()
    }

    /// Returns the number of jobs that workers have.
    fn running(&self) -> usize {
        self.in_flight().count()
    }

    /// Returns the number of accepted jobs that have not left the pool.
    pub(super) fn outstanding(&self) -> usize {
        self.queued() + self.running()
    }

    /// Returns the jobs that workers have.
    pub(super) fn in_flight(&self) -> impl Iterator<Item = &Arc<dyn RemoteCall>> {
        let calls = self.workers.iter().flat_map(|worker| &worker.calls);
        calls.filter_map(|call| Some(&call.work.as_ref()?.0))
    }

    /// Removes and returns all jobs that no worker has.
    pub(super) fn drain(&mut self) -> Vec<Arc<dyn RemoteCall>> {
        let mut jobs = self.backlog.drain();
        jobs.extend(self.later.drain(..).map(|(_, job)| job));
        jobs
    }

    /// Removes a job that has ended and that no worker has.
    pub(super) fn withdraw(&mut self, header: &Header, after: &mut Deferred) -> Option<Arc<dyn RemoteCall>> {
        let (removed, admitted) = self.backlog.withdraw(header);
        after.admitted.extend(admitted);
        removed.or_else(|| {
            let at = self.later.iter().position(|(_, job)| job.header().id == header.id)?;
            Some(self.later.swap_remove(at).1)
        })
    }

    /// Ends the worker of a job that has been aborted, unless it has answered the job or has not begun with it.
    pub(super) fn interrupt(&mut self, header: &Header, after: &mut Deferred) {
        let Some(at) = self.find_job(header.id) else { return };
        self.recall(at, after);
        self.collect(at, after);
        if self.workers[at].find(header.id).is_some() {
            if let Some((_, since)) = self.workers[at].running() {
                self.record_unanswered(header, since);
            }
            self.killed += usize::from(!self.workers[at].is_leaving());
            self.dismiss(at, LeaveReason::JobAborted, after);
        }
        self.assign(after);
    }

    /// Makes the worker of a job that was aborted die without a grace period.
    pub(super) fn hurry(&mut self, job: JobId, after: &mut Deferred) {
        let Some(at) = self.find_job(job).filter(|at| self.workers[*at].is_leaving()) else { return };
        self.workers.edit(at).is_urgent = true;
        self.notify(after);
    }

    /// Registers `waker` to be woken when the worker that has this job is dead. Returns true if no worker has it.
    pub(super) fn on_gone(&mut self, job: JobId, waker: &Waker) -> bool {
        let at = self.find_job(job);
        if let Some(at) = at {
            self.workers.edit(at).at_end.push(waker.clone());
        }
        at.is_none()
    }

    /// Records that a worker could not be ended. `description` names it and says why.
    pub(super) fn note_lost(&mut self, pid: u32, description: &str) {
        let running = self.find(pid).and_then(|at| self.workers[at].running());
        let job = running.map(|(job, since)| {
            (StuckJob::new(job.header(), description.to_owned(), since.elapsed()), since)
        });
        self.lost.push(LostWorker { pid, job });
    }

    /// Forgets a worker that has ended after all.
    pub(super) fn forget_lost(&mut self, pid: u32) {
        self.lost.retain(|lost| lost.pid != pid);
    }

    /// Returns the jobs that run in workers, those included that could not be ended.
    pub(super) fn stuck(&self) -> Vec<StuckJob> {
        let there = self.workers.iter().filter_map(|worker| {
            let (job, since) = worker.running()?;
            Some(StuckJob::new(job.header(), format!("process {}", worker.pid), since.elapsed()))
        });
        let lost = self.lost.iter().filter_map(|lost| lost.job.clone());
        there.chain(lost.map(|(job, since)| StuckJob { running_for: since.elapsed(), ..job })).collect()
    }

    /// Returns the index of the worker with this process id.
    pub(super) fn find(&self, pid: u32) -> Option<usize> {
        self.workers.find(pid)
    }

    /// Returns the index of the worker that has this job.
    pub(super) fn find_job(&self, id: JobId) -> Option<usize> {
        self.workers.iter().position(|worker| worker.find(id).is_some())
    }

    /// Sets the target number of workers. A closed pool keeps one for the jobs that it has accepted.
    pub(super) fn resize(&mut self, workers: usize, after: &mut Deferred) {
        self.grow_to = None;
        self.set_target(workers, after);
    }

    /// Raises the target to this number of workers, as far as a pool that grows on demand may grow.
    pub(super) fn prestart(&mut self, workers: usize, after: &mut Deferred) {
        if let Some(most) = self.grow_to {
            self.set_target(workers.min(most).max(self.target), after);
        }
    }

    /// Sets the largest number of workers. In a pool that does not grow on demand this is the target.
    pub(super) fn set_max_workers(&mut self, workers: usize, after: &mut Deferred) {
        let target = match &mut self.grow_to {
            Some(most) => {
                *most = workers;
                self.target.max(self.outstanding()).min(workers)
            }
            None => workers,
        };
        self.set_target(target, after);
    }

    fn set_target(&mut self, workers: usize, after: &mut Deferred) {
        if self.broken.is_none() && self.stopped.is_none() {
            self.target = if self.closed { workers.max(1) } else { workers };
            self.notify(after);
        }
    }

    /// Accepts no more jobs. Returns the number of jobs that the pool still has.
    pub(super) fn close(&mut self, after: &mut Deferred) -> usize {
        self.closed = true;
        // The jobs that were accepted need at least one worker, or their handles would wait forever.
        self.target = self.target.max(1);
        self.notify(after);
        self.outstanding()
    }

    /// Breaks the pool: it accepts no more jobs and dismisses all its workers. Returns the jobs that it had.
    pub(super) fn break_with(&mut self, reason: &str, after: &mut Deferred) -> Vec<Arc<dyn RemoteCall>> {
        self.broken.get_or_insert_with(|| reason.to_owned());
        self.closed = true;
        self.target = 0;
        for at in 0..self.workers.len() {
            let is_idle = self.workers[at].calls.is_empty();
            self.dismiss(at, if is_idle { LeaveReason::Idle } else { LeaveReason::JobAborted }, after);
        }
        self.notify(after);
        // This includes the jobs that the workers had not begun with, which `dismiss` has put back.
        let mut jobs = self.drain();
        jobs.extend(self.in_flight().map(Arc::clone));
        jobs
    }

    /// Ends all workers, with what they run: the pool accepts no more jobs. Returns the jobs that no worker has.
    pub(super) fn stop(&mut self, how: End, after: &mut Deferred) -> Vec<Arc<dyn RemoteCall>> {
        self.closed = true;
        self.target = 0;
        if self.stopped != Some(End::Kill) {
            self.stopped = Some(how);
        }
        for at in 0..self.workers.len() {
            // One without a job leaves at once if it is asked to, and closes its state.
            let is_idle = how == End::Ask && self.workers[at].idle_since().is_some();
            self.dismiss(at, if is_idle { LeaveReason::Idle } else { LeaveReason::Stopped(how) }, after);
        }
        self.notify(after);
        self.drain()
    }

    /// Ends one worker, with what it runs.
    pub(super) fn stop_worker(&mut self, pid: u32, how: End, after: &mut Deferred) {
        if let Some(at) = self.find(pid) {
            self.dismiss(at, LeaveReason::Stopped(how), after);
        }
    }

    /// Records how a worker has ended.
    pub(super) fn note_exit(&mut self, pid: u32, exit: WorkerExit) {
        if self.exits.len() == EXITS {
            self.exits.pop_front();
        }
        self.exits.push_back((pid, exit));
    }

    /// Returns the last workers that have ended, the oldest first.
    pub(super) fn exits(&self) -> Vec<(u32, WorkerExit)> {
        self.exits.iter().copied().collect()
    }

    /// Lowers the target by the workers that have been idle for too long.
    fn shrink(&mut self, now: Instant) {
        let Some(limit) = self.idle_timeout.filter(|_| self.grow_to.is_some() && !self.closed) else {
            return;
        };
        let leaves = |since: Instant| now.saturating_duration_since(since) >= limit;
        let idle =
            self.workers.iter().filter_map(WorkerRecord::idle_since).filter(|since| leaves(*since)).count();
        self.target = self.target.saturating_sub(idle).max(self.min_workers.min(self.target));
    }

    /// Returns whether a worker is missing, and whether there are jobs. `pending` is the number of workers that are
    /// being forked.
    ///
    /// Each worker that is to be replaced counts as missing, since its replacement is started first.
    pub(super) fn shortage(&self, pending: usize, now: Instant) -> (bool, bool) {
        let leaves = |worker: &&WorkerRecord| {
            matches!(worker.phase, WorkerPhase::Retiring | WorkerPhase::Leaving(LeaveReason::Idle))
        };
        let there = self.workers.len() - self.workers.iter().filter(leaves).count();
        let worn = self.workers.iter().filter(|worker| worker.is_worn(now)).count();
        let has_jobs = !self.is_idle();
        let is_over = self.broken.is_some() || (self.closed && !has_jobs);
        let wanted = if is_over { 0 } else { self.target + worn };
        (there + pending < wanted, has_jobs)
    }

    /// Lets workers retire: those that are worn, if another one is ready in their place, and those above the target.
    pub(super) fn retire(&mut self, now: Instant, after: &mut Deferred) {
        self.shrink(now);
        let mut ready = self.workers.iter().filter(|worker| worker.phase == WorkerPhase::Ready).count();
        let is_due = |worker: &WorkerRecord| worker.phase == WorkerPhase::Retiring || worker.is_spent();
        if ready <= self.target && !self.workers.iter().any(is_due) {
            return self.assign(after);
        }
        // Worn workers first, then idle ones, of these the one that was needed the longest time ago.
        let mut order: Vec<usize> = (0..self.workers.len()).collect();
        order.sort_by_key(|at| {
            let worker = &self.workers[*at];
            (!worker.is_worn(now), !worker.calls.is_empty(), worker.idle_since())
        });
        for at in order {
            let is_ready = self.workers[at].phase == WorkerPhase::Ready;
            let is_spent = self.workers[at].is_spent();
            if is_ready && (ready > self.target || is_spent) {
                // A spent worker keeps its last job, which it was not given ahead of time.
                if !is_spent {
                    self.recall(at, after);
                }
                let mut worker = self.workers.edit(at);
                let (over_memory, is_worn) = (worker.over_memory, worker.is_worn(now));
                worker.phase = WorkerPhase::Retiring;
                drop(worker);
                ready -= 1;
                match (is_spent, over_memory, is_worn) {
                    (true, ..) => self.restarts.max_tasks_per_child += 1,
                    (_, true, _) => self.restarts.max_rss += 1,
                    (.., true) => self.restarts.max_worker_age += 1,
                    // The pool was made smaller.
                    _ => {}
                }
            }
            let worker = &self.workers[at];
            // One that has closed its socket by itself has not left, but died.
            if worker.phase == WorkerPhase::Retiring
                && worker.calls.is_empty()
                && worker.contact == Contact::There
            {
                self.dismiss(at, LeaveReason::Idle, after);
            }
        }
        self.assign(after);
    }

    /// Takes a worker that has closed its socket out of use: it gets no more calls, and those that it has not begun
    /// with are withdrawn.
    pub(super) fn cut_off(&mut self, pid: u32, after: &mut Deferred) {
        let Some(at) = self.find(pid) else { return };
        if self.workers[at].phase == WorkerPhase::Ready {
            let mut worker = self.workers.edit(at);
            worker.phase = WorkerPhase::Retiring;
            worker.contact = Contact::CutOff;
            drop(worker);
            self.recall(at, after);
            self.assign(after);
        }
    }

    /// Queues the jobs whose next attempt is due.
    pub(super) fn retry_due(&mut self, now: Instant) {
        let (due, later) = std::mem::take(&mut self.later).into_iter().partition(|(due, _)| *due <= now);
        self.later = later;
        let due: Vec<(Instant, Arc<dyn RemoteCall>)> = due;
        for (_, job) in due {
            self.backlog.append(job);
        }
    }

    /// Returns the jobs that are out of time, each with the error with which it ends.
    pub(super) fn overdue(&self, now: Instant) -> Vec<(Arc<dyn RemoteCall>, ErrorKind)> {
        let overdue = self.workers.iter().filter_map(|worker| worker.overdue(now));
        overdue.map(|(job, kind)| (Arc::clone(job), kind)).collect()
    }

    /// Returns when the supervisor has to look at a worker or at a job that waits for another attempt.
    pub(super) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let retries = self.later.iter().map(|(due, _)| *due);
        let may_shrink = self.grow_to.is_some() && self.target > self.min_workers;
        let idle_timeout = self.idle_timeout.filter(|_| may_shrink);
        let workers = self.workers.iter().flat_map(|worker| {
            let worn = worker.retires_at().filter(|time| *time > now);
            let leaves =
                worker.idle_since().zip(idle_timeout).and_then(|(since, limit)| since.checked_add(limit));
            worker.run_deadline().into_iter().chain(worker.stalls_at()).chain(worn).chain(leaves)
        });
        retries.chain(workers).min()
    }

    /// Adds what this state knows to the pool's metrics.
    pub(super) fn add_to(&self, metrics: &mut Metrics) {
        metrics.queue_wait = self.queue_wait.clone();
        metrics.run_time = self.run_time.clone();
        (metrics.retried, metrics.restarts) = (self.retried, self.restarts);
        (metrics.queued, metrics.running) = (self.queued(), self.running());
        let workers = &mut metrics.workers;
        for worker in self.workers.iter() {
            *match worker.state() {
                WorkerState::Starting => &mut workers.starting,
                WorkerState::Idle => &mut workers.idle,
                WorkerState::Busy => &mut workers.busy,
                WorkerState::Leaving => &mut workers.leaving,
            } += 1;
        }
    }
}
