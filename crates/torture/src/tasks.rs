//! The jobs: each records its begin and end in the run log and does what its kind says.

use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

use offloop::ProcessPool;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::payload::{self, mix};
use crate::plan::Kind;
use crate::run_log::record;

/// How the message of every planned panic begins.
pub(crate) const PLANNED_PANIC: &str = "as planned, job ";

/// The exit status of a job whose worker should have been killed for what it did, and was not within [`LINGER`].
pub(crate) const NOT_KILLED: i32 = 117;

const LINGER: Duration = Duration::from_millis(500);

#[offloop::task]
pub(crate) fn set_up() {
    std::hint::black_box(std::process::id());
}

#[offloop::task]
pub(crate) fn echo(number: u64, argument: &[u8], sent: usize, wanted: usize) -> Vec<u8> {
    record(number, || {
        if let Err(fault) = payload::check_argument(argument, number, sent) {
            panic!("the argument of job {number} is damaged: {fault}");
        }
        payload::result(number, wanted)
    })
}

#[offloop::task]
pub(crate) fn nap(number: u64, millis: u64) -> Vec<u8> {
    record(number, || {
        std::thread::sleep(Duration::from_millis(millis));
        payload::result(number, 0)
    })
}

#[offloop::task]
pub(crate) fn compute(number: u64, millis: u64) -> Vec<u8> {
    record(number, || {
        let rounds = millis * 100_000;
        std::hint::black_box((0..rounds).fold(number, |value, round| mix(value ^ round)));
        payload::result(number, 0)
    })
}

#[offloop::task]
pub(crate) fn chatter(number: u64, lines: u64) -> Vec<u8> {
    record(number, || {
        for line in 0..lines {
            println!("job {number} prints line {line}");
            eprintln!("job {number} prints error line {line}");
        }
        print!("and this line does not end");
        for stream in [rustix::stdio::stdout(), rustix::stdio::stderr()] {
            let _ = rustix::io::write(stream, &[0xff; 3000]);
        }
        payload::result(number, 0)
    })
}

/// Runs the job `inner` in a pool of its own, which it shuts down or drops.
#[offloop::task]
pub(crate) fn nest(number: u64, inner: u64, shuts_down: bool) -> Vec<u8> {
    record(number, || {
        let pool =
            ProcessPool::builder().max_workers(1).build().expect("a worker can have a pool of its own");
        let result = pool.run(nap.with(inner, 1)).wait_timeout(Duration::from_secs(20));
        let value = result.expect("the inner job ends in time").expect("the inner job returns");
        assert_eq!(value, payload::result(inner, 0), "the inner job returned another job's value");
        if shuts_down {
            let report = pool.shutdown(Duration::from_secs(5)).wait_timeout(Duration::from_secs(20));
            report.expect("the inner pool shuts down in time").expect("the inner pool reports");
        }
        payload::result(number, 0)
    })
}

/// Does what a job should not do.
#[offloop::task]
pub(crate) fn misbehave(number: u64, kind: Kind, status: i32) -> Vec<u8> {
    record(number, || match kind {
        Kind::Panic => panic!("{PLANNED_PANIC}{number}"),
        Kind::Exit => std::process::exit(status),
        Kind::Abort => std::process::abort(),
        Kind::Segfault => raise(libc::SIGSEGV),
        Kind::KillSelf => raise(libc::SIGKILL),
        Kind::Exhaust => exhaust_memory(),
        Kind::CloseAllReturn => {
            close_all();
            payload::result(number, 0)
        }
        Kind::CloseAll => {
            close_all();
            wait_to_be_killed()
        }
        Kind::Garbage => {
            write_garbage(number);
            wait_to_be_killed()
        }
        Kind::Overrun | Kind::Stubborn => {
            if kind == Kind::Stubborn {
                // SAFETY: ignoring a signal installs no handler.
                unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
            }
            loop {
                std::thread::sleep(Duration::from_secs(600));
            }
        }
        other => unreachable!("{other:?} has a task of its own"),
    })
}

fn wait_to_be_killed() -> ! {
    std::thread::sleep(LINGER);
    // SAFETY: ends this process at once; no code runs afterwards.
    unsafe { libc::_exit(NOT_KILLED) }
}

fn raise(signal: libc::c_int) -> ! {
    loop {
        // The first SIGSEGV goes to the handler of the standard library, which lets the second one through.
        // SAFETY: takes a plain number.
        unsafe { libc::raise(signal) };
    }
}

fn close_all() {
    // SAFETY: a closed descriptor leaves all memory valid. Code that uses one fails, as this job intends.
    unsafe { libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) };
}

fn exhaust_memory() -> ! {
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
fn write_garbage(number: u64) {
    let garbage = match number % 3 {
        0 => vec![0xab; 4096],
        1 => vec![0xff; 100],
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
