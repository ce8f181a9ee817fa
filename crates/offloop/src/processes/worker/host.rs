//! How a process that a program in another language has started becomes a template or a worker.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::main::Worker;
use super::template::{self, AtRest};
use crate::processes::handshake::{self, Origin, Role, become_worker};
use crate::processes::link::template::{Notice, tell};
use crate::processes::os::fd::replace_stderr;
use crate::processes::os::lifeline::Hold;
use crate::processes::os::process::{die_with, leave_ctrl_c_to_the_parent};
use crate::processes::os::start::begin_from_known_state;

/// This process, started as the [template](crate::ProcessPoolBuilder::template) of a pool's workers.
pub struct Template {
    socket: OwnedFd,
    start_data: Vec<u8>,
    /// Taken by the program.
    start_files: Vec<OwnedFd>,
    at_rest: Option<AtRest>,
    /// Kept open. `None` if the system does not know how to signal a hang-up.
    _lifeline: Option<Hold>,
}

impl Template {
    /// Makes this process the template, if a pool has started it as a program. Returns `None` if the pool's process is
    /// dead already. The template dies with that process.
    ///
    /// To be called on the first thread, before the program starts others.
    ///
    /// # Errors
    ///
    /// If no pool has started this process as its template: it is not enough that the environment says so, the socket
    /// must be standard input. If the program has more rights than the user who started it (set-user-ID and the like),
    /// since anyone can set its environment. If the system refuses something.
    pub fn connect() -> io::Result<Option<Self>> {
        match handshake::started_by(Role::Template)? {
            Origin::Other => {
                let text = "this process was not started by a pool as its template";
                Err(io::Error::new(io::ErrorKind::InvalidInput, text))
            }
            Origin::DeadPool => Ok(None),
            Origin::Pool(socket) => Self::at(socket),
        }
    }

    /// Does the same in a process that [`template_by`](crate::embed::ProcessPoolBuilderExt::template_by) has started,
    /// with the socket that it was given and the id of the process that started it.
    pub fn adopt(socket: OwnedFd, parent: u32) -> io::Result<Option<Self>> {
        begin_from_known_state()?;
        if die_with(parent)? { Self::at(socket) } else { Ok(None) }
    }

    /// Returns `None` if the pool is gone.
    fn at(socket: OwnedFd) -> io::Result<Option<Self>> {
        #[cfg(feature = "observe")]
        crate::metrics::view::first_pool::never();
        leave_ctrl_c_to_the_parent();
        let (lifeline, start) = handshake::receive_greeting(socket.as_fd())?;
        // If it fails, the pool is gone, which `serve` notices.
        let _ = tell(socket.as_fd(), &Notice::Up, &[]);
        Ok(match Hold::on(lifeline, false) {
            Ok(None) => None,
            // Without a lifeline the template ends when it reads the end of its socket.
            hold => Some(Self {
                socket,
                start_data: start.bytes,
                start_files: start.files,
                at_rest: None,
                _lifeline: hold.ok().flatten(),
            }),
        })
    }

    /// Returns the bytes that the pool was given by
    /// [`start_data`](crate::embed::ProcessPoolBuilderExt::start_data); none if it was given none.
    pub fn start_data(&self) -> &[u8] {
        &self.start_data
    }

    /// Returns the files that the pool was given by
    /// [`start_files`](crate::embed::ProcessPoolBuilderExt::start_files), in their order; none after the first call. They
    /// are close-on-exec, and the workers inherit those that are not dropped before
    /// [`serve`](Self::serve).
    pub fn take_start_files(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.start_files)
    }

    /// Makes [`serve`](Self::serve) call `prepare` once in the template: when it has forked a worker, and the pool has asked
    /// for nothing for 20 ms. For what later workers should have and the first one should not wait for.
    #[must_use]
    pub fn at_rest(mut self, prepare: impl FnOnce() + Send + 'static) -> Self {
        self.at_rest = Some(Box::new(prepare));
        self
    }

    /// Forks workers when the pool asks for them, until the pool is gone. `fork` returns the process id of the child,
    /// and 0 in the child, as the system call does.
    ///
    /// Returns in each worker, which then has to [`serve`](Worker::serve). In the template it returns `None`, at the
    /// end.
    pub fn serve(mut self, mut fork: impl FnMut() -> io::Result<u32>) -> io::Result<Option<Worker>> {
        let template = std::process::id();
        match template::serve(&self.socket, &mut fork, self.at_rest.take())? {
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
        f.debug_struct("Template").field("socket", &self.socket.as_fd()).finish_non_exhaustive()
    }
}
