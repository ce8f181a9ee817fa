//! The thread that watches one loop by its pulse.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::clock::{Nanos, duration, to_nanos};
use super::detector::{StallDetector, StallEvent, StallTiming};
use super::guard::{StopSignal, WatchGuard};
use super::pulse::{Pulse, PulseState};
use super::record::{self, LoopRecord};
use crate::base::panic;

/// The shortest threshold. On a machine under load a loop is late by about as much without a fault of its own.
const MIN_THRESHOLD: Nanos = 1_000_000;

/// Measures the time in which the thread of a loop could have run but had no core. Called on the watch's thread, and
/// should be quick. A panic in it is caught and printed.
pub trait MeasureStarvation {
    /// Is called at each look while the loop is fine.
    fn refresh(&mut self) {}

    /// Returns that time since the loop's last beat. Called at each look while a beat is late.
    fn since_beat(&mut self) -> Duration;

    /// Returns the time in which the calling thread, which is the watch's, could have run but had no core, from its
    /// start until now. Called at each look.
    fn own(&mut self) -> Duration;
}

struct NotMeasured;

impl MeasureStarvation for NotMeasured {
    fn since_beat(&mut self) -> Duration {
        Duration::ZERO
    }

    fn own(&mut self) -> Duration {
        Duration::ZERO
    }
}

/// Settings of the watch of one loop: when a beat is late, and how often a stall is reported.
#[derive(Debug, Clone)]
#[must_use = "a monitor watches from `start` on"]
pub struct Monitor {
    pub(super) timing: StallTiming,
    name: Cow<'static, str>,
    kind: Cow<'static, str>,
}

impl Monitor {
    /// Makes a monitor for which a loop is stalled when its beat is late by `threshold`, at least a millisecond.
    ///
    /// A stall is reported again after another threshold, then after twice as long each time, at least every ten
    /// seconds.
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
            name: Cow::Borrowed("loop"),
            kind: Cow::Borrowed("other"),
        }
    }

    /// Sets the loop's name in the live view. Default: `loop`.
    pub fn name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets the loop's kind in the live view, such as `asyncio`. Default: `other`.
    pub fn kind(mut self, kind: impl Into<Cow<'static, str>>) -> Self {
        self.kind = kind.into();
        self
    }

    /// Makes the record of a loop with these settings.
    pub(super) fn record(&self) -> LoopRecord {
        LoopRecord::new(self.name.clone(), self.kind.clone(), duration(self.timing.threshold))
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
    pub fn start(
        self,
        mut on_event: impl FnMut(StallEvent) + Send + 'static,
    ) -> io::Result<(Pulse, WatchGuard)> {
        let on_event = move |event| {
            if event != StallEvent::Suspected {
                on_event(event);
            }
        };
        self.start_measured(NotMeasured, on_event)
    }

    /// Starts the same, and does not count time in which the loop had no core. Reports [`StallEvent::Suspected`] as
    /// well, half a threshold before a stall begins.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    pub fn start_measured(
        self,
        measure: impl MeasureStarvation + Send + 'static,
        on_event: impl FnMut(StallEvent) + Send + 'static,
    ) -> io::Result<(Pulse, WatchGuard)> {
        let pulse = Arc::new(PulseState::new(self.timing.threshold, self.timing.interval, self.record()));
        let (watched, detector) = (Arc::clone(&pulse), StallDetector::new(self.timing));
        let late_now = {
            let pulse = Arc::clone(&pulse);
            move || pulse.late_now()
        };
        let listed = record::list(&pulse.record, late_now);
        let guard = WatchGuard::spawn(move |stop| {
            watch(&watched, detector, stop, measure, on_event);
            drop(listed);
        })?;
        Ok((Pulse(pulse), guard))
    }
}

/// Calls a measure. A panic in it counts as zero.
fn time_of(measure: impl FnOnce() -> Duration) -> Nanos {
    panic::catch(measure).map_or_else(
        |panic| {
            panic::drop_quietly(panic);
            0
        },
        to_nanos,
    )
}

/// The body of the thread.
fn watch(
    pulse: &PulseState,
    mut detector: StallDetector,
    stop: &StopSignal,
    mut measure: impl MeasureStarvation,
    mut on_event: impl FnMut(StallEvent),
) {
    // The first look is due before anything was seen, so nothing counts that happened before it.
    let mut due = 0;
    let mut kept = 0;
    while let Some(now) = stop.sleep_until(due, &pulse.clock) {
        let kept_before = std::mem::replace(&mut kept, time_of(|| measure.own()));
        // What has kept this thread from running may have kept the loop from beating, too. If it was the want of a
        // core, it is measured for the loop itself.
        if (now - due).saturating_sub(kept.saturating_sub(kept_before)) > pulse.threshold / 4 {
            detector.ignore_before(now);
        }
        let (event, next) = detector.look(now, pulse.read(), || time_of(|| measure.since_beat()));
        if !detector.is_suspicious() {
            panic::drop_quietly(panic::catch(|| measure.refresh()));
        }
        if let Some(event) = event {
            note(&pulse.record, event);
            panic::drop_quietly(panic::catch(|| on_event(event)));
        }
        due = next;
    }
    panic::drop_quietly((measure, on_event));
}

/// Records an event for those who look.
fn note(record: &LoopRecord, event: StallEvent) {
    match event {
        StallEvent::Suspected => {}
        StallEvent::Began { late } => {
            record.count_stall();
            record.set_ongoing(late);
        }
        StallEvent::Ongoing { late } => record.set_ongoing(late),
        StallEvent::Over { lasted } => {
            record.add_stalled(lasted);
            record.set_ongoing(Duration::ZERO);
        }
        StallEvent::Starved { starved, .. } => record.note_starved(starved),
    }
}

#[cfg(all(test, not(any(shuttle, weak_memory))))]
mod tests {
    use super::*;
    use crate::watch::record::StallCounts;

    #[test]
    fn the_stall_that_goes_on_is_part_of_the_time() {
        const MS: Duration = Duration::from_millis(1);
        let record = Monitor::new(100 * MS).record();
        note(&record, StallEvent::Began { late: 100 * MS });
        note(&record, StallEvent::Ongoing { late: 300 * MS });
        assert_eq!((record.counts().stalls, record.counts().stalled), (1, 300 * MS));
        note(&record, StallEvent::Over { lasted: 320 * MS });
        note(&record, StallEvent::Starved { late: 90 * MS, starved: 80 * MS });
        let expected = StallCounts { stalls: 1, stalled: 320 * MS, starved: 1, starved_time: 80 * MS };
        assert_eq!(record.counts(), expected);
    }
}
