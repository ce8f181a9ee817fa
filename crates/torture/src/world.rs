//! The state that all threads of the program share.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use offloop::ProcessPool;

use crate::oracle::Oracle;
use crate::plan::PoolPlan;
use crate::waits::Waits;

/// The number of pools at a time. The pools of slot 0 have one worker; the last slot is empty now and then.
pub(crate) const SLOTS: usize = 3;

/// A pool in use.
pub(crate) struct OpenPool {
    pub(crate) number: usize,
    pub(crate) plan: PoolPlan,
    pub(crate) pool: ProcessPool,
}

#[derive(Default)]
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) waits: Waits,
    oracle: Mutex<Oracle>,
    slots: [Mutex<Option<Arc<OpenPool>>>; SLOTS],
    /// Pools that were shut down, kept until their metrics are compared with the oracle's counts.
    pub(crate) shut_down: Mutex<Vec<Arc<OpenPool>>>,
    /// Clients submit no more jobs, and no more faults are injected.
    pub(crate) load_over: AtomicBool,
    /// The keepers shut the pools down.
    pub(crate) pools_over: AtomicBool,
    /// Panics of this process that were not planned. Not part of the oracle, as its lock may be held by the thread
    /// that panics.
    pub(crate) panics: Mutex<Vec<String>>,
}

/// Locks a mutex whether or not a thread panicked with it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    pub(crate) fn oracle(&self) -> MutexGuard<'_, Oracle> {
        lock(&self.oracle)
    }

    /// Returns the pool in this slot, if there is one now.
    pub(crate) fn pool(&self, slot: usize) -> Option<Arc<OpenPool>> {
        lock(&self.slots[slot]).clone()
    }

    pub(crate) fn set_pool(&self, slot: usize, pool: Option<Arc<OpenPool>>) {
        let before = std::mem::replace(&mut *lock(&self.slots[slot]), pool);
        // After the lock is released: dropping a pool takes locks of its own.
        drop(before);
    }

    /// Returns everything found to be wrong until now.
    pub(crate) fn discrepancies(&self) -> Vec<String> {
        let mut found = lock(&self.panics).clone();
        found.extend_from_slice(self.oracle().discrepancies());
        found
    }
}
