//! Facts about this process and about its workers, as the system tells them.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::base::cores::cores;
use crate::base::fork::PerProcess;
use crate::base::starvation::CoreTimes;
use crate::base::thread;

/// The facts about this process that do not change.
pub(super) struct Identity {
    pub(super) pid: u32,
    pub(super) command: Vec<String>,
    /// The time of day at which it was started, in seconds since the epoch.
    pub(super) started: f64,
    pub(super) cores: usize,
}

impl Identity {
    pub(super) fn of_this_process() -> &'static Self {
        static IDENTITY: PerProcess<Identity> = PerProcess::new();
        IDENTITY.get(|| Self {
            pid: std::process::id(),
            command: command(),
            started: system::started().unwrap_or_else(|| seconds_of_day(SystemTime::now())),
            cores: cores(),
        })
    }
}

/// Returns a time of day in seconds since the epoch.
pub(super) fn seconds_of_day(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn command() -> Vec<String> {
    let own = || std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    // In a library of another language the arguments of Rust may be missing.
    system::command().filter(|words| !words.is_empty()).unwrap_or_else(own)
}

/// Returns the time for which this process was on cores, all of its threads together.
pub(super) fn cpu_time() -> Option<Duration> {
    #[cfg(unix)]
    return crate::base::clock::read(libc::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from_nanos);
    #[cfg(not(unix))]
    None
}

/// Returns the times of each thread of this process, by its id. `before` are those of an earlier reading.
///
/// A thread's run delay grows when it gets a core, and then its time on a core grows as well. So of the threads that have
/// not run since, the delay is known, and costs no file of `/proc`.
pub(super) fn thread_times(before: Option<&HashMap<i32, CoreTimes>>) -> HashMap<i32, CoreTimes> {
    let times = |id| {
        let on_core = thread::cpu_time(id)?;
        let known = before.and_then(|before| before.get(&id)).filter(|known| known.on_core == on_core);
        let run_delay =
            known.map_or_else(|| thread::run_delay(id).unwrap_or_default(), |known| known.run_delay);
        Some((id, CoreTimes { on_core, run_delay }))
    };
    thread::ids().into_iter().filter_map(times).collect()
}

pub(super) use system::{cpu_time_of, rss, where_it_waits};

#[cfg(target_os = "linux")]
mod system {
    use std::fs;
    use std::time::{Duration, SystemTime};

    use crate::base::clock;

    /// Returns the resident memory of a process in bytes, of this one if there is no id.
    pub(in crate::observe) fn rss(pid: Option<u32>) -> Option<u64> {
        let statm = read(pid, "statm")?;
        let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
        // A process that has ended has no pages.
        (pages > 0).then(|| pages * rustix::param::page_size() as u64)
    }

    /// Returns the time for which a process was on cores.
    pub(in crate::observe) fn cpu_time_of(pid: u32) -> Option<Duration> {
        let pid = i32::try_from(pid).ok()?;
        // The clock that `clock_getcpuclockid` would return: the complement of the id, shifted past three bits, of which 2
        // stands for the time on a core.
        clock::read((!pid << 3) | 2).map(Duration::from_nanos)
    }

    /// Returns the command line of this process.
    pub(super) fn command() -> Option<Vec<String>> {
        let words = fs::read("/proc/self/cmdline").ok()?;
        let words = words.strip_suffix(&[0]).unwrap_or(&words);
        Some(words.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect())
    }

    /// Returns the time of day at which this process was started, in seconds since the epoch.
    pub(super) fn started() -> Option<f64> {
        let stat = read(None, "stat")?;
        // The name in the second place may contain anything, parentheses included. The start is in the 22nd.
        let ticks: u64 = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()?;
        #[expect(clippy::cast_precision_loss, reason = "it is less than 2^53")]
        let started = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
        let since_boot = Duration::from_nanos(clock::read(libc::CLOCK_BOOTTIME)?);
        Some(super::seconds_of_day(SystemTime::now()) - since_boot.as_secs_f64() + started)
    }

    /// Says where a process waits in the kernel, or a thread of this process: a sentence. `None` if there is no such
    /// process or thread any more.
    pub(in crate::observe) fn where_it_waits(pid: Option<u32>, thread: Option<u32>) -> Option<String> {
        let folder = match (pid, thread) {
            (Some(pid), _) => format!("/proc/{pid}"),
            (None, thread) => format!("/proc/self/task/{}", thread?),
        };
        let stat = fs::read_to_string(format!("{folder}/stat")).ok()?;
        let state = stat.rsplit_once(')')?.1.trim_start().chars().next()?;
        let place = fs::read_to_string(format!("{folder}/wchan")).unwrap_or_default();
        let place = match place.trim() {
            "" | "0" => String::new(),
            place => format!(", in `{place}` of the kernel"),
        };
        let what = match state {
            'R' => "runs, or waits for a core",
            'S' => "waits",
            'D' => "waits and cannot be interrupted, for a disk for instance",
            'T' | 't' => "is stopped by a signal or a debugger",
            'Z' | 'X' => "has ended",
            _ => "is in a state that is not known",
        };
        let subject = if pid.is_some() { "the first thread of its process" } else { "its thread" };
        Some(format!("{subject} {what}{place} (state {state})"))
    }

    fn read(pid: Option<u32>, file: &str) -> Option<String> {
        match pid {
            Some(pid) => fs::read_to_string(format!("/proc/{pid}/{file}")),
            None => fs::read_to_string(format!("/proc/self/{file}")),
        }
        .ok()
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::time::Duration;

    pub(in crate::observe) fn rss(_pid: Option<u32>) -> Option<u64> {
        None
    }

    pub(in crate::observe) fn cpu_time_of(_pid: u32) -> Option<Duration> {
        None
    }

    pub(super) fn command() -> Option<Vec<String>> {
        None
    }

    pub(super) fn started() -> Option<f64> {
        None
    }

    pub(in crate::observe) fn where_it_waits(_pid: Option<u32>, _thread: Option<u32>) -> Option<String> {
        None
    }
}
