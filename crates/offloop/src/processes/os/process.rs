//! What is asked of Linux: starting a process that dies with us, watching it, ending it, collecting it.
//!
//! The one place to port. Everything else in the pool is plain Rust over file descriptors.

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use serde::{Deserialize, Serialize};

use crate::core::error::WorkerExit;
use crate::processes::limits::{Limits, Surroundings};
use crate::processes::link::{Link, WorkerEnd};
use crate::wire::arena::Arena;
use crate::wire::memfd::Mapping;

/// The environment variable that makes a copy of this program a worker. Its value is its parent's process id.
pub(crate) const MARKER: &str = "OFFLOOP_WORKER";

/// What a worker is told in the first message on its socket, beside the descriptors of its [`Handout`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Orders {
    /// The sizes of the parent's arena and of the worker's own, in bytes.
    pub(crate) arenas: (u64, u64),
    /// The largest payload that the parent accepts, in bytes.
    pub(crate) max_payload: u64,
    pub(crate) limits: Limits,
}

/// The running executable, even if its file was replaced or removed meanwhile.
pub(crate) fn this_program() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

/// A worker process. Dropping it neither ends nor collects it: its supervisor does both.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    pidfd: OwnedFd,
    /// Our own peak memory when it was started: what `wait4` reports for it counts that in.
    baseline: u64,
}

/// Sends a new worker its orders, before it is there.
pub(crate) fn instruct(
    orders: &Orders,
    link: &Link,
    files: &[OwnedFd; 2],
    captured: &[OwnedFd; 2],
    listener: BorrowedFd<'_>,
) -> io::Result<()> {
    let arena = Arena::of_this_process().ok_or_else(no_shared_memory)?;
    let ([ring, own], [out, err]) = (files, captured);
    let files = [ring.as_fd(), own.as_fd(), arena.for_readers(), out.as_fd(), err.as_fd(), listener];
    send_with_files(link.socket(), &postcard::to_stdvec(orders).map_err(io::Error::other)?, &files)
}

/// Starts a program with a socket as its standard input: the one descriptor that every way of starting a process
/// hands over, all others being close-on-exec. It moves it away before any job runs. Returns its process id; it is
/// not collected here.
///
/// To be called on a thread that outlives the process: the kernel ends it when the *thread* that started it is gone.
pub(crate) fn spawn(
    program: &Path,
    arguments: &[OsString],
    surroundings: &Surroundings,
    socket: OwnedFd,
    stderr: Option<OwnedFd>,
) -> io::Result<u32> {
    let mut command = Command::new(program);
    if let Some(name) = std::env::args_os().next().filter(|_| program == this_program()) {
        command.arg0(name);
    }
    surroundings.apply(&mut command);
    if let Some(stderr) = stderr {
        command.stderr(Stdio::from(stderr));
    }
    command.args(arguments).env(MARKER, std::process::id().to_string()).stdin(Stdio::from(socket));
    Ok(command.spawn()?.id())
}

fn no_shared_memory() -> io::Error {
    io::Error::new(io::ErrorKind::OutOfMemory, "the system gives no shared memory")
}

pub(crate) fn send_with_files(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    files: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(files));
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    if sent < bytes.len() { Err(io::ErrorKind::WriteZero.into()) } else { Ok(()) }
}

pub(crate) fn receive_with_files(
    socket: BorrowedFd<'_>,
    longest: usize,
) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; longest];
    let message = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    bytes.truncate(message.bytes);
    let files = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    Ok((bytes, files.flatten().collect()))
}

fn process_id(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// How many descriptors go with the orders.
const FILES: usize = 6;

/// How a process ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) exit: WorkerExit,
    /// In bytes; 0 if unknown.
    pub(crate) peak_memory: u64,
}

