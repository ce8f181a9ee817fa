//! One thread, or a runtime as a whole, that may stand still.

use std::time::Duration;

use super::report::Reporter;
use super::slot::Slot;
use super::stall::{Activity, Phase, Stall};
use super::{stack, thread};
use crate::watch::judge::{Event, Judge};
use crate::watch::pulse::{Nanos, Reading, nanos};

/// The share of its time from which on a thread is said to compute.
const COMPUTES: f64 = 0.5;

pub(super) struct Suspect {
    judge: Judge,
    /// What was read at the look before, and since when the thread's CPU time is compared.
    last: Nanos,
    baseline: Option<Baseline>,
    /// What was told last, while it stands still.
    stall: Option<Stall>,
}

#[derive(Clone, Copy)]
struct Baseline {
    thread: i32,
    at: Nanos,
    cpu: Duration,
}

impl Suspect {
    pub(super) fn new(judge: Judge) -> Self {
        Self { judge, last: 0, baseline: None, stall: None }
    }

    pub(super) fn overslept(&mut self, now: Nanos) {
        self.judge.overslept(now);
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.stall.is_some()
    }

    /// Judges what was read, and reports. `slot` is of the thread that is meant, if it is known.
    pub(super) fn look(
        &mut self,
        now: Nanos,
        reading: Reading,
        slot: Option<&'static Slot>,
        worker: Option<usize>,
        reporter: &mut Reporter,
    ) {
        if reading.last != self.last {
            self.last = reading.last;
            self.baseline = None;
        } else if self.baseline.is_none() {
            // It has not moved for one look. Most do by the next, so it is only now worth a system call.
            self.baseline = slot.and_then(|slot| Baseline::of(slot, now));
        }
        // At most two in a row: it is over, and stands still again.
        while let (Some(event), _) = self.judge.look(now, reading) {
            match event {
                Event::Stalled { late } => {
                    let mut stall = self.describe(now, slot, worker, Phase::Began, late, reporter);
                    reporter.begin(&mut stall);
                    self.stall = Some(stall);
                }
                Event::Still { late } => {
                    let mut stall = self.describe(now, slot, worker, Phase::Ongoing, late, reporter);
                    stall.seen = self.stall.as_ref().map_or(1, |stall| stall.seen);
                    reporter.tell(&stall);
                    self.stall = Some(stall);
                }
                Event::Over { lasted } => {
                    if let Some(stall) = self.stall.take() {
                        reporter.tell(&Stall { phase: Phase::Over, lasted, ..stall });
                    }
                }
            }
        }
    }

    fn describe(
        &self,
        now: Nanos,
        slot: Option<&'static Slot>,
        worker: Option<usize>,
        phase: Phase,
        lasted: Duration,
        reporter: &Reporter,
    ) -> Stall {
        let thread = slot.and_then(|slot| thread::describe(slot.thread()));
        let cpu = slot.and_then(|slot| self.baseline?.share(slot, now));
        let runs = slot.and_then(|slot| thread::is_runnable(slot.thread()));
        let activity = match (cpu, runs) {
            // Ready to run and yet without CPU time: others have the cores.
            (_, Some(true)) => Activity::Computes,
            (Some(share), _) if share >= COMPUTES => Activity::Computes,
            (Some(_), _) | (None, Some(false)) => Activity::Waits,
            (None, None) => Activity::Unknown,
        };
        let task = slot.and_then(Slot::place);
        let stack = slot.filter(|_| reporter.wants_stacks).map(stack::capture).unwrap_or_default();
        Stall { phase, lasted, thread, worker, task, cpu, activity, stack, seen: 0 }
    }
}

impl Baseline {
    fn of(slot: &Slot, now: Nanos) -> Option<Self> {
        Some(Self { thread: slot.thread(), at: now, cpu: thread::cpu_time(slot.cpu_clock())? })
    }

    fn share(self, slot: &Slot, now: Nanos) -> Option<f64> {
        let passed = nanos(now.saturating_sub(self.at));
        if slot.thread() != self.thread || passed.is_zero() {
            return None;
        }
        let computed = thread::cpu_time(slot.cpu_clock())?.saturating_sub(self.cpu);
        Some((computed.as_secs_f64() / passed.as_secs_f64()).min(1.0))
    }
}
