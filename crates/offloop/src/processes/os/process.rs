//! Processes: starting one that dies with this one, watching it, ending it, collecting it, measuring it.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use crate::core::error::WorkerExit;

/// Returns the path of the running executable, which is valid even if its file was replaced or removed meanwhile.
pub(in crate::processes) fn this_program() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

/// The directory and the environment that a program is started in.
#[derive(Debug, Clone, Default)]
pub(in crate::processes) struct SpawnEnv {
    /// The working directory. `None`: that of this process.
    pub(in crate::processes) directory: Option<PathBuf>,
    /// Variables that are set, or removed where there is no value. Applied in this order.
    pub(in crate::processes) variables: Vec<(OsString, Option<OsString>)>,
    /// No variable is inherited from this process.
    pub(in crate::processes) cleared: bool,
}

impl SpawnEnv {
    fn apply(&self, command: &mut Command) {
        if self.cleared {
            command.env_clear();
        }
        for (name, value) in &self.variables {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
    }
}

/// Starts a program with `socket` as its standard input, and with the environment variable `marker` set in addition to
/// `env`. Returns its process id. The caller has to collect it.
///
/// Standard input is the one descriptor that every way of starting a process hands over; all others are close-on-exec.
///
/// To be called on a thread that outlives the process: the kernel kills the process when the *thread* that started it
/// ends.
pub(in crate::processes) fn spawn(
    program: &Path,
    arguments: &[OsString],
    env: &SpawnEnv,
    marker: (&str, &str),
    socket: OwnedFd,
    stderr: Option<OwnedFd>,
) -> io::Result<u32> {
    let mut command = Command::new(program);
    if let Some(name) = std::env::args_os().next().filter(|_| program == this_program()) {
        command.arg0(name);
    }
    env.apply(&mut command);
    if let Some(stderr) = stderr {
        command.stderr(Stdio::from(stderr));
    }
    command.args(arguments).env(marker.0, marker.1).stdin(Stdio::from(socket));
    Ok(command.spawn()?.id())
}

fn process_id(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// Another process. Dropping it neither ends nor collects the process.
#[derive(Debug)]
pub(in crate::processes) struct Process {
    pid: Pid,
    pidfd: OwnedFd,
    /// The peak memory of this process when it started the other, in bytes. What `wait4` reports for a child includes
    /// it.
    baseline: u64,
}

/// How a process ended.
#[derive(Debug, Clone, Copy)]
pub(in crate::processes) struct ProcessEnd {
    pub(in crate::processes) exit: WorkerExit,
    /// The most memory that it had resident, in bytes; 0 if unknown.
    pub(in crate::processes) peak_memory: u64,
}

impl ProcessEnd {
    /// The end of a process about which nothing was reported.
    pub(in crate::processes) const UNKNOWN: Self = Self { exit: WorkerExit::Unknown, peak_memory: 0 };
}

impl Process {
    /// Takes over a child of this process, which no other code collects.
    pub(in crate::processes) fn of_child(pid: u32) -> io::Result<Self> {
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

    /// Takes over a fork of this process. Its peak memory includes what it has inherited.
    pub(in crate::processes) fn of_fork(pid: u32) -> io::Result<Self> {
        Ok(Self { baseline: 0, ..Self::of_child(pid)? })
    }

    /// Refers to a process that is not a child of this one, so that another process collects it. Returns `None` if the
    /// id is invalid.
    pub(in crate::processes) fn of_other(pid: u32, pidfd: OwnedFd) -> Option<Self> {
        Some(Self { pid: process_id(pid)?, pidfd, baseline: 0 })
    }

    pub(in crate::processes) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Returns the descriptor that is readable when the process has ended.
    pub(in crate::processes) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Asks the process to end (SIGTERM). Has no effect on one that has ended.
    pub(in crate::processes) fn terminate(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::TERM);
    }

    /// Ends the process (SIGKILL).
    pub(in crate::processes) fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Collects the process, which has ended: its pidfd is readable. Does not block. To be called once.
    pub(in crate::processes) fn collect(&self) -> ProcessEnd {
        let mut status = 0;
        // SAFETY: an all-zero `rusage` is a valid value of this plain C struct.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are to live local variables of the types that `wait4` writes.
        let collected = unsafe {
            libc::wait4(self.pid.as_raw_nonzero().get(), &raw mut status, libc::WNOHANG, &raw mut usage)
        };
        if collected <= 0 {
            // A program that ignores SIGCHLD, or that waits for any child, has collected it before.
            return ProcessEnd::UNKNOWN;
        }
        let exit = if libc::WIFSIGNALED(status) {
            WorkerExit::Signal(libc::WTERMSIG(status))
        } else {
            WorkerExit::Code(libc::WEXITSTATUS(status))
        };
        let peak = kilobytes(usage.ru_maxrss);
        ProcessEnd { exit, peak_memory: if peak > self.baseline { peak } else { 0 } }
    }
}

fn kilobytes(count: libc::c_long) -> u64 {
    u64::try_from(count).unwrap_or(0) * 1024
}

/// Returns the memory that a process has resident for itself, in bytes; 0 if the system does not report it. Memory that
/// it shares with other processes is not included, in particular the arenas.
pub(in crate::processes) fn memory_of(pid: u32) -> u64 {
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

/// Returns the number of processes that the kernel has killed for lack of memory since boot, on the whole system.
pub(in crate::processes) fn out_of_memory_kills() -> u64 {
    let statistics = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let count = statistics.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// Makes this process die when `parent`, which has started it, dies. Returns false if that is dead already.
pub(in crate::processes) fn die_with(parent: u32) -> io::Result<bool> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before the line above. Then this process has another parent.
    Ok(is_child_of(parent))
}

/// Returns whether `parent` has started this process and is alive.
pub(in crate::processes) fn is_child_of(parent: u32) -> bool {
    rustix::process::getppid() == process_id(parent)
}

/// Returns whether this program was started with more rights than the user has who started it: it is set-user-ID or
/// set-group-ID, has file capabilities, or a security module says so. Then nothing in its environment may be trusted.
pub(in crate::processes) fn is_privileged() -> bool {
    // SAFETY: the function only reads a number that the kernel has given this process. It knows `AT_SECURE`.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Removes an environment variable, so that programs which this one starts do not inherit it. Leaves it if this process
/// has several threads, of which another might be reading the environment.
pub(in crate::processes) fn remove_variable(name: &str) {
    let is_single = std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    if is_single {
        // SAFETY: this is the only thread, as was just checked, so no other one uses the environment.
        unsafe { std::env::remove_var(name) };
    }
}

/// Leaves Ctrl-C to the parent. The terminal sends it to the whole foreground group, and the parent decides what
/// becomes of the jobs then.
pub(in crate::processes) fn leave_ctrl_c_to_the_parent() {
    handle(libc::SIGINT, Some(do_nothing));
}

/// Ignores SIGPIPE, as Rust's runtime does.
pub(in crate::processes) fn ignore_sigpipe() {
    handle(libc::SIGPIPE, None);
}

/// An empty handler rather than `SIG_IGN`, which the programs that a job starts would inherit.
extern "C" fn do_nothing(_: libc::c_int) {}

/// Handles a signal in this process, or ignores it if there is no handler.
fn handle(signal: libc::c_int, handler: Option<extern "C" fn(libc::c_int)>) {
    // SAFETY: an all-zero `sigaction` is a valid value of this plain C struct: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler.map_or(libc::SIG_IGN, |handler| handler as libc::sighandler_t);
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the action is a live local variable, and its handler does nothing.
    unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
}

/// Returns whether this is the first thread of its process.
pub(in crate::processes) fn is_first_thread() -> bool {
    rustix::thread::gettid() == rustix::process::getpid()
}

/// Returns the core that this thread runs on at the moment.
pub(in crate::processes) fn this_core() -> u32 {
    u32::try_from(rustix::thread::sched_getcpu()).unwrap_or(u32::MAX)
}
