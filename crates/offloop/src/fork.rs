//! Notices `fork()`: a pool's threads stay in the parent, so the child must not wait for them.

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

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
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            #[cfg(all(unix, not(miri)))]
            // SAFETY: the handler only adds to an atomic, which is allowed in a forked child, and it is
            // never unloaded, as Rust has no way to unload it.
            unsafe {
                libc::pthread_atfork(None, None, Some(in_child));
            }
            #[cfg(not(all(unix, not(miri))))]
            let _ = in_child;
        });
        Self(GENERATION.load(Ordering::Relaxed))
    }

    /// Whether this process was forked after `self` was taken.
    pub(crate) fn is_past(self) -> bool {
        GENERATION.load(Ordering::Relaxed) != self.0
    }
}
