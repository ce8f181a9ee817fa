//! The end of a job that is carried elsewhere, as its carrier holds it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::items::ItemQueue;
use super::outbound::Outbound;
use crate::base::panic::{self, drop_quietly};
use crate::core::captured::Stream;
use crate::core::cell::Cell;
use crate::core::error::ErrorKind;
use crate::core::executor::Accepts;
use crate::core::handle::Handle;
use crate::core::id::{JobId, JobState};
use crate::core::observer::Observer;
use crate::core::options::Options;
use crate::core::runnable::AnyJob;
use crate::processes::decoders::decoders;
use crate::wire::call::Whole;
use crate::wire::decode::{self, DecodePace};
use crate::wire::payload::{Incoming, Received};
use crate::wire::task::Task;

/// The work of a job whose call has left.
pub(super) struct Away;

/// A job whose call has left, whatever its result.
pub(super) trait AwayJob: AnyJob {
    /// Marks the job as running. Returns false if it has ended.
    fn start(&self) -> bool;

    /// Marks a running job as queued. Returns false if it does not run.
    fn take_back(&self) -> bool;

    /// Returns whether its result is of a type that is known to be decoded quickly.
    fn has_plain_result(&self) -> bool;

    /// Ends the job with its encoded result. `pace` learns how long that takes to be decoded.
    fn complete(&self, result: &[u8], pace: &DecodePace, observer: &dyn Observer);
}

impl<R: DeserializeOwned + Send + 'static> AwayJob for Cell<Away, R> {
    fn start(&self) -> bool {
        // It has an owner, which counts its end.
        Self::start(self).is_ok()
    }

    fn take_back(&self) -> bool {
        Self::take_back(self, Away)
    }

    fn has_plain_result(&self) -> bool {
        decode::is_plain::<R>()
    }

    fn complete(&self, result: &[u8], pace: &DecodePace, observer: &dyn Observer) {
        let received = Received { body: result, parts: &[], is_shared: false };
        // `Deserialize` is the user's code. A panic in it is this job's, like any other.
        let decode = || panic::catch(|| decode::decode(received));
        let result = match if decode::is_plain::<R>() { decode() } else { pace.measure(decode) } {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                let name = &self.header().options.name;
                Err(ErrorKind::Decode(format!("the result of `{name}`: {error}")))
            }
            Err(panic) => Err(ErrorKind::Panicked(panic)),
        };
        self.finish(result, observer);
    }
}

/// The executor that a job belongs to. It lives at least as long as the job's ender.
pub(super) trait Hub: Send + Sync {
    /// Returns where ends are counted.
    fn observer(&self) -> &(dyn Observer + Sync);

    /// Records that a job begins.
    fn started(&self, job: JobId);

    /// Records that a job that had begun waits again.
    fn released(&self, job: JobId);

    /// Forgets a job that has ended.
    fn ended(&self, job: JobId);
}

/// The encoded result of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answer {
    /// The result, a value of MessagePack with the names of fields.
    pub bytes: Vec<u8>,
    /// The job has declared itself [failed](crate::embed::mark_failed), although it has a result.
    pub has_failed: bool,
}

impl Answer {
    /// Makes the answer of a job that has not failed.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, has_failed: false }
    }

    /// Sets whether the job has declared itself failed.
    pub fn failed(mut self, has_failed: bool) -> Self {
        self.has_failed = has_failed;
        self
    }
}

/// Ends one job that is carried elsewhere, and tells its handle how it goes until then.
///
/// The job may end otherwise meanwhile: its handle is cancelled, or a time limit passes. From then on an ender has no
/// effect. Whichever end comes first counts, and there is one only.
///
/// An ender that is dropped without an end ends its job with [`ErrorKind::Unreachable`], which says so. No method blocks,
/// except [`run_here`](Self::run_here).
#[must_use = "an ender that is dropped ends its job with an error"]
pub struct Ender(Option<Box<Inner>>);

struct Inner {
    job: Arc<dyn AwayJob>,
    hub: Arc<dyn Hub>,
    task: &'static Task,
    /// `None` if nobody reads items of the job.
    items: Option<Arc<ItemQueue>>,
}

impl Ender {
    pub(super) fn new(
        job: Arc<dyn AwayJob>,
        hub: Arc<dyn Hub>,
        task: &'static Task,
        items: Option<Arc<ItemQueue>>,
    ) -> Self {
        Self(Some(Box::new(Inner { job, hub, task, items })))
    }

    /// Lets go of a job that its carrier has not taken. The caller takes over the duty to end it.
    pub(super) fn disarm(mut self) {
        self.0 = None;
    }

    fn inner(&self) -> &Inner {
        self.0.as_ref().expect("an ender is whole until it is consumed")
    }

    /// Returns the identity of the job, which is that of its handle.
    pub fn id(&self) -> JobId {
        self.inner().job.header().id
    }

    /// Returns whether the job has ended, so that all further work for it is in vain.
    pub fn is_over(&self) -> bool {
        self.inner().job.header().has_ended()
    }

