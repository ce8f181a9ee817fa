//! For programs in other languages: how a process that they have started becomes a worker.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

pub use crate::processes::worker::main::Worker;
use crate::processes::{os::process as sys, pool::template};

/// This process, started as the [template](super::ProcessPoolBuilder::template) of a pool's workers.
pub struct Template {
    socket: OwnedFd,
}

impl Template {
    /// Takes up the role for which this process was started as a program; to be called on its first thread, before it
    /// starts others. It dies with the process that started it. `None` if that is dead already.
    pub fn connect() -> io::Result<Option<Self>> {
        let unclear =
            || io::Error::new(io::ErrorKind::InvalidInput, "this process was not started by a pool");
        let parent =
            std::env::var(sys::MARKER).ok().and_then(|text| text.parse().ok()).ok_or_else(unclear)?;
        // SAFETY: this is documented to be called on the first thread, as long as that is the only one. Programs that
        // a job starts must not take themselves for workers.
        unsafe { std::env::remove_var(sys::MARKER) };
        let socket = sys::move_stdin()?;
        Self::adopt(socket, parent)
    }

    /// The same for a process that was started by [`template_by`](super::ProcessPoolBuilder::template_by): with the
    /// socket that it was given, and the id of the process that started it.
    pub fn adopt(socket: OwnedFd, parent: u32) -> io::Result<Option<Self>> {
        sys::leave_ctrl_c_to_the_parent();
        Ok(sys::die_with(parent)?.then_some(Self { socket }))
    }

    /// Forks workers when the pool asks for them, until it is gone. `fork` says like its namesake who one is.
    /// Returns in each worker with what that is to do; in the template with `None`, at the end.
    pub fn serve(self, mut fork: impl FnMut() -> io::Result<u32>) -> io::Result<Option<Worker>> {
        let template = std::process::id();
        match template::serve(&self.socket, &mut fork)? {
            None => Ok(None),
            Some((link, stderr)) => {
                if let Some(stderr) = stderr {
                    rustix::stdio::dup2_stderr(&stderr)?;
                }
                if !sys::die_with(template)? {
                    return Ok(None);
                }
                sys::become_worker(link).map(|start| Some(Worker::new(start)))
            }
        }
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template").field("socket", &self.socket.as_fd()).finish()
    }
}
