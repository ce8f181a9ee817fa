//! Tracks the stalls of one thread, or of a runtime as a whole.

use std::time::Duration;

use super::report::Reporter;
use super::slot::ThreadSlot;
use super::stack;
use super::stall::{Stall, StallPhase, StalledThread};
use crate::base::activity::Activity;
use crate::base::thread;
use crate::watch::clock::{Nanos, duration};
use crate::watch::detector::{StallDetector, StallEvent};
use crate::watch::pulse::Reading;

pub(super) struct StallTracker {
    detector: StallDetector,
    /// The last beat in the last reading.
    last: Nanos,
    /// The start of the time over which the thread's CPU time is compared. `None` while the thread makes progress.
    baseline: Option<Baseline>,
    /// The last report, while there is a stall.
    stall: Option<Stall>,
}

/// The CPU time of a thread at some moment.
#[derive(Clone, Copy)]
struct Baseline {
    thread: i32,
    at: Nanos,
    cpu: Duration,
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
        // There are at most two events: a stall is over, and the next one has begun.
        while let (Some(event), _) = self.detector.look(now, reading) {
            match event {
                StallEvent::Began { late } => {
                    let mut stall = self.describe(now, slot, worker, StallPhase::Began, late, reporter);
                    reporter.begin(&mut stall);
                    self.stall = Some(stall);
                }
                StallEvent::Ongoing { late } => {
                    let mut stall = self.describe(now, slot, worker, StallPhase::Ongoing, late, reporter);
                    stall.seen = self.stall.as_ref().map_or(1, |stall| stall.seen);
                    reporter.report(&stall);
                    self.stall = Some(stall);
                }
                StallEvent::Over { lasted } => {
                    if let Some(stall) = self.stall.take() {
                        reporter.report(&Stall { phase: StallPhase::Over, lasted, ..stall });
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
        let cpu = slot.and_then(|slot| self.baseline?.share(slot, now));
        let is_runnable = slot.and_then(|slot| thread::state(slot.thread())).map(|state| state == 'R');
        let activity = match (cpu, is_runnable) {
            // It is ready to run. If it has had no CPU time, others have the cores.
            (_, Some(true)) => Some(Activity::Computes),
            (Some(share), _) => Some(Activity::of_share(share)),
            (None, Some(false)) => Some(Activity::Waits),
            (None, None) => None,
        };
        let task = slot.and_then(ThreadSlot::task);
        let stack = slot
            .filter(|_| reporter.wants_stacks)
            .map(|slot| stack::capture(slot.thread(), slot.stack()))
            .unwrap_or_default();
        Stall { phase, lasted, thread, worker, task, cpu, activity, stack, seen: 0 }
    }
}

impl Baseline {
    fn of(slot: &ThreadSlot, now: Nanos) -> Option<Self> {
        Some(Self { thread: slot.thread(), at: now, cpu: thread::cpu_time(slot.thread())? })
    }

    /// Returns the share of the time since then that the slot's thread was on a core. `None` if it is another thread by now.
    fn share(self, slot: &ThreadSlot, now: Nanos) -> Option<f64> {
        let passed = duration(now.saturating_sub(self.at));
        if slot.thread() != self.thread || passed.is_zero() {
            return None;
        }
        let computed = thread::cpu_time(self.thread)?.saturating_sub(self.cpu);
        Some((computed.as_secs_f64() / passed.as_secs_f64()).min(1.0))
    }
}
