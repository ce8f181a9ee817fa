//! Tracks the stalls of one thread, or of a runtime as a whole.

use std::time::Duration;

use super::report::Reporter;
use super::slot::ThreadSlot;
use super::stall::{Stall, StallPhase, StalledThread};
use crate::base::activity::Activity;
use crate::base::stack;
use crate::base::starvation::{CoreTimes, CoreUse, StarvationMeter};
use crate::base::thread;
use crate::watch::clock::{Nanos, duration, to_nanos};
use crate::watch::detector::{StallDetector, StallEvent};
use crate::watch::pulse::Reading;

pub(super) struct StallTracker {
    detector: StallDetector,
    /// The last beat in the last reading.
    last: Nanos,
    /// The start of the time over which the thread's times are compared. `None` while the thread makes progress.
    baseline: Option<Baseline>,
    /// The last report, while there is a stall.
    stall: Option<Stall>,
}

/// The times of a thread at some moment.
#[derive(Clone, Copy)]
struct Baseline {
    thread: i32,
    at: Nanos,
    times: CoreTimes,
}

impl StallTracker {
    pub(super) fn new(detector: StallDetector) -> Self {
        Self { detector, last: 0, baseline: None, stall: None }
    }

    /// See [`StallDetector::ignore_before`].
    pub(super) fn ignore_before(&mut self, now: Nanos) {
        self.detector.ignore_before(now);
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.stall.is_some()
    }

    /// Judges a reading, and reports what follows from it. `slot` is that of the tracked thread, if it is known.
    pub(super) fn look(
        &mut self,
        now: Nanos,
        reading: Reading,
        slot: Option<&'static ThreadSlot>,
        worker: Option<usize>,
        reporter: &mut Reporter,
    ) {
        if reading.last != self.last {
            self.last = reading.last;
            self.baseline = None;
        } else if self.baseline.is_none() {
            // The thread has made no progress since the last look. Most have by the next one, so only now it is worth a
            // system call.
            self.baseline = slot.and_then(|slot| Baseline::of(slot, now));
        }
        // There are at most three events: a stall is over, and the next one is suspected and has begun.
        loop {
            let used =
                || self.baseline.zip(slot).and_then(|(then, slot)| then.used(slot, now, &reporter.meter));
            let starved = || used().map_or(0, |used| to_nanos(used.starved));
            let (Some(event), _) = self.detector.look(now, reading, starved) else { return };
            match event {
                StallEvent::Suspected => {}
                StallEvent::Starved { late, starved } => reporter.starved(late, starved),
                StallEvent::Began { late } => {
                    let mut stall = self.describe(now, slot, worker, StallPhase::Began, late, reporter);
                    reporter.begin(&mut stall);
                    self.stall = Some(stall);
                }
                StallEvent::Ongoing { late } => {
                    let mut stall = self.describe(now, slot, worker, StallPhase::Ongoing, late, reporter);
                    if let Some(before) = &self.stall {
                        (stall.seen, stall.number) = (before.seen, before.number);
                        #[cfg(feature = "tracing")]
                        {
                            stall.is_logged = before.is_logged;
                        }
                    }
                    reporter.report(&mut stall);
                    self.stall = Some(stall);
                }
                StallEvent::Over { lasted } => {
                    if let Some(stall) = self.stall.take() {
                        reporter.report(&mut Stall { phase: StallPhase::Over, lasted, ..stall });
                    }
                }
            }
        }
    }

    fn describe(
        &self,
        now: Nanos,
        slot: Option<&'static ThreadSlot>,
        worker: Option<usize>,
        phase: StallPhase,
        lasted: Duration,
        reporter: &Reporter,
    ) -> Stall {
        let thread = slot.and_then(|slot| StalledThread::find(slot.thread()));
        let used = self.baseline.zip(slot).and_then(|(then, slot)| then.used(slot, now, &reporter.meter));
        let passed = self.baseline.map_or(Duration::ZERO, |then| duration(now.saturating_sub(then.at)));
        let cpu = used.map(|used| used.share(passed));
        let starved = used.map_or(Duration::ZERO, |used| used.starved);
        let activity = match cpu {
            Some(share) => Some(Activity::of_share(share)),
            None => slot
                .and_then(|slot| thread::state(slot.thread()))
                .map(|state| if state == 'R' { Activity::Computes } else { Activity::Waits }),
        };
        let task = slot.and_then(ThreadSlot::task);
        let stack = slot
            .filter(|_| reporter.wants_stacks)
            .map(|slot| stack::capture(slot.thread(), slot.stack()))
            .unwrap_or_default();
        Stall {
            phase,
            lasted,
            starved,
            thread,
            worker,
            task,
            cpu,
            activity,
            stack,
            seen: 0,
            number: 0,
            #[cfg(feature = "tracing")]
            is_logged: false,
        }
    }
}

impl Baseline {
    fn of(slot: &ThreadSlot, now: Nanos) -> Option<Self> {
        Some(Self { thread: slot.thread(), at: now, times: CoreTimes::of(slot.thread())? })
    }

    /// Returns how the slot's thread has used the time since then. `None` if it is another thread by now.
    fn used(self, slot: &ThreadSlot, now: Nanos, meter: &StarvationMeter) -> Option<CoreUse> {
        let passed = duration(now.saturating_sub(self.at));
        let is_known = slot.thread() == self.thread && !passed.is_zero();
        is_known.then(|| meter.measure(self.thread, self.times, passed))
    }
}
