//! The ground floor: synchronisation, forks, clocks, threads and panics. Nothing here knows what a job is.

pub(crate) mod activity;
pub(crate) mod clock;
pub(crate) mod cores;
pub(crate) mod fork;
pub(crate) mod histogram;
pub(crate) mod line;
pub(crate) mod panic;
pub(crate) mod spawn;
#[cfg(any(all(feature = "watch", feature = "tokio"), feature = "observe"))]
#[allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "the watch of a runtime and the live view each need a part"
)]
pub(crate) mod stack;
pub(crate) mod starvation;
pub(crate) mod sync;
#[cfg(unix)]
pub(crate) mod syscall;
pub mod thread;
#[cfg(all(test, weak_memory))]
mod weak_model;
