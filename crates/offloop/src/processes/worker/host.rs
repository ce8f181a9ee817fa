//! How a process that a program in another language has started becomes a template or a worker.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::main::Worker;
use super::template;
use crate::processes::handshake::{MARKER, become_worker};
use crate::processes::os::fd::{move_stdin, replace_stderr};
use crate::processes::os::process::{die_with, leave_ctrl_c_to_the_parent};
use crate::processes::os::start::begin_from_known_state;

/// This process, started as the [template](crate::ProcessPoolBuilder::template) of a pool's workers.
pub struct Template {
    socket: OwnedFd,
}

impl Template {
    /// Makes this process the template, if a pool has started it as a program. Returns `None` if the pool's process is
    /// dead already. The template dies with that process.
    ///
    /// To be called on the first thread, before the program starts others.
    pub fn connect() -> io::Result<Option<Self>> {
        let unclear = || {
            let text = "this process was not started by a pool as its template (OFFLOOP_WORKER is not set)";
            io::Error::new(io::ErrorKind::InvalidInput, text)
        };
        let parent = std::env::var(MARKER).ok().and_then(|text| text.parse().ok()).ok_or_else(unclear)?;
        // SAFETY: this is documented to be called on the first thread, while that is the only one. The variable must
        // go: programs that a job starts would take themselves for workers.
        unsafe { std::env::remove_var(MARKER) };
        let socket = move_stdin()?;
        Self::adopt(socket, parent)
    }

    /// Does the same in a process that [`template_by`](crate::embed::ProcessPoolBuilderExt::template_by) has started,
    /// with the socket that it was given and the id of the process that started it.
    pub fn adopt(socket: OwnedFd, parent: u32) -> io::Result<Option<Self>> {
        begin_from_known_state()?;
        leave_ctrl_c_to_the_parent();
        Ok(die_with(parent)?.then_some(Self { socket }))
    }

    /// Forks workers when the pool asks for them, until the pool is gone. `fork` returns the process id of the child,
    /// and 0 in the child, as the system call does.
    ///
    /// Returns in each worker, which then has to [`serve`](Worker::serve). In the template it returns `None`, at the
    /// end.
    pub fn serve(self, mut fork: impl FnMut() -> io::Result<u32>) -> io::Result<Option<Worker>> {
        let template = std::process::id();
        match template::serve(&self.socket, &mut fork)? {
            None => Ok(None),
            Some((link, stderr)) => {
                if let Some(stderr) = stderr {
                    replace_stderr(&stderr)?;
                }
                if !die_with(template)? {
                    return Ok(None);
                }
                Ok(become_worker(link)?.map(Worker::new))
            }
        }
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template").field("socket", &self.socket.as_fd()).finish()
    }
}
