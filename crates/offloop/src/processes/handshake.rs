//! How a started process becomes a worker: what the pool sends it, and what the process makes of it.
//!
//! The pool starts this program again with [`MARKER`] in its environment and the worker's end of the link's socket as
//! its standard input. It writes the first message to that socket before the process exists: the [`Orders`] and six
//! descriptors. The new process reads the message in [`become_worker`] and greets the pool with its fingerprint.
//!
//! The environment and the command line of a process can be read in `/proc`, and anyone who starts a program can set
//! them. So nothing but the marker is there. Everything else goes over the socket, and [`started_by`] believes the
//! marker only if the socket holds the first message.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::limits::Limits;
use super::link::{Link, WorkerEnd};
use super::os::fd::{self, MAX_FILES};
use super::os::lifeline::Hold;
use super::os::process::{self, SpawnEnv};
use super::os::start::begin_from_known_state;
use crate::wire::arena::Arena;
use crate::wire::memfd::{self, Mapping, MemoryFile};

/// The environment variable that makes a copy of this program a worker or a template. Its value is the process id of
/// its parent.
pub(super) const MARKER: &str = "OFFLOOP_WORKER";

/// The beginning of the line that a process writes to standard error if it cannot become a worker.
pub(super) const CANNOT_BECOME_WORKER: &str = "offloop: this process could not become a worker";

/// The role in which a pool starts a process. The first message to the process begins with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Worker,
    Template,
}

impl Role {
    /// The bytes with which the first message to such a process begins.
    pub(super) const fn head(self) -> &'static [u8; 16] {
        match self {
            Self::Worker => b"offloop worker 1",
            Self::Template => b"offloop templ. 1",
        }
    }

    /// Returns the role for which the next message on a socket is meant. `None` if this is no socket, or no pool has
    /// written to it. Takes nothing away. Does not block.
    fn of_next_message(socket: BorrowedFd<'_>) -> Option<Self> {
        let mut head = [0; 16];
        let received = fd::peek(socket, &mut head).ok()?;
        [Self::Worker, Self::Template].into_iter().find(|role| head[..received] == *role.head())
    }
}

/// The origin of this process.
#[derive(Debug)]
pub(super) enum Origin {
    /// No pool has started it.
    Other,
    /// A pool whose process is dead already.
    DeadPool,
    /// The pool at the other end of this socket.
    Pool(OwnedFd),
}

/// Returns whether a pool has started this process as a worker. Takes nothing away from the socket.
pub(super) fn is_awaited_by_pool() -> bool {
    std::env::var_os(MARKER).is_some() && Role::of_next_message(rustix::stdio::stdin()) == Some(Role::Worker)
}

