//! The CPU time of jobs: was a long job on a core, kept from one, or did it wait?

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use crate::base::clock::Moment;
use crate::base::thread;

/// How a job has used its time. In the rest of it the job has waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    /// The time that it was on a core.
    pub(crate) on_core: Duration,
    /// The time that it could have run while other threads had the cores.
    pub(crate) run_delay: Duration,
}

/// Measures how the long jobs of one thread use their time.
///
/// A reading takes system calls, so short jobs are not measured, and the reading at a job's end serves as the one at
/// the begin of the next.
#[derive(Debug, Default)]
pub(crate) struct CpuMeter {
    /// The thread's CPU time at the last reading.
    on_core: Duration,
    /// The thread's run delay at the last reading, or at an earlier one: see `is_whole`.
    run_delay: Duration,
    /// The moment of the last reading.
    at: Moment,
    /// The time that this reading took until it was made: a job that begins with it may have lost a core meanwhile, and
    /// the reading of the run delay has that time already.
    slack: Duration,
    /// Whether the last reading included the run delay.
    is_whole: bool,
    /// Counts the short jobs up to [`Self::SAMPLED`].
    short: u8,
    /// Counts down the readings that include the run delay, which costs three more system calls. Set anew by each long
    /// job: where there was one, there are likely to be more.
    whole_readings: u8,
}

impl CpuMeter {
    /// The greatest age of a reading that still serves for the begin of a job.
    const FRESH: Duration = Duration::from_micros(200);

    /// Jobs that take less are not measured, but one of [`SAMPLED`](Self::SAMPLED) of them is counted.
    pub(super) const LONG: Duration = Duration::from_millis(2);

    /// The number of short jobs for which one is counted.
    pub(super) const SAMPLED: u8 = 64;

    /// The number of readings after a long job that include the run delay.
    const WHOLE_READINGS: u8 = 32;

    /// Records that a job begins on this thread.
    pub(crate) fn begin(&mut self, now: Moment) {
        if now.since(self.at) < Self::FRESH {
            return;
        }
        (self.at, self.on_core) = (now, thread::current_cpu_time());
        self.is_whole = self.whole_readings > 0;
        if self.is_whole {
            self.whole_readings -= 1;
            self.run_delay = run_delay().unwrap_or(self.run_delay);
        }
        self.slack = now.elapsed();
    }

    /// Records that the job has ended after `took`. Returns what it used, if it was long and that is known, or if it
    /// counts for the short ones: of those it is not measured, and they are taken to compute.
    pub(crate) fn end(&mut self, now: Moment, took: Duration) -> Option<Usage> {
        if took < Self::LONG {
            self.short = (self.short + 1) % Self::SAMPLED;
            return (self.short == 0).then_some(Usage { on_core: took, run_delay: Duration::ZERO });
        }
        let run_delay = run_delay().unwrap_or(self.run_delay);
        let on_core = thread::current_cpu_time();
        let reading = Self { on_core, run_delay, at: now, slack: Duration::ZERO, is_whole: true, ..*self };
        let before = std::mem::replace(self, reading);
        self.whole_readings = Self::WHOLE_READINGS;
        let on_core = on_core.saturating_sub(before.on_core).min(took);
        // What passed until the reading is not in it. The reading takes microseconds: in the rest of that time other
        // threads and programs had the cores.
        let run_delay = run_delay.saturating_sub(before.run_delay) + before.slack;
        let run_delay = run_delay.min(took.saturating_sub(on_core));
        // If the delay may be that of earlier jobs too, it must be too short to matter.
        (before.is_whole || run_delay <= took / 10).then_some(Usage { on_core, run_delay })
    }
}

/// Returns the time that this thread could have run while others had the cores. Takes three system calls. `None` where
/// the kernel does not keep account of it.
pub fn run_delay() -> Option<Duration> {
    let mut text = [0; 64];
    let length = File::open("/proc/thread-self/schedstat").and_then(|mut file| file.read(&mut text)).ok()?;
    let delay = text[..length].split(u8::is_ascii_whitespace).nth(1)?;
    Some(Duration::from_nanos(std::str::from_utf8(delay).ok()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::thread::current_cpu_time;
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
        let end = current_cpu_time() + time;
        while current_cpu_time() < end {}
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

    #[test]
    fn one_of_many_short_jobs_is_counted() {
        let mut meter = CpuMeter::default();
        let mut end = || meter.end(Moment::now(), Duration::from_micros(5));
        let counted = (0..3 * usize::from(CpuMeter::SAMPLED)).filter(|_| end().is_some()).count();
        assert_eq!(counted, 3);
    }

    #[test]
    fn what_passes_before_the_reading_at_a_jobs_begin_is_no_waiting() {
        let mut meter = CpuMeter { whole_readings: 1, ..CpuMeter::default() };
        let lost = Duration::from_millis(30);
        let began = Moment::now();
        std::thread::sleep(lost);
        meter.begin(began);
        let ended = Moment::now();
        let took = ended.since(began);
        let used = meter.end(ended, took).expect("it took long, and the meter was ready");
        assert!(used.run_delay >= lost, "{used:?} of {took:?}");
    }

    #[cfg(not(miri))]
    #[test]
    fn a_job_that_has_to_share_its_core_has_not_waited() {
        use std::sync::Barrier;

        let pin = || {
            // SAFETY: zeros are a valid `cpu_set_t`, and each call gets the size of the set that it gets.
            unsafe {
                let mut set: libc::cpu_set_t = std::mem::zeroed();
                assert_eq!(libc::sched_getaffinity(0, size_of_val(&set), &raw mut set), 0);
                let first = (0..libc::CPU_SETSIZE as usize).find(|core| libc::CPU_ISSET(*core, &set));
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
