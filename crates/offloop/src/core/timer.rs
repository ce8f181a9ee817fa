//! The thread that ends jobs whose deadline has passed. It starts with the first deadline and sleeps between them.

use std::collections::BTreeMap;
use std::io;
use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::base::fork::PerProcess;
use crate::base::panic;
use crate::base::spawn::spawn;
use crate::base::sync::{Condvar, Mutex, thread, wait_timeout};

/// The limit of a job that a timer keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// The time that it may wait to start.
    Queue(Duration),
    /// The time that it may run.
    Run(Duration),
    /// The time for both together, counted from the call of `Handle::timeout`.
    Total(Duration),
}

/// The target of a timer.
pub(crate) trait Expire: Send + Sync {
    /// Called on the timer thread when the limit has passed.
    fn expire(&self, limit: Limit);
}

/// Identifies a timer, to cancel it. Ordered by deadline.
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
    running: bool,
}

/// Counts the timers. A forked child counts on, so that no key of its parent's fits a timer of its own.
static SERIALS: AtomicU64 = AtomicU64::new(0);

/// The timers of one process.
struct Clock {
    timers: Mutex<Timers>,
    /// Signalled when a new deadline comes before all others.
    earlier: Condvar,
}

impl Clock {
    fn new() -> Self {
        Self { timers: Mutex::new(Timers { due: BTreeMap::new(), running: false }), earlier: Condvar::new() }
    }

    /// Returns this process's clock.
    fn current() -> &'static Self {
        static CURRENT: PerProcess<Clock> = PerProcess::new();
        CURRENT.get(Self::new)
    }
}

/// Sets a timer that expires `target` at `deadline`, unless it is cancelled before. Fails if the timer thread cannot be
/// started.
pub(crate) fn set(deadline: Instant, target: Weak<dyn Expire>, limit: Limit) -> io::Result<Key> {
    let clock = Clock::current();
    let mut timers = clock.timers.lock();
    if !timers.running {
        spawn(thread::Builder::new().name("offloop-timer".into()), || clock.run())?;
        timers.running = true;
    }
    let key = Key { deadline, serial: SERIALS.fetch_add(1, Ordering::Relaxed) };
    let is_first = timers.due.first_key_value().is_none_or(|(first, _)| key < *first);
    timers.due.insert(key, Entry { target, limit });
    if is_first {
        clock.earlier.notify_one();
    }
    Ok(key)
}

/// Removes timers, due or not.
pub(crate) fn cancel(keys: &[Key]) {
    if !keys.is_empty() {
        let mut timers = Clock::current().timers.lock();
        let entries: Vec<_> = keys.iter().map(|key| timers.due.remove(key)).collect();
        drop(timers);
        // A weak reference may be the last that keeps a job's memory, so it is dropped after the lock.
        drop(entries);
    }
}

impl Clock {
    /// Runs the timer thread.
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
                        // This may drop the job, which runs the user's destructors. A panic of theirs must not end
                        // this thread, which keeps all other deadlines.
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
