//! The moment in which a process gets its first pool. There the live view opens by itself, if the environment asks for it.
//!
//! The view is above the pools, so they do not call it: it enters itself in a list that the linker makes.

use std::sync::atomic::{AtomicBool, Ordering};

use linkme::distributed_slice;

use crate::base::fork::PerProcess;

/// The functions to call. Each is called once in each process, on the thread that builds the pool, with no lock held.
#[distributed_slice]
pub(crate) static ON_FIRST_POOL: [fn()];

/// Set once this process has reached that moment.
static IS_REACHED: PerProcess<AtomicBool> = PerProcess::new();

/// Set in the workers and the templates of pools. It stays set in their forks.
static IS_WORKER: AtomicBool = AtomicBool::new(false);

/// Marks this process as a pool's worker or template. It and its forks call nothing at their first pools, since what they
/// run is seen in the pool's own process.
pub(crate) fn never() {
    IS_WORKER.store(true, Ordering::Relaxed);
}

/// Returns whether this process is a worker or a template of a pool.
pub(crate) fn is_worker() -> bool {
    IS_WORKER.load(Ordering::Relaxed)
}

/// Calls the functions, unless this process has reached this moment before.
pub(crate) fn reached() {
    if is_worker() || IS_REACHED.get(AtomicBool::default).swap(true, Ordering::Relaxed) {
        return;
    }
    ON_FIRST_POOL.iter().for_each(|call| call());
}
