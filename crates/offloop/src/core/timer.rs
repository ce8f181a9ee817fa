//! One thread that ends jobs whose time is up. It starts with the first deadline and sleeps between them.
//!
use std::collections::BTreeMap;
use std::io;
use std::sync::Weak;
use std::time::Instant;

use crate::base::fork::PerProcess;
use crate::base::panic;
use crate::base::sync::{Condvar, Mutex, thread, wait_timeout};
use crate::core::cell::Limit;

/// What a timer calls when it is due.
pub(crate) trait Expire: Send + Sync {
    fn expire(&self, limit: Limit);
}

/// Names a timer, to cancel it. Ordered by its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    deadline: Instant,
    serial: u64,
}

struct Entry {
    target: Weak<dyn Expire>,
    limit: Limit,
}

struct Timers {
    due: BTreeMap<Key, Entry>,
    next_serial: u64,
    running: bool,
}

/// The timers of one process.
struct Clock {
    timers: Mutex<Timers>,
    /// Signalled when a deadline comes before all others.
    earlier: Condvar,
}

impl Clock {
    fn new() -> Self {
        Self {
            timers: Mutex::new(Timers { due: BTreeMap::new(), next_serial: 0, running: false }),
            earlier: Condvar::new(),
        }
    }

    /// This process's clock.
    fn current() -> &'static Self {
        static CURRENT: PerProcess<Clock> = PerProcess::new();
        CURRENT.get(Self::new)
    }
}

/// Has `target` expire at `deadline`, unless cancelled before. Fails if the timer thread cannot be started.
pub(crate) fn set(deadline: Instant, target: Weak<dyn Expire>, limit: Limit) -> io::Result<Key> {
    let clock = Clock::current();
    let mut timers = clock.timers.lock();
    if !timers.running {
        thread::Builder::new().name("offloop-timer".into()).spawn(|| clock.run())?;
        timers.running = true;
    }
    let key = Key { deadline, serial: timers.next_serial };
    timers.next_serial += 1;
    let is_first = timers.due.first_key_value().is_none_or(|(first, _)| key < *first);
    timers.due.insert(key, Entry { target, limit });
    if is_first {
        clock.earlier.notify_one();
    }
    Ok(key)
}

/// Forgets timers, due or not.
pub(crate) fn cancel(keys: &[Key]) {
    if !keys.is_empty() {
        let mut timers = Clock::current().timers.lock();
        let entries: Vec<_> = keys.iter().map(|key| timers.due.remove(key)).collect();
        drop(timers);
        // A weak reference may be the last to hold a job's memory, so it is let go after the lock.
        drop(entries);
    }
}

impl Clock {
    /// The life of the timer thread.
    fn run(&self) {
        let mut timers = self.timers.lock();
        loop {
            timers = match timers.due.first_key_value() {
                None => self.earlier.wait(timers).unwrap_or_else(std::sync::PoisonError::into_inner),
                Some((key, _)) => match key.deadline.checked_duration_since(Instant::now()) {
                    Some(left) if !left.is_zero() => wait_timeout(&self.earlier, timers, left),
                    _ => {
                        let (_, entry) = timers.due.pop_first().expect("the first was just seen");
                        drop(timers);
                        // This may drop the last of the job, and the user's destructors run in there: a panic
                        // of theirs is not the end of all deadlines.
                        panic::drop_quietly(panic::catch(move || {
                            if let Some(target) = entry.target.upgrade() {
                                target.expire(entry.limit);
                            }
                        }));
                        self.timers.lock()
                    }
                },
            };
        }
    }
}
