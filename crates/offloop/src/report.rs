//! What a shutdown reports.

use std::panic::Location;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Rejected;
use crate::executor::{Accepts, Executor};
use crate::handle::Handle;
use crate::job::{Core, Job, JobId, Options, prepare};
use crate::sync::{Mutex, thread};

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

impl Stuck {
    pub(crate) fn new(core: &Core, worker: String, since: Instant) -> Self {
        Self {
            job: core.id,
            name: core.options.name.clone().into_owned(),
            submitted_at: core.options.place,
            worker,
            running_for: since.elapsed(),
        }
    }
}

/// A thread for the shutdown, or the submitter's where none can be had.
struct OwnThread<F>(Arc<Mutex<Option<F>>>);

impl<F: FnOnce() -> Report + Send + 'static> Executor for OwnThread<F> {
    fn execute(&self, job: Job) -> Result<(), Rejected<Job>> {
        let job = Arc::new(Mutex::new(Some(job)));
        let run = {
            let (job, shut_down) = (Arc::clone(&job), Arc::clone(&self.0));
            move || run_both(&job, &shut_down)
        };
        if thread::Builder::new().name("offloop-shutdown".into()).spawn(run).is_err() {
            run_both(&job, &self.0);
        }
        Ok(())
    }
}

/// Runs the job, which takes the shutdown and reports; else the shutdown alone.
fn run_both(job: &Mutex<Option<Job>>, shut_down: &Mutex<Option<impl FnOnce() -> Report>>) {
    let job = job.lock().take();
    if let Some(job) = job {
        job.run();
    }
    let left = shut_down.lock().take();
    if let Some(shut_down) = left {
        shut_down();
    }
}

/// Runs a shutdown beside its caller. It goes on even if the handle is dropped: only its report is lost.
pub(crate) fn supervise(shut_down: impl FnOnce() -> Report + Send + 'static) -> Handle<Report> {
    // Not in the job itself, as that is removed if its handle is dropped before the thread has started.
    let shut_down = Arc::new(Mutex::new(Some(shut_down)));
    let executor = OwnThread(Arc::clone(&shut_down));
    let job = move || {
        let shut_down = shut_down.lock().take();
        shut_down.map(|shut_down| shut_down()).unwrap_or_default()
    };
    executor.place(prepare(job).name("shutdown"), Options::new())
}
