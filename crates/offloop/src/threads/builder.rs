//! The settings of a thread pool.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::registry::Registry;
use super::spawn::WorkerThread;
use super::{StatePool, ThreadPool};
use crate::core::backlog::OnFull;
use crate::core::error::BuildError;
use crate::metrics::{Activity, Advice, OnAdvice, Recorder};

/// Sets up a [`ThreadPool`]. Every setting has a default that suits work that waits.
#[must_use = "a builder does nothing until `build`"]
#[derive(Clone)]
pub struct ThreadPoolBuilder {
    config: Config,
}

#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) name: Cow<'static, str>,
    pub(crate) min_workers: usize,
    pub(crate) max_workers: usize,
    pub(crate) idle_timeout: Duration,
    pub(crate) stack_size: Option<usize>,
    pub(crate) on_worker_start: Option<Arc<dyn Fn() + Send + Sync>>,
    pub(crate) spawn: Option<Arc<Spawn>>,
    pub(crate) around_batch: Option<(Duration, Arc<AroundWork>)>,
    pub(crate) queue_capacity: usize,
    pub(crate) on_full: OnFull,
    pub(crate) grace: Duration,
    pub(crate) activity: Option<Activity>,
    pub(crate) on_advice: Option<OnAdvice>,
    pub(crate) lock_wait: Option<Arc<Recorder>>,
    /// Whether `metrics::all` tells of it.
    pub(crate) is_listed: bool,
}

type Spawn = dyn Fn(WorkerThread) -> io::Result<()> + Send + Sync;
type AroundWork = dyn Fn(&mut dyn FnMut()) + Send + Sync;

impl ThreadPoolBuilder {
    pub(super) fn new() -> Self {
        Self {
            config: Config {
                name: "offloop".into(),
                min_workers: 0,
                max_workers: 512,
                idle_timeout: Duration::from_secs(10),
                stack_size: None,
                on_worker_start: None,
                spawn: None,
                around_batch: None,
                queue_capacity: 10_000,
                on_full: OnFull::Wait,
                grace: Duration::from_secs(1),
                activity: None,
                on_advice: None,
                lock_wait: None,
                is_listed: true,
            },
        }
    }

    /// The pool's name; its threads are called `name-1`, `name-2`… Default `offloop`.
    pub fn name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.config.name = name.into();
        self
    }

    /// How many threads stay when there is no work. They start on demand like any other. Default 0.
    pub fn min_workers(mut self, threads: usize) -> Self {
        self.config.min_workers = threads;
        self
    }

    /// How many threads there may be; at least 1. A thread that waits for another job does not count.
    /// Default 512.
    pub fn max_workers(mut self, threads: usize) -> Self {
        self.config.max_workers = threads;
        self
    }

    /// How long a thread stays without work, beyond `min_workers`. Default 10 s.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.config.idle_timeout = timeout;
        self
    }

    /// The stack of each thread, in bytes. Default: the standard library's, 2 MiB.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.config.stack_size = Some(bytes);
        self
    }

    /// Is called on each new thread before its first job. A panic in it is caught and printed.
    pub fn on_worker_start(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
        self.config.on_worker_start = Some(Arc::new(hook));
        self
    }

    pub(crate) fn spawn_handler(
        mut self,
        spawn: impl Fn(WorkerThread) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.config.spawn = Some(Arc::new(spawn));
        self
    }

    pub(crate) fn around_batch(
        mut self,
        limit: Duration,
        hook: impl Fn(&mut dyn FnMut()) + Send + Sync + 'static,
    ) -> Self {
        self.config.around_batch = Some((limit, Arc::new(hook)));
        self
    }

    /// How many jobs may be queued, beside the running ones; at least 1. Default 10,000.
    pub fn queue_capacity(mut self, jobs: usize) -> Self {
        self.config.queue_capacity = jobs;
        self
    }

    /// What happens to new work when the queue is full. Default `OnFull::Wait`.
    pub fn on_full(mut self, policy: OnFull) -> Self {
        self.config.on_full = policy;
        self
    }

    /// How long a shutdown waits for jobs that it has asked to stop, before it reports them as stuck.
    /// Default 1 s.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.config.grace = grace;
        self
    }

    /// Sets what the pool is for: calls that compute, or calls that wait. By default anything, and there is no advice.
    ///
    /// Jobs that do the other are found by the time that they are on a core. There is [advice](crate::metrics::Advice)
    /// about them, once a task.
    pub fn activity(mut self, activity: Activity) -> Self {
        self.config.activity = Some(activity);
        self
    }

    /// Is called with each advice, once a task, on a thread of the pool, which meanwhile runs nothing else. Without
    /// this they stand in the [metrics](ThreadPool::metrics), and with the feature `tracing` they are warnings of the
    /// target `offloop`. A panic in it is caught and printed.
    pub fn on_advice(mut self, hook: impl Fn(&Advice) + Send + Sync + 'static) -> Self {
        self.config.on_advice = Some(Arc::new(hook));
        self
    }

    pub(crate) fn lock_wait(mut self, recorder: &Arc<Recorder>) -> Self {
        self.config.lock_wait = Some(Arc::clone(recorder));
        self
    }

    /// Not one of the program's pools, but of ours.
    pub(crate) fn unlisted(mut self) -> Self {
        self.config.is_listed = false;
        self
    }

    /// Builds the pool. No thread is started yet.
    pub fn build(self) -> Result<ThreadPool, BuildError> {
        let config = self.config;
        if config.max_workers == 0 {
            return Err(BuildError::Setting(
                "max_workers is 0: nothing could ever run; give at least 1".into(),
            ));
        }
        if config.min_workers > config.max_workers {
            let (min, max) = (config.min_workers, config.max_workers);
            return Err(BuildError::Setting(
                format!("min_workers ({min}) exceeds max_workers ({max}); lower one or raise the other")
                    .into(),
            ));
        }
        if config.queue_capacity == 0 {
            return Err(BuildError::Setting(
                "queue_capacity is 0: no job could wait for a thread; give at least 1".into(),
            ));
        }
        if config.name.contains('\0') {
            return Err(BuildError::Setting(
                "the pool's name contains a NUL byte; threads cannot be called so".into(),
            ));
        }
        Ok(ThreadPool::from_crew(Registry::new(config)))
    }

    /// Builds a pool in which each thread owns one value of `S` (a connection, say), opened by `open` on that
    /// thread when its first job comes.
    pub fn build_with_worker_state<S, E>(
        self,
        open: impl Fn() -> Result<S, E> + Send + Sync + 'static,
    ) -> Result<StatePool<S>, BuildError>
    where
        S: 'static,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        if self.config.on_full == OnFull::CallerRuns {
            return Err(BuildError::Setting(
                "OnFull::CallerRuns does not go with per-thread state: the caller's thread has none".into(),
            ));
        }
        Ok(StatePool::new(self.build()?, move || open().map_err(Into::into)))
    }
}

impl fmt::Debug for ThreadPoolBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = &self.config;
        f.debug_struct("ThreadPoolBuilder")
            .field("name", &config.name)
            .field("min_workers", &config.min_workers)
            .field("max_workers", &config.max_workers)
            .field("idle_timeout", &config.idle_timeout)
            .field("queue_capacity", &config.queue_capacity)
            .field("on_full", &config.on_full)
            .finish_non_exhaustive()
    }
}
