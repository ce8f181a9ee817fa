//! The jobs: each marks the book, then does what its kind says.

use std::os::fd::RawFd;
use std::time::Duration;

use offloop::ProcessPool;

use crate::book;
use crate::payload::{self, mix};

/// How every panic begins that a job was told to raise.
pub(crate) const ORDERED_PANIC: &str = "as ordered, job ";

/// The exit status of a job that should have been killed for what it did, and was not within [`LINGER`].
pub(crate) const NOT_KILLED: i32 = 117;

const LINGER: Duration = Duration::from_millis(500);

/// What a job returns that has nothing to say: a number that nobody else returns.
pub(crate) fn stamp(number: u64) -> u64 {
    mix(number ^ 0xface)
}

/// The pattern of a job's argument.
pub(crate) fn argument_seed(number: u64) -> u64 {
    mix(number)
}

/// The pattern of a job's result, after the checksum of its argument.
pub(crate) fn result_seed(number: u64) -> u64 {
    !mix(number)
}

#[offloop::task]
pub(crate) fn set_up() {
    std::hint::black_box(std::process::id());
}

#[offloop::task]
pub(crate) fn echo(number: u64, argument: &[u8], sent: usize, wanted: usize) -> Vec<u8> {
    book::run(number, || {
        if let Err(fault) = payload::check(argument, argument_seed(number), sent) {
            panic!("the argument of job {number} is spoilt: {fault}");
        }
        let mut result = Vec::with_capacity(wanted + 16);
        result.extend_from_slice(&payload::checksum(argument).to_le_bytes());
        payload::append(&mut result, result_seed(number), wanted);
        result
    })
}

#[offloop::task]
pub(crate) fn nap(number: u64, millis: u64) -> u64 {
    book::run(number, || {
        std::thread::sleep(Duration::from_millis(millis));
        stamp(number)
    })
}

#[offloop::task]
pub(crate) fn compute(number: u64, millis: u64) -> u64 {
    book::run(number, || {
        let rounds = millis * 100_000;
        std::hint::black_box((0..rounds).fold(number, |value, round| mix(value ^ round)));
        stamp(number)
    })
}

#[offloop::task]
pub(crate) fn chatter(number: u64, lines: u64) -> u64 {
    book::run(number, || {
        for line in 0..lines {
            println!("job {number} prints line {line}");
            eprintln!("job {number} complains in line {line}");
        }
        print!("and this line does not end");
        let bytes = [0xff; 3000];
        for stream in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
            write_raw(stream, &bytes);
        }
        stamp(number)
    })
}

/// Runs the job `inner` in a pool of its own, which it shuts down or drops.
#[offloop::task]
pub(crate) fn nest(number: u64, inner: u64, shuts_down: bool) -> u64 {
    book::run(number, || {
        let pool = ProcessPool::builder().workers(1).build().expect("a worker may have a pool of its own");
        let mut handle = pool.run(nap.with(inner, 1));
        let result = handle.wait_timeout(Duration::from_secs(20));
        let value = result.expect("the inner job ends in time").expect("the inner job ends well");
        assert_eq!(value, stamp(inner), "the inner job has returned another's value");
        if shuts_down {
            let report = pool.shutdown(Duration::from_secs(5)).wait_timeout(Duration::from_secs(20));
            report.expect("the inner pool shuts down in time").expect("the inner pool reports");
        }
        stamp(number)
    })
}

#[offloop::task]
pub(crate) fn panics(number: u64) -> u64 {
    book::run(number, || panic!("{ORDERED_PANIC}{number}"))
}

/// The ways of a job to take its worker with it.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub(crate) enum Death {
    Exit(i32),
    Abort,
    Segfault,
    KillSelf,
    Exhaust,
    CloseAll,
    Garbage,
}

#[offloop::task]
pub(crate) fn die(number: u64, way: Death) -> u64 {
    book::run(number, || match way {
        Death::Exit(status) => std::process::exit(status),
        Death::Abort => std::process::abort(),
        Death::Segfault => raise_for_ever(libc::SIGSEGV),
        Death::KillSelf => raise_for_ever(libc::SIGKILL),
        Death::Exhaust => exhaust_memory(),
        Death::CloseAll => {
            close_all();
            linger()
        }
        Death::Garbage => {
            write_garbage(number);
            linger()
        }
    })
}

#[offloop::task]
pub(crate) fn close_all_and_return(number: u64) -> u64 {
    book::run(number, || {
        close_all();
        stamp(number)
    })
}

#[offloop::task]
pub(crate) fn stay(number: u64, ignores_sigterm: bool) -> u64 {
    book::run(number, || {
        if ignores_sigterm {
            // SAFETY: ignoring a signal installs no handler.
            unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
        }
        loop {
            std::thread::sleep(Duration::from_secs(600));
        }
    })
}

/// Waits to be killed, then leaves with a status that says that it was not.
fn linger() -> ! {
    std::thread::sleep(LINGER);
    // SAFETY: ends this process at once, which is always possible.
    unsafe { libc::_exit(NOT_KILLED) }
}

fn raise_for_ever(signal: libc::c_int) -> ! {
    loop {
        // The first SIGSEGV goes to the handler of the standard library, which then lets the next one through.
        // SAFETY: takes a plain number.
        unsafe { libc::raise(signal) };
    }
}

fn close_all() {
    // SAFETY: it is the purpose of this job to pull the files away; what owns them is gone with the worker.
    unsafe { libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) };
}

fn exhaust_memory() -> ! {
    const MARGIN: u64 = 48 << 20;
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    // Data alone, not the address space: of that a pool which an earlier job has left may yet give back 64 GiB.
    let pages: u64 = pages.split(' ').nth(5).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    // SAFETY: asks for a constant of the system.
    let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    let bytes = pages * page + MARGIN;
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: the pointer is to a live local variable.
    unsafe { libc::setrlimit(libc::RLIMIT_DATA, &raw const limit) };
    let mut hoard = Vec::new();
    loop {
        hoard.push(std::hint::black_box(vec![1u8; 1 << 20]));
    }
}

/// Writes nonsense to every descriptor above 2 that takes it without blocking.
fn write_garbage(number: u64) {
    let mut noise = Vec::new();
    match number % 3 {
        0 => noise.resize(4096, 0xab),
        1 => noise.resize(100, 0xff),
        _ => payload::append(&mut noise, number, 10_000),
    }
    let descriptors = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let descriptors = descriptors.filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    for descriptor in descriptors.filter(|descriptor| *descriptor > 2).collect::<Vec<_>>() {
        let mut poll = libc::pollfd { fd: descriptor, events: libc::POLLOUT, revents: 0 };
        // SAFETY: the pointer is to one live `pollfd`.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
        if ready == 1 && poll.revents & libc::POLLOUT != 0 {
            write_raw(descriptor, &noise);
        }
    }
}

fn write_raw(descriptor: RawFd, bytes: &[u8]) {
    // SAFETY: the pointer and the length are those of a live slice; what the kernel says of it does not matter.
    unsafe { libc::write(descriptor, bytes.as_ptr().cast(), bytes.len()) };
}
