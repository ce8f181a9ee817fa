//! The monotonic clock as a number. On Unix all processes of a machine read it alike.

use std::time::Duration;

/// A moment, in nanoseconds since the system started, or since some other moment before this process's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Moment(u64);

impl Moment {
    /// Reads the clock.
    pub(crate) fn now() -> Self {
        #[cfg(unix)]
        return Self(read(libc::CLOCK_MONOTONIC).expect("there is a monotonic clock"));
        #[cfg(not(unix))]
        return Self(since_first_use());
    }

    pub(crate) fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

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

/// Returns the nanoseconds since this process first called this function, and 1 at that call. No other process reads the
/// clock here, since process pools need Linux.
#[cfg(not(unix))]
fn since_first_use() -> u64 {
    use std::sync::OnceLock;
    use std::time::Instant;

    static FIRST_USE: OnceLock<Instant> = OnceLock::new();
    let elapsed = FIRST_USE.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX).saturating_add(1)
}

/// Reads a clock of the system, in nanoseconds. Returns `None` if there is no such clock, as for a thread that has
/// ended.
#[cfg(unix)]
pub(crate) fn read(clock: libc::clockid_t) -> Option<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a `timespec` that outlives the call. An unknown clock is an error.
    let succeeded = unsafe { libc::clock_gettime(clock, &raw mut time) } == 0;
    let (seconds, nanos) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    succeeded.then(|| seconds.wrapping_mul(1_000_000_000).wrapping_add(nanos))
}
