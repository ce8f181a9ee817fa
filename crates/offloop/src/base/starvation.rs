//! The time in which a thread could have run but had no core: other threads and programs had them, a quota was used up,
//! or the machine's host had taken the core away.
//!
//! The kernel knows three parts of it. A thread's *run delay* is the time that it was ready to run and did not. While
//! its control group has used up its quota the group is *throttled*, and depending on the kernel its threads' run delay
//! does not grow. What the host of a virtual machine *steals* belongs to no thread either.
//!
//! On systems other than Linux nothing of it is known.

use std::time::{Duration, Instant};

use super::thread;

/// The time that a thread has been on a core, and the time that it has waited for one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CoreTimes {
    /// The time on a core.
    pub on_core: Duration,
    /// The run delay. Zero if the kernel does not keep account of it.
    pub run_delay: Duration,
}

impl CoreTimes {
    /// Returns the times of a thread of this process. `None` if there is no such thread.
    pub fn of(id: i32) -> Option<Self> {
        let run_delay = thread::run_delay(id).unwrap_or_default();
        Some(Self { on_core: thread::cpu_time(id)?, run_delay })
    }
}

/// Returns the run delay of the calling thread. Zero if the kernel does not keep account of it.
pub fn own_run_delay() -> Duration {
    thread::run_delay(thread::current_id()).unwrap_or_default()
}

/// How a thread has used some time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CoreUse {
    /// The time that it was on a core.
    pub on_core: Duration,
    /// The time in which it could have run but had no core.
    pub starved: Duration,
}

impl CoreUse {
    /// Returns the share, from 0 to 1, that the thread was on a core of the time in which it could have been on one.
    pub fn share(self, elapsed: Duration) -> f64 {
        let had = elapsed.saturating_sub(self.starved);
        (self.on_core.as_secs_f64() / had.as_secs_f64().max(1e-9)).min(1.0)
    }
}

/// Measures how threads have used their time. Keeps a reading of what happens to all threads, since that takes too long
/// to be read at each beat of a loop.
#[derive(Debug)]
pub struct StarvationMeter {
    /// The reading to which the next one is compared, and when it was made.
    losses: Losses,
    read: Instant,
}

impl Default for StarvationMeter {
    fn default() -> Self {
        Self::new()
    }
}

impl StarvationMeter {
    /// The age of the reading from which on it is renewed.
    const OLD: Duration = Duration::from_secs(1);

    /// The time in which a thread that has a core is seen to use it.
    const MOMENT: Duration = Duration::from_millis(1);

    /// Makes a meter with a reading of this moment.
    pub fn new() -> Self {
        Self { losses: Losses::read(), read: Instant::now() }
    }

    /// Renews the reading if it is old. To be called now and then while no thread is suspected to starve. Makes some
    /// system calls once a second.
    pub fn refresh(&mut self) {
        if self.read.elapsed() >= Self::OLD {
            *self = Self::new();
        }
    }

    /// Returns how a thread has used the time since its times were `before`, until now. Makes some system calls. Blocks
    /// for a millisecond if the thread seems to wait for a core at this moment.
    pub fn measure(&self, id: i32, before: CoreTimes, elapsed: Duration) -> CoreUse {
        let began = Instant::now();
        let used = |now: CoreTimes| {
            let elapsed = elapsed + began.elapsed();
            let on_core = now.on_core.saturating_sub(before.on_core).min(elapsed);
            let run_delay =
                now.run_delay.saturating_sub(before.run_delay).min(elapsed.saturating_sub(on_core));
            (CoreUse { on_core, starved: run_delay }, elapsed.saturating_sub(on_core + run_delay))
        };
        let first = CoreTimes::of(id).unwrap_or(before);
        let (mut use_now, mut rest) = used(first);
        // A thread that waits at this moment has not waited for a core in the rest of the time.
        if rest < Self::MOMENT || thread::state(id) != Some('R') {
            return use_now;
        }
        // The run delay has only what was over when the thread last got a core.
        std::thread::sleep(Self::MOMENT);
        let now = CoreTimes::of(id).unwrap_or(first);
        (use_now, rest) = used(now);
        if thread::state(id) == Some('R') {
            let has_run = now.on_core > first.on_core;
            use_now.starved += if has_run { Losses::read().since(&self.losses).min(rest) } else { rest };
        }
        use_now
    }
}

