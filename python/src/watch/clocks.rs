//! The ids and the waits of threads, as the system reports them.

use offloop::embed::thread;

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

/// Returns how often a thread has begun to wait. One that waits for the interpreter begins anew every few milliseconds.
pub(super) fn waits(tid: i32) -> u64 {
    thread::voluntary_switches(tid).unwrap_or(0)
}
