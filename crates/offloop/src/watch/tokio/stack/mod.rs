//! The stack of another thread, taken while it goes on.
//!
//! Nothing but the thread itself can read its registers, so it gets a signal. What its handler may do is little:
//! the thread may be within the allocator, the loader or an unwinder, with their locks held. So the handler only
//! copies three registers and the upper part of the stack into memory that was set aside; it calls nothing that
//! takes a lock or allocates. Frames and names are found later, by the watch's thread, in that copy.
//!
//! A signal can also be felt: some system calls return early after one. So only threads are asked that compute, or
//! that wait in a call which the kernel restarts, or which the standard library repeats; see `may_interrupt`.

use std::fmt;

#[cfg(all(feature = "watch-stacks", target_os = "linux", target_arch = "x86_64"))]
mod sample;
#[cfg(all(feature = "watch-stacks", target_os = "linux", target_arch = "x86_64"))]
mod unwind;

use super::slot::Slot;

/// One call on a stack; a function that was inlined has its own.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Frame {
    /// The address of the instruction, or of the one to return to.
    pub address: usize,
    /// The function, if the program has symbols.
    pub function: Option<String>,
    /// The file, if the program has debug information.
    pub file: Option<String>,
    /// The line in it.
    pub line: Option<u32>,
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.function {
            Some(function) => f.write_str(function)?,
            None => write!(f, "{:#x}", self.address)?,
        }
        if let Some(file) = &self.file {
            write!(f, " at {file}:{}", self.line.unwrap_or(0))?;
        }
        Ok(())
    }
}

/// The stack of a slot's thread, innermost call first; empty if it cannot be had safely.
#[cfg(all(feature = "watch-stacks", target_os = "linux", target_arch = "x86_64"))]
pub(super) fn capture(slot: &Slot) -> Vec<Frame> {
    sample::take(slot.thread(), slot.stack()).map(|sample| unwind::frames(&sample)).unwrap_or_default()
}

/// Has the program's debug information read, in a thread that ends with that: it takes from milliseconds to seconds,
/// for which the first report of a stall is not to wait.
#[cfg(all(feature = "watch-stacks", target_os = "linux", target_arch = "x86_64"))]
pub(super) fn prepare() {
    sample::prepare();
    // Without that thread the first report takes longer.
    let _ = std::thread::Builder::new().name("offloop-symbols".into()).spawn(unwind::prepare);
}

#[cfg(not(all(feature = "watch-stacks", target_os = "linux", target_arch = "x86_64")))]
pub(super) fn prepare() {}

#[cfg(not(all(feature = "watch-stacks", target_os = "linux", target_arch = "x86_64")))]
pub(super) fn capture(_slot: &Slot) -> Vec<Frame> {
    Vec::new()
}
