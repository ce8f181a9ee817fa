//! The system calls that block a thread, or wake one that another call has blocked.
//!
//! A model has no other processes: the model checker runs both sides as threads, one at a time, and none of them may
//! block in the kernel. There a lock stands for the kernel, and a thread that would block waits on a condition variable.
//! The sockets and events are real. No wait has a limit, so that a lost wake-up shows as a deadlock.

#[cfg(weak_memory)]
pub(in crate::processes) use self::model::{poll_within, receive, sleep_on, wait_for, wake, wake_all_on};
#[cfg(not(weak_memory))]
pub(super) use self::real::{poll_within, receive, wake};

#[cfg(not(weak_memory))]
mod real {
    use std::time::Duration;

    use rustix::net::RecvFlags;

    /// Makes a system call that may wake another thread, and does not block.
    pub(in super::super) fn wake<T>(call: impl FnOnce() -> T) -> T {
        call()
    }

    /// Reads from a socket by `call`, which blocks if the flags allow it.
    pub(in super::super) fn receive<T>(
        flags: RecvFlags,
        mut call: impl FnMut(RecvFlags) -> rustix::io::Result<T>,
    ) -> rustix::io::Result<T> {
        call(flags)
    }

    /// Makes a system call that blocks for at most `limit`.
    pub(in super::super) fn poll_within<T>(limit: Duration, call: impl FnOnce(Duration) -> T) -> T {
        call(limit)
    }
}

#[cfg(weak_memory)]
mod model {
    use std::collections::HashMap;
    use std::time::Duration;

    use loom::sync::{Condvar, Mutex, MutexGuard};
    use rustix::io::Errno;
    use rustix::net::RecvFlags;

    use crate::base::sync::atomic::{AtomicU32, Ordering};

    /// The state of the kernel that is not in sockets: how often each word had its sleepers woken, by its address.
    struct Kernel {
        woken: Mutex<HashMap<usize, u64>>,
        changed: Condvar,
    }

    loom::lazy_static! {
        static ref KERNEL: Kernel = Kernel { woken: Mutex::new(HashMap::new()), changed: Condvar::new() };
    }

    fn enter() -> MutexGuard<'static, HashMap<usize, u64>> {
        KERNEL.woken.lock().unwrap()
    }

    pub(in crate::processes) fn wake<T>(call: impl FnOnce() -> T) -> T {
        let kernel = enter();
        let result = call();
        drop(kernel);
        KERNEL.changed.notify_all();
        result
    }

    /// Blocks until `call`, which does not block by itself, returns something.
    pub(in crate::processes) fn wait_for<T>(mut call: impl FnMut() -> Option<T>) -> T {
        let mut kernel = enter();
        loop {
            if let Some(result) = call() {
                return result;
            }
            kernel = KERNEL.changed.wait(kernel).unwrap();
        }
    }

    pub(in crate::processes) fn receive<T>(
        flags: RecvFlags,
        mut call: impl FnMut(RecvFlags) -> rustix::io::Result<T>,
    ) -> rustix::io::Result<T> {
        wait_for(|| match call(flags | RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN) if !flags.contains(RecvFlags::DONTWAIT) => None,
            result => Some(result),
        })
    }

    /// The limit is over at once, and other threads go on first.
    pub(in crate::processes) fn poll_within<T>(_: Duration, call: impl FnOnce(Duration) -> T) -> T {
        loom::thread::yield_now();
        let _kernel = enter();
        call(Duration::ZERO)
    }

    pub(in crate::processes) fn sleep_on(word: &AtomicU32, expected: u32) {
        let address = std::ptr::from_ref(word).addr();
        let mut kernel = enter();
        if word.load(Ordering::Relaxed) != expected {
            return;
        }
        let before = kernel.get(&address).copied();
        while kernel.get(&address).copied() == before {
            kernel = KERNEL.changed.wait(kernel).unwrap();
        }
    }

    pub(in crate::processes) fn wake_all_on(word: &AtomicU32) {
        *enter().entry(std::ptr::from_ref(word).addr()).or_default() += 1;
        KERNEL.changed.notify_all();
    }
}
