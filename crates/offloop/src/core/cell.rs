//! The state machine of a job: a cell that its executor and its handle share.
//!
//! ```text
//! Pending(work) ──start──▶ Running ──finish──▶ Ended(result) ──poll──▶ Taken
//!       └──────── abort ──────┴───────────────────▲
//! ```
//!
//! Each arrow is taken under the cell's lock, so a job ends exactly once, whichever threads race: the worker that
//! finishes it, a handle that cancels it, a deadline, a shutdown. Wakers, destructors and owners are called after the
//! lock is released.
//!
//! There are two ways to end a job. Its executor calls [`Cell::finish`] and records the end itself. Everybody else
//! calls `abort`. Then the pool that owns the job counts it and is told. If no pool owns it, the outcome stays in the
//! cell until an executor meets the job and counts it ([`EndedEarly`]). Each end is counted under the cell's lock,
//! before it can be seen.

use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::error::{Error, ErrorKind};
use super::header::Header;
use super::id::JobState;
use super::observer::Observer;
use super::options::Options;
use super::outcome::Outcome;
use super::runnable::{AbortIf, AnyJob, EndedEarly, Owner, Runnable};
use super::spin::SpinOutcome;
use super::timer::{self, Limit};
use super::work::Work;
use crate::base::panic::{drop_quietly, wake_quietly};
use crate::base::sync::Mutex;

/// A job as its handle sees it.
pub(crate) trait Completion<T>: AnyJob {
    /// Takes the result, or registers the task to be woken at the end.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<T, Error>>;

    /// Returns whether the job has room in its executor's queue, or registers the task to be woken when it has.
    fn poll_accepted(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// Takes the result, if the job has ended.
    fn take(&self) -> Option<Result<T, Error>>;

    /// Registers `waker` to be woken at the end. Returns true if the job has ended already.
    fn subscribe(&self, waker: &Waker) -> bool;

    /// Limits the time until the job's end, from now.
    fn limit(self: Arc<Self>, limit: Duration);

    /// Waits for the job's end through its owner: see [`Owner::spin_for_end`].
    fn spin_for_end(&self, spinning: Duration, sleeping: Duration) -> SpinOutcome;
}

/// A job that computes a `T` by doing work of type `W`.
pub(crate) struct Cell<W, T> {
    header: Header,
    slot: Mutex<Slot<W, T>>,
}

struct Slot<W, T> {
    stage: Stage<W, T>,
    /// The task that waits for the end, or for room in the queue.
    waker: Option<Waker>,
    owner: Option<Weak<dyn Owner>>,
    /// The outcome of a job that was aborted before any pool owned it. Taken by the executor that counts it.
    uncounted: Option<Outcome>,
    timers: Vec<timer::Key>,
}

enum Stage<W, T> {
    Pending(W),
    Running,
    Ended(Result<T, Error>),
    Taken,
}

impl<W, T> Stage<W, T> {
    fn is_live(&self) -> bool {
        matches!(self, Self::Pending(_) | Self::Running)
    }

    fn is_pending(&self) -> bool {
        matches!(self, Self::Pending(_))
    }

    /// Takes the result, which is there once.
    fn take(&mut self) -> Option<Result<T, Error>> {
        match std::mem::replace(self, Self::Taken) {
            Self::Ended(result) => Some(result),
            Self::Taken => panic!("a handle was polled again after it had given its result"),
            live => {
                *self = live;
                None
            }
        }
    }
}

impl<W, T> Slot<W, T> {
    fn new(stage: Stage<W, T>) -> Self {
        Self { stage, waker: None, owner: None, uncounted: None, timers: Vec::new() }
    }

    fn ended_early(&mut self) -> EndedEarly {
        EndedEarly { uncounted: self.uncounted.take() }
    }
}

/// The party that ends a job.
#[derive(Clone, Copy)]
enum By<'a> {
    /// Its executor, which records the end with the observer.
    Executor(&'a dyn Observer),
    /// Somebody else, so the owner is told.
    Outsider,
}

impl<W: Send + 'static, T: Send + 'static> Cell<W, T> {
    pub(crate) fn new(work: W, options: Options) -> Arc<Self> {
        let queue_timeout = options.extras().queue_timeout;
        // Made in place: the header is large, and each move of it is a copy.
        let cell = Arc::new(Self {
            header: Header::new(options),
            slot: Mutex::new(Slot::new(Stage::Pending(work))),
        });
        if let Some(limit) = queue_timeout {
            cell.set_timer(Limit::Queue(limit), limit);
        }
        cell
    }

    /// Makes a job that ended before an executor had it.
    pub(crate) fn ended(options: Options, kind: ErrorKind) -> Arc<Self> {
        let header = Header::new(options);
        header.set_state(JobState::Ended);
        let slot = Mutex::new(Slot::new(Stage::Ended(Err(header.error(kind)))));
        Arc::new(Self { header, slot })
    }

