//! A short wait that spares a long one: to sleep until a job ends, and to be woken, costs more than a short job.
//!
//! When a job is submitted while a worker looks out for one, it is taken up at once, on another core. If it is
//! short, it has ended before its caller could have gone to sleep. So the first poll of such a job lingers for a
//! moment, for less time than sleeping would take, and a caller that blocks anyway lingers longer; but only as long
//! as that pays, which is learned as it goes: on a machine whose cores are all busy, or with longer jobs, it is soon
//! given up and only tried now and then.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::job::{Core, Expected, JobState};

/// Who lingers, for how long at most, and how well that has paid lately.
pub(crate) struct Lingerer {
    spinning: Duration,
    /// After that, for a job in another process.
    sleeping: Duration,
    /// Vain attempts since the last that paid, polls that did not try included. Races only lose a count.
    vain: AtomicU32,
}

/// A poll: about what going to sleep and being woken cost a loop that need not wait.
pub(crate) static POLL: Lingerer = Lingerer {
    spinning: Duration::from_micros(3),
    sleeping: Duration::from_micros(200),
    vain: AtomicU32::new(0),
};

/// A caller that blocks anyway.
#[cfg(feature = "process")]
pub(crate) static WAIT: Lingerer = Lingerer {
    spinning: Duration::from_micros(20),
    sleeping: Duration::from_millis(1),
    vain: AtomicU32::new(0),
};

/// After vain attempts it is tried less and less often: at every power of two, and at last once in so many polls.
const SELDOM: u32 = 1024;

impl Lingerer {
    /// Waits a moment for `core`'s job to end, if that is likely. `attend` is how to wait for another process,
    /// spinning and then sleeping; it says whether spinning was enough.
    pub(crate) fn linger(&self, core: &Core, attend: impl FnOnce(Duration, Duration) -> bool) {
        let expected = core.expected();
        if cfg!(shuttle) || expected == Expected::No {
            return;
        }
        let vain = self.vain.load(Ordering::Relaxed);
        let spins = vain.is_power_of_two() || vain % SELDOM == 0;
        let paid = if expected == Expected::FromProcess {
            attend(if spins { self.spinning } else { Duration::ZERO }, self.sleeping) && spins
        } else {
            spins && spin(core, Instant::now() + self.spinning)
        };
        if !paid {
            self.vain.store(vain.wrapping_add(1), Ordering::Relaxed);
        } else if vain != 0 {
            self.vain.store(0, Ordering::Relaxed);
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
