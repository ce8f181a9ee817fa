//! The stack of another thread, copied while that thread goes on.
//!
//! Only the thread itself can read its registers, so it is sent a signal. The handler may do little: it may have
//! interrupted the allocator, the loader or an unwinder, with their locks held. So it only copies three registers and
//! the innermost part of the stack into memory that was set aside, and calls nothing that locks or allocates. The
//! asking thread finds frames and names later, in that copy.
//!
//! A signal can have effects of its own: some system calls return early after one. So only threads are interrupted that
//! compute, or that wait in a call which the kernel restarts or the standard library repeats; see `may_interrupt`.

mod capture;
mod frame;
#[cfg(all(feature = "watch-stacks", target_os = "linux", target_arch = "x86_64"))]
mod sample;
#[cfg(all(feature = "watch-stacks", target_os = "linux", target_arch = "x86_64"))]
mod unwind;

pub(crate) use self::capture::{capture, current_bounds, prepare};
pub use self::frame::StackFrame;
