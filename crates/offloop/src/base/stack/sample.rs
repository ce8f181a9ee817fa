//! Makes another thread copy its registers and its stack, by a signal.

use std::ffi::{c_int, c_void};
use std::fs;
use std::mem;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, TryLockError};
use std::time::{Duration, Instant};

/// The number of words of a stack that are copied: 64 KiB, some hundred calls.
const WORDS: usize = 8192;

/// A thread that does not answer within this time will not answer soon: it has blocked the signal, or sleeps where
/// signals do not reach.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(50);

/// A copy of the innermost part of a stack, with the registers that belong to it.
pub(super) struct Sample {
    pub(super) ip: u64,
    pub(super) sp: u64,
    pub(super) bp: u64,
    /// The words at the address `sp` and above.
    pub(super) words: Vec<u64>,
}

/// A request for a sample and its answer. It is never freed, so a late handler finds it.
struct Request {
    /// One of the four states below.
    state: AtomicU32,
    /// The thread that is asked. Written before the state becomes `ASKED`, as are the bounds.
    thread: AtomicI32,
    /// The bounds of the thread's stack. If the thread runs on another one, such as a coroutine's, nothing is copied.
    low: AtomicUsize,
    high: AtomicUsize,
    /// The answer. Written by the handler while the state is `TAKING`.
    ip: AtomicU64,
    sp: AtomicU64,
    bp: AtomicU64,
    len: AtomicUsize,
    words: [AtomicU64; WORDS],
}

/// No request: the asking thread may write a new one.
const FREE: u32 = 0;
/// The asked thread may begin.
const ASKED: u32 = 1;
/// The asked thread writes its answer.
const TAKING: u32 = 2;
/// The answer is written: the asking thread may read it.
const TAKEN: u32 = 3;

static REQUEST: AtomicPtr<Request> = AtomicPtr::new(ptr::null_mut());

/// Installs the signal's handler.
pub(super) fn prepare() {
    signal();
}

/// Takes a sample of a thread. Blocks for a moment, at most for six times the `ANSWER_TIMEOUT`.
pub(super) fn take(thread: i32, stack: Range<usize>) -> Option<Sample> {
    let _turn = one_at_a_time()?;
    let signal = signal()?;
    if stack.is_empty() || !may_interrupt(thread)? {
        return None;
    }
    // SAFETY: the pointer is null or was leaked by `signal`.
    let request = unsafe { REQUEST.load(Ordering::Acquire).as_ref() }?;
    if request.state.load(Ordering::Acquire) == TAKING {
        return None;
    }
    request.thread.store(thread, Ordering::Relaxed);
    request.low.store(stack.start, Ordering::Relaxed);
    request.high.store(stack.end, Ordering::Relaxed);
    request.state.store(ASKED, Ordering::Release);
    // SAFETY: the signal has our handler, so it does not end the process. For a thread that has ended the call fails.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal) } == 0;
    if !sent || !request.is_taken_in_time() {
        return None;
    }
    let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
    let len = request.len.load(Ordering::Relaxed);
    let sample = Sample {
        ip: load(&request.ip),
        sp: load(&request.sp),
        bp: load(&request.bp),
        words: request.words.iter().take(len).map(load).collect(),
    };
    request.state.store(FREE, Ordering::Release);
    Some(sample)
}

