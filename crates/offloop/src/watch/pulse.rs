//! The number that a loop writes at each turn and its monitor reads.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::clock::{Clock, Nanos, duration};
use super::record::{LoopRecord, StallPlace};
use crate::base::sync::atomic::{AtomicU64, Ordering};

/// In place of the last beat's time: no beat is due.
pub(super) const PAUSED: Nanos = Nanos::MAX;

/// The beats of a loop as its monitor reads them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    /// The time of the last beat, or [`PAUSED`].
    pub(super) last: Nanos,
    /// The time at which the loop last came back after a silence longer than the threshold.
    pub(super) back: Nanos,
}

/// The loop's end of a watch, by which the loop shows that it makes progress. Clones are the same pulse.
///
/// A loop beats every [`interval`](Self::interval). A beat reads the clock and stores a number. It takes no lock,
/// neither blocks nor allocates, and may come from any thread. When the watch has ended it has no effect.
#[derive(Clone)]
pub struct Pulse(pub(super) Arc<PulseState>);

/// The state that the loop and its monitor share.
pub(super) struct PulseState {
    pub(super) clock: Clock,
    pub(super) threshold: Nanos,
    interval: Nanos,
    /// How late the beats were, and what has stalled the loop.
    pub(super) record: Arc<LoopRecord>,
    /// See [`Reading`]. Both are written by beats and pauses, `back` before `last`.
    last: AtomicU64,
    back: AtomicU64,
}

impl PulseState {
    pub(super) fn new(threshold: Nanos, interval: Nanos, record: LoopRecord) -> Self {
        Self {
            clock: Clock::new(),
            threshold,
            interval,
            record: Arc::new(record),
            last: AtomicU64::new(PAUSED),
            back: AtomicU64::new(0),
        }
    }

    pub(super) fn read(&self) -> Reading {
        // Acquire: with a beat comes the `back` that was written before it.
        let last = self.last.load(Ordering::Acquire);
        Reading { last, back: self.back.load(Ordering::Relaxed) }
    }

    /// Returns for how long the next beat is overdue. Zero while paused.
    pub(super) fn late_now(&self) -> Duration {
        let last = self.read().last;
        duration(self.clock.now().saturating_sub(last.saturating_add(self.interval)))
    }

    /// Records how late the beat of this moment is, unless it is the first one or the first after a pause.
    fn record_lateness(&self, now: Nanos) {
        let last = self.last.load(Ordering::Relaxed);
        if last != PAUSED {
            self.record.lateness.record(duration(now.saturating_sub(last.saturating_add(self.interval))));
        }
    }

    fn set(&self, now: Nanos, last: Nanos) {
        // The monitor may look only after further beats, and must learn when the first one came. (After a pause the
        // difference is zero, as no time is later than `PAUSED`.)
        if now.saturating_sub(self.last.load(Ordering::Relaxed)) > self.threshold {
            self.back.store(now, Ordering::Relaxed);
        }
        self.last.store(last, Ordering::Release);
    }
}

impl Pulse {
    /// Records that the loop makes progress. The watch begins with the first beat, and again with the first beat
    /// after a pause.
    pub fn beat(&self) {
        let now = self.0.clock.now();
        self.0.record_lateness(now);
        self.0.set(now, now);
    }

    /// Suspends the watch until the next [`beat`](Self::beat), for a loop that is stopped and may run again later.
    /// Ends a stall that is going on.
    pub fn pause(&self) {
        self.0.set(self.0.clock.now(), PAUSED);
    }

    /// Counts a stall at a place, for the live view. For those who examine the stalls that they are told of.
    ///
    /// `stall` is the caller's number of the stall, another one for each. When the same stall is counted again, since it
    /// has lasted longer or its place is known better, that replaces what was counted for it before. At most 1024 places
    /// are told apart. Takes a lock for a moment, and needs neither the loop nor an interpreter.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use offloop::watch::{Monitor, StallPlace};
    ///
    /// let (pulse, _guard) = Monitor::new(Duration::from_millis(20)).name("requests").start(|_| ())?;
    /// let place = StallPlace::new("read_all").line("files.rs", Some(12)).advice("read it in a thread");
    /// pulse.stalled_at(1, place, Duration::from_millis(40));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn stalled_at(&self, stall: u64, place: StallPlace, lasted: Duration) {
        self.0.record.stalled_at(stall, place, lasted);
    }

    /// Returns the interval at which the loop should beat: a quarter of the threshold. Beats that come further apart
    /// look late; closer ones do no harm.
    pub fn interval(&self) -> Duration {
        duration(self.0.interval)
    }

    /// Returns the time since the last beat. `None` while paused.
    ///
    /// For callbacks that take their time to examine a stall: if the age is less than the time since the event, the
    /// loop has gone on meanwhile, and what is seen now is not what stalled it.
    pub fn age(&self) -> Option<Duration> {
        let last = self.0.read().last;
        (last != PAUSED).then(|| duration(self.0.clock.now().saturating_sub(last)))
    }
}

impl fmt::Debug for Pulse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pulse").field("age", &self.age()).finish_non_exhaustive()
    }
}
