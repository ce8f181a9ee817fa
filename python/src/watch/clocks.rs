//! The CPU times and the states of threads, as the system reports them.

use std::time::Duration;

use pyo3::prelude::*;

/// Returns the ids of this thread: that of `threading.get_ident()`, and that of the system.
pub(super) fn this_thread() -> (u64, i32) {
    thread_local! {
        static IDS: (u64, i32) = {
            // SAFETY: both functions only return a number.
            unsafe { (libc::pthread_self(), libc::gettid()) }
        };
    }
    IDS.with(|ids| *ids)
}

/// Returns the time for which this thread has had a core.
pub(super) fn cpu_of_this_thread() -> Duration {
    read(libc::CLOCK_THREAD_CPUTIME_ID).unwrap_or_default()
}

/// Returns the time for which a thread of this process has had a core. `None` if there is no such thread.
pub(super) fn cpu(tid: i32) -> Option<Duration> {
    // The clock that `pthread_getcpuclockid` would return, which needs a thread that is known to live. The kernel's
    // number for it is the complement of the thread's id, shifted past three bits: 4 marks a thread's clock, 2 is the
    // time on a core.
    read((!tid << 3) | 6)
}

fn read(clock: libc::clockid_t) -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a value of the type that is written.
    let failed = unsafe { libc::clock_gettime(clock, &raw mut time) } != 0;
    let (seconds, nanos) = (u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?);
    (!failed).then(|| Duration::new(seconds, nanos))
}

/// Returns all threads of this process with their CPU times.
pub(super) fn all() -> Vec<(i32, Duration)> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    let tids = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok());
    tids.filter_map(|tid| Some((tid, cpu(tid)?))).collect()
}

/// Returns the thread other than `tid` that has had most of a core since `before` was read, if `tid` has had little.
pub(super) fn busiest(before: &[(i32, Duration)], tid: i32) -> Option<i32> {
    const LEAST: Duration = Duration::from_millis(2);
    let since = |&(other, then): &(i32, Duration)| Some((other, cpu(other)?.saturating_sub(then)));
    let spent: Vec<_> = before.iter().filter_map(since).collect();
    let own = spent.iter().find(|(other, _)| *other == tid).map_or(Duration::ZERO, |(_, spent)| *spent);
    let (other, most) =
        spent.into_iter().filter(|(other, _)| *other != tid).max_by_key(|(_, spent)| *spent)?;
    (most > 4 * own && most > LEAST).then_some(other)
}

/// Returns a thread's state: 'R' if it runs or is ready to, 'S' if it waits, and so on.
pub(super) fn state(tid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Returns how often a thread has begun to wait. One that waits for the interpreter begins anew every few milliseconds.
pub(super) fn waits(tid: i32) -> u64 {
    status(tid, "voluntary_ctxt_switches:").and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Returns whether a thread has the signal blocked, or has ended.
pub(super) fn blocks(tid: i32, signal: i32) -> bool {
    let mask = status(tid, "SigBlk:").and_then(|mask| u64::from_str_radix(&mask, 16).ok());
    mask.is_none_or(|mask| mask >> (signal - 1) & 1 == 1)
}

fn status(tid: i32, field: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/self/task/{tid}/status")).ok()?;
    Some(status.lines().find_map(|line| line.strip_prefix(field))?.trim().to_owned())
}

/// Returns the native ids of this process's threads, and the seconds for which each has had a core.
#[pyfunction]
pub(crate) fn cpu_clocks() -> Vec<(i32, f64)> {
    all().into_iter().map(|(tid, time)| (tid, time.as_secs_f64())).collect()
}
