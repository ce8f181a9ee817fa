//! What a shutdown reports.

use std::panic::Location;
use std::time::Duration;

use crate::error::Rejected;
use crate::executor::{Accepts, Executor};
use crate::handle::Handle;
use crate::job::{Job, JobId, Options, prepare};

/// What became of the jobs that a pool had when its shutdown began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Jobs that came to their own end.
    pub drained: usize,
    /// Jobs that were cancelled: removed from the queue, or asked to stop and stopped.
    pub cancelled: usize,
    /// Jobs whose worker process was killed.
    pub killed: usize,
    /// Jobs that go on in spite of it all, in threads that cannot be stopped.
    pub stuck: Vec<Stuck>,
}

/// A job that did not stop when its pool was shut down.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stuck {
    /// The job.
    pub job: JobId,
    /// Its name: the one given, else the function's path.
    pub name: String,
    /// The line that submitted it.
    pub submitted_at: &'static Location<'static>,
    /// The name of the thread that it holds.
    pub worker: String,
    /// How long it has been running.
    pub running_for: Duration,
}

/// A thread for each job, or the submitter's where none can be had.
struct OwnThread;

impl Executor for OwnThread {
    fn execute(&self, job: Job) -> Result<(), Rejected<Job>> {
        let slot = std::sync::Arc::new(crate::sync::Mutex::new(Some(job)));
        let run = {
            let slot = std::sync::Arc::clone(&slot);
            move || {
                let job = slot.lock().take();
                if let Some(job) = job {
                    job.run();
                }
            }
        };
        if crate::sync::thread::Builder::new().name("offloop-shutdown".into()).spawn(run).is_err() {
            let job = slot.lock().take();
            if let Some(job) = job {
                job.run();
            }
        }
        Ok(())
    }
}

/// Runs a shutdown beside its caller. It goes on even if the handle is dropped: only its report is lost.
pub(crate) fn supervise(shut_down: impl FnOnce() -> Report + Send + 'static) -> Handle<Report> {
    OwnThread.place(prepare(shut_down).name("shutdown"), Options::new())
}
