//! Time: the monotonic clock, and the *fair* clock, by which this program is patient.
//!
//! The fair clock goes slower while threads of this run want a core and do not get one. All limits of how long something
//! may take are in fair time. So a run beside other load takes longer and finds the same, and what stands still although
//! there are free cores is found as soon as ever.

use std::collections::HashMap;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::{proc, run_log};

/// A longer tick counts as this one: the program, or the machine, stood still.
const LONGEST_TICK: Duration = Duration::from_secs(1);

/// A moment by both clocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) real: Duration,
    pub(crate) fair: Duration,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self { real: now(), fair: fair() }
    }
}

/// Returns the time since a fixed moment that is the same for this process and its workers.
pub(crate) fn now() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default()
}

/// Returns the fair time since the beginning of the run, which is the same for this process and its workers.
pub(crate) fn fair() -> Duration {
    run_log::fair_time()
}

/// Calls `holds` every `pause` until it returns true or `limit` has passed. Returns its last answer.
pub(crate) fn poll_until(limit: Duration, pause: Duration, holds: impl FnMut() -> bool) -> bool {
    poll(now, limit, pause, holds)
}

/// Does the same with a limit in fair time.
pub(crate) fn poll_fairly(limit: Duration, pause: Duration, holds: impl FnMut() -> bool) -> bool {
    poll(fair, limit, pause, holds)
}

fn poll(clock: fn() -> Duration, limit: Duration, pause: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = clock() + limit;
    loop {
        if holds() {
            return true;
        }
        if clock() >= deadline {
            return false;
        }
        std::thread::sleep(pause);
    }
}

/// Calls `wait` with short limits until it returns something or `limit` has passed in fair time.
pub(crate) fn wait_fairly<T>(limit: Duration, mut wait: impl FnMut(Duration) -> Option<T>) -> Option<T> {
    let mut result = None;
    poll_fairly(limit, Duration::ZERO, || {
        result = wait(Duration::from_millis(250));
        result.is_some()
    });
    result
}

/// The times of one thread since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ThreadTimes {
    /// The time for which it ran.
    pub(crate) ran: Duration,
    /// The time for which it could have run, and had no core.
    pub(crate) waited: Duration,
}

/// Measures how fast the fair clock goes. Used by the watchdog alone.
#[derive(Default)]
pub(crate) struct Meter {
    last: Duration,
    seen: HashMap<u32, ThreadTimes>,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self { last: now(), seen: proc::thread_times() }
    }

    /// Moves the fair clock on by the time since the last call. Call it often.
    pub(crate) fn tick(&mut self) {
        run_log::advance_fair_time(self.advance(now(), proc::thread_times()));
    }

    /// Returns the fair time that has passed since the last call, of which each thread has used what `threads` says.
    fn advance(&mut self, now: Duration, threads: HashMap<u32, ThreadTimes>) -> Duration {
        let passed = now.saturating_sub(self.last).min(LONGEST_TICK).as_secs_f64();
        let (mut ran, mut waited) = (0.0, 0.0);
        for (thread, times) in &threads {
            let before = self.seen.get(thread).copied().unwrap_or_default();
            ran += times.ran.saturating_sub(before.ran).as_secs_f64();
            waited += times.waited.saturating_sub(before.waited).as_secs_f64();
        }
        (self.last, self.seen) = (now, threads);
        if waited <= 0.0 || passed <= 0.0 {
            return Duration::from_secs_f64(passed);
        }
        // Threads that want nothing do not slow it down, whatever share the others get of the little that they want.
        let impeded = (waited / passed).min(1.0);
        let share = ran / (ran + waited);
        Duration::from_secs_f64(passed * (1.0 - impeded * (1.0 - share)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn threads(ran: f64, waited: f64) -> HashMap<u32, ThreadTimes> {
        let seconds = Duration::from_secs_f64;
        HashMap::from([(7, ThreadTimes { ran: seconds(ran), waited: seconds(waited) })])
    }

    fn advance(ran: f64, waited: f64) -> f64 {
        let mut meter = Meter { last: SECOND, seen: threads(5.0, 5.0) };
        meter.advance(2 * SECOND, threads(5.0 + ran, 5.0 + waited)).as_secs_f64()
    }

    #[test]
    fn fair_time_passes_as_real_time_while_nobody_waits_for_a_core() {
        assert!((advance(0.0, 0.0) - 1.0).abs() < 1e-9, "all sleep");
        assert!((advance(2.0, 0.0) - 1.0).abs() < 1e-9, "all run");
        assert!(advance(0.000_01, 0.000_09) > 0.99, "they sleep almost always");
    }

    #[test]
    fn fair_time_passes_by_the_share_of_the_cores_that_the_program_gets() {
        assert!((advance(0.1, 0.9) - 0.19).abs() < 1e-9, "one thread, a tenth of a core");
        assert!((advance(0.5, 9.5) - 0.05).abs() < 1e-9, "ten threads, a twentieth of what they want");
        assert!(advance(0.0, 1.0) < 1e-9, "it stands still");
    }

    #[test]
    fn a_machine_that_stood_still_costs_one_tick() {
        let mut meter = Meter { last: SECOND, seen: HashMap::new() };
        assert_eq!(meter.advance(100 * SECOND, HashMap::new()), LONGEST_TICK);
    }
}
