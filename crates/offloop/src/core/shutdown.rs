//! What a shutdown reports.

use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use crate::base::panic;
use crate::base::sync::{Mutex, thread};
use crate::core::cell::Cell;
use crate::core::error::ErrorKind;
use crate::core::handle::Handle;
use crate::core::job::{Core, JobId, Options};
use crate::metrics::stats::NoBooks;

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
    pub(crate) fn new(core: &Core, worker: String, running_for: Duration) -> Self {
        Self {
            job: core.id,
            name: core.options.name.clone().into_owned(),
            submitted_at: core.options.place,
            worker,
            running_for,
        }
    }
}

/// Runs a shutdown beside its caller, or on its thread where no other can be had. It goes on even if the handle
/// is dropped: only its report is lost.
pub(crate) fn supervise(shut_down: impl FnOnce() -> Report + Send + 'static) -> Handle<Report> {
    let options = Options { name: "shutdown".into(), ..Options::new() };
    let cell: Arc<Cell<(), Report>> = Cell::new((), options);
    let handle = Handle::new(Arc::clone(&cell));
    // Where the thread does not start, what it was to run is still wanted.
    let work = Arc::new(Mutex::new(Some(move || {
        cell.start();
        cell.finish(panic::catch(shut_down).map_err(ErrorKind::Panicked), &NoBooks);
    })));
    let on_thread = Arc::clone(&work);
    let thread = thread::Builder::new().name("offloop-shutdown".into());
    if thread.spawn(move || run_once(&on_thread)).is_err() {
        run_once(&work);
    }
    handle
}

fn run_once(work: &Mutex<Option<impl FnOnce()>>) {
    let work = work.lock().take();
    if let Some(work) = work {
        work();
    }
}
