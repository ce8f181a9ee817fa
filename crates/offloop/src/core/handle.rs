//! What the caller holds: a future of the job's result that can also be waited on, cancelled and limited.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use super::cell::{Cell, Completion};
use super::compensation::Compensation;
use super::error::{Error, ErrorKind};
use super::header::{Expected, Header};
use super::id::{JobId, JobState};
use super::options::Options;
use super::runnable::AbortIf;
use super::spin;
use crate::base::sync::{park_timeout, thread};

/// The future of a job's result, on any runtime or none.
///
/// **Dropping the handle cancels the job.** A queued job is removed for certain. A job that runs in a thread is asked to
/// stop, and its function goes on until it returns. A job that runs in a process is killed. Call
/// [`detach`](Self::detach) to let the job go on.
#[must_use = "dropping a handle cancels its job; await it, wait for it, or call `detach`"]
pub struct Handle<T> {
    /// `None` once the result was taken or the job was detached.
    completion: Option<Arc<dyn Completion<T>>>,
    /// Set by the first poll: only that one spins.
    polled: bool,
    /// The stand-in for the worker thread that polled this handle in vain.
    compensation: Option<Compensation>,
}

impl<T: Send + 'static> Handle<T> {
    pub(crate) fn new<W: Send + 'static>(cell: Arc<Cell<W, T>>) -> Self {
        Self { completion: Some(cell), polled: false, compensation: None }
    }

    pub(crate) fn failed(options: Options, kind: ErrorKind) -> Self {
        Self::new(Cell::<(), T>::ended(options, kind))
    }
}

impl<T> Handle<T> {
    fn completion(&self) -> &Arc<dyn Completion<T>> {
        self.completion.as_ref().expect("a handle was used after it had given its result")
    }

    fn header(&self) -> &Header {
        self.completion().header()
    }

    /// Returns the job's identity.
    pub fn id(&self) -> JobId {
        self.header().id
    }

    /// Returns the job's name: the one given, else the function's path.
    pub fn name(&self) -> &str {
        &self.header().options.name
    }

    /// Returns the job's state at this moment.
    pub fn state(&self) -> JobState {
        self.completion.as_ref().map_or(JobState::Ended, |completion| completion.header().state())
    }

    /// Returns whether this process was forked from the one that submitted the job. In here the job never ends.
    pub(crate) fn is_forked(&self) -> bool {
        self.completion.as_ref().is_some_and(|completion| completion.header().born.is_past())
    }

    /// Returns the job, unless its result was taken or this is a forked child.
    fn live(&self) -> Option<&Arc<dyn Completion<T>>> {
        self.completion.as_ref().filter(|completion| !completion.header().born.is_past())
    }

    /// Ends the job now with [`ErrorKind::Cancelled`]. Returns whether it did; the job may have ended before.
    ///
    /// A queued job is removed for certain and never runs. A job that runs in a thread is asked to stop through
    /// [`job::is_cancelled`](crate::job::is_cancelled), and its [`job::on_cancel`](crate::job::on_cancel) callbacks run on
    /// another thread. Its own thread is free when the function returns, and what it returns is dropped. A job that runs
    /// in a process is killed. Does not block.
    pub fn cancel(&self) -> bool {
        self.live().is_some_and(|completion| completion.abort(ErrorKind::Cancelled, AbortIf::Live))
    }

    /// Ends the job like [`cancel`](Self::cancel), but only if no worker has begun with it. Returns whether it did.
    pub(crate) fn cancel_queued(&self) -> bool {
        self.live().is_some_and(|completion| completion.abort(ErrorKind::Cancelled, AbortIf::Pending))
    }

    /// Registers `waker` to be woken once, when the job ends or earlier. Returns true if the job has ended.
    pub(crate) fn on_end(&mut self, waker: &Waker) -> bool {
        let completion = self.completion();
        completion.header().born.is_past() || completion.subscribe(waker)
    }

    /// Takes the result, if the job has ended. Panics if it was taken before.
    pub(crate) fn try_result(&mut self) -> Option<Result<T, Error>> {
        let completion = self.completion();
        let header = completion.header();
        let result = if header.born.is_past() {
            Some(Err(header.error(ErrorKind::Forked)))
        } else {
            completion.take()
        };
        if result.is_some() {
            self.completion = None;
        }
        result
    }