/// Finds out whether a pool has started this process in this role. If so, this process dies with the pool's from now
/// on, and the socket is taken away from its standard input.
///
/// The marker alone is not believed, since other processes may have it too: programs that a job starts inherit it
/// unless it could be [removed](process::remove_variable).
///
/// # Errors
///
/// If a pool has started the process, or someone pretends so, but it cannot or must not have this role. The text says
/// why.
pub(super) fn started_by(role: Role) -> io::Result<Origin> {
    let Some(parent) = std::env::var_os(MARKER) else { return Ok(Origin::Other) };
    if process::is_privileged() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "it has more rights than the user who started it (set-user-ID, set-group-ID or file capabilities), \
                 and anyone can set {MARKER}; run the work in threads, or use the pool in a program without these \
                 rights"
            ),
        ));
    }
    let Some(parent) = parent.to_str().and_then(|text| text.parse().ok()) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "the environment variable {MARKER} is set to {parent:?}, which is no process id; it is reserved for \
                 the workers of a process pool, so remove it from the environment"
            ),
        ));
    };
    process::remove_variable(MARKER);
    match Role::of_next_message(rustix::stdio::stdin()) {
        Some(meant) if meant == role => {}
        Some(Role::Template) => {
            let text = "its pool wants it as a template, but it calls offloop::init(); \
                        call offloop::embed::Template::connect() in it, or build the pool without `template()`";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Some(Role::Worker) => {
            let text = "its pool wants it as a worker, but it calls Template::connect(); \
                        build the pool with `template()`, or call offloop::init() in it";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        None if process::is_child_of(parent) => {
            let text = format!(
                "{MARKER} names its parent process, but no pool has written to its standard input; was the \
                 descriptor replaced before offloop::init()?"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        // A program that a job has started.
        None => return Ok(Origin::Other),
    }
    begin_from_known_state()?;
    if !process::die_with(parent)? {
        return Ok(Origin::DeadPool);
    }
    fd::move_stdin().map(Origin::Pool)
}

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
    /// The worker leads a process group, which is ended with it.
    pub(super) leads_group: bool,
}

/// The number of descriptors that go with the orders: the ring, the worker's arena, two pipes for captured output, the
/// listener's event, and the lifeline.
const FILES: usize = 6;
const _: () = assert!(FILES <= MAX_FILES);

/// Sends a worker its orders, before its process exists.
pub(super) fn instruct(
    orders: &Orders,
    link: &Link,
    files: &[OwnedFd; 2],
    captured: &[OwnedFd; 2],
    listener: BorrowedFd<'_>,
    lifeline: &OwnedFd,
) -> io::Result<()> {
    let ([ring, arena], [out, err]) = (files, captured);
    let files: [_; FILES] =
        [ring.as_fd(), arena.as_fd(), out.as_fd(), err.as_fd(), listener, lifeline.as_fd()];
    let message = postcard::to_extend(orders, Role::Worker.head().to_vec()).map_err(io::Error::other)?;
    fd::send_with_files(link.socket(), &message, &files)
}

/// The data and the files that a template gets at its start, besides its lifeline.
#[derive(Debug, Default)]
pub(super) struct StartData {
    /// A message that comes before the first one of the pool, for a program that reads its standard input before it
    /// becomes a template. Empty if there is none.
    pub(super) preamble: Vec<u8>,
    /// Of any length.
    pub(super) bytes: Vec<u8>,
    pub(super) files: Vec<OwnedFd>,
}

impl StartData {
    /// The largest number of files. The lifeline and the file of the bytes go with the same message.
    pub(super) const MAX_FILES: usize = MAX_FILES - 2;
}

/// Sends a template its first message, before its process exists: its lifeline, and what it starts with. The bytes go in
/// a sealed file.
pub(super) fn greet_template(
    socket: BorrowedFd<'_>,
    lifeline: &OwnedFd,
    start: &StartData,
) -> io::Result<()> {
    if !start.preamble.is_empty() {
        fd::send_with_files(socket, &start.preamble, &[])?;
    }
    let has_file = !start.bytes.is_empty() || !start.files.is_empty();
    let file = has_file.then(|| MemoryFile::of_bytes("offloop-start", &start.bytes)).transpose()?;
    let files = [lifeline.as_fd()].into_iter().chain(file.iter().map(AsFd::as_fd));
    let files: Vec<_> = files.chain(start.files.iter().map(AsFd::as_fd)).collect();
    fd::send_with_files(socket, Role::Template.head(), &files)
}

/// Receives the first message to a template. Returns the end of its lifeline, and what it starts with. Does not block.
pub(super) fn receive_greeting(socket: BorrowedFd<'_>) -> io::Result<(OwnedFd, StartData)> {
    if Role::of_next_message(socket) != Some(Role::Template) {
        let text =
            "the first message on this socket is none to a template; use the socket that the pool has made";
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let (_, files) = fd::receive_with_files(socket, Role::Template.head().len())?;
    let mut files = files.into_iter();
    let lifeline = files.next().ok_or(io::ErrorKind::InvalidData)?;
    let bytes = files.next().map_or(Ok(Vec::new()), |file| memfd::read_all(file.as_fd()))?;
    Ok((lifeline, StartData { preamble: Vec::new(), bytes, files: files.collect() }))
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

/// Decodes the first message to a worker.
pub(super) fn decode_orders(message: &[u8]) -> postcard::Result<Orders> {
    let orders = message.strip_prefix(Role::Worker.head()).ok_or(postcard::Error::DeserializeBadEncoding)?;
    postcard::from_bytes(orders)
}

/// The settings and files with which a worker process begins.
pub(super) struct WorkerSetup {
    pub(super) link: WorkerEnd,
    /// The worker's own arena, for its results.
    pub(super) arena: &'static Arc<Arena>,
    /// The largest payload that the pool accepts, in bytes.
    pub(super) max_payload: u64,
    /// The memory that the worker may have resident between two jobs, in bytes.
    pub(super) recycle_rss: Option<u64>,
    /// The pipes that replace standard output and standard error while a job is captured.
    pub(super) captured: [OwnedFd; 2],
    pub(super) ties: Ties,
}

/// The ties that end a worker when the pool's process ends, or when the pool cuts its lifeline.
#[derive(Debug)]
pub(super) struct Ties {
    /// The process that has started this one: the pool's, or the template.
    parent: Option<Pid>,
    /// `None` if the system does not know how to signal a hang-up.
    lifeline: Option<Hold>,
}

impl Ties {
    /// Binds this process to its parent and to the pool. Returns `None` if the pool is gone.
    fn bind(lifeline: OwnedFd, leads_group: bool) -> Option<Self> {
        let parent = rustix::process::getppid();
        let is_leader = leads_group && process::lead_group();
        match Hold::on(lifeline, is_leader) {
            Ok(None) => None,
            // Without a lifeline the worker is bound by the parent-death signal alone.
            hold => Some(Self { parent, lifeline: hold.ok().flatten() }),
        }
    }

    /// Binds this process again if a job has changed its user or group. Returns false if the parent is dead. One system
    /// call, as a rule.
    pub(super) fn renew(&self) -> bool {
        let (is_alive, has_changed) = process::still_dies_with(self.parent);
        if has_changed {
            // It fails only if a job has closed the socket.
            let _ = self.lifeline.as_ref().map(Hold::claim);
        }
        is_alive
    }

    /// Lets the programs that jobs have started outlive this process, which ends by itself.
    pub(super) fn spare_children(&mut self) {
        self.lifeline.as_mut().map(Hold::spare_group);
    }
}

/// Turns this process into the worker at the other end of `socket`, and moves its link out of the jobs' reach.
///
/// Returns `None` if the pool is gone.
pub(super) fn become_worker(socket: OwnedFd) -> io::Result<Option<WorkerSetup>> {
    #[cfg(feature = "observe")]
    crate::metrics::view::first_pool::never();
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
    let orders: Orders = decode_orders(&orders).map_err(unclear)?;
    let [ring, arena, out, err, listener, lifeline]: [OwnedFd; FILES] =
        files.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
    let Some(ties) = Ties::bind(lifeline, orders.leads_group) else { return Ok(None) };
    let size = |size: u64| usize::try_from(size).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
    let arena = Arena::adopt(Mapping::new(arena.as_fd(), size(orders.arena)?, true)?);
    arena.allow(size(orders.limits.idle_memory)?);
    let link = WorkerEnd::new(socket, listener, ring.as_fd())?;
    orders.limits.impose()?;
    let Orders { max_payload, limits: Limits { recycle_rss, .. }, .. } = orders;
    Ok(Some(WorkerSetup { link, arena, max_payload, recycle_rss, captured: [out, err], ties }))
}
