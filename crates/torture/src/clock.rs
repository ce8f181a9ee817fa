//! Time as all processes of a machine agree on it.

use std::time::Duration;

/// Since an arbitrary moment, the same for this process and its workers.
pub(crate) fn now() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live local variable of the type that `clock_gettime` writes.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Asks `holds` every `pause` until it says yes or `limit` has passed. Says whether it said yes.
pub(crate) fn poll_until(limit: Duration, pause: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = now() + limit;
    loop {
        if holds() {
            return true;
        }
        if now() >= deadline {
            return false;
        }
        std::thread::sleep(pause);
    }
}