impl Process {
    /// A child of this process, which nobody else collects.
    pub(crate) fn of_child(pid: u32) -> io::Result<Self> {
        let baseline = peak_memory_of_this_process();
        let found = process_id(pid).ok_or(io::ErrorKind::InvalidInput)?;
        match rustix::process::pidfd_open(found, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { pid: found, pidfd, baseline }),
            Err(error) => {
                let _ = rustix::process::kill_process(found, Signal::KILL);
                let _ = rustix::process::waitpid(Some(found), WaitOptions::empty());
                Err(error.into())
            }
        }
    }

    /// The same for a fork of this process: what this one has used is not counted in.
    pub(crate) fn of_fork(pid: u32) -> io::Result<Self> {
        Ok(Self { baseline: 0, ..Self::of_child(pid)? })
    }

    /// A process that is not a child of this one: somebody else collects it. `None` if there can be no such process.
    pub(crate) fn of_other(pid: u32, pidfd: OwnedFd) -> Option<Self> {
        Some(Self { pid: process_id(pid)?, pidfd, baseline: 0 })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Becomes readable when the process has ended.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Asks it to end (SIGTERM). No effect on one that has ended.
    pub(crate) fn terminate(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::TERM);
    }

    /// Ends it (SIGKILL).
    pub(crate) fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Collects an ended process. To be called once, when the pidfd is readable; does not block then.
    pub(crate) fn collect(&self) -> Ended {
        let mut status = 0;
        // SAFETY: an all-zero `rusage` is a valid value of this plain C struct.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are to live local variables of the types that `wait4` writes.
        let got = unsafe {
            libc::wait4(self.pid.as_raw_nonzero().get(), &raw mut status, libc::WNOHANG, &raw mut usage)
        };
        if got <= 0 {
            // A host program that ignores SIGCHLD or waits for any child has collected it before us.
            return Ended { exit: WorkerExit::Unknown, peak_memory: 0 };
        }
        let exit = if libc::WIFSIGNALED(status) {
            WorkerExit::Signal(libc::WTERMSIG(status))
        } else {
            WorkerExit::Code(libc::WEXITSTATUS(status))
        };
        let peak = kilobytes(usage.ru_maxrss);
        Ended { exit, peak_memory: if peak > self.baseline { peak } else { 0 } }
    }
}

fn kilobytes(count: libc::c_long) -> u64 {
    u64::try_from(count).unwrap_or(0) * 1024
}

/// The memory that a process has for itself at the moment, in bytes; 0 if the system does not say. What it shares
/// with others, the arenas above all, is not counted.
pub(crate) fn memory_of(pid: u32) -> u64 {
    let pages = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let mut counts = pages.split(' ').skip(1).map_while(|count| count.parse::<u64>().ok());
    let (resident, shared) = (counts.next().unwrap_or(0), counts.next().unwrap_or(0));
    resident.saturating_sub(shared) * rustix::param::page_size() as u64
}

fn peak_memory_of_this_process() -> u64 {
    // SAFETY: an all-zero `rusage` is a valid value of this plain C struct.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live local variable of the type that `getrusage` writes.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    kilobytes(usage.ru_maxrss)
}

/// How many processes the kernel has killed for want of memory since boot, on the whole system.
pub(crate) fn out_of_memory_kills() -> u64 {
    let statistics = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let count = statistics.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// Wakes a supervisor from other threads.
#[derive(Debug)]
pub(crate) struct Bell(OwnedFd);

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub(crate) fn ring(&self) {
        // Fails only when the counter is full, and then it is ringing.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    pub(crate) fn silence(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until one of the descriptors is ready or `limit` has passed.
pub(crate) fn poll(descriptors: &mut [PollFd<'_>], limit: Option<Duration>) -> io::Result<()> {
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

pub(crate) fn watch(descriptor: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::from_borrowed_fd(descriptor, PollFlags::IN)
}

/// Whether `descriptor` becomes readable within `limit`. An error counts as readable: whoever reads will see it.
pub(crate) fn is_readable_within(descriptor: BorrowedFd<'_>, limit: Duration) -> bool {
    let mut watched = [watch(descriptor)];
    poll(&mut watched, Some(limit)).is_err() || !watched[0].revents().is_empty()
}

/// What a worker starts with.
pub(crate) struct Start {
    pub(crate) link: WorkerEnd,
    pub(crate) arena: &'static Arena,
    pub(crate) max_payload: u64,
    /// Where standard output and error go while a job is captured.
    pub(crate) captured: [OwnedFd; 2],
}

/// While it lives, standard output and error go elsewhere.
pub(crate) struct Diversion {
    usual: [OwnedFd; 2],
}

impl Diversion {
    pub(crate) fn begin(captured: &[OwnedFd; 2]) -> io::Result<Self> {
        let keep = |descriptor: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(descriptor, 3);
        let usual = [keep(rustix::stdio::stdout())?, keep(rustix::stdio::stderr())?];
        rustix::stdio::dup2_stdout(&captured[0])?;
        rustix::stdio::dup2_stderr(&captured[1])?;
        Ok(Self { usual })
    }
}

impl Drop for Diversion {
    fn drop(&mut self) {
        let _ = rustix::stdio::dup2_stdout(&self.usual[0]);
        let _ = rustix::stdio::dup2_stderr(&self.usual[1]);
    }
}

/// A pipe whose first end, the reading one, does not block.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&read, true)?;
    Ok((read, write))
}

/// Reads what is there. `None` if that is nothing at the moment, or nothing any more, which is noted in `ended`.
pub(crate) fn read_now<'a>(pipe: &OwnedFd, buffer: &'a mut [u8], ended: &mut bool) -> Option<&'a [u8]> {
    loop {
        match rustix::io::read(pipe, &mut *buffer) {
            Ok(0) => *ended = true,
            Ok(count) => return Some(&buffer[..count]),
            Err(rustix::io::Errno::INTR) => continue,
            Err(rustix::io::Errno::AGAIN) => {}
            Err(_) => *ended = true,
        }
        return None;
    }
}

/// Has this process die with `parent`, which has started it. False if that is dead already.
pub(crate) fn die_with(parent: u32) -> io::Result<bool> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before the line above; its children have another parent then.
    Ok(rustix::process::getppid() == process_id(parent))
}

