//! How a started process becomes a worker: what the pool sends it, and what the process makes of it.
//!
//! The pool starts this program again with [`MARKER`] in its environment and the worker's end of the link's socket as
//! its standard input. It writes the first message to that socket before the process exists: the [`Orders`] and five
//! descriptors. The new process reads the message in [`become_worker`] and greets the pool with its fingerprint.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::limits::Limits;
use super::link::{Link, WorkerEnd};
use super::os::fd::{self, MAX_FILES};
use super::os::process::{self, SpawnEnv};
use crate::wire::arena::Arena;
use crate::wire::memfd::Mapping;

/// The environment variable that makes a copy of this program a worker or a template. Its value is the process id of
/// its parent.
pub(super) const MARKER: &str = "OFFLOOP_WORKER";

/// Whether this program has called `init`, so that copies of it can act as workers. Set once.
static INITIALISED: AtomicBool = AtomicBool::new(false);

/// Records that this program has called `init`.
pub(super) fn set_initialised() {
    INITIALISED.store(true, Ordering::Relaxed);
}

/// Returns whether this program has called `init`.
pub(super) fn is_initialised() -> bool {
    INITIALISED.load(Ordering::Relaxed)
}

/// The first message to a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Orders {
    /// The size of the worker's arena, in bytes.
    pub(super) arena: u64,
    /// The largest payload that the parent accepts, in bytes.
    pub(super) max_payload: u64,
    pub(super) limits: Limits,
}

/// The number of descriptors that go with the orders: the ring, the worker's arena, two pipes for captured output, and the
/// listener's event.
const FILES: usize = 5;
const _: () = assert!(FILES <= MAX_FILES);

/// Sends a worker its orders, before its process exists.
pub(super) fn instruct(
    orders: &Orders,
    link: &Link,
    files: &[OwnedFd; 2],
    captured: &[OwnedFd; 2],
    listener: BorrowedFd<'_>,
) -> io::Result<()> {
    let ([ring, arena], [out, err]) = (files, captured);
    let files: [_; FILES] = [ring.as_fd(), arena.as_fd(), out.as_fd(), err.as_fd(), listener];
    fd::send_with_files(link.socket(), &postcard::to_stdvec(orders).map_err(io::Error::other)?, &files)
}

/// Starts a program as a worker or as a template, with its end of the socket. Returns its process id.
///
/// To be called on a thread that outlives the process, as [`process::spawn`] says.
pub(super) fn start_program(
    program: &Path,
    arguments: &[OsString],
    env: &SpawnEnv,
    socket: OwnedFd,
    stderr: Option<OwnedFd>,
) -> io::Result<u32> {
    let marker = (MARKER, &*std::process::id().to_string());
    process::spawn(program, arguments, env, marker, socket, stderr)
}

/// The settings and files with which a worker process begins.
pub(super) struct WorkerSetup {
    pub(super) link: WorkerEnd,
    /// The worker's own arena, for its results.
    pub(super) arena: &'static Arc<Arena>,
    /// The largest payload that the pool accepts, in bytes.
    pub(super) max_payload: u64,
    /// The pipes that replace standard output and standard error while a job is captured.
    pub(super) captured: [OwnedFd; 2],
}

/// Turns this process into the worker at the other end of `socket`, and moves its link out of the jobs' reach.
pub(super) fn become_worker(socket: OwnedFd) -> io::Result<WorkerSetup> {
    process::leave_ctrl_c_to_the_parent();
    // Rust's runtime does so too, but it has not begun yet if `init` runs before `main`.
    process::ignore_sigpipe();
    let socket = UnixStream::from(socket);
    let _ = rustix::thread::set_name(c"offloop-worker");

    let (orders, files) = fd::receive_with_files(socket.as_fd(), 4096)?;
    let unclear = |_| {
        let text =
            "the worker's first message could not be decoded; start the same build as the pool's program";
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    let orders: Orders = postcard::from_bytes(&orders).map_err(unclear)?;
    let [ring, arena, out, err, listener]: [OwnedFd; FILES] =
        files.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
    let size = |size: u64| usize::try_from(size).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
    let arena = Arena::adopt(Mapping::new(arena.as_fd(), size(orders.arena)?, true)?);
    arena.allow(size(orders.limits.idle_memory)?);
    let link = WorkerEnd::new(socket, listener, ring.as_fd())?;
    orders.limits.impose()?;
    Ok(WorkerSetup { link, arena, max_payload: orders.max_payload, captured: [out, err] })
}
