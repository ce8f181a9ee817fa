//! The job as an executor is given it.

use std::fmt;
use std::sync::{Arc, Weak};

use super::error::ErrorKind;
use super::header::Header;
use super::id::{JobId, JobState};
use super::observer::{Observer, Unobserved};
use super::runnable::{AbortIf, AnyJob, EndedEarly, Owner, Runnable};
use crate::base::panic;
use crate::base::sync::Mutex;

/// One call that an executor has been given, whatever it computes.
///
/// [`run`](Self::run) it on any thread. A job that is dropped unrun cancels its handle, so that its caller does not wait
/// forever.
#[must_use = "dropping a job cancels it"]
pub struct Job(Option<Arc<dyn Runnable>>);

impl Job {
    pub(crate) fn new(runnable: Arc<dyn Runnable>) -> Self {
        Self(Some(runnable))
    }

    /// Takes the job out of its guard. The caller takes over the duty to end it.
    pub(crate) fn into_runnable(mut self) -> Arc<dyn Runnable> {
        self.0.take().expect("a job is whole until it is consumed")
    }

    fn runnable(&self) -> &Arc<dyn Runnable> {
        self.0.as_ref().expect("a job is whole until it is consumed")
    }

    /// Runs the job on this thread and ends its handle. Returns when the function has returned.
    ///
    /// Never panics: a panic of the function becomes the handle's error. Does nothing if the job was cancelled.
    pub fn run(self) {
        self.into_runnable().run(&Unobserved);
    }

    /// Returns the job's identity, the same as its handle's.
    pub fn id(&self) -> JobId {
        self.runnable().header().id
    }

    /// Returns the job's name: the one given, else the function's path.
    pub fn name(&self) -> &str {
        &self.runnable().header().options.name
    }

    /// Returns the job's priority. Higher runs first.
    pub fn priority(&self) -> i8 {
        self.runnable().header().options.priority
    }

    /// Returns whether its handle was cancelled or dropped, so that running it would be in vain.
    pub fn is_cancelled(&self) -> bool {
        self.runnable().header().has_ended()
    }

    /// Returns the same job with `hook` around its run, for executors that measure, log or prepare something and pass the
    /// job on.
    ///
    /// The hook gets the run as a function and should call it. If it does not, the job is cancelled.
    pub fn around(self, hook: impl FnOnce(&mut dyn FnMut()) + Send + 'static) -> Self {
        Self::new(Arc::new(Around { inner: self.into_runnable(), hook: Mutex::new(Some(Box::new(hook))) }))
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(runnable) = self.0.take() {
            runnable.fail(ErrorKind::Cancelled, &Unobserved);
        }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("id", &self.id()).field("name", &self.name()).finish_non_exhaustive()
    }
}

type Hook = Box<dyn FnOnce(&mut dyn FnMut()) + Send>;

/// A job with a hook around its run.
struct Around {
    inner: Arc<dyn Runnable>,
    /// Taken by the run.
    hook: Mutex<Option<Hook>>,
}

impl AnyJob for Around {
    fn header(&self) -> &Header {
        self.inner.header()
    }

    fn attach(&self, owner: Weak<dyn Owner>, state: JobState) -> Result<(), EndedEarly> {
        self.inner.attach(owner, state)
    }

    fn admit(&self) {
        self.inner.admit();
    }

    fn fail(&self, kind: ErrorKind, observer: &dyn Observer) -> bool {
        self.inner.fail(kind, observer)
    }

    fn abort(&self, kind: ErrorKind, condition: AbortIf) -> bool {
        self.inner.abort(kind, condition)
    }
}

impl Runnable for Around {
    fn run(self: Arc<Self>, observer: &dyn Observer) {
        if self.header().has_ended() {
            // The hook is for jobs that run. The end may still have to be counted.
            Arc::clone(&self.inner).run(observer);
        } else {
            let hook = self.hook.lock().take();
            let caught =
                hook.map(|hook| panic::catch(|| hook(&mut || Arc::clone(&self.inner).run(observer))));
            let kind = match caught {
                Some(Err(panic)) => ErrorKind::Panicked(panic),
                _ => ErrorKind::Cancelled,
            };
            self.inner.fail(kind, observer);
        }
        panic::drop_quietly(self);
    }
}
