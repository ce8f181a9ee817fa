//! Sleeping on a word of shared memory until another process wakes the sleeper.

use std::sync::atomic::AtomicU32;
use std::time::Duration;

use rustix::thread::futex;
use rustix::time::Timespec;

/// The number of sleepers to wake, for "all of them". The system call takes it as a signed number.
const ALL: u32 = i32::MAX as u32;

/// Sleeps while `word` has the value `expected`, until it is woken or `limit` has passed. May return early. Returns
/// whether the limit has passed.
pub(in crate::processes) fn wait(word: &AtomicU32, expected: u32, limit: Duration) -> bool {
    let limit = Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    };
    let waited = futex::wait(word, futex::Flags::empty(), expected, Some(&limit));
    waited == Err(rustix::io::Errno::TIMEDOUT)
}

/// Wakes all that sleep on `word`, in all processes.
pub(in crate::processes) fn wake_all(word: &AtomicU32) {
    let _ = futex::wake(word, futex::Flags::empty(), ALL);
}
