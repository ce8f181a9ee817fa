//! The primitives that threads race on: from `std`, or from the model checker with `--cfg shuttle`.

#[cfg(not(shuttle))]
pub(crate) use std::{
    sync::{Condvar, MutexGuard, atomic},
    thread, thread_local,
};

#[cfg(shuttle)]
pub(crate) use shuttle::{
    sync::{Condvar, MutexGuard, atomic},
    thread, thread_local,
};

#[cfg(not(shuttle))]
use std::sync::Mutex as RawMutex;

#[cfg(shuttle)]
use shuttle::sync::Mutex as RawMutex;

use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// A mutex without poisoning. No user code runs under the engine's locks, so a panic cannot leave a value half-changed.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(RawMutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(RawMutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits on `condvar` until `done` returns true, for at most `limit`.
pub(crate) fn wait_until<'a, T>(
    condvar: &Condvar,
    mut guard: MutexGuard<'a, T>,
    limit: Duration,
    done: impl Fn(&T) -> bool,
) -> MutexGuard<'a, T> {
    let deadline = Instant::now().checked_add(limit);
    while !done(&guard) {
        let left = match deadline {
            Some(deadline) => deadline.saturating_duration_since(Instant::now()),
            None => Duration::from_secs(3600),
        };
        if left.is_zero() {
            break;
        }
        guard = wait_timeout(condvar, guard, left);
    }
    guard
}

/// Waits on `condvar` for at most `limit`.
pub(crate) fn wait_timeout<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    limit: Duration,
) -> MutexGuard<'a, T> {
    condvar.wait_timeout(guard, limit).unwrap_or_else(PoisonError::into_inner).0
}

/// Returns whether `deadline` has passed. The model checker has no clock, so with it any deadline may have.
pub(crate) fn has_passed(deadline: Instant) -> bool {
    #[cfg(not(shuttle))]
    return Instant::now() >= deadline;
    #[cfg(shuttle)]
    {
        let _ = deadline;
        shuttle::rand::Rng::gen_bool(&mut shuttle::rand::thread_rng(), 0.5)
    }
}

/// Parks for at most `limit`. The model checker has no clock, so with it any park with a limit may end at once.
pub(crate) fn park_timeout(limit: Duration) {
    #[cfg(not(shuttle))]
    thread::park_timeout(limit);
    #[cfg(shuttle)]
    {
        let _ = limit;
        thread::yield_now();
    }
}
