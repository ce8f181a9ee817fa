//! The monotonic clock as a number, which all processes of a machine read alike.

use std::time::Duration;

/// A moment, in nanoseconds since the system started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Moment(u64);

impl Moment {
    /// Reads the clock.
    pub(crate) fn now() -> Self {
        Self(read(libc::CLOCK_MONOTONIC).expect("there is a monotonic clock"))
    }

    #[cfg(feature = "process")]
    pub(crate) fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    #[cfg(feature = "process")]
    pub(crate) fn as_nanos(self) -> u64 {
        self.0
    }

    /// Returns the time from `earlier` to this moment, and zero if `earlier` is later.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    pub(crate) fn elapsed(self) -> Duration {
        Self::now().since(self)
    }
}

/// Reads a clock of the system, in nanoseconds. Returns `None` if there is no such clock, as for a thread that has ended.
pub(crate) fn read(clock: libc::clockid_t) -> Option<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a `timespec` that outlives the call. An unknown clock is an error.
    let succeeded = unsafe { libc::clock_gettime(clock, &raw mut time) } == 0;
    let (seconds, nanos) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    succeeded.then(|| seconds.wrapping_mul(1_000_000_000).wrapping_add(nanos))
}
