//! What the caller holds: a future of the job's result that can also be waited on, cancelled and limited.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crate::base::sync::{park_timeout, thread};
use crate::core::cell::{Cell, Outcome};
use crate::core::compensation::Compensation;
use crate::core::error::{Error, ErrorKind};
#[cfg(feature = "process")]
use crate::core::job::Expected;
use crate::core::job::{JobId, JobState, Options};
use crate::core::spin;

/// A job's result to come: a future, on any runtime or none.
///
/// **Dropping the handle cancels the job**: queued, it is removed for certain; running in a thread, its
/// token turns and the function goes on until it returns; running in a process, it is killed. Call
/// [`detach`](Self::detach) to let it go on.
#[must_use = "dropping a handle cancels its job; await it, wait for it, or call `detach`"]
pub struct Handle<T> {
    /// `None` once the result was taken or the job was detached.
    outcome: Option<Arc<dyn Outcome<T>>>,
    /// It was polled before.
    polled: bool,
    /// A stand-in for the worker thread that polled this handle in vain.
    compensation: Option<Compensation>,
}

impl<T: Send + 'static> Handle<T> {
    pub(crate) fn new<W: Send + 'static>(cell: Arc<Cell<W, T>>) -> Self {
        Self { outcome: Some(cell), polled: false, compensation: None }
    }

    pub(crate) fn failed(options: Options, kind: ErrorKind) -> Self {
        Self::new(Cell::<(), T>::ended(options, kind))
    }
}

impl<T> Handle<T> {
    fn outcome(&self) -> &Arc<dyn Outcome<T>> {
        self.outcome.as_ref().expect("a handle was used after it had given its result")
    }

    /// The job's identity.
    pub fn id(&self) -> JobId {
        self.outcome().core().id
    }

    /// The job's name: the one given, else the function's path.
    pub fn name(&self) -> &str {
        &self.outcome().core().options.name
    }

    /// Where the job stands at this moment.
    pub fn state(&self) -> JobState {
        self.outcome.as_ref().map_or(JobState::Ended, |outcome| outcome.core().state())
    }

    /// Whether this process is a fork of the one that has submitted the job, which will never end here.
    pub fn is_forked(&self) -> bool {
        self.outcome.as_ref().is_some_and(|outcome| outcome.core().born.is_past())
    }

    /// Ends the job now with [`ErrorKind::Cancelled`], unless it has ended; says whether it did.
    ///
    /// Queued work is removed for certain and never runs. Running work in a thread is asked to stop through
    /// [`job::is_cancelled`](crate::job::is_cancelled), and what it gave [`job::on_cancel`](crate::job::on_cancel) is
    /// called on another thread; its thread is free when the function returns, and what it returns is dropped.
    /// Running work in a process is killed. Does not block.
    pub fn cancel(&self) -> bool {
        match &self.outcome {
            Some(outcome) if !outcome.core().born.is_past() => outcome.end_early(ErrorKind::Cancelled),
            _ => false,
        }
    }

    /// Ends the job like [`cancel`](Self::cancel), but only if no worker has begun with it; says whether it did.
    pub fn cancel_queued(&self) -> bool {
        match &self.outcome {
            Some(outcome) if !outcome.core().born.is_past() => outcome.end_unstarted(),
            _ => false,
        }
    }

    /// Has `waker` woken when the job ends, and perhaps before, once; `true` if it has ended. Does not block. For
    /// loops that don't poll: they ask for the [`try_result`](Self::try_result) then, and call this again if there
    /// is none.
    pub fn on_end(&mut self, waker: &Waker) -> bool {
        let outcome = self.outcome();
        outcome.core().born.is_past() || outcome.subscribe(waker)
    }

    /// The result, if the job has ended. Does not block.
    ///
    /// # Panics
    ///
    /// If the handle has given its result already.
    pub fn try_result(&mut self) -> Option<Result<T, Error>> {
        let outcome = self.outcome();
        let result = if outcome.core().born.is_past() {
            Some(Err(Error::new(outcome.core(), ErrorKind::Forked)))
        } else {
            outcome.take()
        };
        if result.is_some() {
            self.outcome = None;
        }
        result
    }

    /// Gives the job until `limit` from now, waiting and running together. After that it ends with
    /// [`ErrorKind::QueueDeadline`] or [`ErrorKind::RunDeadline`], with the effects of [`cancel`](Self::cancel).
    pub fn timeout(self, limit: Duration) -> Self {
        match &self.outcome {
            Some(outcome) if !outcome.core().born.is_past() => Arc::clone(outcome).limit(limit),
            _ => {}
        }
        self
    }

