//! The thread pool, as a program holds it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::registry::Registry;
use crate::core::error::{ErrorKind, Rejected};
use crate::core::executor::{Accepts, Executor};
use crate::core::handle::Handle;
use crate::core::job::Job;
use crate::core::map::MapStream;
use crate::core::options::Options;
use crate::core::pool_ref::PoolRef;
use crate::core::shutdown::{ShutdownReport, run_in_background};
use crate::metrics::{Measured, Metrics};

/// An elastic pool of threads with a bounded queue.
///
/// Clones are the same pool. Threads start on demand, up to `max_workers`. An idle thread leaves after `idle_timeout`.
/// When the last clone is dropped, the pool accepts no more work, runs what it has accepted and then lets its threads
/// go. Dropping it does not block. [`shutdown`](Self::shutdown) ends the pool within a limit and reports how it went.
#[derive(Clone)]
pub struct ThreadPool {
    registry: PoolRef<Registry>,
}

impl ThreadPool {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        Self { registry: PoolRef::new(registry) }
    }

    /// Runs `work` on a thread of the pool. Does not block, unless the policy is `OnFull::CallerRuns`.
    #[track_caller]
    pub fn run<W>(&self, work: W) -> Handle<<Self as Accepts<W>>::Output>
    where
        Self: Accepts<W>,
    {
        self.place(work, Options::new())
    }

    /// Runs `work` if there is room for it now. Otherwise returns it, whatever the policy. Never blocks.
    #[track_caller]
    pub fn try_run<W>(&self, work: W) -> Result<Handle<<Self as Accepts<W>>::Output>, Rejected<W>>
    where
        Self: Accepts<W>,
    {
        self.try_place(work, Options::new())
    }

    /// Applies `f` to each item on the pool's threads. Returns a stream of the results, in order unless it is
    /// [`unordered`](MapStream::unordered). Items are taken lazily, a bounded number at a time.
    #[track_caller]
    pub fn map<I, F, T>(&self, items: I, f: F) -> MapStream<I::IntoIter, T>
    where
        I: IntoIterator<Item: Send + 'static>,
        F: Fn(I::Item) -> T + Send + Sync + 'static,
        T: Send + 'static,
    {
        let (pool, f, options) = (self.clone(), Arc::new(f), Options::new());
        MapStream::new(items.into_iter(), move |item| {
            let f = Arc::clone(&f);
            let mut options = options.clone();
            options.name = std::any::type_name::<F>().into();
            pool.place(move || f(item), options)
        })
    }

    /// Ends the pool: accepts no more work, lets accepted jobs run for at most `drain`, then cancels the rest.
    ///
    /// Jobs that are queued by then end with [`ErrorKind::Cancelled`]. Running ones are asked to stop and get the
    /// builder's `grace`. The report counts the jobs by what happened to them, and names those that still run.
    ///
    /// The shutdown goes on whether or not the handle is awaited. It takes no longer than `drain` plus `grace`. A
    /// thread whose job does not stop is left running.
    pub fn shutdown(&self, drain: Duration) -> Handle<ShutdownReport> {
        let Some(pending) = self.registry.close() else {
            return Handle::failed(Options::new(), ErrorKind::Forked);
        };
        let registry = self.registry.engine();
        run_in_background(move || registry.shut_down(pending, drain))
    }

    /// Accepts no more jobs from now on. Accepted ones are still run, then the threads leave. Does not block.
    pub fn close(&self) {
        self.registry.close();
    }

    /// Ends all queued jobs with [`ErrorKind::Cancelled`], those that wait for room included. Returns their number.
    /// Running jobs go on. Does not block.
    pub fn cancel_queued(&self) -> usize {
        self.registry.cancel_queued()
    }

    /// Sets the largest number of threads, those that wait for another job of the pool not included. 0 counts as 1.
    ///
    /// If there may be more, they are started as queued jobs need them. Surplus threads finish what they run and leave;
    /// idle ones leave at once, also those of [`min_workers`](crate::ThreadPoolBuilder::min_workers). Does not block.
    pub fn set_max_workers(&self, workers: usize) {
        self.registry.set_max_workers(workers);
    }

    /// See [`ThreadPoolExt::prestart`](crate::embed::ThreadPoolExt::prestart).
    pub(crate) fn prestart(&self, workers: usize) {
        self.registry.prestart(workers);
    }

    /// Returns the pool's metrics. Takes the pool's lock for some microseconds.
    pub fn metrics(&self) -> Metrics {
        self.registry.metrics()
    }

    /// Returns the number of threads that the pool has at this moment.
    pub fn worker_count(&self) -> usize {
        self.registry.worker_count()
    }

    /// Returns the number of accepted jobs that wait for a thread at this moment, those that wait for room included.
    pub fn queued(&self) -> usize {
        self.registry.queued()
    }
}

impl Executor for ThreadPool {
    fn execute(&self, job: Job) -> Result<(), Rejected<Job>> {
        let accepted = self.registry.execute(job.into_runnable());
        accepted.map_err(|(runnable, kind)| Rejected::new(Job::new(runnable), kind))
    }
}

impl fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadPool")
            .field("name", &self.registry.config.name)
            .field("workers", &self.worker_count())
            .field("queued", &self.queued())
            .finish_non_exhaustive()
    }
}
