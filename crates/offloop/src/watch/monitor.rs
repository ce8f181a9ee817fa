//! The thread that looks at one pulse.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::guard::{Guard, Stop};
use super::judge::{Event, Judge, Limits};
use super::pulse::{Nanos, Pulse, Shared, to_nanos};
use crate::base::panic;

/// The shortest threshold: a system under load is late by about as much on its own.
const SHORTEST: Nanos = 1_000_000;

/// Watches one loop: what a late beat is, and how often to report one stall.
#[derive(Debug, Clone)]
#[must_use = "a monitor watches from `start` on"]
pub struct Monitor {
    pub(super) limits: Limits,
}

impl Monitor {
    /// A loop is stalled when its beat is late by `threshold`, at least a millisecond.
    ///
    /// One stall is reported again after another threshold, then after twice as long each time, and at least
    /// every ten seconds.
    pub fn new(threshold: Duration) -> Self {
        let threshold = to_nanos(threshold).max(SHORTEST);
        let longest_again = to_nanos(Duration::from_secs(10));
        Self { limits: Limits { threshold, interval: threshold / 4, first_again: threshold, longest_again } }
    }

    /// Reports a stall again after `first`, then after twice as long each time, at most after `longest`.
    pub fn again(mut self, first: Duration, longest: Duration) -> Self {
        self.limits.first_again = to_nanos(first).max(SHORTEST);
        self.limits.longest_again = to_nanos(longest);
        self
    }

    /// Starts the thread `offloop-watch`, which calls `on` for each event until the guard is dropped.
    ///
    /// The loop is watched from its first beat on. While `on` runs nobody looks, so it should be quick; a panic of
    /// it is caught. Fails if the thread cannot be started.
    pub fn start(self, on: impl FnMut(Event) + Send + 'static) -> io::Result<(Pulse, Guard)> {
        let shared = Arc::new(Shared::new(self.limits.threshold, self.limits.interval));
        let (watched, judge) = (Arc::clone(&shared), Judge::new(self.limits));
        let guard = Guard::spawn(move |stop| watch(&watched, judge, stop, on))?;
        Ok((Pulse(shared), guard))
    }
}

/// The life of the thread.
fn watch(shared: &Shared, mut judge: Judge, stop: &Stop, mut on: impl FnMut(Event)) {
    // Due before anything was seen: nothing is believed that happened before the first look.
    let mut due = 0;
    while let Some(now) = stop.sleep_until(due, &shared.clock) {
        // Whoever kept this thread from looking may have kept the loop from beating, too.
        if now - due > shared.threshold / 4 {
            judge.overslept(now);
        }
        let (event, next) = judge.look(now, shared.read());
        if let Some(event) = event {
            panic::drop_quietly(panic::catch(|| on(event)));
        }
        due = next;
    }
    panic::drop_quietly(on);
}
