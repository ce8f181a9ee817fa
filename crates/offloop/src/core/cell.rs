//! The one place where a job's life happens: a cell that its executor and its handle share.
//!
//! ```text
//! Pending(work) ──start──▶ Running ──finish──▶ Ended(result) ──poll──▶ Taken
//!       └────── fail, end_early ──┴───────────────▲
//! ```
//!
//! Each arrow is taken under the cell's lock, so a job ends exactly once whoever races: the worker that
//! finishes it, a cancelling handle, a deadline, a shutdown. Wakers, destructors and owners are called
//! after the lock is released.

use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::base::panic::{drop_quietly, wake_quietly};
use crate::base::sync::Mutex;
use crate::core::error::{Error, ErrorKind};
use crate::core::job::{Core, JobState, Options};
use crate::core::spin::Attended;
use crate::core::timer;
use crate::core::work::Work;
use crate::metrics::stats::Books;

#[cfg(feature = "process")]
use {
    crate::base::panic,
    crate::wire::payload::Incoming,
    crate::wire::task::{self, Encoded},
    serde::de::DeserializeOwned,
};

/// The pool that has accepted a job, told when the job ends by another hand than its own.
pub(crate) trait Owner: Send + Sync {
    /// The job ended while it was queued or waiting: forget it.
    fn withdraw(&self, core: &Core);
    /// The job ended while it ran: stop it if you can.
    fn interrupt(&self, core: &Core);
    /// Somebody waits for the job: looks out for its end, spinning for so long and then sleeping for so long at
    /// most.
    fn attend(&self, _core: &Core, _spinning: Duration, _sleeping: Duration) -> Attended {
        Attended::InVain
    }
}

/// A job as its executor sees it.
pub(crate) trait Runnable: Send + Sync {
    fn core(&self) -> &Core;
    /// Runs it here and now, unless it has ended.
    fn run(self: Arc<Self>, books: &dyn Books);
    /// Ends it with an error, unless it has ended; the caller is its executor. Says whether it did.
    fn fail(&self, kind: ErrorKind, books: &dyn Books) -> bool;
    /// Names the pool that has it now.
    fn attach(&self, owner: Weak<dyn Owner>, state: JobState);
    /// It has got the room in the queue that it waited for.
    fn admit(&self);
}

/// A job as its handle sees it.
pub(crate) trait Outcome<T>: Send + Sync {
    fn core(&self) -> &Core;
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<T, Error>>;
    fn poll_accepted(&self, cx: &mut Context<'_>) -> Poll<()>;
    fn take(&self) -> Option<Result<T, Error>>;
    /// Sets whom to wake at the end; true if that has come.
    fn subscribe(&self, waker: &Waker) -> bool;
    fn end_early(&self, kind: ErrorKind) -> bool;
    /// Cancels it if nobody runs it.
    fn end_unstarted(&self) -> bool;
    fn limit(self: Arc<Self>, limit: Duration);
    fn attend(&self, spinning: Duration, sleeping: Duration) -> Attended;
}

pub(crate) struct Cell<W, T> {
    core: Core,
    slot: Mutex<Slot<W, T>>,
}

struct Slot<W, T> {
    stage: Stage<W, T>,
    /// Whoever waits for the end, or for room in the queue.
    waker: Option<Waker>,
    owner: Option<Weak<dyn Owner>>,
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

    /// The result, once.
    fn take(&mut self) -> Option<Result<T, Error>> {
        match std::mem::replace(self, Self::Taken) {
            Self::Ended(result) => Some(result),
            Self::Taken => panic!("a handle was polled again after it had given its result"),
            going => {
                *self = going;
                None
            }
        }
    }
}

/// Who ends a job: the executor notes it in its books, an outsider's doing is reported to the owner.
#[derive(Clone, Copy)]
enum By<'a> {
    Executor(&'a dyn Books),
    Outsider,
}

/// Which of a job's limits a timer stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    Queue(Duration),
    Run(Duration),
    /// Both, counted from when the handle was told: `Handle::timeout`.
    Total(Duration),
}

impl<W: Send + 'static, T: Send + 'static> Cell<W, T> {
    pub(crate) fn new(work: W, options: Options) -> Arc<Self> {
        let queue_limit = options.queue_limit;
        let cell = Arc::new(Self {
            core: Core::new(options),
            slot: Mutex::new(Slot {
                stage: Stage::Pending(work),
                waker: None,
                owner: None,
                timers: Vec::new(),
            }),
        });
        if let Some(limit) = queue_limit {
            cell.watch(Limit::Queue(limit), limit);
        }
        cell
    }

    /// A job that ended before any executor had it.
    pub(crate) fn ended(options: Options, kind: ErrorKind) -> Arc<Self> {
        let core = Core::new(options);
        core.set_state(JobState::Ended);
        let stage = Stage::Ended(Err(Error::new(&core, kind)));
        Arc::new(Self {
            core,
            slot: Mutex::new(Slot { stage, waker: None, owner: None, timers: Vec::new() }),
        })
    }