    /// Returns the time that the job was allowed to wait for its start, if it has ended because it waited for longer. `None`
    /// if its handle was cancelled or dropped, for instance.
    pub fn late_after(&self) -> Option<Duration> {
        self.inner().job.header().late_after()
    }

    /// Records that there is room for the job: it is queued now. Wakes who waits for [`Handle::accepted`].
    pub fn accept(&self) {
        if self.inner().job.header().state() == JobState::Waiting {
            self.inner().job.admit();
        }
    }

    /// Records that a worker begins with the job. Returns false if it has ended: then it must not run.
    pub fn start(&self) -> bool {
        self.accept();
        let Inner { job, hub, .. } = self.inner();
        let is_new = job.start();
        if is_new {
            hub.started(job.header().id);
        }
        is_new || !job.header().has_ended()
    }

    /// Records that a job that had begun waits for another worker. Returns false if it has ended.
    pub fn release(&self) -> bool {
        let Inner { job, hub, .. } = self.inner();
        if job.take_back() {
            hub.released(job.header().id);
        }
        !job.header().has_ended()
    }

    /// Returns the number of items that the reader of the job's stream has room for. 0 if there is no stream.
    pub fn room(&self) -> usize {
        self.inner().items.as_ref().map_or(0, |items| items.room())
    }

    /// Passes on an item of the job's stream, encoded as [`Performance`](super::Performance) returns it. Gives it back if
    /// the reader has no room for it.
    ///
    /// When there is room again, [`Carrier::resume`](super::Carrier::resume) is called. It may have been by now: keep the
    /// item where `resume` finds it, and then ask for the [`room`](Self::room) once more. If nobody reads items, they are
    /// dropped.
    pub fn item(&self, item: Vec<u8>) -> Result<(), Vec<u8>> {
        match &self.inner().items {
            Some(items) if !self.is_over() => items.offer_bytes(item),
            _ => Ok(()),
        }
    }

    /// Passes on what the job has printed, if its caller [captures](crate::Prepared::capture) that. `is_truncated`: the
    /// other end has dropped some of it because of the limit.
    pub fn output(&self, stdout: &[u8], stderr: &[u8], is_truncated: bool) {
        if let Some(captured) = &self.inner().job.header().options.extras().capture {
            captured.append(Stream::Out, stdout);
            captured.append(Stream::Err, stderr);
            if is_truncated {
                captured.truncate();
            }
        }
    }

    /// Ends the job.
    ///
    /// A result is decoded by the user's code: on this thread if it is small and its kind is known to be quick, else on
    /// another one. So a slow `Deserialize` does not hold up the carrier.
    pub fn end(mut self, result: Result<Answer, ErrorKind>) {
        if let Some(inner) = self.0.take() {
            inner.end(result);
        }
    }

    /// Runs the job on this thread and ends it. Returns when its function has returned. For carriers that have no room and
    /// let the caller run it; `outbound` is the call that came with this ender.
    pub fn run_here(mut self, outbound: Outbound) {
        if !self.start() {
            return;
        }
        let Some(inner) = self.0.take() else { return };
        let arguments = outbound.into_arguments();
        let incoming = Incoming { body: &arguments, parts: &[] };
        let run = || {
            let _whole = Whole::begin(true);
            // A task that only another program has goes by the name of the job.
            let name =
                if inner.task.name.is_empty() { &*inner.job.header().options.name } else { inner.task.name };
            (inner.task.run)(incoming).map_err(|fault| fault.into_kind(name))
        };
        match inner.job.header().perform(run) {
            Ok(result) => inner.complete(result.body()),
            Err(kind) => inner.end(Err(kind)),
        }
    }
}

impl Inner {
    fn end(self, result: Result<Answer, ErrorKind>) {
        let Answer { bytes, has_failed } = match result {
            Ok(answer) => answer,
            Err(kind) => {
                self.job.fail(kind, self.hub.observer());
                return self.forget();
            }
        };
        if has_failed {
            self.job.header().mark_failed();
        }
        if decode::is_quick(bytes.len(), self.job.has_plain_result(), &self.task.results) {
            return self.complete(&bytes);
        }
        let placed = decoders().try_place(move || self.complete(&bytes), Options::new());
        if let Err(rejected) = placed.map(Handle::detach) {
            // The system gives no thread.
            rejected.into_work()();
        }
    }

    fn complete(self, result: &[u8]) {
        self.job.complete(result, &self.task.results, self.hub.observer());
        self.forget();
    }

    fn forget(self) {
        self.hub.ended(self.job.header().id);
        // If nobody wants the result, it is dropped here, and its destructor is the user's.
        drop_quietly(self.job);
    }
}

impl Drop for Ender {
    fn drop(&mut self) {
        let Some(inner) = self.0.take() else { return };
        if inner.job.header().born.is_past() {
            // In a forked child the job is its parent's, and its lock may be held forever.
            std::mem::forget(inner);
        } else {
            inner.end(Err(ErrorKind::Unreachable(
                "its carrier has dropped it without telling its end; it may have run, or run still".into(),
            )));
        }
    }
}

impl fmt::Debug for Ender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.0.as_ref().map(|inner| inner.job.header().id);
        f.debug_struct("Ender").field("job", &id).finish_non_exhaustive()
    }
}
