//! A short wait that spares a long one: to sleep until a job ends, and to be woken, costs more than a short job.
//!
//! When a job is submitted while a worker looks out for one, it is taken up at once, on another core. If it is
//! short, it has ended before its caller could have gone to sleep. So the first poll of such a job lingers for a
//! moment, for less time than sleeping would take, and a caller that blocks anyway lingers longer; but only as long
//! as that pays, which is learned as it goes: on a machine whose cores are all busy, or with longer jobs, it is soon
//! given up and only tried now and then.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::core::job::{Core, Expected, JobState};

/// Who lingers, for how long at most, and how well that has paid lately.
pub(crate) struct Lingerer {
    spinning: Duration,
    spins: Attempts,
    /// After that, for a job in another process.
    sleeping: Duration,
    sleeps: Attempts,
}

/// A poll: it spins for about what going to sleep and being woken cost a loop that need not wait. It sleeps for an
/// answer that is expected within 100 µs; the limit is the most that a loop is held up by one that is late. (With a
/// shorter one the sleeper's core wakes several times as slowly.)
pub(crate) static POLL: Lingerer = Lingerer {
    spinning: Duration::from_micros(3),
    spins: Attempts::new(),
    sleeping: Duration::from_millis(1),
    sleeps: Attempts::new(),
};

/// A caller that blocks anyway.
#[cfg(feature = "process")]
pub(crate) static WAIT: Lingerer = Lingerer {
    spinning: Duration::from_micros(20),
    spins: Attempts::new(),
    sleeping: Duration::from_millis(1),
    sleeps: Attempts::new(),
};

/// What came of lingering for a job in another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "process"), allow(dead_code, reason = "only other processes are attended"))]
pub(crate) enum Attended {
    /// It ended while its caller was spinning.
    Spinning,
    /// It ended while its caller was asleep.
    Sleeping,
    /// It goes on.
    InVain,
}

impl Lingerer {
    /// Waits a moment for `core`'s job to end, if that is likely. `attend` is how to wait for another process,
    /// spinning and then sleeping.
    pub(crate) fn linger(&self, core: &Core, attend: impl FnOnce(Duration, Duration) -> Attended) {
        let expected = core.expected();
        if cfg!(shuttle) || expected == Expected::No {
            return;
        }
        let spins = expected != Expected::FromSleeper && self.spins.may_pay();
        let spinning = if spins { self.spinning } else { Duration::ZERO };
        if expected == Expected::FromThread {
            let paid = !spinning.is_zero() && spin(core, Instant::now() + spinning);
            return self.spins.learn(paid);
        }
        let sleeping = if self.sleeps.may_pay() { self.sleeping } else { Duration::ZERO };
        let attended = attend(spinning, sleeping);
        if expected != Expected::FromSleeper {
            self.spins.learn(attended == Attended::Spinning);
        }
        if attended != Attended::Spinning {
            self.sleeps.learn(attended == Attended::Sleeping);
        }
    }
}

/// Counts the vain attempts since the last that paid, those that were not made included.
struct Attempts(AtomicU32);

/// After vain attempts it is tried less and less often: at every power of two, and at last once in so many.
const SELDOM: u32 = 256;

impl Attempts {
    const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    fn may_pay(&self) -> bool {
        let vain = self.0.load(Ordering::Relaxed);
        vain.is_power_of_two() || vain % SELDOM == 0
    }

    /// Races only lose a count.
    fn learn(&self, paid: bool) {
        let vain = self.0.load(Ordering::Relaxed);
        if !paid {
            self.0.store(vain.wrapping_add(1), Ordering::Relaxed);
        } else if vain != 0 {
            self.0.store(0, Ordering::Relaxed);
        }
    }
}

/// Says whether the job ended in time.
fn spin(core: &Core, deadline: Instant) -> bool {
    while core.state() != JobState::Ended {
        if Instant::now() >= deadline {
            return false;
        }
        std::hint::spin_loop();
    }
    true
}
