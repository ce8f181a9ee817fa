//! Notices `fork()`: a pool's threads stay in the parent, so the child must not wait for them.

use std::convert::Infallible;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

/// How many times this process image was forked on its way here.
static GENERATION: AtomicU32 = AtomicU32::new(0);

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// The generation that a thing belongs to; it is alive only in the same generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generation(u32);

impl Generation {
    /// Today's generation. From the first call on, forks are counted.
    pub(crate) fn now() -> Self {
        static HOOKED: AtomicBool = AtomicBool::new(false);
        // Two threads may both come first. Then each fork counts twice, which tells as much; with a lock, a fork
        // while one of them has it would be the end of the child.
        if !HOOKED.load(Ordering::Acquire) {
            #[cfg(all(unix, not(miri)))]
            // SAFETY: the handler only adds to an atomic, which is allowed in a forked child, and it is
            // never unloaded, as Rust has no way to unload it.
            unsafe {
                libc::pthread_atfork(None, None, Some(in_child));
            }
            #[cfg(not(all(unix, not(miri))))]
            let _ = in_child;
            HOOKED.store(true, Ordering::Release);
        }
        Self(GENERATION.load(Ordering::Relaxed))
    }

    /// Whether this process was forked after `self` was taken.
    pub(crate) fn is_past(self) -> bool {
        GENERATION.load(Ordering::Relaxed) != self.0
    }
}

/// A value that all of a process shares and a forked child does not: its threads are not there, and its locks may have
/// been held at that moment. The child makes another.
///
/// There is no lock on the way: whoever needs the value first makes it, and of two that do so at once one is told of the
/// other's. What was published is never freed.
#[derive(Debug)]
pub(crate) struct PerProcess<T>(AtomicPtr<Made<T>>);

#[derive(Debug)]
struct Made<T> {
    born: Generation,
    value: T,
}

impl<T: Send + Sync> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// The value, made if this process has none yet.
    pub(crate) fn get(&'static self, make: impl FnOnce() -> T) -> &'static T {
        let Ok(value) = self.try_get(|| Ok::<_, Infallible>(make()));
        value
    }

    /// [`get`](Self::get), where the making may fail.
    pub(crate) fn try_get<E>(&'static self, make: impl FnOnce() -> Result<T, E>) -> Result<&'static T, E> {
        let found = self.0.load(Ordering::Acquire);
        // SAFETY: it is null or was published below, and what is published is never freed.
        match unsafe { found.as_ref() } {
            Some(found) if !found.born.is_past() => return Ok(&found.value),
            _ => {}
        }
        let new = Self::allocate(make()?);
        let published = match self.0.compare_exchange(found, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => new,
            Err(winner) => {
                // SAFETY: it was made just now and not published.
                drop(unsafe { Box::from_raw(new) });
                winner
            }
        };
        // SAFETY: it is published, so it lives for ever; null never is.
        Ok(unsafe { &(*published).value })
    }

    /// Makes `value` that of this process, whatever was before.
    #[cfg(feature = "process")]
    pub(crate) fn set(&'static self, value: T) -> &'static T {
        let new = Self::allocate(value);
        self.0.store(new, Ordering::Release);
        // SAFETY: it is published, so it lives for ever.
        unsafe { &(*new).value }
    }

    fn allocate(value: T) -> *mut Made<T> {
        Box::into_raw(Box::new(Made { born: Generation::now(), value }))
    }
}
