//! The thread that watches one loop by its pulse.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::clock::{Nanos, to_nanos};
use super::detector::{StallDetector, StallEvent, StallTiming};
use super::guard::{StopSignal, WatchGuard};
use super::pulse::{Pulse, PulseState};
use crate::base::panic;

/// The shortest threshold. On a machine under load a loop is late by about as much without a fault of its own.
const MIN_THRESHOLD: Nanos = 1_000_000;

/// Settings of the watch of one loop: when a beat is late, and how often a stall is reported.
#[derive(Debug, Clone)]
#[must_use = "a monitor watches from `start` on"]
pub struct Monitor {
    pub(super) timing: StallTiming,
}

impl Monitor {
    /// Makes a monitor for which a loop is stalled when its beat is late by `threshold`, at least a millisecond.
    ///
    /// A stall is reported again after another threshold, then after twice as long each time, at least every ten seconds.
    pub fn new(threshold: Duration) -> Self {
        let threshold = to_nanos(threshold).max(MIN_THRESHOLD);
        let longest_repeat = to_nanos(Duration::from_secs(10));
        Self {
            timing: StallTiming {
                threshold,
                interval: threshold / 4,
                first_repeat: threshold,
                longest_repeat,
            },
        }
    }

    /// Reports a stall again after `first`, then after twice as long each time, at most after `longest`.
    pub fn repeat(mut self, first: Duration, longest: Duration) -> Self {
        self.timing.first_repeat = to_nanos(first).max(MIN_THRESHOLD);
        self.timing.longest_repeat = to_nanos(longest);
        self
    }

    /// Starts the thread `offloop-watch`, which calls `on_event` for each event until the guard is dropped.
    ///
    /// The loop is watched from its first beat on. While `on_event` runs nothing is watched, so it should be quick. A
    /// panic in it is caught and printed.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    pub fn start(self, on_event: impl FnMut(StallEvent) + Send + 'static) -> io::Result<(Pulse, WatchGuard)> {
        let pulse = Arc::new(PulseState::new(self.timing.threshold, self.timing.interval));
        let (watched, detector) = (Arc::clone(&pulse), StallDetector::new(self.timing));
        let guard = WatchGuard::spawn(move |stop| watch(&watched, detector, stop, on_event))?;
        Ok((Pulse(pulse), guard))
    }
}

/// The body of the thread.
fn watch(
    pulse: &PulseState,
    mut detector: StallDetector,
    stop: &StopSignal,
    mut on_event: impl FnMut(StallEvent),
) {
    // The first look is due before anything was seen, so nothing counts that happened before it.
    let mut due = 0;
    while let Some(now) = stop.sleep_until(due, &pulse.clock) {
        // What has kept this thread from running may have kept the loop from beating, too.
        if now - due > pulse.threshold / 4 {
            detector.ignore_before(now);
        }
        let (event, next) = detector.look(now, pulse.read());
        if let Some(event) = event {
            panic::drop_quietly(panic::catch(|| on_event(event)));
        }
        due = next;
    }
    panic::drop_quietly(on_event);
}