/// Takes the socket that this process was started with away from its standard input, where nothing is then.
pub(crate) fn move_stdin() -> io::Result<OwnedFd> {
    let stdin = rustix::stdio::stdin();
    let socket = rustix::io::fcntl_dupfd_cloexec(stdin, 3)?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(socket)
}

/// Turns this process into the worker at the other end of `socket`; its link is out of its jobs' reach.
pub(crate) fn become_worker(socket: OwnedFd) -> io::Result<Start> {
    leave_ctrl_c_to_the_parent();
    // As Rust's runtime has it, which has not begun yet where `init` runs before `main`.
    handle(libc::SIGPIPE, None);
    let socket = UnixStream::from(socket);
    let _ = rustix::thread::set_name(c"offloop-worker");

    let (orders, files) = receive_with_files(socket.as_fd(), 4096)?;
    let unclear =
        |_| io::Error::new(io::ErrorKind::InvalidData, "its orders make no sense; is it the same build?");
    let orders: Orders = postcard::from_bytes(&orders).map_err(unclear)?;
    let [ring, own, parents, out, err, listener]: [OwnedFd; FILES] =
        files.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
    let size = |size: u64| usize::try_from(size).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
    let mapping = Mapping::new(own.as_fd(), size(orders.arenas.1)?, true)?;
    let arena = Arena::adopt(&own, mapping)?;
    arena.allow(size(orders.limits.retained)?);
    let calls = Mapping::new(parents.as_fd(), size(orders.arenas.0)?, false)?.keep_file(parents.as_fd())?;
    let link = WorkerEnd::new(socket, listener, ring.as_fd(), calls)?;
    orders.limits.impose()?;
    Ok(Start { link, arena, max_payload: orders.max_payload, captured: [out, err] })
}

/// Ctrl-C goes to the whole foreground group; what becomes of the jobs then is the parent's decision.
pub(crate) fn leave_ctrl_c_to_the_parent() {
    handle(libc::SIGINT, Some(do_nothing));
}

/// An empty handler rather than `SIG_IGN`, which the programs that a job starts would inherit.
extern "C" fn do_nothing(_: libc::c_int) {}

/// Handles a signal in this process, or ignores it.
fn handle(signal: libc::c_int, handler: Option<extern "C" fn(libc::c_int)>) {
    // SAFETY: an all-zero `sigaction` is a valid value of this plain C struct: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler.map_or(libc::SIG_IGN, |handler| handler as libc::sighandler_t);
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the action is a live local variable, and its handler does nothing.
    unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
}

/// Whether this is the first thread of its process.
pub(crate) fn is_first_thread() -> bool {
    rustix::thread::gettid() == rustix::process::getpid()
}
