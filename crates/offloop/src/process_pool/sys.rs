//! What is asked of Linux: starting a process that dies with us, watching it, ending it, collecting it.
//!
//! The one place to port. Everything else in the pool is plain Rust over file descriptors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::error::Exit;

/// The environment variable that makes a copy of this program a worker. Its value is its [`Orders`].
pub(super) const MARKER: &str = "OFFLOOP_WORKER";

/// What a worker must know before it can read frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Orders {
    pub(super) parent: u32,
    /// The longest payload that the parent accepts, in bytes.
    pub(super) max_payload: u32,
}

impl Orders {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (parent, max_payload) = text.split_once(':')?;
        Some(Self { parent: parent.parse().ok()?, max_payload: max_payload.parse().ok()? })
    }
}

impl std::fmt::Display for Orders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.parent, self.max_payload)
    }
}

/// The running executable, even if its file was replaced or removed meanwhile.
pub(super) fn this_program() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

/// A worker process. Dropping it neither ends nor collects it: its supervisor does both.
#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    pidfd: OwnedFd,
    /// Our own peak memory when it was started: what `wait4` reports for it counts that in.
    baseline: u64,
}

/// Starts `program` as a worker on the other end of the returned link.
///
/// To be called on a thread that outlives the worker: the kernel ends a worker when the *thread* that
/// started it is gone.
pub(super) fn start(program: &Path, max_payload: u32) -> io::Result<(Process, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let baseline = peak_memory_of_this_process();
    let name = std::env::args_os().next().unwrap_or_else(|| program.into());
    // The link is the worker's standard input: the one descriptor that every way of starting a process hands
    // over, all others being close-on-exec. The worker moves it away before any job runs.
    let child = Command::new(program)
        .arg0(name)
        .env(MARKER, Orders { parent: std::process::id(), max_payload }.to_string())
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()?;
    let pid = Pid::from_child(&child);
    match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Ok((Process { pid, pidfd, baseline }, ours)),
        Err(error) => {
            let mut child = child;
            let _ = child.kill();
            let _ = child.wait();
            Err(error.into())
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    pub(super) exit: Exit,
    /// In bytes; 0 if unknown.
    pub(super) peak_memory: u64,
}

impl Process {
    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Becomes readable when the process has ended.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Asks it to end (SIGTERM). No effect on one that has ended.
    pub(super) fn terminate(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::TERM);
    }

    /// Ends it (SIGKILL).
    pub(super) fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Collects an ended process. To be called once, when the pidfd is readable; does not block then.
    pub(super) fn collect(&self) -> Ended {
        let mut status = 0;
        // SAFETY: an all-zero `rusage` is a valid value of this plain C struct.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are to live local variables of the types that `wait4` writes.
        let got = unsafe {
            libc::wait4(self.pid.as_raw_nonzero().get(), &raw mut status, libc::WNOHANG, &raw mut usage)
        };
        if got <= 0 {
            // A host program that ignores SIGCHLD or waits for any child has collected it before us.
            return Ended { exit: Exit::Unknown, peak_memory: 0 };
        }
        let exit = if libc::WIFSIGNALED(status) {
            Exit::Signal(libc::WTERMSIG(status))
        } else {
            Exit::Code(libc::WEXITSTATUS(status))
        };
        let peak = kilobytes(usage.ru_maxrss);
        Ended { exit, peak_memory: if peak > self.baseline { peak } else { 0 } }
    }
}

fn kilobytes(count: libc::c_long) -> u64 {
    u64::try_from(count).unwrap_or(0) * 1024
}

fn peak_memory_of_this_process() -> u64 {
    // SAFETY: an all-zero `rusage` is a valid value of this plain C struct.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live local variable of the type that `getrusage` writes.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    kilobytes(usage.ru_maxrss)
}

/// How many processes the kernel has killed for want of memory since boot, on the whole system.
pub(super) fn out_of_memory_kills() -> u64 {
    let statistics = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let count = statistics.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// Wakes a supervisor from other threads.
#[derive(Debug)]
pub(super) struct Bell(OwnedFd);

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub(super) fn ring(&self) {
        // Fails only when the counter is full, and then it is ringing.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    pub(super) fn silence(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until one of the descriptors is ready or `limit` has passed.
pub(super) fn poll(descriptors: &mut [PollFd<'_>], limit: Option<Duration>) -> io::Result<()> {
    // Rounded up, so that a deadline has passed when the wait for it ends.
    let limit = limit.map(|limit| {
        let limit = limit.saturating_add(Duration::from_micros(1));
        Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        }
    });
    match rustix::event::poll(descriptors, limit.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn watch(descriptor: BorrowedFd<'_>, write: bool) -> PollFd<'_> {
    let flags = if write { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
    PollFd::from_borrowed_fd(descriptor, flags)
}

/// Turns this process into a worker: it dies with its parent, and its link is out of its jobs' reach.
/// `None` if the parent is dead already.
pub(super) fn become_worker(parent: u32) -> io::Result<Option<UnixStream>> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before the line above; its children have another parent then.
    if rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs()) != Some(parent) {
        return Ok(None);
    }
    leave_ctrl_c_to_the_parent();
    let stdin = rustix::stdio::stdin();
    let link = rustix::io::fcntl_dupfd_cloexec(stdin, 3)?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    let _ = rustix::thread::set_name(c"offloop-worker");
    Ok(Some(UnixStream::from(link)))
}

/// Ctrl-C goes to the whole foreground group; what becomes of the jobs then is the parent's decision.
///
/// An empty handler rather than `SIG_IGN`, which the programs that a job starts would inherit.
fn leave_ctrl_c_to_the_parent() {
    extern "C" fn nothing(_: libc::c_int) {}
    let handler: extern "C" fn(libc::c_int) = nothing;
    // SAFETY: an all-zero `sigaction` is a valid value of this plain C struct: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the action is a live local variable, and its handler does nothing.
    unsafe { libc::sigaction(libc::SIGINT, &raw const action, std::ptr::null_mut()) };
}
