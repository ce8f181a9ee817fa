//! The event loops that sleep within a poll until a worker answers, and who keeps them from sleeping long.
//!
//! A sleep must not hold up a loop for more than a moment. But a timer that is due before the kernel's next tick has to be set
//! in the processor, at the begin of each sleep and at its end, which takes a virtual machine several microseconds. So while
//! loops sleep often, the supervisor keeps the time for all of them with one timer: it wakes those that sleep, once in
//! [`WATCH`], and each gives up if it has slept for its time.

use std::time::Duration;

use crate::base::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// The interval at which the supervisor wakes the sleepers.
pub(super) const WATCH: Duration = Duration::from_millis(1);

/// The longest sleep of a loop for which the supervisor keeps the time, should it come late or have stopped at this moment.
/// Longer than the tick of most kernels (4 ms).
pub(super) const UNWATCHED: Duration = Duration::from_millis(5);

/// The number of sleeps after which the supervisor is asked to watch.
const MANY: u32 = 64;

/// Values of `Sleepers::watch`.
mod watch {
    pub(super) const OFF: u8 = 0;
    /// The supervisor is to begin.
    pub(super) const WANTED: u8 = 1;
    pub(super) const ON: u8 = 2;
}

/// The agreement between sleepers and the supervisor. Both of its words are hints: a sleep is bounded whatever they say.
#[derive(Debug)]
pub(super) struct Sleepers {
    /// Counts the sleeps that have begun. Wraps around.
    begun: AtomicU32,
    watch: AtomicU8,
}

/// The party that keeps the time for a sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BoundBy {
    Sleeper,
    /// The sleeper, which notifies the supervisor first: it is to watch from now on.
    SleeperThatAsks,
    Supervisor,
}

impl Sleepers {
    pub(super) fn new() -> Self {
        Self { begun: AtomicU32::new(0), watch: AtomicU8::new(watch::OFF) }
    }

    /// Records that a sleep begins.
    pub(super) fn begin(&self) -> BoundBy {
        let begun = self.begun.fetch_add(1, Ordering::Relaxed);
        match self.watch.load(Ordering::Relaxed) {
            watch::ON => BoundBy::Supervisor,
            watch::OFF if begun % MANY == MANY - 1 => {
                self.watch.store(watch::WANTED, Ordering::Relaxed);
                BoundBy::SleeperThatAsks
            }
            _ => BoundBy::Sleeper,
        }
    }

    /// Returns how many sleeps have begun.
    pub(super) fn begun(&self) -> u32 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Returns whether the supervisor is to begin to watch.
    pub(super) fn want_watch(&self) -> bool {
        self.watch.load(Ordering::Relaxed) == watch::WANTED
    }

    /// Records whether the supervisor watches.
    pub(super) fn set_watched(&self, is_watched: bool) {
        self.watch.store(if is_watched { watch::ON } else { watch::OFF }, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(any(shuttle, weak_memory))))]
mod tests {
    use super::*;

    #[test]
    fn the_supervisor_is_asked_once_there_were_many_sleeps_and_keeps_the_time_from_then_on() {
        let sleepers = Sleepers::new();
        for _ in 1..MANY {
            assert_eq!(sleepers.begin(), BoundBy::Sleeper);
        }
        assert_eq!(sleepers.begin(), BoundBy::SleeperThatAsks);
        assert!(sleepers.want_watch());
        assert_eq!(sleepers.begin(), BoundBy::Sleeper, "it has not begun");
        sleepers.set_watched(true);
        assert!(!sleepers.want_watch());
        assert!((0..2 * MANY).all(|_| sleepers.begin() == BoundBy::Supervisor));
        sleepers.set_watched(false);
        assert_eq!((0..MANY).filter(|_| sleepers.begin() == BoundBy::SleeperThatAsks).count(), 1);
        assert_eq!(sleepers.begun(), 4 * MANY + 1);
    }
}
