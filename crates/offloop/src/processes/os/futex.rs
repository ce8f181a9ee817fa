//! Sleeping on a word of shared memory until another process wakes the sleeper.

use std::time::Duration;

#[cfg(not(any(shuttle, weak_memory)))]
use rustix::thread::futex;
#[cfg(not(any(shuttle, weak_memory)))]
use rustix::time::Timespec;

#[cfg(weak_memory)]
use super::block;
use crate::base::sync::atomic::AtomicU32;

/// The number of sleepers to wake, for "all of them". The system call takes it as a signed number.
#[cfg(not(any(shuttle, weak_memory)))]
const ALL: u32 = i32::MAX as u32;

/// Sleeps while `word` has the value `expected`, until it is woken or `limit` has passed. May return early. Returns
/// whether the limit has passed.
#[cfg(not(any(shuttle, weak_memory)))]
pub(in crate::processes) fn wait(word: &AtomicU32, expected: u32, limit: Duration) -> bool {
    let limit = Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    };
    let waited = futex::wait(word, futex::Flags::empty(), expected, Some(&limit));
    waited == Err(rustix::io::Errno::TIMEDOUT)
}

/// Wakes all that sleep on `word`, in all processes.
#[cfg(not(any(shuttle, weak_memory)))]
pub(in crate::processes) fn wake_all(word: &AtomicU32) {
    let _ = futex::wake(word, futex::Flags::empty(), ALL);
}

/// The models under shuttle are of the layers above the process pool, and have no other process. So a sleeper returns
/// early, and looks again.
#[cfg(shuttle)]
pub(in crate::processes) fn wait(_: &AtomicU32, _: u32, _: Duration) -> bool {
    crate::base::sync::thread::yield_now();
    false
}

#[cfg(shuttle)]
pub(in crate::processes) fn wake_all(_: &AtomicU32) {}

#[cfg(weak_memory)]
pub(in crate::processes) fn wait(word: &AtomicU32, expected: u32, _: Duration) -> bool {
    block::sleep_on(word, expected);
    false
}

#[cfg(weak_memory)]
pub(in crate::processes) fn wake_all(word: &AtomicU32) {
    block::wake_all_on(word);
}
