//! The thread of a loop, as its monitor sees it.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use offloop::embed::{self, thread};
use offloop::metrics::Activity;

use super::clocks;

/// The share of its time that a waiting thread, which is ready to run because it was woken just now, may have had a
/// core.
const WOKEN: f64 = 0.05;

/// The thread that beats. Written by that thread at each beat, read by the monitor's.
#[derive(Default)]
pub(super) struct LoopThread {
    /// Its id in `threading`.
    ident: AtomicU64,
    /// Its native id.
    tid: AtomicI32,
    /// Its CPU time at the last beat, in nanoseconds.
    cpu: AtomicU64,
    /// The length of the last silence that was longer than the threshold, in nanoseconds.
    silence: AtomicU64,
}

impl LoopThread {
    /// Writes down that this thread beats now.
    pub(super) fn beat(&self) {
        let (ident, tid) = clocks::this_thread();
        self.ident.store(ident, Ordering::Relaxed);
        self.tid.store(tid, Ordering::Relaxed);
        self.cpu.store(nanos(thread::current_cpu_time()), Ordering::Relaxed);
    }

    /// Writes down the length of a silence that was longer than the threshold.
    pub(super) fn set_silence(&self, silence: Duration) {
        self.silence.store(nanos(silence), Ordering::Relaxed);
    }

    /// Returns the length of the last such silence. 0 if there was none.
    pub(super) fn silence(&self) -> Duration {
        Duration::from_nanos(self.silence.load(Ordering::Relaxed))
    }

    /// Returns the thread's id in `threading`. 0 before the first beat.
    pub(super) fn ident(&self) -> u64 {
        self.ident.load(Ordering::Relaxed)
    }

    /// Returns the thread's native id. 0 before the first beat.
    pub(super) fn tid(&self) -> i32 {
        self.tid.load(Ordering::Relaxed)
    }

    /// Returns the thread's activity during `time`, which is about the time since the last beat.
    pub(super) fn activity(&self, time: Duration) -> Activity {
        let before = Duration::from_nanos(self.cpu.load(Ordering::Relaxed));
        let cpu = thread::cpu_time(self.tid()).unwrap_or_default().saturating_sub(before);
        let share = cpu.as_secs_f64() / time.as_secs_f64().max(1e-9);
        // One that is ready to run computes even if others have had the cores. One that has had nearly no core was
        // only woken just now.
        if share > WOKEN && thread::state(self.tid()) == Some('R') {
            Activity::Computes
        } else {
            embed::activity_of(share)
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
