//! The monotonic clock as a number, which other processes of this machine read alike.

use std::fs::File;
use std::io::Read;
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

/// For how long this thread could have run while others had the cores. Three system calls; `None` where the system
/// does not say.
fn run_delay() -> Option<Duration> {
    let mut text = [0; 64];
    let length = File::open("/proc/thread-self/schedstat").and_then(|mut file| file.read(&mut text)).ok()?;
    let delay = text[..length].split(u8::is_ascii_whitespace).nth(1)?;
    Some(Duration::from_nanos(std::str::from_utf8(delay).ok()?.parse().ok()?))
}

/// What became of the time that a job took. The rest of it, the job has waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    /// It was on a core.
    pub(crate) on_core: Duration,
    /// It could have run, but others had the cores.
    pub(crate) run_delay: Duration,
}

/// Tells what became of the time of a thread's jobs, if they took long. It takes system calls, so it is not asked at
/// each of many short jobs.
#[derive(Debug, Default)]
pub(crate) struct CpuMeter {
    on_core: Duration,
    run_delay: Duration,
    /// When the first of these was read.
    at: Moment,
    /// The second is of that time too, and not of earlier.
    is_whole: bool,
    /// At so many beginnings more both are read, since there was a long job of late.
    whole_readings: u8,
}

impl CpuMeter {
    /// So long ago may the last reading be to serve as the one at a job's beginning.
    const FRESH: Duration = Duration::from_micros(200);

    /// Jobs that take less are not measured.
    const LONG: Duration = Duration::from_millis(2);

    const OF_LATE: u8 = 32;

    /// A job begins on this thread.
    pub(crate) fn begin(&mut self, now: Moment) {
        if now.since(self.at) < Self::FRESH {
            return;
        }
        (self.at, self.on_core) = (now, thread_cpu());
        self.is_whole = self.whole_readings > 0;
        if self.is_whole {
            self.whole_readings -= 1;
            self.run_delay = run_delay().unwrap_or(self.run_delay);
        }
    }

    /// It has ended, after `took`: what became of that, if it was long and can be told.
    pub(crate) fn end(&mut self, now: Moment, took: Duration) -> Option<Usage> {
        if took < Self::LONG {
            return None;
        }
        let run_delay = run_delay().unwrap_or(self.run_delay);
        let on_core = thread_cpu();
        let reading = Self { on_core, run_delay, at: now, is_whole: true, whole_readings: Self::OF_LATE };
        let before = std::mem::replace(self, reading);
        let on_core = on_core.saturating_sub(before.on_core).min(took);
        let run_delay = run_delay.saturating_sub(before.run_delay).min(took.saturating_sub(on_core));
        // If the delay may be of earlier jobs, it must be too short to matter.
        (before.is_whole || run_delay <= took / 10).then_some(Usage { on_core, run_delay })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(meter: &mut CpuMeter, job: impl FnOnce()) -> (Option<Usage>, Duration) {
        let began = Moment::now();
        meter.begin(began);
        job();
        let ended = Moment::now();
        let took = ended.since(began);
        (meter.end(ended, took), took)
    }

    fn burn(time: Duration) {
        let end = thread_cpu() + time;
        while thread_cpu() < end {}
    }

    #[test]
    fn a_long_job_that_computes_is_told_from_one_that_sleeps() {
        let mut meter = CpuMeter::default();
        // The first is measured only if the machine is idle.
        measured(&mut meter, || burn(Duration::from_millis(3)));
        let (slept, took) = measured(&mut meter, || std::thread::sleep(Duration::from_millis(30)));
        assert!(slept.expect("it took long").on_core < took / 3);
        let (computed, _) = measured(&mut meter, || burn(Duration::from_millis(20)));
        assert!(computed.expect("it took long").on_core >= Duration::from_millis(19));
        assert_eq!(measured(&mut meter, || ()).0, None, "it took no time");
    }

    #[cfg(not(miri))]
    #[test]
    fn a_job_that_has_to_share_its_core_has_not_waited() {
        use std::sync::Barrier;

        let pin = || {
            // SAFETY: the set is of plain bits, and its size is its own.
            unsafe {
                let mut set: libc::cpu_set_t = std::mem::zeroed();
                assert_eq!(libc::sched_getaffinity(0, size_of_val(&set), &raw mut set), 0);
                let first = (0..libc::CPU_SETSIZE as usize).find(|header| libc::CPU_ISSET(*header, &set));
                libc::CPU_ZERO(&mut set);
                libc::CPU_SET(first.expect("there is a core"), &mut set);
                assert_eq!(libc::sched_setaffinity(0, size_of_val(&set), &raw const set), 0);
            }
        };
        if run_delay().is_none() {
            return;
        }
        let together = Barrier::new(4);
        let work = || {
            pin();
            let mut meter = CpuMeter::default();
            together.wait();
            measured(&mut meter, || burn(Duration::from_millis(50)));
            measured(&mut meter, || burn(Duration::from_millis(50)))
        };
        let (mut delayed, mut took) = (Duration::ZERO, Duration::ZERO);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            for (usage, its) in workers.into_iter().map(|worker| worker.join().unwrap()) {
                let Usage { on_core, run_delay } = usage.expect("it took long, and the meter was ready");
                assert!(on_core + run_delay >= its * 4 / 5, "{on_core:?} and {run_delay:?} of {its:?}");
                delayed += run_delay;
                took += its;
            }
        });
        assert!(delayed >= took / 4, "they have shared it: {delayed:?} of {took:?}");
    }
}
