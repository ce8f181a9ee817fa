//! How a thread comes to serve a pool when the user starts it.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::registry::Registry;
use super::scheduler::{Role, Worker};
use crate::base::panic;
use crate::base::sync::Mutex;
use crate::core::error::ErrorKind;

/// The life of a worker thread that is yet to be started: what
/// [`spawn_with`](super::ThreadPoolBuilder::spawn_with) gets.
#[must_use = "dropping the life of a thread means that it could not be started"]
pub struct WorkerThread {
    registry: Arc<Registry>,
    worker: Arc<Worker>,
    role: Role,
    stage: Arc<Mutex<Stage>>,
}

/// What has become of a life. The user may run it while the hook has yet to return, or after that, or never.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The hook has it.
    Offered,
    /// The hook has returned and promised to have it run.
    Promised,
    /// It runs, or has run.
    Begun,
    /// It was dropped unrun, or the hook failed.
    Failed,
}

impl WorkerThread {
    /// The name that the pool has given to the thread.
    pub fn name(&self) -> &str {
        &self.worker.name
    }

    /// Serves the pool on this thread. Returns when the pool lets the thread go: after its idle timeout, or when
    /// the pool is closed and its work done.
    pub fn run(self) {
        let before = std::mem::replace(&mut *self.stage.lock(), Stage::Begun);
        if before == Stage::Failed {
            return;
        }
        Arc::clone(&self.registry).serve(&self.worker, self.role);
    }
}

impl Drop for WorkerThread {
    fn drop(&mut self) {
        let mut stage = self.stage.lock();
        let before = *stage;
        if matches!(before, Stage::Offered | Stage::Promised) {
            *stage = Stage::Failed;
        }
        drop(stage);
        // While the hook runs, its end tells.
        if before == Stage::Promised {
            self.registry.start_failed(&self.worker, self.role, &dropped());
        }
    }
}

impl fmt::Debug for WorkerThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerThread").field("name", &self.name()).finish_non_exhaustive()
    }
}

fn dropped() -> io::Error {
    io::Error::other("the life of the thread was dropped unrun")
}

impl Registry {
    /// Lets the user start a thread.
    pub(super) fn start_with(
        self: Arc<Self>,
        spawn: &dyn Fn(WorkerThread) -> io::Result<()>,
        worker: &Arc<Worker>,
        role: Role,
    ) -> io::Result<()> {
        let stage = Arc::new(Mutex::new(Stage::Offered));
        let life =
            WorkerThread { registry: self, worker: Arc::clone(worker), role, stage: Arc::clone(&stage) };
        let result = panic::catch(|| spawn(life))
            .unwrap_or_else(|panic| Err(io::Error::other(ErrorKind::Panicked(panic).to_string())));
        let mut stage = stage.lock();
        match (*stage, result) {
            (Stage::Offered, Ok(())) => *stage = Stage::Promised,
            (Stage::Failed, Ok(())) => return Err(dropped()),
            (Stage::Offered | Stage::Failed, Err(error)) => {
                *stage = Stage::Failed;
                return Err(error);
            }
            // It runs, whatever the hook says.
            _ => {}
        }
        Ok(())
    }
}
