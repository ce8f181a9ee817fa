//! A job's handle in the hands of a client, whatever the job returns, and an executor that is just enough for it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use offloop::{Handle, JobId, JobState};

use crate::ledger::{Identity, Value, Verdict};
use crate::plan::Job;

/// What a client can do with a handle. Dropping it drops the handle.
pub(crate) trait Held {
    fn state(&self) -> JobState;
    fn cancel(&self) -> bool;
    fn wait(self: Box<Self>) -> Verdict;
    fn wait_timeout(&mut self, limit: Duration) -> Option<Verdict>;
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Verdict>;
    fn wait_accepted(&mut self);
    fn detach(self: Box<Self>);
}

struct Holding<T> {
    handle: Handle<T>,
    id: JobId,
    number: u64,
    job: Arc<Job>,
}

/// Takes hold of a handle.
pub(crate) fn hold<T: Value>(handle: Handle<T>, number: u64, job: &Arc<Job>) -> Box<dyn Held> {
    Box::new(Holding { id: handle.id(), handle, number, job: Arc::clone(job) })
}

/// The job as its errors and its value must know it.
pub(crate) fn identity(job: &Job, number: u64, id: Option<JobId>) -> Identity<'_> {
    Identity { number, id, name: job.name.as_deref(), lengths: (job.argument, job.result) }
}

impl<T: Value> Holding<T> {
    fn verdict(&self, result: Result<T, offloop::Error>) -> Verdict {
        // What has ended stays so.
        if self.handle.state() != JobState::Ended || self.handle.cancel() {
            return Verdict::Strange("it went on after its end".to_owned());
        }
        Verdict::of(result, &identity(&self.job, self.number, Some(self.id)))
    }
}

impl<T: Value> Held for Holding<T> {
    fn state(&self) -> JobState {
        self.handle.state()
    }

    fn cancel(&self) -> bool {
        self.handle.cancel()
    }

    fn wait(self: Box<Self>) -> Verdict {
        let Self { handle, id, number, job } = *self;
        Verdict::of(handle.wait(), &identity(&job, number, Some(id)))
    }

    fn wait_timeout(&mut self, limit: Duration) -> Option<Verdict> {
        let result = self.handle.wait_timeout(limit)?;
        Some(self.verdict(result))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Verdict> {
        Pin::new(&mut self.handle).poll(cx).map(|result| self.verdict(result))
    }

    fn wait_accepted(&mut self) {
        self.handle.wait_accepted();
    }

    fn detach(self: Box<Self>) {
        self.handle.detach();
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Calls `poll` whenever this thread is woken, until it is ready. A wake-up that gets lost is a hang.
pub(crate) fn block_on<R>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<R>) -> R {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut cx = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(result) = poll(&mut cx) {
            return result;
        }
        std::thread::park();
    }
}
