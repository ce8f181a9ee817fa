//! The settings of a thread pool, as its registry keeps them. Nothing changes them once the pool is built.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::spawn::WorkerThread;
use crate::core::backlog::QueueConfig;
use crate::core::error::BuildError;
use crate::metrics::{Activity, OnAdvice, Recorder};

/// Starts a thread that runs the given worker. Must do so soon and once, or return an error.
pub(super) type Spawn = dyn Fn(WorkerThread) -> io::Result<()> + Send + Sync;

/// Called around each batch of jobs, with the batch as a function to call.
pub(super) type AroundBatch = dyn Fn(&mut dyn FnMut()) + Send + Sync;

/// The rule by which a pool starts threads, up to its `max_workers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Growth {
    /// A thread is started when work waits for longer than the threads that there are need to come back for it. A burst
    /// of short jobs is run by few threads.
    #[default]
    OnDemand,
    /// A thread is started with each job for which no idle thread is left, as the executors of Python's
    /// `concurrent.futures` do. For jobs that mostly wait, or that wait for each other by means the pool does not see.
    /// Each submission takes the pool's lock.
    Eager,
}

/// The settings of one pool.
#[derive(Clone)]
pub(super) struct Config {
    /// The pool's name. Worker threads are named after it, with a number.
    pub(super) name: Cow<'static, str>,
    /// The number of threads that stay although they are idle.
    pub(super) min_workers: usize,
    /// The largest number of threads, blocked ones not included. At least 1.
    pub(super) max_workers: usize,
    pub(super) growth: Growth,
    /// The time after which an idle thread leaves.
    pub(super) idle_timeout: Duration,
    /// The stack of each thread, in bytes. `None` for the standard library's default.
    pub(super) stack_size: Option<usize>,
    /// Called on each new thread before its first job.
    pub(super) on_worker_start: Option<Arc<dyn Fn() + Send + Sync>>,
    /// Starts threads instead of the standard library.
    pub(super) spawn: Option<Arc<Spawn>>,
    /// The hook around batches, and the time after which a batch takes no further job.
    pub(super) around_batch: Option<(Duration, Arc<AroundBatch>)>,
    pub(super) queue: QueueConfig,
    /// The time that a shutdown gives to jobs that it has asked to stop.
    pub(super) grace: Duration,
    /// The kind of calls that the pool is for. It gives advice on jobs of the other kind. `None` for any, without advice.
    pub(super) activity: Option<Activity>,
    /// Called with each advice.
    pub(super) on_advice: Option<OnAdvice>,
    /// The histogram of waits for an interpreter's lock. Written by the hook around batches, read for metrics.
    pub(super) lock_wait: Option<Arc<Recorder>>,
    /// Whether `metrics::all` includes the pool. False for the engine's own pools.
    pub(super) is_listed: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "offloop".into(),
            min_workers: 0,
            max_workers: 512,
            growth: Growth::default(),
            idle_timeout: Duration::from_secs(10),
            stack_size: None,
            on_worker_start: None,
            spawn: None,
            around_batch: None,
            queue: QueueConfig::default(),
            grace: Duration::from_secs(1),
            activity: None,
            on_advice: None,
            lock_wait: None,
            is_listed: true,
        }
    }
}

impl Config {
    /// Returns an error that names the first invalid setting.
    pub(super) fn check(&self) -> Result<(), BuildError> {
        let (min, max) = (self.min_workers, self.max_workers);
        if max == 0 {
            return invalid("max_workers is 0: nothing could ever run; give at least 1");
        }
        if min > max {
            return invalid(format!(
                "min_workers ({min}) exceeds max_workers ({max}); lower one or raise the other"
            ));
        }
        if self.name.contains('\0') {
            return invalid(
                "the pool's name contains a NUL byte, which the name of a thread cannot; remove it",
            );
        }
        self.queue.check()
    }
}

fn invalid(reason: impl Into<Cow<'static, str>>) -> Result<(), BuildError> {
    Err(BuildError::Setting(reason.into()))
}
