//! A pool of threads that grows when its work waits and shrinks when there is none.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::builder::ThreadPoolBuilder;
use super::registry::Registry;
use crate::core::error::{ErrorKind, Rejected};
use crate::core::executor::{Accepts, Executor};
use crate::core::handle::Handle;
use crate::core::job::Job;
use crate::core::map::MapStream;
use crate::core::options::Options;
use crate::core::shutdown::ShutdownReport;
use crate::metrics::{Measured, Metrics};

/// An elastic pool of threads with a bounded queue.
///
/// Clones are the same pool. Threads start on demand, up to `max_workers`; an idle one leaves after
/// `idle_timeout`. When the last clone is dropped the pool takes no more work, runs what it has accepted and
/// then lets its threads go; nobody is blocked for it. [`shutdown`](Self::shutdown) does it under supervision.
#[derive(Clone)]
pub struct ThreadPool {
    door: Arc<Door>,
}

/// What the pool's clones share; the threads do not hold it, so its drop means that nobody can submit.
struct Door {
    registry: Arc<Registry>,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.registry.close();
    }
}

impl ThreadPool {
    /// A pool to be configured.
    pub fn builder() -> ThreadPoolBuilder {
        ThreadPoolBuilder::new()
    }

    pub(super) fn from_crew(registry: Arc<Registry>) -> Self {
        Self { door: Arc::new(Door { registry }) }
    }

    /// Runs `work` on a thread of the pool. Does not block, unless the policy is `OnFull::CallerRuns`.
    #[track_caller]
    pub fn run<W>(&self, work: W) -> Handle<<Self as Accepts<W>>::Output>
    where
        Self: Accepts<W>,
    {
        self.place(work, Options::new())
    }

    /// Runs `work` if there is room for it now; else gives it back, whatever the policy. Never blocks.
    #[track_caller]
    pub fn try_run<W>(&self, work: W) -> Result<Handle<<Self as Accepts<W>>::Output>, Rejected<W>>
    where
        Self: Accepts<W>,
    {
        self.try_place(work, Options::new())
    }

    /// Applies `f` to each item on the pool's threads: a stream of the results, in order unless
    /// [`unordered`](MapStream::unordered). ItemStream are taken lazily, within a bounded window.
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

    /// Stops accepting work, drains what was accepted for at most `drain`, then cancels the rest: queued jobs
    /// end with [`ErrorKind::Cancelled`], running ones are asked to stop and get the builder's `grace`. The
    /// report says what became of them and what is still stuck where.
    ///
    /// The shutdown goes on whether or not the handle is awaited. It never takes longer than `drain` plus
    /// `grace`; a stuck thread is left to itself.
    pub fn shutdown(&self, drain: Duration) -> Handle<ShutdownReport> {
        let registry = Arc::clone(&self.door.registry);
        if registry.is_forked() {
            return Handle::failed(Options::new(), ErrorKind::Forked);
        }
        let pending = registry.close();
        crate::core::shutdown::run_in_background(move || registry.shut_down(pending, drain))
    }

    /// Takes no more jobs from now on. Those accepted are still run, then the threads leave. Does not block.
    pub fn close(&self) {
        self.door.registry.close();
    }

    /// Ends all queued jobs with [`ErrorKind::Cancelled`], those that wait for room included, and says how many
    /// those were. Running jobs go on. Does not block.
    pub fn cancel_queued(&self) -> usize {
        self.door.registry.cancel_queued()
    }

    pub(crate) fn prestart(&self, workers: usize) {
        self.door.registry.start_threads(workers);
    }

    /// What the pool has done and is doing. Takes the pool's lock for some microseconds.
    pub fn metrics(&self) -> Metrics {
        self.door.registry.metrics()
    }

    /// How many threads the pool has at this moment.
    pub fn worker_count(&self) -> usize {
        self.door.registry.worker_count()
    }

    /// How many accepted jobs wait for a thread at this moment, those that wait for room included.
    pub fn queued(&self) -> usize {
        self.door.registry.queued()
    }
}

impl Executor for ThreadPool {
    fn execute(&self, job: Job) -> Result<(), Rejected<Job>> {
        self.door
            .registry
            .execute(job.into_runnable())
            .map_err(|(cell, kind): (_, ErrorKind)| Rejected::new(Job::new(cell), kind))
    }
}

impl fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadPool")
            .field("name", &self.door.registry.config.name)
            .field("threads", &self.worker_count())
            .field("queued", &self.queued())
            .finish_non_exhaustive()
    }
}