    /// Lets the job go on without anybody waiting for it. Its result is dropped; so is its error.
    pub fn detach(mut self) {
        self.outcome = None;
    }

    /// Blocks this thread until the job has ended.
    ///
    /// Not for an event loop's thread: `.await` there. In a job, the worker thread is stood in for while it
    /// waits, so a job may wait for another of its own pool.
    pub fn wait(mut self) -> Result<T, Error> {
        #[cfg(feature = "process")]
        self.linger();
        block_on(&mut self)
    }

    /// Blocks this thread until the job has ended, at most for `limit`; `None` if it goes on.
    ///
    /// # Panics
    ///
    /// If the handle has given its result already.
    pub fn wait_timeout(&mut self, limit: Duration) -> Option<Result<T, Error>> {
        let result = block_on_for(&mut *self, limit);
        self.release_stand_in();
        result
    }

    /// Looks out for the result of another process before it is slept for.
    #[cfg(feature = "process")]
    fn linger(&mut self) {
        let outcome = self.outcome();
        let is_elsewhere = matches!(outcome.core().expected(), Expected::FromProcess | Expected::FromSleeper);
        if is_elsewhere && !outcome.core().born.is_past() {
            spin::WAIT.linger(outcome.core(), |spinning, sleeping| outcome.attend(spinning, sleeping));
            self.polled = true;
        }
    }

    /// Resolves when the job has room in its executor's queue, or has ended: the backpressure for those
    /// who submit and [`detach`](Self::detach). With any policy but `OnFull::Wait` that is at once.
    pub async fn accepted(&mut self) {
        std::future::poll_fn(|cx| self.poll_accepted(cx)).await;
    }

    /// [`accepted`](Self::accepted), blocking.
    pub fn wait_accepted(&mut self) {
        let accepted = std::pin::pin!(std::future::poll_fn(|cx| self.poll_accepted(cx)));
        block_on(accepted);
        self.release_stand_in();
    }

    fn poll_accepted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(outcome) = &self.outcome else { return Poll::Ready(()) };
        if outcome.core().born.is_past() {
            return Poll::Ready(());
        }
        let poll = outcome.poll_accepted(cx);
        self.compensate_while(poll.is_pending());
        poll
    }

    /// Says that the thread that polled in vain goes on, so that nobody needs to stand in for it.
    pub(crate) fn release_stand_in(&mut self) {
        self.compensation = None;
    }

    fn compensate_while(&mut self, pending: bool) {
        if !pending {
            self.compensation = None;
        } else if self.compensation.is_none() {
            self.compensation = Compensation::begin();
        }
    }
}

impl<T> Future for Handle<T> {
    type Output = Result<T, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let is_first = !std::mem::replace(&mut this.polled, true);
        let outcome = this.outcome();
        let poll = if outcome.core().born.is_past() {
            Poll::Ready(Err(Error::new(outcome.core(), ErrorKind::Forked)))
        } else {
            if is_first {
                spin::POLL.linger(outcome.core(), |spinning, sleeping| outcome.attend(spinning, sleeping));
            }
            outcome.poll(cx)
        };
        if poll.is_ready() {
            this.outcome = None;
        }
        this.compensate_while(poll.is_pending());
        poll
    }
}

// A handle is a plain future without pinned parts.
impl<T> Unpin for Handle<T> {}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl<T> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.outcome.as_ref().map(|outcome| outcome.core().id);
        f.debug_struct("Handle").field("job", &id).field("state", &self.state()).finish_non_exhaustive()
    }
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

/// Drives `future` on this thread, parking it between polls.
pub(crate) fn block_on<F: Future + Unpin>(future: F) -> F::Output {
    drive(future, || {
        thread::park();
        true
    })
    .unwrap_or_else(|| unreachable!("it parks until the future is ready"))
}

/// The same for at most `limit`; `None` if that passes first.
fn block_on_for<F: Future + Unpin>(future: F, limit: Duration) -> Option<F::Output> {
    let Some(deadline) = Instant::now().checked_add(limit) else { return Some(block_on(future)) };
    drive(future, || {
        let left = deadline.saturating_duration_since(Instant::now());
        park_timeout(left);
        !left.is_zero()
    })
}

/// Polls `future` whenever `park` returns, until it is ready or `park` says that time is up.
fn drive<F: Future + Unpin>(mut future: F, mut park: impl FnMut() -> bool) -> Option<F::Output> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = Pin::new(&mut future).poll(&mut cx) {
            return Some(output);
        }
        if !park() {
            return None;
        }
    }
}
