//! The far side: a call that has come from elsewhere runs in a process pool.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use super::ender::Answer;
use super::items::ItemQueue;
use super::outbound::Outbound;
use super::tasks;
use crate::core::captured::Captured;
use crate::core::error::{Error, ErrorKind};
use crate::core::handle::{Handle, block_on};
use crate::core::id::{JobId, JobState};
use crate::core::options::{Extras, OnEnd, Options};
use crate::core::runnable::{AbortIf, AnyJob};
use crate::processes::pool::dispatcher::JobEngine;
use crate::processes::pool::pool::{LaunchedEncoded, ProcessPool};
use crate::processes::pool::remote::EncodedAnswer;

/// Runs a call that has come from elsewhere in a worker process of `pool`, by the task's name and signature. Does not
/// block, unless the pool lets the caller run the job.
///
/// All instructions of the call hold, as if it had been submitted here: its priority, its time limits, its retries. A place
/// that keeps one of them itself takes it out [before](Outbound::instructions_mut). The user's values are neither decoded
/// nor encoded on the way: the worker gets the bytes that were sent, and its result is passed on as the worker has encoded
/// it. Both are as untrusted as before.
///
/// # Errors
///
/// [`ErrorKind::NoSuchTask`] if this program has no such task or another signature for it;
/// [`ErrorKind::Rejected`] if it has several of this name; what the pool refuses a call with:
/// [`ErrorKind::QueueFull`], [`ErrorKind::Closed`], or [`ErrorKind::Encode`] if the arguments exceed the pool's
/// `max_payload`. With any of these it has not run.
pub fn perform(pool: &ProcessPool, outbound: Outbound) -> Result<Performance, ErrorKind> {
    let (name, signature, arguments, asked) = outbound.into_parts();
    let task = tasks::find(&name, signature)?;
    let captured = asked.capture.map(Captured::new);
    let queue = asked.stream.map(ItemQueue::new);
    let mut options = Options::new();
    options.name = asked.name.into();
    options.priority = asked.priority;
    options.never_wait = asked.never_wait;
    *options.extras_mut() = Extras {
        queue_timeout: asked.queue_timeout,
        run_timeout: asked.run_timeout,
        capture: captured.clone(),
        carried: asked.carried,
        request: asked.request.map(Into::into),
        retry: asked.retry,
        queue: None,
        on_end: queue.clone().map(|queue| queue as Arc<dyn OnEnd>),
    };
    let LaunchedEncoded { handle, job, engine } =
        pool.launch_encoded(task, &arguments, queue.as_ref(), options)?;
    Ok(Performance { handle, end: None, job, engine, items: queue, captured })
}

/// A job that runs here on behalf of a caller elsewhere. Dropping it kills the job.
#[must_use = "dropping a performance kills its job"]
pub struct Performance {
    handle: Handle<EncodedAnswer>,
    /// The end, if it was taken from the handle already.
    end: Option<Result<EncodedAnswer, Error>>,
    job: Arc<dyn AnyJob>,
    engine: Weak<dyn JobEngine>,
    /// `None` if the job may send no items.
    items: Option<Arc<ItemQueue>>,
    captured: Option<Captured>,
}

/// The end of a job that ran on behalf of a caller elsewhere.
#[derive(Debug)]
#[non_exhaustive]
pub struct Performed {
    /// The encoded result, or the reason why there is none.
    pub result: Result<Answer, ErrorKind>,
    /// The job's standard output, if that was captured.
    pub stdout: Vec<u8>,
    /// Its standard error, if that was captured.
    pub stderr: Vec<u8>,
    /// Output was dropped because of its limit.
    pub is_truncated: bool,
}

impl Performance {
    /// Returns the job's identity in this process.
    pub fn id(&self) -> JobId {
        self.handle.id()
    }

    /// Returns the job's state at this moment.
    pub fn state(&self) -> JobState {
        self.handle.state()
    }

    /// Ends the job now: takes it out of the queue, or kills its worker process. Returns whether it did; the job may have
    /// ended before. Does not block.
    pub fn cancel(&self) -> bool {
        self.handle.cancel()
    }

    /// Returns what cancels the job from elsewhere, while another thread waits for it.
    pub fn canceller(&self) -> Canceller {
        Canceller { id: self.id(), job: Arc::downgrade(&self.job), engine: self.engine.clone() }
    }

