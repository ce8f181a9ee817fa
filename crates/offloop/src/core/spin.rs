//! Short waits that spare long ones: to sleep until something happens, and to be woken, costs more than a short job.
//!
//! When a job is submitted while a worker spins for one, it is taken up at once, on another core. If it is short, it has
//! ended before its caller could have gone to sleep. So the first poll of such a job spins for a moment, for less time
//! than sleeping would take, and a caller that blocks anyway spins longer. It does so only as long as that pays, which
//! [`AdaptiveSpin`] learns: on a machine whose cores are all busy, or with longer jobs, spinning is soon given up and only
//! tried now and then.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::header::{Expected, Header};

/// Learns whether spinning pays.
///
/// After attempts in vain it is tried less and less often: whenever the number of attempts since the last that paid is a
/// power of two, and at last once in `interval`.
#[derive(Debug)]
pub(crate) struct AdaptiveSpin {
    /// Counts the attempts in vain since the last that paid, including those that were skipped. Threads that race here
    /// only lose a count.
    in_vain: AtomicU32,
    interval: u32,
}

impl AdaptiveSpin {
    pub(crate) const fn new(interval: u32) -> Self {
        Self { in_vain: AtomicU32::new(0), interval }
    }

    /// Returns whether to spin this time.
    pub(crate) fn may_pay(&self) -> bool {
        let in_vain = self.in_vain.load(Ordering::Relaxed);
        in_vain.is_power_of_two() || in_vain % self.interval == 0
    }

    /// Records whether the wait ended while its thread was spinning, or would have.
    pub(crate) fn learn(&self, paid: bool) {
        let in_vain = self.in_vain.load(Ordering::Relaxed);
        if !paid {
            self.in_vain.store(in_vain.wrapping_add(1), Ordering::Relaxed);
        } else if in_vain != 0 {
            self.in_vain.store(0, Ordering::Relaxed);
        }
    }
}

/// Passes a moment on the core. Does not yield it: a thread that computes there would keep it for milliseconds, while a
/// thread that sleeps instead is woken in microseconds.
pub(crate) fn pause() {
    for _ in 0..8 {
        std::hint::spin_loop();
    }
}

/// One way of waiting for a job's end: how long it may take, and how well it has paid lately.
pub(crate) struct SpinWait {
    /// The longest time to spin.
    spinning: Duration,
    spins: AdaptiveSpin,
    /// The longest time to sleep after that, for a job in another process.
    sleeping: Duration,
    sleeps: AdaptiveSpin,
}

const INTERVAL: u32 = 256;

/// The wait of a poll.
///
/// It spins for about the time that going to sleep and being woken cost an event loop. It sleeps only for an answer that
/// is expected within 100 µs, and the limit is the longest that a loop is held up by one that is late.
pub(crate) static POLL: SpinWait = SpinWait {
    spinning: Duration::from_micros(3),
    spins: AdaptiveSpin::new(INTERVAL),
    sleeping: Duration::from_millis(1),
    sleeps: AdaptiveSpin::new(INTERVAL),
};

/// The wait of a caller that blocks anyway.
///
/// The limit of its sleep is longer than the tick of most kernels (4 ms). A timer that is due before the next tick has to be
/// set in the processor, at the begin of the sleep and at its end, which takes a virtual machine several microseconds.
pub(crate) static BLOCK: SpinWait = SpinWait {
    spinning: Duration::from_micros(20),
    spins: AdaptiveSpin::new(INTERVAL),
    sleeping: Duration::from_millis(5),
    sleeps: AdaptiveSpin::new(INTERVAL),
};

/// The outcome of a short wait for a job in another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SpinOutcome {
    /// The job ended while its caller was spinning.
    Spinning,
    /// The job ended while its caller was asleep.
    Sleeping,
    /// The job has not ended.
    InVain,
}

impl SpinWait {
    /// Waits a moment for the end of the job, if that is likely to come. `spin_for_end` waits for another process: it
    /// spins for at most the first time and sleeps for at most the second.
    pub(crate) fn wait(&self, header: &Header, spin_for_end: impl FnOnce(Duration, Duration) -> SpinOutcome) {
        let expected = header.expected();
        if cfg!(any(shuttle, weak_memory)) || expected == Expected::No {
            return;
        }
        let spins = expected != Expected::FromSleeper && self.spins.may_pay();
        let spinning = if spins { self.spinning } else { Duration::ZERO };
        if expected == Expected::FromThread {
            let paid = !spinning.is_zero() && ends_by(header, Instant::now() + spinning);
            return self.spins.learn(paid);
        }
        let sleeping = if self.sleeps.may_pay() { self.sleeping } else { Duration::ZERO };
        let outcome = spin_for_end(spinning, sleeping);
        if expected != Expected::FromSleeper {
            self.spins.learn(outcome == SpinOutcome::Spinning);
        }
        if outcome != SpinOutcome::Spinning {
            self.sleeps.learn(outcome == SpinOutcome::Sleeping);
        }
    }
}

/// Spins until the job has ended or the deadline has passed. Returns whether it has ended.
fn ends_by(header: &Header, deadline: Instant) -> bool {
    while !header.has_ended() {
        if Instant::now() >= deadline {
            return false;
        }
        std::hint::spin_loop();
    }
    true
}
