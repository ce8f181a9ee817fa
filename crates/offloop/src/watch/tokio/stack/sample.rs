//! Has a thread copy its registers and its stack.

use std::ffi::{c_int, c_void};
use std::fs;
use std::mem;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, TryLockError};
use std::time::{Duration, Instant};

/// How much of a stack is copied: 64 KiB, some hundred calls.
const WORDS: usize = 8192;

/// A thread that does not answer within this time does not want to be asked: it has blocked the signal, or sleeps
/// where signals don't reach.
const PATIENCE: Duration = Duration::from_millis(50);

/// A copy of the innermost part of a stack, and of where the thread was in it.
pub(super) struct Sample {
    pub(super) ip: u64,
    pub(super) sp: u64,
    pub(super) bp: u64,
    /// What lies at `sp` and above.
    pub(super) words: Vec<u64>,
}

/// What the handler reads and writes. It is never freed, so a late handler finds it.
struct Request {
    state: AtomicU32,
    thread: AtomicI32,
    /// The thread's stack: a thread that is elsewhere (on a coroutine's) is not copied.
    low: AtomicUsize,
    high: AtomicUsize,
    ip: AtomicU64,
    sp: AtomicU64,
    bp: AtomicU64,
    len: AtomicUsize,
    words: [AtomicU64; WORDS],
}

/// Nothing is asked; what was answered may be read or overwritten.
const FREE: u32 = 0;
/// The thread may begin.
const ASKED: u32 = 1;
/// It writes.
const TAKING: u32 = 2;
/// It has written.
const TAKEN: u32 = 3;

static REQUEST: AtomicPtr<Request> = AtomicPtr::new(ptr::null_mut());

/// Puts the handler in place.
pub(super) fn prepare() {
    signal();
}

/// Asks the thread for a sample. Blocks for a moment, and for six times the `PATIENCE` at most.
pub(super) fn take(thread: i32, stack: Range<usize>) -> Option<Sample> {
    let _one = one_at_a_time()?;
    let signal = signal()?;
    if stack.is_empty() || !may_interrupt(thread)? {
        return None;
    }
    // SAFETY: it is null or was leaked by `signal`.
    let request = unsafe { REQUEST.load(Ordering::Acquire).as_ref() }?;
    if request.state.load(Ordering::Acquire) == TAKING {
        return None;
    }
    request.thread.store(thread, Ordering::Relaxed);
    request.low.store(stack.start, Ordering::Relaxed);
    request.high.store(stack.end, Ordering::Relaxed);
    request.state.store(ASKED, Ordering::Release);
    // SAFETY: the signal's handler is ours. A thread that has ended is refused.
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

/// There is one request for all watches. None of them waits for it without end: a fork may leave the lock held.
fn one_at_a_time() -> Option<MutexGuard<'static, ()>> {
    static ONE: Mutex<()> = Mutex::new(());
    let begun = Instant::now();
    loop {
        match ONE.try_lock() {
            Ok(one) => return Some(one),
            Err(TryLockError::Poisoned(one)) => return Some(one.into_inner()),
            Err(TryLockError::WouldBlock) if begun.elapsed() > 4 * PATIENCE => return None,
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

impl Request {
    fn is_taken_in_time(&self) -> bool {
        let begun = Instant::now();
        loop {
            let state = self.state.load(Ordering::Acquire);
            if state == TAKEN {
                return true;
            }
            let waited = begun.elapsed();
            // Once it has begun it is soon done, unless it is kept from running.
            let free =
                || self.state.compare_exchange(ASKED, FREE, Ordering::AcqRel, Ordering::Acquire).is_ok();
            if waited > PATIENCE && (free() || waited > 2 * PATIENCE) {
                return false;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

/// The signal that asks, and its handler in place: a real-time signal that nobody else uses. `None` if there is none.
fn signal() -> Option<c_int> {
    static SIGNAL: OnceLock<Option<c_int>> = OnceLock::new();
    *SIGNAL.get_or_init(|| {
        // SAFETY: the structs are plain data, for which zeros are valid, and outlive the calls. The handler has
        // the signature that `SA_SIGINFO` asks for, and does only what a handler may.
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

/// In the asked thread, wherever it is. No lock, no allocation, no panic; `errno` is left alone.
extern "C" fn handle(_signal: c_int, _info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the request is null or leaked. With `SA_SIGINFO` the context is one, of this thread as it was
    // interrupted. `gettid` may be called in a handler and cannot fail.
    let (Some(request), context, thread) = (unsafe {
        (REQUEST.load(Ordering::Acquire).as_ref(), &*context.cast::<libc::ucontext_t>(), libc::gettid())
    }) else {
        return;
    };
    // A signal that comes late may meet another request: that one is for another thread, or as good for this.
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
            // SAFETY: it is aligned and lies within this thread's own stack, above its stack pointer.
            let value = unsafe { ptr::with_exposed_provenance::<u64>(from).read_volatile() };
            word.store(value, Ordering::Relaxed);
            from += 8;
            len += 1;
        }
    }
    request.len.store(len, Ordering::Relaxed);
    request.state.store(TAKEN, Ordering::Release);
}

/// Whether a signal will not be felt by the thread; `None` if the system does not say.
///
/// A thread that computes feels none. Of system calls those are safe that the kernel restarts after a handler with
/// `SA_RESTART`; and sleeping, which is not restarted, but which the standard library repeats. A socket with a
/// timeout would have its call fail with `EINTR`. (A thread that enters another call just now is asked all the
/// same.)
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

/// Whether it is a socket with this timeout.
fn has_timeout(descriptor: i64, which: c_int) -> bool {
    let mut timeout = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let mut len = libc::socklen_t::try_from(size_of_val(&timeout)).unwrap_or(0);
    // SAFETY: `timeout` and `len` outlive the call, and `len` is the size of `timeout`. What is no socket is refused.
    let got = c_int::try_from(descriptor).is_ok_and(|descriptor| unsafe {
        libc::getsockopt(descriptor, libc::SOL_SOCKET, which, (&raw mut timeout).cast(), &raw mut len) == 0
    });
    got && (timeout.tv_sec, timeout.tv_usec) != (0, 0)
}