    /// Returns the next item of the job, encoded, or `None` when the job has ended or sends none. While items are not
    /// taken, as many of them wait as the caller has asked for, and then the job waits.
    pub async fn next_item(&mut self) -> Option<Vec<u8>> {
        let Some(queue) = &self.items else { return None };
        let header = self.job.header();
        std::future::poll_fn(|cx| {
            loop {
                let has_ended = header.born.is_past() || header.has_ended();
                if let Some((item, was_full)) = queue.pop_bytes() {
                    if let Some(engine) = self.engine.upgrade().filter(|_| was_full) {
                        engine.resume(header.id);
                    }
                    return Poll::Ready(Some(item));
                }
                if has_ended {
                    return Poll::Ready(None);
                }
                if !queue.subscribe(cx.waker(), || header.has_ended()) {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// Does the same as [`next_item`](Self::next_item), blocking this thread.
    pub fn wait_next_item(&mut self) -> Option<Vec<u8>> {
        block_on(std::pin::pin!(self.next_item()))
    }

    /// Waits until the job was killed: its time limit has passed, or it was cancelled. For a job that ends in another way it
    /// waits for ever. What passes items on to a reader need not wait for that any longer then. It may be called again.
    pub async fn killed(&mut self) {
        std::future::poll_fn(|cx| {
            ready!(self.poll_end(cx));
            let Some(Err(error)) = &self.end else { return Poll::Pending };
            match error.kind() {
                ErrorKind::RunTimeout(_)
                | ErrorKind::LoadTimeout(_)
                | ErrorKind::Cancelled
                | ErrorKind::Closed => Poll::Ready(()),
                _ => Poll::Pending,
            }
        })
        .await;
    }

    /// Takes the end from the handle when it is there.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.end.is_none() {
            self.end = Some(ready!(Pin::new(&mut self.handle).poll(cx)));
        }
        Poll::Ready(())
    }

    /// Returns the job's end. Items that were not taken are dropped, and a job that waits for its reader would wait for
    /// ever, so take them first.
    pub async fn finish(self) -> Performed {
        let Self { handle, end, captured, .. } = self;
        let end = match end {
            Some(end) => end,
            None => handle.await,
        };
        Performed::new(end.map_err(Error::into_kind), captured.as_ref())
    }

    /// Does the same as [`finish`](Self::finish), blocking this thread.
    pub fn wait(self) -> Performed {
        let Self { handle, end, captured, .. } = self;
        let end = end.unwrap_or_else(|| handle.wait());
        Performed::new(end.map_err(Error::into_kind), captured.as_ref())
    }
}

impl Performed {
    fn new(result: Result<EncodedAnswer, ErrorKind>, captured: Option<&Captured>) -> Self {
        Self {
            result: result.map(|answer| Answer::new(answer.bytes).failed(answer.has_failed)),
            stdout: captured.map_or_else(Vec::new, Captured::stdout),
            stderr: captured.map_or_else(Vec::new, Captured::stderr),
            is_truncated: captured.is_some_and(Captured::is_truncated),
        }
    }
}

impl fmt::Debug for Performance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Performance").field("job", &self.handle).finish_non_exhaustive()
    }
}

/// Cancels a [`Performance`] from another thread, and waits until its process is dead. It does not keep the job.
#[derive(Clone)]
pub struct Canceller {
    id: JobId,
    job: Weak<dyn AnyJob>,
    engine: Weak<dyn JobEngine>,
}

impl Canceller {
    /// Ends the job now, as [`Performance::cancel`] does. Returns whether it did. Does not block.
    pub fn cancel(&self) -> bool {
        let job = self.job.upgrade().filter(|job| !job.header().born.is_past());
        job.is_some_and(|job| job.abort(ErrorKind::Cancelled, AbortIf::Live))
    }

    /// Does the same, and kills the job's worker process without a grace period, also if the job was cancelled before.
    /// Returns whether it has ended the job.
    pub fn kill(&self) -> bool {
        let has_ended = self.cancel();
        if let Some(engine) = self.engine.upgrade() {
            engine.hurry(self.id);
        }
        has_ended
    }

    /// Waits, once the job has ended, until no worker process is left that runs it. A job that was cancelled has its end
    /// at once, but its process may take the pool's grace period to die. A process that cannot be killed is not waited for
    /// longer than the pool does.
    pub async fn gone(&self) {
        let on_gone = |cx: &mut Context<'_>| {
            let is_gone = self.engine.upgrade().is_none_or(|engine| engine.on_gone(self.id, cx.waker()));
            if is_gone { Poll::Ready(()) } else { Poll::Pending }
        };
        std::future::poll_fn(on_gone).await;
    }

    /// Does the same, blocking this thread.
    pub fn wait_gone(&self) {
        block_on(std::pin::pin!(self.gone()));
    }
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canceller").field("job", &self.id).finish_non_exhaustive()
    }
}
