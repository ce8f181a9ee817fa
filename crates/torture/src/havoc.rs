//! What jobs do to their worker's process, beyond what a job may: by system calls, without the library.

use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::clock::Moment;
use crate::payload;
use crate::run_log;

/// The user and the group without rights.
const NOBODY: u32 = 65534;

/// The fair time for which a process that is left behind lives if nobody ends it: longer than the oracle allows, and
/// shorter than the run waits for its end.
const LEFT_BEHIND: Duration = Duration::from_secs(8);

/// The same in real time, in case the fair clock stands still because the run has ended.
const LEFT_BEHIND_AT_MOST: Duration = Duration::from_secs(120);

/// Forks. The child calls `body` and exits, also if `body` panics; this process goes on at once.
pub(crate) fn fork(body: impl FnOnce()) {
    // SAFETY: the child has this thread only. It uses no lock that another thread may have held but that of the
    // allocator, which is made for forks, and it exits without running destructors of what it inherited. If the system
    // grants no child, there is nothing to do.
    if unsafe { libc::fork() } == 0 {
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        // SAFETY: ends this process at once; no code runs afterwards.
        unsafe { libc::_exit(0) }
    }
}

/// Starts a process that lives on, and records that it does.
pub(crate) fn leave_a_process_behind(number: u64) {
    fork(|| {
        let began = Moment::now();
        let is_over = |now: Moment| {
            now.fair >= began.fair + LEFT_BEHIND || now.real >= began.real + LEFT_BEHIND_AT_MOST
        };
        while !is_over(Moment::now()) {
            run_log::see_child(number);
            std::thread::sleep(Duration::from_millis(50));
        }
    });
}

/// Collects the children of this process that have ended. It may have none.
pub(crate) fn collect_children() {
    // SAFETY: a null pointer asks for no status.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
}

/// Gives up the rights of root, if this process has them.
pub(crate) fn drop_privileges() {
    // SAFETY: these calls take plain numbers, and a null pointer for a list of no groups.
    unsafe {
        if libc::geteuid() == 0 {
            // Without one of the rights it keeps them all, or some: that is nothing that a job could complain of.
            let _ = (libc::setgroups(0, std::ptr::null()), libc::setgid(NOBODY), libc::setuid(NOBODY));
        }
    }
}

/// Returns whether a job in this process has given up the rights that the run was started with.
pub(crate) fn has_lost_privileges() -> bool {
    // SAFETY: takes nothing and returns a number.
    unsafe { libc::geteuid() == NOBODY }
}

/// Makes this process deaf to signals, in one of several ways.
pub(crate) fn lose_signals(variant: u64) {
    const ASKING_TO_END: [libc::c_int; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGCHLD];
    // SAFETY: ignoring a signal installs no handler, and the set is filled before it is used.
    unsafe {
        if variant % 3 != 1 {
            for signal in ASKING_TO_END {
                libc::signal(signal, libc::SIG_IGN);
            }
        }
        if variant % 3 != 0 {
            let mut all = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
        }
    }
}

/// Ends this process by a signal.
pub(crate) fn raise(signal: libc::c_int) -> ! {
    // SAFETY: the set is filled before it is used; the rest are plain numbers.
    unsafe {
        // An earlier job may have blocked it.
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const all, std::ptr::null_mut());
        loop {
            // The first SIGSEGV goes to the handler of the standard library, which lets the second one through.
            libc::raise(signal);
        }
    }
}

pub(crate) fn ignore_sigterm() {
    // SAFETY: ignoring a signal installs no handler.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
}

pub(crate) fn close_all() {
    // SAFETY: a closed descriptor leaves all memory valid. Code that uses one fails, as this job intends.
    unsafe { libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) };
}

pub(crate) fn exhaust_memory() -> ! {
    const MARGIN: u64 = 48 << 20;
    // Limits data, not the address space: a pool that an earlier job left behind may still unmap 64 GiB of it.
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = pages.split(' ').nth(5).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    let bytes = Some(pages * rustix::param::page_size() as u64 + MARGIN);
    let _ = setrlimit(Resource::Data, Rlimit { current: bytes, maximum: bytes });
    let mut hoard = Vec::new();
    loop {
        hoard.push(std::hint::black_box(vec![1u8; 1 << 20]));
    }
}

/// Writes garbage to every descriptor above 2 that takes it without blocking.
pub(crate) fn write_garbage(number: u64) {
    let garbage = match number / 2 % 5 {
        0 => vec![0xab; 4096],
        1 => vec![0xff; 100],
        2 => vec![0; 64 << 10],
        3 => 1_u64.to_le_bytes().repeat(100),
        _ => payload::pattern(number, 10_000),
    };
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let descriptors: Vec<RawFd> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for descriptor in descriptors.into_iter().filter(|descriptor| *descriptor > 2) {
        // SAFETY: a descriptor that is no longer open is refused by the kernel; nothing else is done with it.
        let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
        let mut polled = [PollFd::new(&descriptor, PollFlags::OUT)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut polled, Some(&at_once)).is_ok() && polled[0].revents().contains(PollFlags::OUT) {
            let _ = rustix::io::write(descriptor, &garbage);
        }
    }
}