/// Locks the request, of which there is one for all watches. Gives up after some time: in a forked child nothing may
/// release the lock.
fn one_at_a_time() -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    let begun = Instant::now();
    loop {
        match TURN.try_lock() {
            Ok(turn) => return Some(turn),
            Err(TryLockError::Poisoned(turn)) => return Some(turn.into_inner()),
            Err(TryLockError::WouldBlock) if begun.elapsed() > 4 * ANSWER_TIMEOUT => return None,
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

impl Request {
    /// Waits for the answer. Returns whether it came in time.
    fn is_taken_in_time(&self) -> bool {
        let begun = Instant::now();
        loop {
            let state = self.state.load(Ordering::Acquire);
            if state == TAKEN {
                return true;
            }
            let waited = begun.elapsed();
            // A thread that has begun is soon done, unless it is kept from running.
            let withdraw =
                || self.state.compare_exchange(ASKED, FREE, Ordering::AcqRel, Ordering::Acquire).is_ok();
            if waited > ANSWER_TIMEOUT && (withdraw() || waited > 2 * ANSWER_TIMEOUT) {
                return false;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

/// Returns the signal for requests, a real-time signal that had no handler, with our handler installed. `None` if
/// there is no such signal.
fn signal() -> Option<c_int> {
    static SIGNAL: OnceLock<Option<c_int>> = OnceLock::new();
    *SIGNAL.get_or_init(|| {
        // SAFETY: zeros are valid values of these structs, which are plain data and outlive the calls. The handler
        // has the signature that `SA_SIGINFO` requires, and is async-signal-safe.
        unsafe {
            let is_unused = |signal: &c_int| {
                let mut now: libc::sigaction = mem::zeroed();
                libc::sigaction(*signal, ptr::null(), &raw mut now) == 0 && now.sa_sigaction == libc::SIG_DFL
            };
            let signal = (libc::SIGRTMIN()..libc::SIGRTMAX()).rev().find(is_unused)?;
            let request: Box<Request> = Box::new(mem::zeroed());
            REQUEST.store(Box::into_raw(request), Ordering::Release);
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
            (libc::sigaction(signal, &raw const action, ptr::null_mut()) == 0).then_some(signal)
        }
    })
}

/// The signal's handler. It runs in the asked thread and may interrupt anything, so it takes no lock, does not
/// allocate, does not panic and leaves `errno` alone.
extern "C" fn handle(_signal: c_int, _info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the request is null or leaked. With `SA_SIGINFO` the kernel passes a valid `ucontext_t` of this thread.
    // `gettid` is a bare system call, so a handler may call it, and it cannot fail.
    let (Some(request), context, thread) = (unsafe {
        (REQUEST.load(Ordering::Acquire).as_ref(), &*context.cast::<libc::ucontext_t>(), libc::gettid())
    }) else {
        return;
    };
    // A signal that comes late may find a newer request. If that is for this thread too, it may as well be answered
    // now.
    if request.thread.load(Ordering::Relaxed) != thread
        || request.state.compare_exchange(ASKED, TAKING, Ordering::AcqRel, Ordering::Relaxed).is_err()
    {
        return;
    }
    let register = |index: c_int| {
        let value = usize::try_from(index).ok().and_then(|index| context.uc_mcontext.gregs.get(index));
        value.map_or(0, |value| u64::from_ne_bytes(value.to_ne_bytes()))
    };
    let (ip, sp, bp) = (register(libc::REG_RIP), register(libc::REG_RSP), register(libc::REG_RBP));
    request.ip.store(ip, Ordering::Relaxed);
    request.sp.store(sp, Ordering::Relaxed);
    request.bp.store(bp, Ordering::Relaxed);
    let (low, high) = (request.low.load(Ordering::Relaxed), request.high.load(Ordering::Relaxed));
    let mut len = 0;
    if let Some(mut from) = usize::try_from(sp).ok().filter(|sp| sp % 8 == 0 && (low..high).contains(sp)) {
        for word in &request.words {
            if high - from < 8 {
                break;
            }
            // SAFETY: the address is aligned and lies within this thread's stack, at or above the stack pointer,
            // where all memory is mapped and no other thread writes.
            let value = unsafe { ptr::with_exposed_provenance::<u64>(from).read_volatile() };
            word.store(value, Ordering::Relaxed);
            from += 8;
            len += 1;
        }
    }
    request.len.store(len, Ordering::Relaxed);
    request.state.store(TAKEN, Ordering::Release);
}

/// Returns whether a signal has no effect on what the thread does. `None` if the system does not say.
///
/// It has none on a thread that computes. Of the system calls those are safe that the kernel restarts after a handler
/// with `SA_RESTART`, and those that sleep: they are not restarted, but the standard library repeats them. A call on
/// a socket with a timeout would fail with `EINTR`. (A thread that enters another call at this moment is interrupted
/// all the same.)
fn may_interrupt(thread: i32) -> Option<bool> {
    let text = fs::read_to_string(format!("/proc/self/task/{thread}/syscall")).ok()?;
    let mut words = text.split_whitespace();
    let Ok(number) = words.next()?.parse::<i64>() else { return Some(true) };
    let argument = words.next().and_then(|word| i64::from_str_radix(word.trim_start_matches("0x"), 16).ok());
    Some(match number {
        libc::SYS_futex
        | libc::SYS_nanosleep
        | libc::SYS_clock_nanosleep
        | libc::SYS_wait4
        | libc::SYS_waitid
        | libc::SYS_flock
        | libc::SYS_openat
        | libc::SYS_fsync
        | libc::SYS_fdatasync
        | libc::SYS_sched_yield => true,
        libc::SYS_read
        | libc::SYS_pread64
        | libc::SYS_readv
        | libc::SYS_recvfrom
        | libc::SYS_recvmsg
        | libc::SYS_accept4 => !has_timeout(argument?, libc::SO_RCVTIMEO),
        libc::SYS_write
        | libc::SYS_pwrite64
        | libc::SYS_writev
        | libc::SYS_sendto
        | libc::SYS_sendmsg
        | libc::SYS_connect => !has_timeout(argument?, libc::SO_SNDTIMEO),
        _ => false,
    })
}

/// Returns whether a descriptor is a socket with this timeout.
fn has_timeout(descriptor: i64, which: c_int) -> bool {
    let mut timeout = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let mut len = libc::socklen_t::try_from(size_of_val(&timeout)).unwrap_or(0);
    // SAFETY: `timeout` and `len` outlive the call, and `len` is the size of `timeout`. On another descriptor than a
    // socket the call fails.
    let succeeded = c_int::try_from(descriptor).is_ok_and(|descriptor| unsafe {
        libc::getsockopt(descriptor, libc::SOL_SOCKET, which, (&raw mut timeout).cast(), &raw mut len) == 0
    });
    succeeded && (timeout.tv_sec, timeout.tv_usec) != (0, 0)
}
