//! The messages between a pool and its template, a process of which the workers are forks.
//!
//! ```text
//! pool ── fork: a number; a worker's socket, its standard error ──▶ template ── fork ──▶ worker
//!      ◀── up ─────────────────────────────────────────────────────
//!      ◀── born: the number, its process id; a pidfd ──────────────
//!      ◀── failed: the number, the reason ─────────────────────────
//!      ── end: its process id, how ───────────────────────────────▶ template ── signal ──▶ worker
//!      ◀── ended: its process id, how, its peak memory ────────────
//!      ── collect: its process id ────────────────────────────────▶ template
//! ```
//!
//! They go over a socket that keeps the bounds of messages.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::processes::os::fd;
use crate::processes::os::process::End;

/// The longest message, in bytes.
const LONGEST: usize = 256;

/// An order of the pool.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::processes) enum Order {
    /// To fork a worker. The number is for the reply. With it go the worker's end of its socket and, if it has one of
    /// its own, its standard error.
    Fork(u64),
    /// To signal a worker, which the system does not let the pool do.
    End {
        /// The worker's process id.
        pid: u32,
        how: End,
        whole_group: bool,
    },
    /// To collect the worker with this process id, which has ended. Until then its id is not used again.
    Collect(u32),
}

/// A report of the template.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::processes) enum Notice {
    /// The ordered worker has been forked. With the message goes its pidfd.
    Born { order: u64, pid: u32 },
    /// The ordered worker could not be forked.
    Failed { order: u64, reason: String },
    /// A worker has ended.
    Ended {
        pid: u32,
        /// The exit status. Neither this nor `signal` is set if other code has collected the process.
        code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
        /// The most memory that it had resident, in bytes.
        peak_memory: u64,
    },
    /// The template has started. It gets ready now, which is the user's code.
    Up,
}

/// Sends a message with descriptors.
pub(in crate::processes) fn tell(
    socket: BorrowedFd<'_>,
    message: &impl Serialize,
    files: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = postcard::to_stdvec(message).map_err(io::Error::other)?;
    fd::send_with_files(socket, &bytes, files)
}

/// Receives a message with its descriptors. No bytes mean that the other side has closed its end.
pub(in crate::processes) fn receive(socket: &OwnedFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    fd::receive_with_files(socket.as_fd(), LONGEST)
}

/// Returns whether an error of the socket means that its other end is closed.
pub(in crate::processes) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}
