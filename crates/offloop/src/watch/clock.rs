//! The clock of a watch, as a number that fits in one atomic, which an `Instant` does not.

use std::time::Duration;

/// Nanoseconds since a watch began.
pub(super) type Nanos = u64;

pub(super) fn duration(nanos: Nanos) -> Duration {
    Duration::from_nanos(nanos)
}

pub(super) fn to_nanos(time: Duration) -> Nanos {
    // 292 years. Twice as much still fits, so the sum of two such times does not overflow.
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).min(u64::MAX / 2)
}

/// The monotonic clock since a watch began.
#[cfg(not(shuttle))]
pub(super) struct Clock(std::time::Instant);

#[cfg(not(shuttle))]
impl Clock {
    pub(super) fn new() -> Self {
        Self(std::time::Instant::now())
    }

    pub(super) fn now(&self) -> Nanos {
        to_nanos(self.0.elapsed())
    }
}

/// The clock under the model checker: any time may pass between two readings.
#[cfg(shuttle)]
pub(super) struct Clock(std::sync::atomic::AtomicU64);

#[cfg(shuttle)]
impl Clock {
    pub(super) fn new() -> Self {
        Self(std::sync::atomic::AtomicU64::new(0))
    }

    pub(super) fn now(&self) -> Nanos {
        let passed = shuttle::rand::Rng::gen_range(&mut shuttle::rand::thread_rng(), 1..2_000_000);
        self.0.fetch_add(passed, std::sync::atomic::Ordering::SeqCst) + passed
    }
}