/// The times for which cores were taken from all threads of this process.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    /// The time for which each control group of this process was throttled, from the innermost to the outermost.
    throttled: Vec<Duration>,
    /// The time that the host has stolen from each core.
    stolen: Vec<Duration>,
}

impl Losses {
    /// Returns the most that one thread can have lost since the earlier reading.
    fn since(&self, earlier: &Self) -> Duration {
        let most = |now: &[Duration], then: &[Duration]| {
            now.iter().zip(then).map(|(now, then)| now.saturating_sub(*then)).max().unwrap_or_default()
        };
        most(&self.throttled, &earlier.throttled) + most(&self.stolen, &earlier.stolen)
    }

    /// Returns the shares of the time since the earlier reading, which this long has passed: the one in which a control group
    /// of this process was throttled, and the one of the machine's time that its host took. `None` if the system does not
    /// keep account of it.
    #[cfg(feature = "observe")]
    pub(crate) fn shares_since(&self, earlier: &Self, passed: Duration) -> (Option<f64>, Option<f64>) {
        let passed = passed.as_secs_f64().max(1e-9);
        let lost = |now: &[Duration], then: &[Duration]| -> Vec<f64> {
            let lost = now.iter().zip(then).map(|(now, then)| now.saturating_sub(*then));
            lost.map(|time| (time.as_secs_f64() / passed).min(1.0)).collect()
        };
        let throttled = lost(&self.throttled, &earlier.throttled).into_iter().reduce(f64::max);
        let stolen = lost(&self.stolen, &earlier.stolen);
        #[expect(clippy::cast_precision_loss, reason = "there are less than 2^53 cores")]
        let mean = |shares: &[f64]| shares.iter().sum::<f64>() / shares.len() as f64;
        (throttled, (!stolen.is_empty()).then(|| mean(&stolen)))
    }

    /// Reads the times of this moment. Makes some system calls.
    #[cfg(target_os = "linux")]
    pub(crate) fn read() -> Self {
        let stolen = std::fs::read_to_string("/proc/stat").map(|stat| stolen(&stat)).unwrap_or_default();
        let throttled = groups()
            .iter()
            .filter_map(|file| std::fs::read_to_string(file).ok())
            .filter_map(|stat| throttled(&stat))
            .collect();
        Self { throttled, stolen }
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn read() -> Self {
        Self::default()
    }
}

/// Returns the files about the CPU quotas of this process's control groups. Read once: processes rarely move.
#[cfg(target_os = "linux")]
fn groups() -> &'static [std::path::PathBuf] {
    static GROUPS: std::sync::OnceLock<Vec<std::path::PathBuf>> = std::sync::OnceLock::new();
    GROUPS.get_or_init(|| {
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        groups.lines().flat_map(quota_files).filter(|file| file.exists()).collect()
    })
}

/// Returns the files that may exist for a line of `/proc/self/cgroup`: that of its group, and of those around it.
#[cfg(target_os = "linux")]
fn quota_files(line: &str) -> Vec<std::path::PathBuf> {
    use std::path::Path;

    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { return Vec::new() };
    let roots: &[&str] = match controllers {
        "" => &["", "unified"],
        _ if controllers.split(',').any(|controller| controller == "cpu") => &["cpu", "cpu,cpuacct"],
        _ => &[],
    };
    let path = Path::new(path.trim_start_matches('/'));
    let files = |root: &&str| {
        let root = Path::new("/sys/fs/cgroup").join(root);
        path.ancestors().map(move |group| root.join(group).join("cpu.stat")).collect::<Vec<_>>()
    };
    roots.iter().flat_map(files).collect()
}

