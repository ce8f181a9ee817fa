//! The one number that the loop writes and the monitor reads.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::base::sync::atomic::{AtomicU64, Ordering};

/// Nanoseconds since a watch began: they fit in one atomic, which an `Instant` does not.
pub(super) type Nanos = u64;

/// In place of the last beat's time: the loop is not running.
pub(super) const PAUSED: Nanos = Nanos::MAX;

pub(super) fn nanos(nanos: Nanos) -> Duration {
    Duration::from_nanos(nanos)
}

pub(super) fn to_nanos(time: Duration) -> Nanos {
    // 292 years; twice as much still fits.
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).min(u64::MAX / 2)
}

/// What a monitor sees when it looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    /// The time of the last beat, or [`PAUSED`].
    pub(super) last: Nanos,
    /// When the loop last came back after a silence longer than the threshold.
    pub(super) back: Nanos,
}

/// The loop's end of a watch: it says that the loop comes round. Clones are the same pulse.
///
/// A loop beats every [`interval`](Self::interval). A beat reads the clock and stores a number: it takes no lock,
/// never blocks or allocates, and may come from any thread. When the watch has ended it does nothing.
#[derive(Clone)]
pub struct Pulse(pub(super) Arc<Shared>);

/// What the loop and the monitor share.
pub(super) struct Shared {
    pub(super) clock: Clock,
    pub(super) threshold: Nanos,
    interval: Nanos,
    last: AtomicU64,
    back: AtomicU64,
}

impl Shared {
    pub(super) fn new(threshold: Nanos, interval: Nanos) -> Self {
        Self {
            clock: Clock::new(),
            threshold,
            interval,
            last: AtomicU64::new(PAUSED),
            back: AtomicU64::new(0),
        }
    }

    pub(super) fn read(&self) -> Reading {
        // With the beat comes what was written before it.
        let last = self.last.load(Ordering::Acquire);
        Reading { last, back: self.back.load(Ordering::Relaxed) }
    }

    fn set(&self, now: Nanos, last: Nanos) {
        // The monitor may look only after further beats, and is to know when the first one came. (Nothing is
        // longer ago than `PAUSED`.)
        if now.saturating_sub(self.last.load(Ordering::Relaxed)) > self.threshold {
            self.back.store(now, Ordering::Relaxed);
        }
        self.last.store(last, Ordering::Release);
    }
}

impl Pulse {
    /// The loop comes round. The first beat begins the watch, and so does the first one after a pause.
    pub fn beat(&self) {
        let now = self.0.clock.now();
        self.0.set(now, now);
    }

    /// The loop rightly stands still from now on, until the next [`beat`](Self::beat): it was stopped, and will
    /// perhaps run again. A stall is over with this.
    pub fn pause(&self) {
        self.0.set(self.0.clock.now(), PAUSED);
    }

    /// How far apart the beats should be: a quarter of the threshold. Beats that come further apart look late;
    /// closer ones do no harm.
    pub fn interval(&self) -> Duration {
        nanos(self.0.interval)
    }

    /// How long ago the last beat was; `None` while paused.
    ///
    /// For who reports a stall and needs time to look at it: if the age is less than the time since the event, the
    /// loop has gone on meanwhile, and what is seen now is not what stalled it.
    pub fn age(&self) -> Option<Duration> {
        let last = self.0.read().last;
        (last != PAUSED).then(|| nanos(self.0.clock.now().saturating_sub(last)))
    }
}

impl fmt::Debug for Pulse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pulse").field("age", &self.age()).finish_non_exhaustive()
    }
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

/// The model checker has no clock: in this one any time may pass between two looks at it.
#[cfg(shuttle)]
pub(super) struct Clock(std::sync::atomic::AtomicU64);

#[cfg(shuttle)]
impl Clock {
    pub(super) fn new() -> Self {
        Self(std::sync::atomic::AtomicU64::new(0))
    }

    pub(super) fn now(&self) -> Nanos {
        let passed = shuttle::rand::Rng::gen_range(&mut shuttle::rand::thread_rng(), 1..2_000_000);
        self.0.fetch_add(passed, Ordering::SeqCst) + passed
    }
}
