//! Nobody waits for ever: whoever waits says so here, and after some time without an end the run is over.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock;
use crate::ledger::PoolNumber;

/// How long a wait may last. No job, and no shutdown, takes a third of it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// A job is being submitted; some pools run it meanwhile.
    Submission(u64),
    /// A job's end.
    Job(u64),
    /// The end of jobs that are awaited together, from this one on.
    Jobs(u64),
    /// Room in the queue for a job.
    Acceptance(u64),
    Shutdown(PoolNumber),
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Submission(number) => write!(f, "the submission of job {number}"),
            Self::Job(number) => write!(f, "the end of job {number}"),
            Self::Jobs(number) => write!(f, "the end of job {number} and others"),
            Self::Acceptance(number) => write!(f, "room in the queue for job {number}"),
            Self::Shutdown(pool) => write!(f, "the shutdown of {pool}"),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Watchdog {
    next: AtomicU64,
    waits: Mutex<Waits>,
}

#[derive(Debug, Default)]
struct Waits {
    current: HashMap<u64, (Duration, Wait)>,
    longest: Option<(Duration, Wait)>,
}

impl Watchdog {
    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `f`, which waits.
    pub(crate) fn during<R>(&self, wait: Wait, f: impl FnOnce() -> R) -> R {
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        self.waits().current.insert(key, (clock::now(), wait));
        let result = f();
        let now = clock::now();
        let mut waits = self.waits();
        if let Some((began, wait)) = waits.current.remove(&key) {
            let lasted = now.saturating_sub(began);
            if waits.longest.is_none_or(|(longest, _)| longest < lasted) {
                waits.longest = Some((lasted, wait));
            }
        }
        result
    }

    /// Those who wait for longer than they should have to.
    pub(crate) fn overdue(&self) -> Vec<String> {
        let now = clock::now();
        let waits = self.waits();
        let lasted = |began: Duration| now.saturating_sub(began);
        let overdue = waits.current.values().filter(|(began, _)| lasted(*began) > PATIENCE);
        overdue.map(|(began, wait)| format!("somebody has waited {:?} for {wait}", lasted(*began))).collect()
    }

    /// The longest wait that came to its end.
    pub(crate) fn longest(&self) -> Option<(Duration, Wait)> {
        self.waits().longest
    }
}
