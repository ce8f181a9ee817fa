//! The thread of a watch, and how it ends.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::pulse::{Clock, Nanos, nanos};
use crate::base::fork::Generation;
use crate::base::sync::atomic::{AtomicBool, Ordering};
use crate::base::sync::{park_timeout, thread};

/// Ends the watch when dropped.
///
/// The drop waits for the thread, which ends at once unless it is in the callback: after it no callback runs. Do
/// not hold what the callback waits for (a lock, Python's GIL) meanwhile. Dropped within the callback, it does not
/// wait. In a forked child there is no such thread, and nothing to wait for.
#[must_use = "dropping the guard ends the watch"]
pub struct Guard {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
    born: Generation,
}

/// Says to the thread that the guard was dropped. There is no lock: a forked child finds none held.
pub(super) struct Stop(Arc<AtomicBool>);

impl Guard {
    /// Starts the thread.
    pub(super) fn spawn(life: impl FnOnce(&Stop) + Send + 'static) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Stop(Arc::clone(&stop));
        let thread = thread::Builder::new().name("offloop-watch".into()).spawn(move || life(&told))?;
        Ok(Self { stop, thread: Some(thread), born: Generation::now() })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        if self.born.is_past() {
            // A thread that is not here can be neither joined nor detached.
            return std::mem::forget(thread);
        }
        self.stop.store(true, Ordering::Release);
        thread.thread().unpark();
        if thread.thread().id() != thread::current().id() {
            // It catches what its callback does.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}

impl Stop {
    pub(super) fn is_told(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Sleeps until `time`, and says when it really ended; `None` if the guard was dropped.
    pub(super) fn sleep_until(&self, time: Nanos, clock: &Clock) -> Option<Nanos> {
        loop {
            if self.is_told() {
                return None;
            }
            let now = clock.now();
            if now >= time {
                return Some(now);
            }
            park_timeout(nanos(time - now));
        }
    }
}