    /// Takes the work out to run it. Fails if the job has ended.
    pub(crate) fn start(&self) -> Result<W, EndedEarly> {
        let mut slot = self.slot.lock();
        match std::mem::replace(&mut slot.stage, Stage::Running) {
            Stage::Pending(work) => {
                self.header.set_state(JobState::Running);
                Ok(work)
            }
            other => {
                slot.stage = other;
                Err(slot.ended_early())
            }
        }
    }

    /// Ends the job on behalf of its executor, unless it has ended. Returns whether it did.
    pub(crate) fn finish(&self, result: Result<T, ErrorKind>, observer: &dyn Observer) -> bool {
        self.end(result, AbortIf::Live, By::Executor(observer))
    }

    /// Takes unstarted work back from an executor that refused it, as if it had never been submitted.
    pub(crate) fn reclaim(&self) -> Option<W> {
        let mut slot = self.slot.lock();
        match std::mem::replace(&mut slot.stage, Stage::Taken) {
            Stage::Pending(work) => {
                self.header.set_state(JobState::Ended);
                let timers = std::mem::take(&mut slot.timers);
                drop(slot);
                timer::cancel(&timers);
                Some(work)
            }
            other => {
                slot.stage = other;
                None
            }
        }
    }

    /// Takes back the work of a job that was started but not begun with, so that it can be started again. Returns false
    /// if the job has ended.
    pub(crate) fn take_back(&self, work: W) -> bool {
        let mut slot = self.slot.lock();
        if !matches!(slot.stage, Stage::Running) {
            return false;
        }
        slot.stage = Stage::Pending(work);
        self.header.set_state(JobState::Queued);
        true
    }

    /// Ends the job with `result` if the condition holds. Returns whether it did.
    fn end(&self, result: Result<T, ErrorKind>, condition: AbortIf, by: By<'_>) -> bool {
        let outcome = self.header.outcome(&result);
        let late_after = if let Err(ErrorKind::QueueTimeout(limit)) = &result { Some(*limit) } else { None };
        let result = result.map_err(|kind| self.header.error(kind));
        let mut slot = self.slot.lock();
        let applies = match condition {
            AbortIf::Pending => slot.stage.is_pending(),
            AbortIf::Live => slot.stage.is_live(),
        };
        if !applies {
            if let By::Executor(observer) = by {
                // It was aborted while this executor, which does not own it, ran it.
                slot.ended_early().count(observer);
            }
            drop(slot);
            drop_quietly(result);
            return false;
        }
        let failed = result.is_err();
        if failed {
            self.header.request_stop();
        }
        let before = std::mem::replace(&mut slot.stage, Stage::Ended(result));
        let owner = match by {
            By::Outsider => {
                let owner = slot.owner.take();
                if owner.is_none() {
                    slot.uncounted = Some(outcome);
                }
                owner.and_then(|owner| owner.upgrade()).inspect(|owner| owner.count(outcome))
            }
            // The owner stays, to be dropped with the cell. A worker that dropped it here would take the cache line of
            // the owner's reference count away from the submitters.
            By::Executor(observer) => {
                observer.ended(outcome);
                None
            }
        };
        if let Some(limit) = late_after {
            self.header.note_late(limit);
        }
        self.header.set_state(JobState::Ended);
        let waker = slot.waker.take();
        let timers = std::mem::take(&mut slot.timers);
        drop(slot);

        timer::cancel(&timers);
        self.header.span.record_outcome(outcome);
        if failed && matches!(before, Stage::Running) {
            if let Some(hooks) = self.header.hooks() {
                hooks.call();
            }
        }
        if let Some(on_end) = &self.header.options.extras().on_end {
            on_end.job_ended(waker.as_ref());
        }
        if let Some(owner) = owner {
            match before {
                Stage::Pending(_) => owner.withdraw(&self.header),
                _ => owner.interrupt(&self.header),
            }
        }
        if let Some(waker) = waker {
            wake_quietly(waker);
        }
        drop_quietly(before);
        true
    }

