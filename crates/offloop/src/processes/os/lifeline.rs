//! A lifeline: a socket between two processes, of which the kernel kills one when the other lets go of its end.
//!
//! It needs no signal from the other process, which the system may refuse to it, and no thread that watches the socket.
//! The process at the far end asks the kernel to signal a hang-up of the socket with SIGKILL (`O_ASYNC`, `F_SETSIG`).
//! The kernel checks the rights of the process that has asked, as they were then, and not those of the one that lets
//! go. So a lifeline holds when either of them changes its user, which makes the kernel forget a parent-death signal.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::Signal;

use super::fd::is_readable_within;

/// The command of `fcntl` that sets the signal of a descriptor. The C library's header hides it, so `libc` lacks it.
const F_SETSIG: libc::c_int = 10;

/// The near end of a lifeline. The process at the far end is killed when this is [cut](Self::cut) or dropped, and when
/// this process ends.
#[derive(Debug)]
pub(in crate::processes) struct Lifeline(UnixStream);

impl Lifeline {
    /// Makes a lifeline. The far end is for the process that is to hang on it.
    pub(in crate::processes) fn new() -> io::Result<(Self, OwnedFd)> {
        let (near, far) = UnixStream::pair()?;
        // Whatever is written to the far end by mistake fails, instead of waiting for a reader.
        near.shutdown(Shutdown::Read)?;
        Ok((Self(near), far.into()))
    }

    /// Makes the kernel kill the process at the far end, even if copies of this end are open in other processes.
    pub(in crate::processes) fn cut(&self) {
        // It fails only if the far end is closed. Then nothing hangs on it.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// The far end of a lifeline, on which this process hangs for as long as the end is open.
#[derive(Debug)]
pub(in crate::processes) struct Hold {
    far: OwnedFd,
    /// This process is the leader of its process group, and all of the group hangs on the lifeline.
    is_group: bool,
}

impl Hold {
    /// Makes this process hang on the lifeline, together with its process group if it leads one. Returns `None` if the
    /// near end is gone already.
    pub(in crate::processes) fn on(far: OwnedFd, is_group: bool) -> io::Result<Option<Self>> {
        let hold = Self { far, is_group };
        hold.claim()?;
        hold.control(F_SETSIG, Signal::KILL.as_raw())?;
        hold.control(libc::F_SETFL, hold.control(libc::F_GETFL, 0)? | libc::O_ASYNC)?;
        // Only what happens from now on is signalled.
        let is_gone = is_readable_within(hold.far.as_fd(), Duration::ZERO);
        Ok((!is_gone).then_some(hold))
    }

    /// Makes the kernel check the present rights of this process, when the time comes, and not those that it had.
    pub(in crate::processes) fn claim(&self) -> io::Result<()> {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        self.control(libc::F_SETOWN, if self.is_group { -own } else { own }).map(drop)
    }

    /// Makes the group hang on the lifeline no more, but only this process.
    pub(in crate::processes) fn spare_group(&mut self) {
        self.is_group = false;
        // It fails only if a job has closed the socket. Then nothing hangs on it.
        let _ = self.claim();
    }

    fn control(&self, command: libc::c_int, argument: libc::c_int) -> io::Result<libc::c_int> {
        // SAFETY: these commands take and return plain numbers.
        let result = unsafe { libc::fcntl(self.far.as_raw_fd(), command, argument) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
    }
}
