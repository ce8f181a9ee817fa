//! The monotonic clock as a number, which other processes of this machine read alike.

use std::time::Duration;

/// A moment, in nanoseconds since the system started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Moment(u64);

impl Moment {
    pub(crate) fn now() -> Self {
        Self(read(libc::CLOCK_MONOTONIC).expect("there is a monotonic clock"))
    }

    #[cfg(feature = "process")]
    pub(crate) fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    #[cfg(feature = "process")]
    pub(crate) fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    pub(crate) fn elapsed(self) -> Duration {
        Self::now().since(self)
    }
}

/// How long this thread has been on a core. A system call.
fn thread_cpu() -> Duration {
    Duration::from_nanos(read(libc::CLOCK_THREAD_CPUTIME_ID).expect("each thread has its clock"))
}

/// What a clock says, in nanoseconds; `None` if there is no such clock, or no more.
pub(crate) fn read(clock: libc::clockid_t) -> Option<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a `timespec` of ours. A clock that is not there is refused.
    let said = unsafe { libc::clock_gettime(clock, &raw mut time) } == 0;
    let (seconds, nanos) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    said.then(|| seconds.wrapping_mul(1_000_000_000).wrapping_add(nanos))
}

/// Tells for how long a thread's jobs were on a core, if they took long. That clock is a system call, so it is not
/// read for each of many short jobs.
#[derive(Debug, Default)]
pub(crate) struct CpuMeter {
    read: Duration,
    at: Moment,
}

impl CpuMeter {
    /// So long ago may the last reading be to serve as the one at a job's beginning.
    const FRESH: Duration = Duration::from_micros(200);

    /// Jobs that take less are not measured.
    const LONG: Duration = Duration::from_millis(2);

    /// A job begins on this thread.
    pub(crate) fn begin(&mut self, now: Moment) {
        if now.since(self.at) >= Self::FRESH {
            *self = Self { read: thread_cpu(), at: now };
        }
    }

    /// It has ended, after `took`: for how long it was on a core, if it took long.
    pub(crate) fn end(&mut self, now: Moment, took: Duration) -> Option<Duration> {
        if took < Self::LONG {
            return None;
        }
        let before = std::mem::replace(self, Self { read: thread_cpu(), at: now });
        Some(self.read.saturating_sub(before.read).min(took))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_job_that_computes_is_told_from_one_that_sleeps() {
        let mut meter = CpuMeter::default();
        let mut measure = |job: fn()| {
            let began = Moment::now();
            meter.begin(began);
            job();
            let took = began.elapsed();
            (meter.end(Moment::now(), took), took)
        };
        let (slept, took) = measure(|| std::thread::sleep(Duration::from_millis(30)));
        assert!(slept.expect("it took long") < took / 3);
        let (computed, _) = measure(|| {
            let mut meter = thread_cpu();
            let end = meter + Duration::from_millis(20);
            while meter < end {
                meter = thread_cpu();
            }
        });
        assert!(computed.expect("it took long") >= Duration::from_millis(19));
        assert_eq!(measure(|| ()).0, None, "it took no time");
    }
}
