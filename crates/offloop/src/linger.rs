//! A short wait that spares a long one: to sleep until a job ends, and to be woken, costs more than a short job.
//!
//! When a job is submitted while a worker looks out for one, it is taken up at once, on another core. If it is
//! short, it has ended before its caller could have gone to sleep. So the first poll of such a job lingers for a
//! moment, for less time than sleeping would take; but only as long as that pays, which is learned as it goes:
//! on a machine whose cores are all busy, or with longer jobs, it is soon given up and only tried now and then.

use std::sync::atomic::{AtomicU32, Ordering as StdOrdering};
use std::time::{Duration, Instant};

use crate::job::{Core, JobState};
use crate::sync::atomic::Ordering;

/// How long a poll lingers at most. About what going to sleep and being woken cost a loop that need not wait.
const MOMENT: Duration = Duration::from_micros(3);

/// After vain attempts it is tried less and less often: at every power of two, and at last once in so many polls.
const SELDOM: u32 = 1024;

/// Vain attempts since the last that paid, polls that did not try included. Races only lose a count.
static VAIN: AtomicU32 = AtomicU32::new(0);

/// Waits a moment for `core`'s job to end, if that is likely.
pub(crate) fn linger(core: &Core) {
    if cfg!(shuttle) || !core.expected.load(Ordering::Relaxed) {
        return;
    }
    core.expected.store(false, Ordering::Relaxed);
    let vain = VAIN.load(StdOrdering::Relaxed);
    if !vain.is_power_of_two() && vain % SELDOM != 0 {
        VAIN.store(vain.wrapping_add(1), StdOrdering::Relaxed);
        return;
    }
    let deadline = Instant::now() + MOMENT;
    while core.state() != JobState::Ended {
        if Instant::now() >= deadline {
            VAIN.store(vain.wrapping_add(1), StdOrdering::Relaxed);
            return;
        }
        std::hint::spin_loop();
    }
    if vain != 0 {
        VAIN.store(0, StdOrdering::Relaxed);
    }
}
