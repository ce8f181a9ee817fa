//! The timers of jobs.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use offloop::ErrorKind;

use super::{Driver, Event, MachineTimer, Number, Timer, lock};

impl Driver {
    pub(super) fn arm(&mut self, number: Number, timer: Timer, after: Duration) {
        let Some(entry) = self.jobs.get_mut(&number) else { return };
        let Some(at) = Instant::now().checked_add(after) else { return };
        entry.armed[slot(timer)] = Some(at);
        self.timers.push(Reverse((at, number, timer)));
    }

    pub(super) fn fire_timers(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((at, number, timer))) = self.timers.peek().copied() {
            if at > now {
                return;
            }
            self.timers.pop();
            let Some(entry) = self.jobs.get_mut(&number) else { continue };
            // It may have been started anew since.
            if entry.armed[slot(timer)] == Some(at) {
                entry.armed[slot(timer)] = None;
                match timer {
                    Timer::Machine(timer) => self.feed(number, Event::Fired(timer)),
                    Timer::Unreachable => self.unreachable(number),
                }
            }
        }
    }

    /// Ends a job that is not in the queue, if that is because the server cannot be reached. If it gets into the queue yet,
    /// it is taken out again.
    pub(super) fn unreachable(&mut self, number: Number) {
        let link = self.store.link();
        let link = link.borrow().clone();
        if link.is_up && self.is_ready {
            return self.arm(number, Timer::Unreachable, self.shared.unreachable_after);
        }
        let trouble = lock(&self.shared.trouble).clone();
        let reason = if link.is_up { trouble.unwrap_or_default() } else { link.reason };
        let text = format!(
            "the cluster's server did not take the job within {:?}: {reason}",
            self.shared.unreachable_after
        );
        self.end_here(number, ErrorKind::Unreachable(text.into()));
        self.cancel(number);
    }
}

pub(super) fn slot(timer: Timer) -> usize {
    match timer {
        Timer::Machine(MachineTimer::Pause) => 0,
        Timer::Machine(MachineTimer::Ask) => 1,
        Timer::Unreachable => 2,
    }
}
