//! The thread of a loop, as its monitor sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use offloop::embed::{self, CoreTimes, CoreUse, StarvationMeter, thread};
use offloop::metrics::Activity;
use offloop::watch::MeasureStarvation;

use super::clocks;
use crate::interpreter::Mutex;

/// The thread that beats. Written by that thread at each beat, read by the monitor's.
pub(super) struct LoopThread {
    /// Its id in `threading`.
    ident: AtomicU64,
    /// Its native id.
    tid: AtomicI32,
    /// The moment of its last beat, in nanoseconds since `started`, and its times at that moment.
    beat: AtomicU64,
    on_core: AtomicU64,
    run_delay: AtomicU64,
    started: Instant,
    /// The length of the last silence that was longer than the threshold, in nanoseconds.
    silence: AtomicU64,
    meter: Mutex<StarvationMeter>,
}

impl Default for LoopThread {
    fn default() -> Self {
        Self {
            ident: AtomicU64::new(0),
            tid: AtomicI32::new(0),
            beat: AtomicU64::new(0),
            on_core: AtomicU64::new(0),
            run_delay: AtomicU64::new(0),
            started: Instant::now(),
            silence: AtomicU64::new(0),
            meter: Mutex::default(),
        }
    }
}

impl LoopThread {
    /// Writes down that this thread beats now.
    pub(super) fn beat(&self) {
        let (ident, tid) = clocks::this_thread();
        self.ident.store(ident, Ordering::Relaxed);
        self.tid.store(tid, Ordering::Relaxed);
        self.on_core.store(nanos(thread::current_cpu_time()), Ordering::Relaxed);
        self.run_delay.store(nanos(embed::run_delay().unwrap_or_default()), Ordering::Relaxed);
        self.beat.store(nanos(self.started.elapsed()), Ordering::Relaxed);
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

    /// Returns the time since the last beat, and how the thread has used it.
    pub(super) fn since_beat(&self) -> (Duration, CoreUse) {
        let load = |number: &AtomicU64| Duration::from_nanos(number.load(Ordering::Relaxed));
        let before = CoreTimes { on_core: load(&self.on_core), run_delay: load(&self.run_delay) };
        let passed = self.started.elapsed().saturating_sub(load(&self.beat));
        (passed, self.meter.lock().measure(self.tid(), before, passed))
    }

    /// Returns the thread's activity since the last beat, and the time of it in which it had no core.
    pub(super) fn activity(&self) -> (Activity, Duration) {
        let (passed, used) = self.since_beat();
        (embed::activity_of(used.share(passed)), used.starved)
    }
}

/// The measure of a monitor.
pub(super) struct Measure(pub(super) Arc<LoopThread>);

impl MeasureStarvation for Measure {
    fn refresh(&mut self) {
        self.0.meter.lock().refresh();
    }

    fn since_beat(&mut self) -> Duration {
        self.0.since_beat().1.starved
    }

    fn own(&mut self) -> Duration {
        embed::own_run_delay()
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
