//! The list of all pools of this process.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use super::values::Metrics;
#[cfg(feature = "observe")]
use super::view::{PoolView, first_pool};
use crate::base::clock::Moment;
use crate::base::fork::PerProcess;

/// A pool whose metrics can be read.
pub(crate) trait Measured: Send + Sync {
    /// Returns the metrics of this moment.
    fn metrics(&self) -> Metrics;

    /// Returns whether the pool has ended, so that its metrics no longer change.
    fn is_over(&self) -> bool;

    /// Returns the metrics of this moment, and what else the live view shows. Takes the pool's lock once, for a moment.
    #[cfg(feature = "observe")]
    fn view(&self) -> PoolView;

    /// Cancels the job with this number if the pool runs it. Returns whether it did.
    #[cfg(feature = "observe")]
    fn cancel_running(&self, job: u64) -> bool;
}

/// A pool in the list.
struct Registered {
    /// Its number, unique within the process and its forks.
    id: u64,
    built: Moment,
    pool: Weak<dyn Measured>,
}

/// Locks the list of the pools of this process that may still exist.
///
/// It is the standard library's lock also under the model checker, whose locks do not outlast a run.
fn pools() -> MutexGuard<'static, Vec<Registered>> {
    static POOLS: PerProcess<Mutex<Vec<Registered>>> = PerProcess::new();
    POOLS.get(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds a pool to those that [`all`] reports, for as long as it exists.
pub(crate) fn register(pool: Weak<dyn Measured>) {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut pools = pools();
    pools.retain(|registered| registered.pool.strong_count() > 0);
    pools.push(Registered { id, built: Moment::now(), pool });
    drop(pools);
    #[cfg(feature = "observe")]
    first_pool::reached();
}

/// Calls `look` with each pool of this process that has not ended, its number and the moment in which it was built, in
/// this order.
pub(crate) fn for_each(mut look: impl FnMut(u64, Moment, &dyn Measured)) {
    let of = |registered: &Registered| Some((registered.id, registered.built, registered.pool.upgrade()?));
    // If a pool's last owner lets go of it meanwhile, it is dropped here, after the lock is released.
    let pools: Vec<_> = pools().iter().filter_map(of).collect();
    for (id, built, pool) in pools.iter().filter(|(.., pool)| !pool.is_over()) {
        look(*id, *built, &**pool);
    }
}

/// Returns the metrics of all pools of this process that have not ended, in the order in which they were built.
///
/// The pools behind [`run`](crate::run) and [`run_cpu`](crate::run_cpu) are included once they have been used.
pub fn all() -> Vec<Metrics> {
    let mut all = Vec::new();
    for_each(|_, _, pool| all.push(pool.metrics()));
    all
}
