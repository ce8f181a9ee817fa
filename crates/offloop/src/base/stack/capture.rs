//! Captures a thread's stack as a list of calls, on systems where that is possible. Elsewhere stacks are empty.

use std::ops::Range;

use super::frame::StackFrame;
#[cfg(all(feature = "watch-stacks", target_os = "linux", target_arch = "x86_64"))]
use super::{sample, unwind};
#[cfg(all(feature = "watch-stacks", target_os = "linux", target_arch = "x86_64"))]
use crate::base::{spawn::spawn, sync::thread};

/// Returns the stack of a thread, innermost call first. It is empty if it cannot be had safely.
///
/// `bounds` are what [`current_bounds`] has returned on that thread.
#[cfg(all(feature = "watch-stacks", target_os = "linux", target_arch = "x86_64"))]
pub(crate) fn capture(thread: i32, bounds: Range<usize>) -> Vec<StackFrame> {
    sample::take(thread, bounds).map(|sample| unwind::frames(&sample)).unwrap_or_default()
}

/// Reads the program's debug information ahead, in a thread of its own. That takes from milliseconds to seconds,
/// which the first report of a stall would take longer.
#[cfg(all(feature = "watch-stacks", target_os = "linux", target_arch = "x86_64"))]
pub(crate) fn prepare() {
    sample::prepare();
    // Without that thread the first report takes longer.
    let _ = spawn(thread::Builder::new().name("offloop-symbols".into()), unwind::prepare);
}

/// Returns the addresses of this thread's stack. They are empty if they are unknown.
#[cfg(all(feature = "watch-stacks", target_os = "linux", target_arch = "x86_64"))]
pub(crate) fn current_bounds() -> Range<usize> {
    let (mut low, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: the thread is the calling one. The attributes are initialised by the first call, read and destroyed
    // only if that has succeeded, and destroyed once. All pointers are to locals that outlive the calls.
    unsafe {
        let mut attributes = std::mem::zeroed();
        if libc::pthread_getattr_np(libc::pthread_self(), &raw mut attributes) == 0 {
            libc::pthread_attr_getstack(&raw const attributes, &raw mut low, &raw mut size);
            libc::pthread_attr_destroy(&raw mut attributes);
        }
    }
    low.addr()..low.addr() + size
}

#[cfg(not(all(feature = "watch-stacks", target_os = "linux", target_arch = "x86_64")))]
pub(crate) fn capture(_thread: i32, _bounds: Range<usize>) -> Vec<StackFrame> {
    Vec::new()
}

#[cfg(not(all(feature = "watch-stacks", target_os = "linux", target_arch = "x86_64")))]
pub(crate) fn prepare() {}

#[cfg(not(all(feature = "watch-stacks", target_os = "linux", target_arch = "x86_64")))]
pub(crate) fn current_bounds() -> Range<usize> {
    0..0
}
