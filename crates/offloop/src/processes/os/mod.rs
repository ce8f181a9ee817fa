//! The system calls of the process pool. Nothing here knows what a link, a pool or a worker is.
//!
//! This is the place to port. All that is above is plain Rust over file descriptors and shared memory.

#[cfg(not(weak_memory))]
mod block;
#[cfg(weak_memory)]
pub(super) mod block;
pub(super) mod fd;
pub(super) mod futex;
pub(super) mod lifeline;
pub(super) mod process;
pub(super) mod ready;
pub(super) mod start;
