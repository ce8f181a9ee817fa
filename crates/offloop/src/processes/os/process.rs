//! Processes: starting one that dies with this one, watching it, ending it, collecting it, measuring it.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use serde::{Deserialize, Serialize};

use super::start;
use crate::base::syscall::NameCall;
use crate::core::error::WorkerExit;

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
    /// Inherits this process's variables as they are now, instead of at each start.
    pub(in crate::processes) fn inherit_now(&mut self) {
        if !self.cleared {
            let inherited = std::env::vars_os().map(|(name, value)| (name, Some(value)));
            self.variables.splice(0..0, inherited);
            self.cleared = true;
        }
    }

    /// Returns the error of a start, which the directory may be the cause of.
    fn explain(&self, error: io::Error) -> io::Error {
        match self.directory.as_ref().map(|directory| (directory, std::fs::metadata(directory))) {
            Some((directory, Err(cause))) => {
                let text =
                    format!("the workers' working directory {} cannot be used: {cause}", directory.display());
                io::Error::new(cause.kind(), text)
            }
            Some((directory, Ok(status))) if !status.is_dir() => {
                let text = format!("the workers' working directory {} is none", directory.display());
                io::Error::new(error.kind(), text)
            }
            _ => error,
        }
    }

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
    if program == start::this_program() {
        match start::arguments_of_loader()? {
            [] => command.arg0(std::env::args_os().next().unwrap_or_default()),
            arguments => command.args(arguments),
        };
    }
    env.apply(&mut command);
    if let Some(stderr) = stderr {
        command.stderr(Stdio::from(stderr));
    }
    for (descriptor, target) in [(1, Command::stdout as fn(&mut _, Stdio) -> &mut _), (2, Command::stderr)] {
        if !start::is_inherited(descriptor) {
            target(&mut command, Stdio::null());
        }
    }
    command.args(arguments).env(marker.0, marker.1).stdin(Stdio::from(socket));
    command.spawn().map(|child| child.id()).map_err(|error| env.explain(error))
}

fn process_id(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// A request to a process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::processes) enum End {
    /// SIGTERM: it may clean up first, or ignore the request.
    Ask,
    /// SIGKILL.
    Kill,
}

impl End {
    fn signal(self) -> Signal {
        match self {
            Self::Ask => Signal::TERM,
            Self::Kill => Signal::KILL,
        }
    }
}

/// The process that collects another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Collector {
    /// This process.
    Us,
    /// Another process, which waits for our word with it. Until then the process id is not used again.
    OnOurWord,
    /// Another process, at any time.
    Others,
}

/// Another process. Dropping it neither ends nor collects the process.
#[derive(Debug)]
pub(in crate::processes) struct Process {
    pid: Pid,
    pidfd: OwnedFd,
    collector: Collector,
    /// The peak memory of this process when it started the other, in bytes. What the system reports for a child
    /// includes it.
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

    /// The state of a process that could not be ended.
    pub(in crate::processes) const LOST: Self = Self { exit: WorkerExit::Lost, peak_memory: 0 };
}

