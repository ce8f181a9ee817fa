//! The report of a shutdown, and the thread that runs it.

use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use super::cell::Cell;
use super::error::ErrorKind;
use super::handle::Handle;
use super::header::Header;
use super::id::JobId;
use super::observer::Unobserved;
use super::options::Options;
use crate::base::panic;
use crate::base::spawn::spawn;
use crate::base::sync::{Mutex, thread};

/// The jobs that a pool had when its shutdown began, counted by the way in which they ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Counts the jobs that ended by themselves.
    pub drained: usize,
    /// Counts the jobs that were removed from the queue, or that were asked to stop and stopped.
    pub cancelled: usize,
    /// Counts the jobs whose worker process was killed.
    pub killed: usize,
    /// Jobs that still run, in threads that cannot be stopped.
    pub stuck: Vec<StuckJob>,
}

/// A job that did not stop when its pool was shut down.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StuckJob {
    /// The job.
    pub job: JobId,
    /// Its name: the one given, else the function's path.
    pub name: String,
    /// The line of code that submitted it.
    pub submitted_at: &'static Location<'static>,
    /// The thread or process that runs it.
    pub worker: String,
    /// The time since it began to run.
    pub running_for: Duration,
}

impl StuckJob {
    pub(crate) fn new(header: &Header, worker: String, running_for: Duration) -> Self {
        Self {
            job: header.id,
            name: header.options.name.clone().into_owned(),
            submitted_at: header.options.submitted_at,
            worker,
            running_for,
        }
    }
}

/// Runs a shutdown on a thread of its own, or on the caller's thread if the system refuses one.
///
/// The shutdown goes on even if the handle is dropped. Only its report is lost then.
pub(crate) fn run_in_background(
    shut_down: impl FnOnce() -> ShutdownReport + Send + 'static,
) -> Handle<ShutdownReport> {
    let options = Options { name: "shutdown".into(), ..Options::new() };
    let cell: Arc<Cell<(), ShutdownReport>> = Cell::new((), options);
    let handle = Handle::new(Arc::clone(&cell));
    // If the thread does not start, this thread runs the closure.
    let work = Arc::new(Mutex::new(Some(move || {
        let _ = cell.start();
        cell.finish(panic::catch(shut_down).map_err(ErrorKind::Panicked), &Unobserved);
    })));
    let on_thread = Arc::clone(&work);
    let thread = thread::Builder::new().name("offloop-shutdown".into());
    if spawn(thread, move || run_once(&on_thread)).is_err() {
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
