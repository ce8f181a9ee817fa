//! Detects `fork()`. A pool's threads stay in the parent, so the child must neither wait for them nor take their locks.

use std::convert::Infallible;
use std::ptr;
#[cfg(not(weak_memory))]
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

#[cfg(weak_memory)]
use crate::base::sync::atomic::AtomicPtr;

/// Counts the forks between the first process of this program and this one. Written by the child of each fork, before
/// `fork` returns there.
static GENERATION: AtomicU32 = AtomicU32::new(0);

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// The process that a value belongs to, as a number of forks. In a child that is forked later, the value is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generation(u32);

impl Generation {
    /// Returns the generation of this process. From the first call on, forks are counted.
    pub(crate) fn now() -> Self {
        static HOOKED: AtomicBool = AtomicBool::new(false);
        // Two threads may both be the first. Then each fork counts twice, which is as good. With a lock, a fork while
        // one of them holds it would make the child hang.
        if !HOOKED.load(Ordering::Acquire) {
            #[cfg(all(unix, not(miri)))]
            // SAFETY: the handler only adds to an atomic, which is allowed in a forked child. It has static lifetime,
            // since Rust code is never unloaded.
            unsafe {
                libc::pthread_atfork(None, None, Some(in_child));
            }
            #[cfg(not(all(unix, not(miri))))]
            let _ = in_child;
            HOOKED.store(true, Ordering::Release);
        }
        Self(GENERATION.load(Ordering::Relaxed))
    }

    /// Returns whether this process was forked after `self` was returned by [`now`](Self::now).
    pub(crate) fn is_past(self) -> bool {
        GENERATION.load(Ordering::Relaxed) != self.0
    }
}

/// A value that all threads of a process share, but not with a forked child: there the value's threads do not exist,
/// and its locks may have been held at the moment of the fork. The child makes another value.
///
/// Access takes no lock. The thread that needs the value first makes it. If two threads do so at once, one of them
/// drops its own and gets the other's. A published value is never freed.
#[derive(Debug)]
pub(crate) struct PerProcess<T: 'static>(AtomicPtr<Made<T>>);

/// A value, and the process that made it.
#[derive(Debug)]
struct Made<T> {
    born: Generation,
    value: T,
}

impl<T: Send + Sync> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// Begins an execution of a model, before there are other threads.
    #[cfg(all(test, weak_memory))]
    pub(crate) fn begin_model(&self) {
        self.0.load(Ordering::Relaxed);
    }

    /// Returns the value of this process. Makes it with `make` if there is none yet.
    pub(crate) fn get(&'static self, make: impl FnOnce() -> T) -> &'static T {
        let Ok(value) = self.try_get(|| Ok::<_, Infallible>(make()));
        value
    }

    /// Returns the value like [`get`](Self::get), or the error of `make`.
    pub(crate) fn try_get<E>(&'static self, make: impl FnOnce() -> Result<T, E>) -> Result<&'static T, E> {
        let found = self.0.load(Ordering::Acquire);
        // SAFETY: the pointer is null or was published below. What is published comes from a `Box` and is never freed.
        match unsafe { found.as_ref() } {
            Some(found) if !found.born.is_past() => return Ok(&found.value),
            _ => {}
        }
        let new = Self::allocate(make()?);
        let published = match self.0.compare_exchange(found, new, Ordering::Release, Ordering::Acquire) {
            Ok(_) => new,
            Err(winner) => {
                // SAFETY: `new` comes from `Box::into_raw` just above. It was not published, so this is its only owner.
                drop(unsafe { Box::from_raw(new) });
                winner
            }
        };
        // SAFETY: `published` was published, so it comes from a `Box`, is not null, and is never freed.
        Ok(unsafe { &(*published).value })
    }

    /// Makes `value` the value of this process, and leaks the former one.
    #[allow(dead_code, reason = "the layer that needs it may be left out")]
    pub(crate) fn set(&'static self, value: T) -> &'static T {
        let new = Self::allocate(value);
        self.0.store(new, Ordering::Release);
        // SAFETY: `new` comes from a `Box` and is published now, so it is never freed.
        unsafe { &(*new).value }
    }

    fn allocate(value: T) -> *mut Made<T> {
        Box::into_raw(Box::new(Made { born: Generation::now(), value }))
    }
}