    /// Takes the work to run it. `None` if the job has ended meanwhile.
    pub(crate) fn start(self: &Arc<Self>) -> Option<W> {
        let mut slot = self.slot.lock();
        match std::mem::replace(&mut slot.stage, Stage::Running) {
            Stage::Pending(work) => {
                self.core.set_state(JobState::Running);
                Some(work)
            }
            other => {
                slot.stage = other;
                None
            }
        }
    }

    /// Ends the job, unless it has ended. Says whether it did.
    pub(crate) fn finish(&self, result: Result<T, ErrorKind>, books: &dyn Books) -> bool {
        self.end(result, |_| true, By::Executor(books))
    }

    /// Takes unstarted work back, as if it had never been submitted.
    pub(crate) fn reclaim(&self) -> Option<W> {
        let mut slot = self.slot.lock();
        match std::mem::replace(&mut slot.stage, Stage::Taken) {
            Stage::Pending(work) => {
                self.core.set_state(JobState::Ended);
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

    /// Ends the job with `result` if it has not ended and its stage is `apt`. Says whether it did.
    fn end(&self, result: Result<T, ErrorKind>, apt: fn(&Stage<W, T>) -> bool, by: By<'_>) -> bool {
        let outcome = self.core.outcome(&result);
        let result = result.map_err(|kind| Error::new(&self.core, kind));
        let mut slot = self.slot.lock();
        if !(slot.stage.is_live() && apt(&slot.stage)) {
            drop(slot);
            drop_quietly(result);
            return false;
        }
        let failed = result.is_err();
        if failed {
            self.core.request_stop();
        }
        let before = std::mem::replace(&mut slot.stage, Stage::Ended(result));
        // The executor's own end leaves the owner to be dropped with the cell. A worker that dropped it here
        // would take the cache line of its count away from the submitters.
        let owner = match by {
            By::Outsider => {
                let owner = slot.owner.take();
                self.core.note_early_end(outcome, owner.is_some());
                owner
            }
            By::Executor(books) => {
                books.ended(outcome);
                None
            }
        };
        self.core.set_state(JobState::Ended);
        let waker = slot.waker.take();
        let timers = std::mem::take(&mut slot.timers);
        drop(slot);

        timer::cancel(&timers);
        self.core.span.tell_end(outcome);
        if failed && matches!(before, Stage::Running) {
            self.core.hooks.call();
        }
        #[cfg(feature = "process")]
        if let Some(tray) = &self.core.options.tray {
            tray.wake_unless(waker.as_ref());
        }
        if let Some(owner) = owner.and_then(|owner| owner.upgrade()) {
            match before {
                Stage::Pending(_) => owner.withdraw(&self.core),
                _ => owner.interrupt(&self.core),
            }
        }
        if let Some(waker) = waker {
            wake_quietly(waker);
        }
        drop_quietly(before);
        true
    }

    /// Sets a timer for `limit`, due in `due`. Without its timer the limit could not be kept, so then the job
    /// ends instead, and this says `false`.
    fn watch(self: &Arc<Self>, limit: Limit, due: Duration) -> bool {
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
                self.fail_early(ErrorKind::CouldNotStart(
                    format!("the timer thread for its deadline did not start: {error}").into(),
                ));
                false
            }
        }
    }

    pub(crate) fn fail_early(&self, kind: ErrorKind) -> bool {
        self.end(Err(kind), |_| true, By::Outsider)
    }

    pub(crate) fn attach(&self, owner: Weak<dyn Owner>, state: JobState) {
        let mut slot = self.slot.lock();
        if matches!(slot.stage, Stage::Pending(_)) {
            slot.owner = Some(owner);
            self.core.set_state(state);
        }
    }

    pub(crate) fn admit(&self) {
        let mut slot = self.slot.lock();
        if matches!(slot.stage, Stage::Pending(_)) {
            self.core.set_state(JobState::Queued);
        }
        // A worker may have started it before we came; whoever waits for room waits no less.
        let waker = if slot.stage.is_live() { slot.waker.take() } else { None };
        drop(slot);
        if let Some(waker) = waker {
            wake_quietly(waker);
        }
    }
}

impl<W: Send + 'static, T: Send + 'static> timer::Expire for Cell<W, T> {
    fn expire(&self, limit: Limit) {
        let pending: fn(&Stage<W, T>) -> bool = |stage| matches!(stage, Stage::Pending(_));
        match limit {
            Limit::Queue(limit) => {
                self.end(Err(ErrorKind::QueueDeadline(limit)), pending, By::Outsider);
            }
            Limit::Run(limit) => {
                self.fail_early(ErrorKind::RunDeadline(limit));
            }
            Limit::Total(limit) => {
                if !self.end(Err(ErrorKind::QueueDeadline(limit)), pending, By::Outsider) {
                    self.fail_early(ErrorKind::RunDeadline(limit));
                }
            }
        }
    }
}

impl<W: Work> Runnable for Cell<W, W::Output> {
    fn core(&self) -> &Core {
        &self.core
    }

