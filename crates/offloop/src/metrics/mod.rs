//! Figures of the pools: how long jobs wait and run, what becomes of them, what the workers are at.
//!
//! [`ThreadPool::metrics`](crate::ThreadPool::metrics) and its like tell of one pool, [`all`] of those of this program.
//! They are plain values; [`prometheus`] writes them as Prometheus wants to read them. Figures are always kept, each
//! thread its own; they cost two readings of the clock a job.
//!
//! ```
//! use offloop::metrics::{self, Outcome};
//!
//! let pool = offloop::ThreadPool::builder().name("reports").build()?;
//! pool.run(|| 6 * 7).wait()?;
//! let figures = pool.metrics();
//! assert_eq!(figures.outcomes[Outcome::Completed], 1);
//! assert!(figures.run_time.quantile(0.99).is_some());
//! assert!(metrics::prometheus(&metrics::all()).contains("offloop_jobs_total{"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod advice;

mod histogram;
mod prometheus;
#[cfg(feature = "metrics")]
mod publisher;
pub(crate) mod stats;

use std::ops::{Index, IndexMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

pub use advice::{Advice, Found, Purpose};
pub(crate) use advice::{Advisor, OnAdvice};
pub use histogram::{Histogram, Recorder};
pub use prometheus::prometheus;
#[cfg(feature = "metrics")]
pub use publisher::Publisher;

use crate::base::fork::PerProcess;
pub use crate::core::outcome::Outcome;

/// How many jobs have come to which end: `outcomes[Outcome::Completed]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcomes([u64; Outcome::ALL.len()]);

impl Outcomes {
    /// How many jobs have ended in all.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Each outcome with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Outcome, u64)> + '_ {
        Outcome::ALL.into_iter().zip(self.0)
    }
}

impl Index<Outcome> for Outcomes {
    type Output = u64;

    fn index(&self, outcome: Outcome) -> &u64 {
        &self.0[outcome as usize]
    }
}

impl IndexMut<Outcome> for Outcomes {
    fn index_mut(&mut self, outcome: Outcome) -> &mut u64 {
        &mut self.0[outcome as usize]
    }
}

/// What a pool's workers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// Threads.
    Threads,
    /// Processes.
    Processes,
}

impl Kind {
    /// As a word for labels: `threads`, `processes`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Processes => "processes",
        }
    }
}

/// What the workers are at, at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Workers {
    /// They have a job.
    pub busy: usize,
    /// They have none, or look for one.
    pub idle: usize,
    /// Threads that wait for another job, while another thread stands in for each. They are not counted as busy.
    pub blocked: usize,
    /// Processes that are not up yet.
    pub starting: usize,
    /// Processes that finish what they have, or are being ended.
    pub leaving: usize,
}

/// Why worker processes were replaced, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Restarts {
    /// They died.
    pub crashed: u64,
    /// They were killed because their job was cancelled or out of time.
    pub job_ended: u64,
    /// They used more memory than they may.
    pub memory: u64,
    /// They had run as many jobs as they may.
    pub max_jobs: u64,
    /// They were as old as they may be.
    pub max_age: u64,
    /// They broke the protocol of their link.
    pub protocol: u64,
    /// They did not come up.
    pub failed_start: u64,
}

impl Restarts {
    /// Each reason, as a word for labels, with its count.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let Self { crashed, job_ended, memory, max_jobs, max_age, protocol, failed_start } = *self;
        [
            ("crashed", crashed),
            ("job_ended", job_ended),
            ("memory", memory),
            ("max_jobs", max_jobs),
            ("max_age", max_age),
            ("protocol", protocol),
            ("failed_start", failed_start),
        ]
        .into_iter()
    }

    /// How many there were in all.
    pub fn total(&self) -> u64 {
        self.iter().map(|(_, count)| count).sum()
    }
}

/// The shared memory that carries large payloads from this process to its workers. All pools of a process share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ArenaBytes {
    /// In use by payloads, in bytes.
    pub used: u64,
    /// Kept for later payloads, in bytes. It goes back to the system when it is not needed for a while.
    pub kept: u64,
}

/// The figures of one pool. Counts are since the pool was built.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Metrics {
    /// The pool's name.
    pub pool: Arc<str>,
    /// What its workers are.
    pub kind: Kind,
    /// What became of its jobs.
    pub outcomes: Outcomes,
    /// How often a job was given to another worker because its own had died.
    pub retried: u64,
    /// How long jobs waited for a worker: from submission to their begin.
    pub queue_wait: Histogram,
    /// How long jobs ran, those included that ended by another hand meanwhile.
    pub run_time: Histogram,
    /// How many accepted jobs wait for a worker, those that wait for room in the queue included.
    pub queued: usize,
    /// How many jobs run.
    pub running: usize,
    /// What its workers are at.
    pub workers: Workers,
    /// Why worker processes were replaced.
    pub restarts: Restarts,
    /// For process pools: the shared memory of this process.
    pub arena: Option<ArenaBytes>,
    /// For pools of a language with a global lock: how long its threads waited for that.
    pub lock_wait: Option<Histogram>,
    /// Which jobs would be better off elsewhere.
    pub advice: Vec<Advice>,
}

impl Metrics {
    /// Those of a pool that has done nothing.
    pub(crate) fn new(advisor: &Advisor, kind: Kind) -> Self {
        Self {
            pool: advisor.pool(),
            kind,
            outcomes: Outcomes::default(),
            retried: 0,
            queue_wait: Histogram::default(),
            run_time: Histogram::default(),
            queued: 0,
            running: 0,
            workers: Workers::default(),
            restarts: Restarts::default(),
            arena: None,
            lock_wait: None,
            advice: advisor.all(),
        }
    }
}

impl Metrics {
    /// How many workers are in which state, a word for labels, of the states that there are for workers of this kind.
    pub fn workers_by_state(&self) -> impl Iterator<Item = (&'static str, usize)> + use<> {
        let Workers { busy, idle, blocked, starting, leaving } = self.workers;
        let own = match self.kind {
            Kind::Threads => vec![("blocked", blocked)],
            Kind::Processes => vec![("starting", starting), ("leaving", leaving)],
        };
        [("busy", busy), ("idle", idle)].into_iter().chain(own)
    }
}

/// A pool whose figures can be read.
pub(crate) trait Measured: Send + Sync {
    fn metrics(&self) -> Metrics;
    /// Whether nothing will change any more.
    fn is_over(&self) -> bool;
}

/// The pools of this process that may still exist. The standard library's lock also under the model checker, whose
/// locks do not outlast a run.
fn pools() -> MutexGuard<'static, Vec<Weak<dyn Measured>>> {
    static POOLS: PerProcess<Mutex<Vec<Weak<dyn Measured>>>> = PerProcess::new();
    POOLS.get(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has [`all`] tell of a pool, as long as that exists.
pub(crate) fn enrol(pool: Weak<dyn Measured>) {
    let mut pools = pools();
    pools.retain(|pool| pool.strong_count() > 0);
    pools.push(pool);
}

/// The figures of all pools of this process that have not ended, those behind [`run`](crate::run) and
/// [`run_cpu`](crate::run_cpu) included, in the order in which they were built.
pub fn all() -> Vec<Metrics> {
    // Whoever holds the last of a pool here drops it without the lock.
    let pools: Vec<_> = pools().iter().filter_map(Weak::upgrade).collect();
    pools.iter().filter(|pool| !pool.is_over()).map(|pool| pool.metrics()).collect()
}