    /// Limits the time until the job's end, from now, waiting and running together. When it has passed, the job ends
    /// with [`ErrorKind::QueueTimeout`] or [`ErrorKind::RunTimeout`], with the effects of [`cancel`](Self::cancel).
    pub fn timeout(self, limit: Duration) -> Self {
        if let Some(completion) = self.live() {
            Arc::clone(completion).limit(limit);
        }
        self
    }

    /// Lets the job go on without its caller. Its result or its error is dropped.
    pub fn detach(mut self) {
        self.completion = None;
    }

    /// Blocks this thread until the job has ended. Returns its result.
    ///
    /// Not for an event loop's thread: use `.await` there. In a job, another thread stands in for the worker thread
    /// while it waits, so a job may wait for another job of its own pool.
    pub fn wait(mut self) -> Result<T, Error> {
        self.spin_for_process();
        block_on(&mut self)
    }

    /// Blocks this thread until the job has ended, for at most `limit`. Returns `None` if the job goes on.
    ///
    /// # Panics
    ///
    /// If the handle has given its result already.
    pub fn wait_timeout(&mut self, limit: Duration) -> Option<Result<T, Error>> {
        let result = block_on_for(&mut *self, limit);
        self.release_stand_in();
        result
    }

    /// Waits a moment for the result of another process before this thread goes to sleep for it.
    fn spin_for_process(&mut self) {
        let completion = self.completion();
        let header = completion.header();
        let is_elsewhere = matches!(header.expected(), Expected::FromProcess | Expected::FromSleeper);
        if is_elsewhere && !header.born.is_past() {
            spin::BLOCK.wait(header, |spinning, sleeping| completion.spin_for_end(spinning, sleeping));
            self.polled = true;
        }
    }

    /// Resolves when the job has room in its executor's queue or has ended. With any policy but `OnFull::Wait` that is
    /// at once.
    ///
    /// This is the backpressure for callers that submit and [`detach`](Self::detach).
    pub async fn accepted(&mut self) {
        std::future::poll_fn(|cx| self.poll_accepted(cx)).await;
    }

    /// Does the same as [`accepted`](Self::accepted), blocking this thread.
    pub fn wait_accepted(&mut self) {
        let accepted = std::pin::pin!(std::future::poll_fn(|cx| self.poll_accepted(cx)));
        block_on(accepted);
        self.release_stand_in();
    }

    fn poll_accepted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(completion) = self.live() else { return Poll::Ready(()) };
        let poll = completion.poll_accepted(cx);
        self.compensate_while(poll.is_pending());
        poll
    }

    /// Ends the compensation: the thread that polled in vain goes on, so it needs no stand-in.
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
        let completion = this.completion();
        let header = completion.header();
        let poll = if header.born.is_past() {
            Poll::Ready(Err(header.error(ErrorKind::Forked)))
        } else {
            if is_first {
                spin::POLL.wait(header, |spinning, sleeping| completion.spin_for_end(spinning, sleeping));
            }
            completion.poll(cx)
        };
        if poll.is_ready() {
            this.completion = None;
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
        let id = self.completion.as_ref().map(|completion| completion.header().id);
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

/// Drives `future` to its end on this thread, which parks between polls.
pub(crate) fn block_on<F: Future + Unpin>(future: F) -> F::Output {
    drive(future, || {
        thread::park();
        true
    })
    .unwrap_or_else(|| unreachable!("it parks until the future is ready"))
}

/// Does the same for at most `limit`. Returns `None` if that passes first.
fn block_on_for<F: Future + Unpin>(future: F, limit: Duration) -> Option<F::Output> {
    let Some(deadline) = Instant::now().checked_add(limit) else { return Some(block_on(future)) };
    drive(future, || {
        let left = deadline.saturating_duration_since(Instant::now());
        park_timeout(left);
        !left.is_zero()
    })
}

/// Polls `future` whenever `park` returns, until the future is ready or `park` returns false.
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