    fn run(self: Arc<Self>, books: &dyn Books) {
        if let Some(work) = self.start() {
            let limit = self.core.options.run_limit;
            if limit.is_none_or(|limit| self.watch(Limit::Run(limit), limit)) {
                let result = self.core.perform(|| work.perform());
                books.returned(&self.core);
                self.finish(result, books);
            } else {
                drop_quietly(work);
            }
        } else if let Some(outcome) = self.core.untold_end() {
            books.ended(outcome);
        }
        // If nobody wants the result it dies here, and its destructor is the user's.
        drop_quietly(self);
    }

    fn fail(&self, kind: ErrorKind, books: &dyn Books) -> bool {
        self.finish(Err(kind), books)
    }

    fn attach(&self, owner: Weak<dyn Owner>, state: JobState) {
        Self::attach(self, owner, state);
    }

    fn admit(&self) {
        Self::admit(self);
    }
}

impl<W: Send + 'static, T: Send + 'static> Outcome<T> for Cell<W, T> {
    fn core(&self) -> &Core {
        &self.core
    }

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
        if self.core.state() == JobState::Waiting {
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

    fn end_early(&self, kind: ErrorKind) -> bool {
        self.fail_early(kind)
    }

    fn end_unstarted(&self) -> bool {
        self.end(Err(ErrorKind::Cancelled), |stage| matches!(stage, Stage::Pending(_)), By::Outsider)
    }

    fn limit(self: Arc<Self>, limit: Duration) {
        self.watch(Limit::Total(limit), limit);
    }

    fn attend(&self, spinning: Duration, sleeping: Duration) -> Attended {
        let owner = self.slot.lock().owner.clone();
        let owner = owner.and_then(|owner| owner.upgrade());
        owner.map_or(Attended::InVain, |owner| owner.attend(&self.core, spinning, sleeping))
    }
}

/// Notes whom to wake. A waker that this replaces is dropped by the caller after the cell's lock: its
/// destructor may end a task, whose handles take locks of their own.
#[must_use]
fn set_waker(slot: &mut Option<Waker>, cx: &Context<'_>) -> Option<Waker> {
    match slot {
        Some(waker) if waker.will_wake(cx.waker()) => None,
        _ => slot.replace(cx.waker().clone()),
    }
}

/// A job that runs in another process, as its pool sees it.
#[cfg(feature = "process")]
pub(crate) trait Remote: Send + Sync {
    fn core(&self) -> &Core;
    fn attach(&self, owner: Weak<dyn Owner>, state: JobState);
    fn admit(&self);
    fn fail(&self, kind: ErrorKind, books: &dyn Books) -> bool;
    /// Takes the call to send it. `None` if the job has ended meanwhile.
    fn start(self: Arc<Self>) -> Option<Encoded>;
    /// Takes a call back that no worker has begun with. False if the job has ended meanwhile.
    fn give_back(&self, call: Encoded) -> bool;
    /// Ends it because it was cancelled by its pool, which is told as if it were an outsider's doing.
    fn cancel(&self) -> bool;
    /// Ends it because it has run for too long; likewise.
    fn overrun(&self) -> bool;
    /// Ends it with its encoded result.
    fn complete(&self, result: Incoming<'_>, books: &dyn Books) -> bool;
    /// Runs it here and now, unless it has ended.
    fn run_here(self: Arc<Self>, books: &dyn Books);
}

#[cfg(feature = "process")]
impl<R: DeserializeOwned + Send + 'static> Remote for Cell<Encoded, R> {
    fn core(&self) -> &Core {
        &self.core
    }

    fn attach(&self, owner: Weak<dyn Owner>, state: JobState) {
        Self::attach(self, owner, state);
    }

    fn admit(&self) {
        Self::admit(self);
    }

    fn fail(&self, kind: ErrorKind, books: &dyn Books) -> bool {
        self.finish(Err(kind), books)
    }

    fn start(self: Arc<Self>) -> Option<Encoded> {
        Cell::start(&self)
    }

    fn give_back(&self, call: Encoded) -> bool {
        let mut slot = self.slot.lock();
        if !matches!(slot.stage, Stage::Running) {
            return false;
        }
        slot.stage = Stage::Pending(call);
        self.core.set_state(JobState::Queued);
        true
    }

    fn cancel(&self) -> bool {
        self.fail_early(ErrorKind::Cancelled)
    }

    fn overrun(&self) -> bool {
        let limit = self.core.options.run_limit.unwrap_or_default();
        self.fail_early(ErrorKind::RunDeadline(limit))
    }

    fn complete(&self, result: Incoming<'_>, books: &dyn Books) -> bool {
        // `Deserialize` is the user's code: a panic in it is this job's, like any other.
        let result = match panic::catch(|| task::decode(result)) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                Err(ErrorKind::Decode(format!("the result of `{}`: {error}", self.core.options.name)))
            }
            Err(panic) => Err(ErrorKind::Panicked(panic)),
        };
        self.finish(result, books)
    }

    fn run_here(self: Arc<Self>, books: &dyn Books) {
        if let Some(call) = Cell::start(&self) {
            match self.core.perform(|| call.run().map_err(|fault| fault.into_kind(call.task.name))) {
                Ok(result) => self.complete(Incoming::from(&result), books),
                Err(kind) => self.finish(Err(kind), books),
            };
        }
    }
}
