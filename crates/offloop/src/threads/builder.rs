//! The builder of thread pools.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::config::{Config, Growth};
use super::pool::ThreadPool;
use super::registry::Registry;
use super::spawn::WorkerThread;
use super::state::StatePool;
use super::worker;
use crate::core::backlog::OnFull;
use crate::core::error::BuildError;
use crate::metrics::{Activity, Advice, Recorder};

/// Sets up a [`ThreadPool`]. Every setting has a default that suits work that waits.
#[must_use = "a builder does nothing until `build`"]
#[derive(Clone)]
pub struct ThreadPoolBuilder {
    config: Config,
}

impl ThreadPool {
    /// Returns a builder with the default settings.
    pub fn builder() -> ThreadPoolBuilder {
        ThreadPoolBuilder { config: Config::default() }
    }
}

impl ThreadPoolBuilder {
    /// Sets the pool's name. Its threads are called `name-1`, `name-2` and so on. Default: `offloop`.
    pub fn name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.config.name = name.into();
        self
    }

    /// Sets the number of threads that stay when there is no work. They start on demand like any other. Default: 0.
    pub fn min_workers(mut self, threads: usize) -> Self {
        self.config.min_workers = threads;
        self
    }

    /// Sets the largest number of threads; at least 1. A thread whose job waits for another job does not count.
    /// Default: 512.
    pub fn max_workers(mut self, threads: usize) -> Self {
        self.config.max_workers = threads;
        self
    }

    /// Sets the time after which a thread without work leaves, unless it is one of `min_workers`. Default: 10 s.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.config.idle_timeout = timeout;
        self
    }

    /// Sets the size of each thread's stack, in bytes. Default: the standard library's, 2 MiB.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.config.stack_size = Some(bytes);
        self
    }

    /// Calls `hook` on each new thread before its first job. If it panics, the panic is caught and printed, and the
    /// thread serves the pool all the same.
    pub fn on_worker_start(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
        self.config.on_worker_start = Some(Arc::new(hook));
        self
    }

    /// See [`ThreadPoolBuilderExt::growth`](crate::embed::ThreadPoolBuilderExt::growth).
    pub(crate) fn growth(mut self, growth: Growth) -> Self {
        self.config.growth = growth;
        self
    }

    /// See [`ThreadPoolBuilderExt::spawn_handler`](crate::embed::ThreadPoolBuilderExt::spawn_handler).
    pub(crate) fn spawn_handler(
        mut self,
        spawn: impl Fn(WorkerThread) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.config.spawn = Some(Arc::new(spawn));
        self
    }

    /// See [`ThreadPoolBuilderExt::around_batch`](crate::embed::ThreadPoolBuilderExt::around_batch).
    pub(crate) fn around_batch(
        mut self,
        limit: Duration,
        hook: impl Fn(&mut dyn FnMut()) + Send + Sync + 'static,
    ) -> Self {
        self.config.around_batch = Some((limit, Arc::new(hook)));
        self
    }

    /// Sets the number of jobs that may be queued, beside the running ones; at least 1. Default: 10,000.
    pub fn queue_capacity(mut self, jobs: usize) -> Self {
        self.config.queue.capacity = jobs;
        self
    }

    /// Sets what happens to new work when the queue is full. Default: `OnFull::Wait`.
    pub fn on_full(mut self, policy: OnFull) -> Self {
        self.config.queue.on_full = policy;
        self
    }

    /// Sets the time for which a shutdown waits for jobs that it has asked to stop, before it reports them as stuck.
    /// Default: 1 s.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.config.grace = grace;
        self
    }

    /// Sets what the pool is for: calls that compute, or calls that wait. Jobs that do the other are found by the time that they are on a core, and the
    /// pool gives [advice](crate::metrics::Advice) on them, once per task. Default: anything, without advice.
    pub fn activity(mut self, activity: Activity) -> Self {
        self.config.activity = Some(activity);
        self
    }

    /// Calls `hook` with each advice, once per task, on a thread of the pool, which runs nothing else meanwhile.
    ///
    /// Advice is also part of the pool's [metrics](ThreadPool::metrics). Without a hook and with the feature `tracing`,
    /// it is logged as a warning with the target `offloop`. If the hook panics, the panic is caught and printed.
    pub fn on_advice(mut self, hook: impl Fn(&Advice) + Send + Sync + 'static) -> Self {
        self.config.on_advice = Some(Arc::new(hook));
        self
    }

    /// See [`ThreadPoolBuilderExt::lock_wait`](crate::embed::ThreadPoolBuilderExt::lock_wait).
    pub(crate) fn lock_wait(mut self, recorder: &Arc<Recorder>) -> Self {
        self.config.lock_wait = Some(Arc::clone(recorder));
        self
    }

    /// Leaves the pool out of [`metrics::all`](crate::metrics::all): it is one of the engine's own, not the program's.
    pub(crate) fn unlisted(mut self) -> Self {
        self.config.is_listed = false;
        self
    }

    /// Builds the pool. Starts no thread.
    pub fn build(self) -> Result<ThreadPool, BuildError> {
        self.config.check()?;
        Ok(ThreadPool::new(Registry::new(self.config, worker::serve)))
    }

    /// Builds a pool in which each thread owns one value of `S`, such as a connection, that its jobs get as `&mut S`.
    ///
    /// `open` makes the value, on the thread that will own it, when the thread takes its first job. If it fails, that
    /// job ends with [`ErrorKind::WorkerState`](crate::ErrorKind::WorkerState) and the thread's next job tries again.
    ///
    /// A pool whose policy is [`OnFull::CallerRuns`] cannot be built, since the submitter's thread has no value.
    pub fn build_with_worker_state<S, E>(
        self,
        open: impl Fn() -> Result<S, E> + Send + Sync + 'static,
    ) -> Result<StatePool<S>, BuildError>
    where
        S: 'static,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        if self.config.queue.on_full == OnFull::CallerRuns {
            return Err(BuildError::Setting(
                "OnFull::CallerRuns does not go with per-worker state: the submitter's thread has none; \
                 choose another policy"
                    .into(),
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
            .field("queue_capacity", &config.queue.capacity)
            .field("on_full", &config.queue.on_full)
            .finish_non_exhaustive()
    }
}