impl Process {
    /// Takes over a child of this process, which no other code collects.
    pub(in crate::processes) fn of_child(pid: u32) -> io::Result<Self> {
        let baseline = peak_memory_of_this_process();
        let found = process_id(pid).ok_or(io::ErrorKind::InvalidInput)?;
        match rustix::process::pidfd_open(found, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { pid: found, pidfd, collector: Collector::Us, baseline }),
            Err(error) => {
                // A process that cannot be killed is not waited for.
                let killed = rustix::process::kill_process(found, Signal::KILL).is_ok();
                let options = if killed { WaitOptions::empty() } else { WaitOptions::NOHANG };
                let _ = rustix::process::waitpid(Some(found), options);
                Err(error).of_call("pidfd_open")
            }
        }
    }

    /// Takes over a fork of this process. Its peak memory includes what it has inherited.
    pub(in crate::processes) fn of_fork(pid: u32) -> io::Result<Self> {
        Ok(Self { baseline: 0, ..Self::of_child(pid)? })
    }

    /// Refers to a process that is not a child of this one. Its parent collects it when it is told to. Returns `None`
    /// if the id is invalid.
    pub(in crate::processes) fn of_other(pid: u32, pidfd: OwnedFd) -> Option<Self> {
        Some(Self { pid: process_id(pid)?, pidfd, collector: Collector::OnOurWord, baseline: 0 })
    }

    /// Records that the parent of the process may have collected it, so that its id may mean another process.
    pub(in crate::processes) fn may_be_collected(&mut self) {
        if self.collector == Collector::OnOurWord {
            self.collector = Collector::Others;
        }
    }

    pub(in crate::processes) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Returns the descriptor that is readable when the process has ended.
    pub(in crate::processes) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Asks the process to end, or ends it; with all of its group if it leads one and `whole_group` is set. Has no
    /// effect on one that has ended.
    ///
    /// # Errors
    ///
    /// If the system refuses the signal. Then the process goes on: the caller has to bring it to its end in another way.
    #[must_use = "a process that the system does not let us signal goes on"]
    pub(in crate::processes) fn end(&self, how: End, whole_group: bool) -> io::Result<()> {
        if whole_group && self.end_group(how).unwrap_or(false) && how == End::Ask {
            return Ok(());
        }
        // SIGKILL is sent to the process itself in any case: a job can have moved its process to another group.
        match rustix::process::pidfd_send_signal(&self.pidfd, how.signal()) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            // A sandbox may know the older call only.
            Err(_) if self.has_its_id() => match rustix::process::kill_process(self.pid, how.signal()) {
                Ok(()) | Err(Errno::SRCH) => Ok(()),
                Err(error) => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Asks the members of the group that the process leads, or has led, to end, or ends them. Returns whether there are
    /// any. An error means that the system refuses it.
    pub(in crate::processes) fn end_group(&self, how: End) -> io::Result<bool> {
        let is_there = |error: &io::Error| error.raw_os_error() != Some(libc::ESRCH);
        let sent = match self.signal_group(how.signal().as_raw()) {
            Err(error) if is_there(&error) && self.has_its_id() => {
                rustix::process::kill_process_group(self.pid, how.signal()).map_err(io::Error::from)
            }
            sent => sent,
        };
        match sent {
            Ok(()) => Ok(true),
            Err(error) if is_there(&error) => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// Returns whether the process may lead a group, or have led one. One that has ended before it could make its group
    /// has left none. To be called before the process is collected: until then it belongs to its group.
    pub(in crate::processes) fn may_lead_group(&self) -> bool {
        match self.signal_group(0) {
            Ok(()) => true,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => false,
            // The kernel does not know the call.
            Err(_) => {
                let found = || rustix::process::test_kill_process_group(self.pid);
                !self.has_its_id() || found() != Err(Errno::SRCH)
            }
        }
    }

    /// Returns whether the group can still be signalled when the process has been collected. To be called before.
    pub(in crate::processes) fn group_outlasts_it(&self) -> bool {
        self.signal_group(0).is_ok()
    }

    /// Returns whether the group, which outlasts the process, has members. To be called when the process has been
    /// collected: until then it counts itself.
    pub(in crate::processes) fn has_group(&self) -> bool {
        self.signal_group(0).is_ok()
    }

    /// Signals the group by the leader's pidfd, so that it cannot be another group. Linux 6.9 or later.
    fn signal_group(&self, signal: i32) -> io::Result<()> {
        let (pidfd, none) = (self.pidfd.as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
        // SAFETY: the call takes plain numbers, and a pointer which may be null.
        let result = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, pidfd, signal, none, PIDFD_SIGNAL_PROCESS_GROUP)
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Returns whether the process id means this process, or what is left of it, and no other one.
    pub(in crate::processes) fn has_its_id(&self) -> bool {
        match self.collector {
            // A program that ignores SIGCHLD, or that waits for any child, may have collected it.
            Collector::Us => self.wait(libc::WNOWAIT).is_ok(),
            Collector::OnOurWord => true,
            Collector::Others => false,
        }
    }

    /// Returns how the process, which has ended, has done so. It stays to be [collected](Self::collect), and its id is
    /// not used again before. Does not block.
    pub(in crate::processes) fn status(&self) -> ProcessEnd {
        self.wait(libc::WNOWAIT).ok().flatten().unwrap_or(ProcessEnd::UNKNOWN)
    }

    /// Collects the process, which has ended: its pidfd is readable. Does not block. To be called once.
    pub(in crate::processes) fn collect(&mut self) -> ProcessEnd {
        let end = self.wait(0);
        self.collector = Collector::Others;
        // A program that ignores SIGCHLD, or that waits for any child, has collected it before.
        end.ok().flatten().unwrap_or(ProcessEnd::UNKNOWN)
    }

    /// Calls `waitid`, without waiting. Returns `None` if the process has not ended.
    fn wait(&self, options: libc::c_int) -> io::Result<Option<ProcessEnd>> {
        // SAFETY: all-zero values are valid for these plain C structs.
        let (mut info, mut usage): (libc::siginfo_t, libc::rusage) = unsafe { std::mem::zeroed() };
        let (pid, options) = (self.pid.as_raw_nonzero().get(), libc::WEXITED | libc::WNOHANG | options);
        // The system call and not the function of the C library, which does not report the memory.
        // SAFETY: both pointers are to live local variables of the types that the system call writes.
        let result = unsafe {
            libc::syscall(libc::SYS_waitid, libc::P_PID, pid, &raw mut info, options, &raw mut usage)
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the system call has filled in these fields, or left them zero.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        if pid == 0 {
            return Ok(None);
        }
        let is_exit = info.si_code == libc::CLD_EXITED;
        let exit = if is_exit { WorkerExit::Code(status) } else { WorkerExit::Signal(status) };
        let peak = kilobytes(usage.ru_maxrss);
        Ok(Some(ProcessEnd { exit, peak_memory: if peak > self.baseline { peak } else { 0 } }))
    }
}

/// A flag of `pidfd_send_signal`: the signal goes to the group that the process leads.
const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 1 << 2;

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
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .of_call("prctl(PR_SET_PDEATHSIG)")?;
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

/// Makes this process die with its parent again, if the kernel has forgotten that: it does when a process changes its
/// user or group. Returns false if the parent is dead, and whether the kernel had forgotten.
pub(in crate::processes) fn still_dies_with(parent: Option<Pid>) -> (bool, bool) {
    if rustix::process::parent_process_death_signal() == Ok(Some(Signal::KILL)) {
        return (true, false);
    }
    let set = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    (set.is_err() || rustix::process::getppid() == parent, true)
}

/// Makes this process the leader of a process group of its own, to which the programs that it starts belong as well.
/// Returns whether it is one.
///
/// It is not made the leader of a session. Where sessions share the cores evenly (autogroup), the nice level of a
/// process means something only within its session.
pub(in crate::processes) fn lead_group() -> bool {
    let is_leader = rustix::process::setpgid(None, None).is_ok();
    if is_leader {
        // A terminal can be set to stop what writes to it from another group than that in the foreground.
        handle(libc::SIGTTOU, None);
    }
    is_leader
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
    // The C library reads it from memory that the kernel keeps for it. Rustix calls the kernel's own function, which it
    // does not find under Valgrind.
    // SAFETY: the function takes nothing and only returns a number; -1 if the system does not report the core.
    u32::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(u32::MAX)
}
