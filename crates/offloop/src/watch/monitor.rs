//! The thread that looks.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::judge::{Event, Judge, Limits};
use super::pulse::{Nanos, Pulse, Shared, nanos, to_nanos};
use crate::fork::Generation;
use crate::panics;
use crate::sync::atomic::Ordering;
use crate::sync::{park_timeout, thread};

/// The shortest threshold: a system under load is late by about as much on its own.
const SHORTEST: Nanos = 1_000_000;

/// Watches one loop: what a late beat is, and how often to report one stall.
#[derive(Debug, Clone)]
#[must_use = "a monitor watches from `start` on"]
pub struct Monitor {
    threshold: Nanos,
    first_again: Nanos,
    longest_again: Nanos,
}

impl Monitor {
    /// A loop is stalled when its beat is late by `threshold`, at least a millisecond.
    ///
    /// One stall is reported again after another threshold, then after twice as long each time, and at least
    /// every ten seconds.
    pub fn new(threshold: Duration) -> Self {
        let threshold = to_nanos(threshold).max(SHORTEST);
        Self { threshold, first_again: threshold, longest_again: to_nanos(Duration::from_secs(10)) }
    }

    /// Reports a stall again after `first`, then after twice as long each time, at most after `longest`.
    pub fn again(mut self, first: Duration, longest: Duration) -> Self {
        self.first_again = to_nanos(first).max(SHORTEST);
        self.longest_again = to_nanos(longest);
        self
    }

    /// Starts the thread `offloop-watch`, which calls `on` for each event until the guard is dropped.
    ///
    /// The loop is watched from its first beat on. While `on` runs nobody looks, so it should be quick; a panic of
    /// it is caught. Fails if the thread cannot be started.
    pub fn start(self, on: impl FnMut(Event) + Send + 'static) -> io::Result<(Pulse, Guard)> {
        let shared = Arc::new(Shared::new(self.threshold, self.threshold / 4));
        let judge = Judge::new(self.limits());
        let watcher = Arc::clone(&shared);
        let thread =
            thread::Builder::new().name("offloop-watch".into()).spawn(move || watch(&watcher, judge, on))?;
        let guard = Guard { shared: Arc::clone(&shared), thread: Some(thread), born: Generation::now() };
        Ok((Pulse(shared), guard))
    }

    fn limits(&self) -> Limits {
        Limits {
            threshold: self.threshold,
            interval: self.threshold / 4,
            first_again: self.first_again,
            longest_again: self.longest_again,
        }
    }
}

/// Ends the watch when dropped.
///
/// The drop waits for the thread, which ends at once unless it is in the callback: after it no callback runs. Do
/// not hold what the callback waits for (a lock, Python's GIL) meanwhile. Dropped within the callback, it does not
/// wait. In a forked child there is no such thread, and nothing to wait for.
#[must_use = "dropping the guard ends the watch"]
pub struct Guard {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
    born: Generation,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        if self.born.is_past() {
            // A thread that is not here can be neither joined nor detached.
            return std::mem::forget(thread);
        }
        self.shared.stopped.store(true, Ordering::Release);
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

/// The life of the thread.
fn watch(shared: &Shared, mut judge: Judge, mut on: impl FnMut(Event)) {
    while !shared.stopped.load(Ordering::Acquire) {
        let (event, next) = judge.look(shared.clock.now(), shared.read());
        if let Some(event) = event {
            panics::drop_quietly(panics::catch(|| on(event)));
        } else if let Some(woken) = sleep_until(next, shared) {
            // Whoever kept this thread from running may have kept the loop, too.
            if woken - next > shared.threshold / 4 {
                judge.overslept(woken);
            }
        }
    }
    panics::drop_quietly(on);
}

/// Sleeps, and says when it ended; `None` if the guard was dropped.
fn sleep_until(time: Nanos, shared: &Shared) -> Option<Nanos> {
    loop {
        if shared.stopped.load(Ordering::Acquire) {
            return None;
        }
        let now = shared.clock.now();
        if now >= time {
            return Some(now);
        }
        park_timeout(nanos(time - now));
    }
}
