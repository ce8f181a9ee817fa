//! The list of this process's pools.

use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use super::values::Metrics;
use crate::base::fork::PerProcess;

/// A pool whose metrics can be read.
pub(crate) trait Measured: Send + Sync {
    /// Returns the metrics of this moment.
    fn metrics(&self) -> Metrics;

    /// Returns whether the pool has ended, so that its metrics no longer change.
    fn is_over(&self) -> bool;
}

/// Locks the list of the pools of this process that may still exist.
///
/// It is the standard library's lock also under the model checker, whose locks do not outlast a run.
fn pools() -> MutexGuard<'static, Vec<Weak<dyn Measured>>> {
    static POOLS: PerProcess<Mutex<Vec<Weak<dyn Measured>>>> = PerProcess::new();
    POOLS.get(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds a pool to those that [`all`] reports, for as long as it exists.
pub(crate) fn register(pool: Weak<dyn Measured>) {
    let mut pools = pools();
    pools.retain(|pool| pool.strong_count() > 0);
    pools.push(pool);
}

/// Returns the metrics of all pools of this process that have not ended, in the order in which they were built.
///
/// The pools behind [`run`](crate::run) and [`run_cpu`](crate::run_cpu) are included once they have been used.
pub fn all() -> Vec<Metrics> {
    // If a pool's last owner lets go of it meanwhile, it is dropped here, after the lock is released.
    let pools: Vec<_> = pools().iter().filter_map(Weak::upgrade).collect();
    pools.iter().filter(|pool| !pool.is_over()).map(|pool| pool.metrics()).collect()
}
