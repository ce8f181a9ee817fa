//! A template: a process that has done what all workers must do first, and of which they are forks.
//!
//! ```text
//! pool ── order: a number; a worker's socket, its standard error ──▶ template ── fork ──▶ worker
//!      ◀── born: the number, its process id; a pidfd ───────────────
//!      ◀── ended: its process id, how, its peak memory ─────────────
//! ```
//!
//! The template is the workers' parent, so only it can learn how they ended. It dies with the pool's process, and
//! they with it. It has one thread, which only forks and collects.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use crate::core::error::WorkerExit;
use crate::processes::limits::Surroundings;
use crate::processes::os::process::{self as sys, Ended, Process};

/// Starts a template on the given end of a socket, and says which process it is. It is a child of the thread that
/// calls this.
pub(crate) type Start = Box<dyn Fn(OwnedFd) -> io::Result<u32> + Send + Sync>;

/// The longest message, in bytes.
const LONGEST: usize = 256;

/// What the pool asks for. With it go the worker's end of its socket and, if it has one of its own, its standard error.
#[derive(Debug, Serialize, Deserialize)]
struct Order(u64);

/// What a template says.
#[derive(Debug, Serialize, Deserialize)]
enum Notice {
    /// The order's worker is there. With it goes a pidfd.
    Born { order: u64, pid: u32 },
    /// It could not be forked.
    Failed { order: u64, reason: String },
    Ended {
        pid: u32,
        /// Its exit status, or the signal that ended it; neither, if somebody else has collected it.
        code: Option<i32>,
        signal: Option<i32>,
        peak_memory: u64,
    },
}

/// What a template has done.
pub(crate) enum News {
    Born {
        order: u64,
        process: Process,
    },
    Failed {
        order: u64,
        reason: String,
    },
    Ended {
        pid: u32,
        ended: Ended,
    },
    /// It says nothing any more.
    Silent,
}

/// The pool's end.
pub(crate) struct Template {
    pub(crate) process: Process,
    pub(crate) socket: OwnedFd,
}

impl Template {
    pub(crate) fn start(start: &Start) -> io::Result<Self> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        let pid = start(theirs)?;
        Ok(Self { process: Process::of_child(pid)?, socket: ours })
    }

    /// A start of `program` as a child of this process.
    pub(crate) fn of_program(
        program: std::path::PathBuf,
        arguments: Vec<std::ffi::OsString>,
        surroundings: Surroundings,
    ) -> Start {
        Box::new(move |socket| sys::spawn(&program, &arguments, &surroundings, socket, None))
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(crate) fn order(&self, number: u64, socket: &OwnedFd, stderr: Option<&OwnedFd>) -> io::Result<()> {
        let bytes = postcard::to_stdvec(&Order(number)).map_err(io::Error::other)?;
        let mut files = vec![socket.as_fd()];
        files.extend(stderr.map(OwnedFd::as_fd));
        sys::send_with_files(self.socket(), &bytes, &files)
    }

    /// What it has said since the last time. Does not block.
    pub(crate) fn news(&self) -> Vec<News> {
        let mut news = Vec::new();
        loop {
            match sys::receive_with_files(self.socket(), LONGEST) {
                Ok((bytes, _)) if bytes.is_empty() => news.push(News::Silent),
                Ok((bytes, files)) => {
                    if let Some(understood) = understand(&bytes, files) {
                        news.push(understood);
                        continue;
                    }
                    news.push(News::Silent);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => news.push(News::Silent),
            }
            return news;
        }
    }
}

fn understand(bytes: &[u8], files: Vec<OwnedFd>) -> Option<News> {
    Some(match postcard::from_bytes(bytes).ok()? {
        Notice::Born { order, pid } => {
            News::Born { order, process: Process::of_other(pid, files.into_iter().next()?)? }
        }
        Notice::Failed { order, reason } => News::Failed { order, reason },
        Notice::Ended { pid, code, signal, peak_memory } => {
            let exit =
                code.map(WorkerExit::Code).or(signal.map(WorkerExit::Signal)).unwrap_or(WorkerExit::Unknown);
            News::Ended { pid, ended: Ended { exit, peak_memory } }
        }
    })
}

/// Whether an error of the socket means that nobody is at its other end.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// The template's own end: forks by `fork` when the pool asks for a worker. In a worker it returns what that is to
/// be; in the template `None`, when the pool has gone.
pub(crate) fn serve(
    socket: &OwnedFd,
    fork: impl FnMut() -> io::Result<u32>,
) -> io::Result<Option<(OwnedFd, Option<OwnedFd>)>> {
    match serve_until_error(socket, fork) {
        Err(error) if is_gone(&error) => Ok(None),
        end => end,
    }
}

fn serve_until_error(
    socket: &OwnedFd,
    mut fork: impl FnMut() -> io::Result<u32>,
) -> io::Result<Option<(OwnedFd, Option<OwnedFd>)>> {
    let mut children: HashMap<u32, Process> = HashMap::new();
    loop {
        let mut descriptors = vec![sys::watch(socket.as_fd())];
        let pids: Vec<u32> = children.keys().copied().collect();
        descriptors.extend(pids.iter().map(|pid| sys::watch(children[pid].pidfd())));
        sys::poll(&mut descriptors, None)?;
        let ready: Vec<bool> = descriptors
            .iter()
            .map(|it| it.revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR))
            .collect();
        drop(descriptors);
        for pid in pids.iter().zip(&ready[1..]).filter(|(_, ready)| **ready).map(|(pid, _)| pid) {
            let Some(child) = children.remove(pid) else { continue };
            let Ended { exit, peak_memory } = child.collect();
            let (code, signal) = match exit {
                WorkerExit::Code(code) => (Some(code), None),
                WorkerExit::Signal(signal) => (None, Some(signal)),
                WorkerExit::Protocol | WorkerExit::Unknown => (None, None),
            };
            tell(socket, &Notice::Ended { pid: *pid, code, signal, peak_memory }, &[])?;
        }
        if !ready[0] {
            continue;
        }
        let (bytes, files) = sys::receive_with_files(socket.as_fd(), LONGEST)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let Order(order) = postcard::from_bytes(&bytes).map_err(io::Error::other)?;
        let mut files = files.into_iter();
        let link = files.next().ok_or(io::ErrorKind::InvalidData)?;
        match fork() {
            Ok(0) => return Ok(Some((link, files.next()))),
            Ok(pid) => {
                let child = Process::of_fork(pid)?;
                tell(socket, &Notice::Born { order, pid }, &[child.pidfd()])?;
                children.insert(pid, child);
            }
            Err(error) => {
                let reason: String = error.to_string().chars().take(50).collect();
                tell(socket, &Notice::Failed { order, reason }, &[])?;
            }
        }
    }
}

fn tell(socket: &OwnedFd, notice: &Notice, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = postcard::to_stdvec(notice).map_err(io::Error::other)?;
    sys::send_with_files(socket.as_fd(), &bytes, files)
}
