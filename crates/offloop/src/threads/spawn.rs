//! Worker threads that somebody else starts.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::base::panic;
use crate::base::sync::Mutex;
use crate::core::error::ErrorKind;

/// Called once with the outcome of a thread's start. With `Ok`, on the new thread, it serves the pool until the pool lets
/// the thread go. With an error it gives the thread up.
pub(super) type OnStart = Box<dyn FnOnce(io::Result<()>) + Send + Sync>;

/// A worker thread that is yet to be started: what the handler of
/// [`spawn_handler`](crate::embed::ThreadPoolBuilderExt::spawn_handler) gets.
#[must_use = "dropping it unrun means that the thread could not be started"]
pub struct WorkerThread {
    name: String,
    /// Taken by the run, or by the drop.
    on_start: Option<OnStart>,
    /// Shared with [`start`], which waits for the handler's answer.
    stage: Arc<Mutex<ThreadStart>>,
}

/// The progress of a thread's start. The handler may run the worker before it returns, or after that, or never.
///
/// ```text
///    ┌─────────────────────run──────────────────────┐
///    │                                              ▼
/// Offered ──handler returns Ok──▶ Promised ──run──▶ Begun
///    │                               │
///    │                            dropped
///    │                               ▼
///    └──dropped, handler fails──▶ Failed
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
enum ThreadStart {
    /// The handler has the worker, and has not returned.
    Offered,
    /// The handler has returned and has promised that the worker will be run.
    Promised,
    /// The worker runs, or has run.
    Begun,
    /// The worker was dropped unrun, or the handler has failed.
    Failed,
}

impl WorkerThread {
    /// Returns the name that the pool has given to the thread.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Serves the pool on this thread. Returns when the pool lets the thread go: after its idle timeout, or when the
    /// pool is closed and its work done.
    pub fn run(mut self) {
        let before = std::mem::replace(&mut *self.stage.lock(), ThreadStart::Begun);
        let on_start = self.on_start.take();
        if before == ThreadStart::Failed {
            return;
        }
        if let Some(on_start) = on_start {
            on_start(Ok(()));
        }
    }
}

impl Drop for WorkerThread {
    fn drop(&mut self) {
        let mut stage = self.stage.lock();
        let before = *stage;
        if matches!(before, ThreadStart::Offered | ThreadStart::Promised) {
            *stage = ThreadStart::Failed;
        }
        drop(stage);
        // As long as the handler has not returned, `start` returns the error.
        let on_start = if before == ThreadStart::Promised { self.on_start.take() } else { None };
        if let Some(on_start) = on_start {
            on_start(Err(dropped_unrun()));
        }
    }
}

impl fmt::Debug for WorkerThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerThread").field("name", &self.name).finish_non_exhaustive()
    }
}

fn dropped_unrun() -> io::Error {
    io::Error::other("the worker thread that the spawn handler got was dropped unrun")
}

/// Makes `handler` start a thread that calls `on_start`. If this returns an error, `on_start` is never called.
pub(super) fn start(
    handler: &dyn Fn(WorkerThread) -> io::Result<()>,
    name: String,
    on_start: OnStart,
) -> io::Result<()> {
    let stage = Arc::new(Mutex::new(ThreadStart::Offered));
    let thread = WorkerThread { name, on_start: Some(on_start), stage: Arc::clone(&stage) };
    let result = panic::catch(|| handler(thread))
        .unwrap_or_else(|panic| Err(io::Error::other(ErrorKind::Panicked(panic).to_string())));
    let mut stage = stage.lock();
    match (*stage, result) {
        (ThreadStart::Offered, Ok(())) => *stage = ThreadStart::Promised,
        (ThreadStart::Failed, Ok(())) => return Err(dropped_unrun()),
        (ThreadStart::Offered | ThreadStart::Failed, Err(error)) => {
            *stage = ThreadStart::Failed;
            return Err(error);
        }
        // It runs, whatever the handler says.
        _ => {}
    }
    Ok(())
}