/// Reads the time for which a group was throttled from its `cpu.stat`: the first version of control groups counts
/// nanoseconds.
fn throttled(stat: &str) -> Option<Duration> {
    stat.lines().find_map(|line| match line.split_once(' ')? {
        ("throttled_usec", time) => Some(Duration::from_micros(time.parse().ok()?)),
        ("throttled_time", time) => Some(Duration::from_nanos(time.parse().ok()?)),
        _ => None,
    })
}

/// Reads the stolen time of each core from `/proc/stat`, in which it is the eighth number, in hundredths of a second.
fn stolen(stat: &str) -> Vec<Duration> {
    let of_core = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let name = words.next()?.strip_prefix("cpu")?;
        let ticks: u64 = words.nth(7)?.parse().ok()?;
        (!name.is_empty()).then(|| Duration::from_millis(ticks.saturating_mul(10)))
    };
    stat.lines().filter_map(of_core).collect()
}

#[cfg(all(test, not(any(shuttle, weak_memory))))]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_accounts_are_read_in_their_units() {
        let ms = Duration::from_millis;
        assert_eq!(
            throttled("usage_usec 1\nnr_throttled 3\nthrottled_usec 2500\n"),
            Some(Duration::from_micros(2500))
        );
        assert_eq!(throttled("nr_periods 9\nnr_throttled 3\nthrottled_time 7000000\n"), Some(ms(7)));
        assert_eq!(throttled("usage_usec 1\n"), None);
        let stat =
            "cpu  1 2 3 4 5 6 7 30 9 10\ncpu0 1 2 3 4 5 6 7 10 9 10\ncpu1 1 2 3 4 5 6 7 20 9 10\nintr 5 6\n";
        assert_eq!(stolen(stat), [ms(100), ms(200)]);
    }

    #[test]
    fn a_thread_has_lost_no_more_than_the_worst_core_and_the_worst_group() {
        let ms = Duration::from_millis;
        let losses = |throttled: [u64; 2], stolen: [u64; 2]| Losses {
            throttled: throttled.map(ms).into(),
            stolen: stolen.map(ms).into(),
        };
        let lost = losses([10, 25], [100, 130]).since(&losses([10, 20], [100, 100]));
        assert_eq!(lost, ms(35));
    }

    #[test]
    fn the_share_is_of_the_time_in_which_there_was_a_core() {
        let ms = Duration::from_millis;
        assert!((CoreUse { on_core: ms(30), starved: ms(70) }.share(ms(100)) - 1.0).abs() < 1e-6);
        assert!((CoreUse { on_core: ms(30), starved: ms(0) }.share(ms(100)) - 0.3).abs() < 1e-6);
    }

    #[cfg(all(target_os = "linux", not(miri)))]
    #[test]
    fn the_files_of_quotas_are_those_of_the_group_and_the_groups_around_it() {
        let text = |line| -> Vec<String> {
            quota_files(line).into_iter().map(|file| file.display().to_string()).collect()
        };
        assert!(text("0::/a/b").contains(&"/sys/fs/cgroup/a/b/cpu.stat".to_owned()));
        assert!(text("0::/a/b").contains(&"/sys/fs/cgroup/cpu.stat".to_owned()));
        assert!(text("4:cpu,cpuacct:/a").contains(&"/sys/fs/cgroup/cpu,cpuacct/a/cpu.stat".to_owned()));
        assert!(text("5:memory:/a").is_empty());
    }

    #[cfg(all(target_os = "linux", not(miri)))]
    #[test]
    fn a_thread_that_sleeps_does_not_starve() {
        let meter = StarvationMeter::new();
        let (id, began) = (thread::current_id(), Instant::now());
        let before = CoreTimes::of(id).unwrap();
        let (send, receive) = std::sync::mpsc::channel();
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while thread::state(id) != Some('S') {
                    std::thread::yield_now();
                }
                std::thread::sleep(Duration::from_millis(50));
                send.send(meter.measure(id, before, began.elapsed())).unwrap();
                drop(stop);
            });
            wait.recv().unwrap_err();
        });
        let used = receive.recv().unwrap();
        assert!(used.on_core + used.starved + Duration::from_millis(40) < began.elapsed(), "{used:?}");
    }
}
