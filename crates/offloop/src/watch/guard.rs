//! The thread of a watch, and how it is stopped.

use std::fmt;
use std::io;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

use super::clock::{Clock, Nanos, duration};
use crate::base::fork::OwnProcess;
use crate::base::spawn;
use crate::base::sync::atomic::{AtomicBool, Ordering};
use crate::base::sync::{park_timeout, thread};

/// Ends its watch when it is dropped.
///
/// The drop waits for the watch's thread, which ends at once unless it is in the callback. After the drop no callback
/// runs. Do not drop it while holding a lock that the callback waits for, such as Python's GIL. A drop within the
/// callback does not wait, nor does a drop in a forked child, which does not have the thread.
#[must_use = "dropping the guard ends the watch"]
pub struct WatchGuard {
    stop: Arc<AtomicBool>,
    /// Taken by the drop. A forked child does not have the thread, and can neither join nor detach it.
    thread: Option<OwnProcess<thread::JoinHandle<()>>>,
}

// A panic does not change the guard: it shares an atomic with the thread and otherwise only waits for its end.
impl UnwindSafe for WatchGuard {}
impl RefUnwindSafe for WatchGuard {}

/// Tells the watch's thread that the guard was dropped. There is no lock, which a forked child might find held.
pub(super) struct StopSignal(Arc<AtomicBool>);

impl WatchGuard {
    /// Starts a thread that runs `body`, which is to return soon after the signal is set.
    pub(super) fn spawn(body: impl FnOnce(&StopSignal) + Send + 'static) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let signal = StopSignal(Arc::clone(&stop));
        let thread = thread::Builder::new().name("offloop-watch".into());
        let thread = spawn::spawn(thread, move || body(&signal))?;
        Ok(Self { stop, thread: Some(OwnProcess::new(thread)) })
    }
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take().and_then(OwnProcess::into_inner) else { return };
        self.stop.store(true, Ordering::Release);
        thread.thread().unpark();
        if thread.thread().id() != thread::current().id() {
            // The thread catches the panics of its callback, so it does not panic.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for WatchGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchGuard").finish_non_exhaustive()
    }
}

impl StopSignal {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Sleeps until `time`. Returns the time at which the sleep really ended, and `None` if the guard was dropped.
    pub(super) fn sleep_until(&self, time: Nanos, clock: &Clock) -> Option<Nanos> {
        loop {
            if self.is_set() {
                return None;
            }
            let now = clock.now();
            if now >= time {
                return Some(now);
            }
            park_timeout(duration(time - now));
        }
    }
}
