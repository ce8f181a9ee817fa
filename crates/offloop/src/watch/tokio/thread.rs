//! What the system knows of a thread of ours.

use std::ops::Range;
use std::time::Duration;

/// A thread as the system knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Thread {
    /// The first 15 bytes of its name.
    pub name: String,
    /// Its id: `gettid()`, the `LWP` of `ps` and debuggers.
    pub id: i32,
}

/// What a thread can say of itself only.
#[derive(Default)]
pub(super) struct This {
    pub(super) id: i32,
    /// Its CPU clock; 0 if it has none.
    pub(super) cpu_clock: i32,
    /// Where its stack lies; empty if that is of no interest.
    pub(super) stack: Range<usize>,
}

#[cfg(target_os = "linux")]
pub(super) fn this() -> This {
    let mut clock = 0;
    // SAFETY: the thread is this one, which lives, and `clock` outlives the call; `gettid` asks for nothing.
    let id = unsafe {
        if libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) != 0 {
            clock = 0;
        }
        libc::gettid()
    };
    let stack = if cfg!(feature = "watch-stacks") { stack() } else { 0..0 };
    This { id, cpu_clock: clock, stack }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn this() -> This {
    This::default()
}

#[cfg(target_os = "linux")]
fn stack() -> Range<usize> {
    let (mut low, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: the thread is this one; the attributes are made by the first call, and destroyed once if it did.
    unsafe {
        let mut attributes = std::mem::zeroed();
        if libc::pthread_getattr_np(libc::pthread_self(), &raw mut attributes) == 0 {
            libc::pthread_attr_getstack(&raw const attributes, &raw mut low, &raw mut size);
            libc::pthread_attr_destroy(&raw mut attributes);
        }
    }
    low.addr()..low.addr() + size
}

/// How much a thread has computed so far, by its clock; `None` if it has ended or the system does not say.
#[cfg(target_os = "linux")]
pub(super) fn cpu_time(clock: i32) -> Option<Duration> {
    let nanos = if clock == 0 { None } else { crate::base::clock::read(clock) };
    nanos.map(Duration::from_nanos)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn cpu_time(_clock: i32) -> Option<Duration> {
    None
}

/// `None` if it has ended or the system does not say.
pub(super) fn describe(id: i32) -> Option<Thread> {
    let name = std::fs::read_to_string(format!("/proc/self/task/{id}/comm")).ok()?;
    Some(Thread { name: name.trim_end().to_owned(), id })
}

/// Whether it runs, or would if it were given a core; `None` as above.
pub(super) fn is_runnable(id: i32) -> Option<bool> {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{id}/stat")).ok()?;
    // The name before the state may contain anything, parentheses included.
    Some(stat.rsplit_once(')')?.1.trim_start().starts_with('R'))
}
