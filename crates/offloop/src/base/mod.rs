//! The ground floor: synchronisation, forks, clocks, threads and panics. Nothing here knows what a job is.

pub(crate) mod activity;
pub(crate) mod clock;
pub(crate) mod cores;
pub(crate) mod fork;
pub(crate) mod panic;
pub(crate) mod spawn;
pub(crate) mod starvation;
pub(crate) mod sync;
#[cfg(unix)]
pub(crate) mod syscall;
pub mod thread;
#[cfg(all(test, weak_memory))]
mod weak_model;
