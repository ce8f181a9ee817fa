//! The primitives that threads and processes race on: from `std`, or from a model checker.
//!
//! With `--cfg shuttle` the models try many orders of steps, in which each store is seen at once. With `--cfg weak_memory` they
//! try all orders with few preemptions, and a load may return an old value where its ordering allows that.

#[cfg(all(test, any(shuttle, weak_memory)))]
pub(crate) mod model;
#[cfg(weak_memory)]
pub(crate) mod weak;

#[cfg(not(any(shuttle, weak_memory)))]
pub(crate) use std::{
    sync::{Condvar, MutexGuard, atomic},
    thread, thread_local,
};

#[cfg(shuttle)]
pub(crate) use shuttle::{
    sync::{Condvar, MutexGuard, atomic},
    thread, thread_local,
};

#[cfg(weak_memory)]
pub(crate) use self::weak as atomic;
#[cfg(weak_memory)]
pub(crate) use loom::{
    cell::UnsafeCell,
    sync::{Condvar, MutexGuard},
    thread,
};

/// Loom's macro, for the syntax of `std` that it does not know.
#[cfg(weak_memory)]
macro_rules! modelled_thread_local {
    ($($(#[$attribute:meta])* static $name:ident: $type:ty = const { $value:expr };)*) => {
        loom::thread_local! { $($(#[$attribute])* static $name: $type = $value;)* }
    };
}
#[cfg(weak_memory)]
pub(crate) use modelled_thread_local as thread_local;

#[cfg(not(any(shuttle, weak_memory)))]
use std::sync::Mutex as RawMutex;

#[cfg(shuttle)]
use shuttle::sync::Mutex as RawMutex;

#[cfg(weak_memory)]
use loom::sync::Mutex as RawMutex;

use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// A mutex without poisoning. No user code runs under the engine's locks, so a panic cannot leave a value half-changed.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(RawMutex<T>);

impl<T> Mutex<T> {
    #[cfg(not(weak_memory))]
    pub(crate) const fn new(value: T) -> Self {
        Self(RawMutex::new(value))
    }

    #[cfg(weak_memory)]
    pub(crate) fn new(value: T) -> Self {
        Self(RawMutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory whose exclusive use is agreed by other means. The model checker looks for accesses that race.
#[cfg(not(weak_memory))]
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(weak_memory))]
#[allow(dead_code, reason = "the layer that needs it may be left out")]
impl<T> UnsafeCell<T> {
    /// Calls `f` with a pointer to read through.
    pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    /// Calls `f` with a pointer to write through.
    pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
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

/// Returns whether `deadline` has passed. The model checkers have no clock. With shuttle any deadline may have passed,
/// with loom every one has.
pub(crate) fn has_passed(deadline: Instant) -> bool {
    #[cfg(not(any(shuttle, weak_memory)))]
    return Instant::now() >= deadline;
    #[cfg(weak_memory)]
    {
        let _ = deadline;
        true
    }
    #[cfg(shuttle)]
    {
        let _ = deadline;
        shuttle::rand::Rng::gen_bool(&mut shuttle::rand::thread_rng(), 0.5)
    }
}

/// Parks for at most `limit`. The model checkers have no clock, so with them any park with a limit may end at once.
pub(crate) fn park_timeout(limit: Duration) {
    #[cfg(not(any(shuttle, weak_memory)))]
    thread::park_timeout(limit);
    #[cfg(any(shuttle, weak_memory))]
    {
        let _ = limit;
        thread::yield_now();
    }
}