    /// Sets the timer for `limit`, due in `due`. Returns false if there can be no timer: then the limit could not be
    /// kept, so the job has been aborted.
    fn set_timer(self: &Arc<Self>, limit: Limit, due: Duration) -> bool {
        let Some(deadline) = Instant::now().checked_add(due) else { return true };
        let target: Weak<Self> = Arc::downgrade(self);
        match timer::set(deadline, target, limit) {
            Ok(key) => {
                let mut slot = self.slot.lock();
                if slot.stage.is_live() {
                    slot.timers.push(key);
                } else {
                    drop(slot);
                    timer::cancel(&[key]);
                }
                true
            }
            Err(error) => {
                let reason = format!("the timer thread for its deadline did not start: {error}");
                self.abort(ErrorKind::WorkerStart(reason.into()), AbortIf::Live);
                false
            }
        }
    }
}

impl<W: Send + 'static, T: Send + 'static> timer::Expire for Cell<W, T> {
    fn expire(&self, limit: Limit) {
        match limit {
            Limit::Queue(limit) => {
                self.abort(ErrorKind::QueueTimeout(limit), AbortIf::Pending);
            }
            Limit::Run(limit) => {
                self.abort(ErrorKind::RunTimeout(limit), AbortIf::Live);
            }
            Limit::Total(limit) => {
                if !self.abort(ErrorKind::QueueTimeout(limit), AbortIf::Pending) {
                    self.abort(ErrorKind::RunTimeout(limit), AbortIf::Live);
                }
            }
        }
    }
}

impl<W: Send + 'static, T: Send + 'static> AnyJob for Cell<W, T> {
    fn header(&self) -> &Header {
        &self.header
    }

    fn attach(&self, owner: Weak<dyn Owner>, state: JobState) -> Result<(), EndedEarly> {
        let mut slot = self.slot.lock();
        if slot.stage.is_pending() {
            slot.owner = Some(owner);
            self.header.set_state(state);
            Ok(())
        } else {
            Err(slot.ended_early())
        }
    }

    fn admit(&self) {
        let mut slot = self.slot.lock();
        if slot.stage.is_pending() {
            self.header.set_state(JobState::Queued);
        }
        // A worker may have started it already. The task that waits for room is woken all the same.
        let waker = if slot.stage.is_live() { slot.waker.take() } else { None };
        drop(slot);
        if let Some(waker) = waker {
            wake_quietly(waker);
        }
    }

    fn fail(&self, kind: ErrorKind, observer: &dyn Observer) -> bool {
        self.finish(Err(kind), observer)
    }

    fn abort(&self, kind: ErrorKind, condition: AbortIf) -> bool {
        self.end(Err(kind), condition, By::Outsider)
    }
}

impl<W: Work> Runnable for Cell<W, W::Output> {
    fn run(self: Arc<Self>, observer: &dyn Observer) {
        match self.start() {
            Ok(work) => {
                let limit = self.header.options.extras().run_timeout;
                if limit.is_none_or(|limit| self.set_timer(Limit::Run(limit), limit)) {
                    let result = self.header.perform(|| work.perform());
                    observer.returned(&self.header);
                    self.finish(result, observer);
                } else {
                    self.slot.lock().ended_early().count(observer);
                    drop_quietly(work);
                }
            }
            Err(ended) => ended.count(observer),
        }
        // If nobody wants the result, it is dropped here, and its destructor is the user's.
        drop_quietly(self);
    }
}

impl<W: Send + 'static, T: Send + 'static> Completion<T> for Cell<W, T> {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<T, Error>> {
        let mut slot = self.slot.lock();
        if let Some(result) = slot.stage.take() {
            return Poll::Ready(result);
        }
        let replaced = set_waker(&mut slot.waker, cx);
        drop(slot);
        drop(replaced);
        Poll::Pending
    }

    fn poll_accepted(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut slot = self.slot.lock();
        if self.header.state() == JobState::Waiting {
            let replaced = set_waker(&mut slot.waker, cx);
            drop(slot);
            drop(replaced);
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    fn take(&self) -> Option<Result<T, Error>> {
        self.slot.lock().stage.take()
    }

    fn subscribe(&self, waker: &Waker) -> bool {
        let mut slot = self.slot.lock();
        if !slot.stage.is_live() {
            return true;
        }
        let replaced = slot.waker.replace(waker.clone());
        drop(slot);
        drop(replaced);
        false
    }

    fn limit(self: Arc<Self>, limit: Duration) {
        self.set_timer(Limit::Total(limit), limit);
    }

    fn spin_for_end(&self, spinning: Duration, sleeping: Duration) -> SpinOutcome {
        let owner = self.slot.lock().owner.clone();
        let owner = owner.and_then(|owner| owner.upgrade());
        owner.map_or(SpinOutcome::InVain, |owner| owner.spin_for_end(&self.header, spinning, sleeping))
    }
}

/// Registers the task's waker. Returns the waker that it replaces, to be dropped after the cell's lock is released: its
/// destructor may end a task, whose handles take locks of their own.
#[must_use]
fn set_waker(slot: &mut Option<Waker>, cx: &Context<'_>) -> Option<Waker> {
    match slot {
        Some(waker) if waker.will_wake(cx.waker()) => None,
        _ => slot.replace(cx.waker().clone()),
    }
}
