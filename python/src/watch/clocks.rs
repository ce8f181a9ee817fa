//! The activity of threads, as the system reports it: what a monitor asks about them.

use std::time::Duration;

use offloop::embed::thread;
use pyo3::prelude::*;

/// Returns the ids of this thread: that of `threading.get_ident()`, and that of the system.
pub(super) fn this_thread() -> (u64, i32) {
    thread_local! {
        static IDS: (u64, i32) = {
            // SAFETY: the function only returns a number.
            (unsafe { libc::pthread_self() }, thread::current_id())
        };
    }
    IDS.with(|ids| *ids)
}

/// Returns all threads of this process with their CPU times.
pub(super) fn all() -> Vec<(i32, Duration)> {
    thread::ids().into_iter().filter_map(|tid| Some((tid, thread::cpu_time(tid)?))).collect()
}

/// Returns the thread other than `tid` that has had most of a core since `before` was read, if `tid` has had little.
pub(super) fn busiest(before: &[(i32, Duration)], tid: i32) -> Option<i32> {
    const LEAST: Duration = Duration::from_millis(2);
    let since =
        |&(other, then): &(i32, Duration)| Some((other, thread::cpu_time(other)?.saturating_sub(then)));
    let spent: Vec<_> = before.iter().filter_map(since).collect();
    let own = spent.iter().find(|(other, _)| *other == tid).map_or(Duration::ZERO, |(_, spent)| *spent);
    let (other, most) =
        spent.into_iter().filter(|(other, _)| *other != tid).max_by_key(|(_, spent)| *spent)?;
    (most > 4 * own && most > LEAST).then_some(other)
}

/// Returns how often a thread has begun to wait. One that waits for the interpreter begins anew every few milliseconds.
pub(super) fn waits(tid: i32) -> u64 {
    thread::voluntary_switches(tid).unwrap_or(0)
}

/// Returns the native ids of this process's threads, and the seconds for which each has had a core.
#[pyfunction]
pub(crate) fn cpu_clocks() -> Vec<(i32, f64)> {
    all().into_iter().map(|(tid, time)| (tid, time.as_secs_f64())).collect()
}
