//! Executors that run jobs on the threads of other crates: [`Rayon`] (feature `rayon`) and [`TokioBlocking`]
//! (feature `tokio`).
//!
//! For programs that have such a pool anyway and want no second one. Handles, cancelling, timeouts, names and panics work
//! as everywhere. The features of offloop's own pools are missing: the queues are unbounded and have no priorities, a job
//! that waits for another one gets no stand-in, and a job that is cancelled while queued leaves an empty entry until its
//! turn comes (its work is dropped at once).

#[cfg(any(feature = "rayon", feature = "tokio"))]
use {
    crate::base::panic::{self, drop_quietly},
    crate::base::sync::Mutex,
    crate::core::error::{ErrorKind, Rejected},
    crate::core::executor::Executor,
    crate::core::job::Job,
    std::sync::Arc,
};

/// Runs each job on a rayon pool. For work that computes, beside the parallel iterators that use the same threads.
///
/// ```
/// use offloop::adapters::Rayon;
///
/// let sum = offloop::run_in_executor(&Rayon::global(), || (1..=10_u64).product::<u64>());
/// assert_eq!(sum.wait()?, 3_628_800);
/// # Ok::<(), offloop::Error>(())
/// ```
///
/// A job must not block on another job of the same rayon pool: its thread is missing meanwhile, and once all threads are
/// missing, nothing goes on.
#[cfg(feature = "rayon")]
#[derive(Debug, Clone, Default)]
pub struct Rayon {
    /// `None` for the global pool.
    pool: Option<Arc<rayon::ThreadPool>>,
}

#[cfg(feature = "rayon")]
impl Rayon {
    /// Makes an executor of rayon's global pool, which starts with its first use.
    pub fn global() -> Self {
        Self { pool: None }
    }

    /// Makes an executor of a rayon pool of your own.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use offloop::adapters::Rayon;
    ///
    /// let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(1).build()?);
    /// let threads = offloop::run_in_executor(&Rayon::pool(pool), rayon::current_num_threads);
    /// assert_eq!(threads.wait()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pool(pool: Arc<rayon::ThreadPool>) -> Self {
        Self { pool: Some(pool) }
    }
}

#[cfg(feature = "rayon")]
impl Executor for Rayon {
    fn execute(&self, job: Job) -> Result<(), Rejected<Job>> {
        hand_over(job, |run| match &self.pool {
            Some(pool) => pool.spawn(run),
            None => rayon::spawn(run),
        })
    }
}

/// Runs each job on the blocking threads of a tokio runtime, as `spawn_blocking` does.
///
/// ```
/// use offloop::adapters::TokioBlocking;
///
/// let runtime = tokio::runtime::Builder::new_current_thread().build()?;
/// let blocking = TokioBlocking::new(runtime.handle().clone());
/// let answer = runtime.block_on(offloop::run_in_executor(&blocking, || 6 * 7))?;
/// assert_eq!(answer, 42);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Jobs that are submitted after the runtime's shutdown end with [`ErrorKind::Cancelled`]. So do queued jobs that tokio
/// does not run any more.
#[cfg(feature = "tokio")]
#[derive(Debug, Clone)]
pub struct TokioBlocking {
    runtime: tokio::runtime::Handle,
}

#[cfg(feature = "tokio")]
impl TokioBlocking {
    /// Makes an executor of the blocking threads of this runtime.
    pub fn new(runtime: tokio::runtime::Handle) -> Self {
        Self { runtime }
    }

    /// Makes an executor of the blocking threads of the runtime in which this is called.
    ///
    /// # Panics
    ///
    /// If it is called outside of a tokio runtime.
    #[track_caller]
    pub fn current() -> Self {
        Self::new(tokio::runtime::Handle::current())
    }
}

#[cfg(feature = "tokio")]
impl Executor for TokioBlocking {
    fn execute(&self, job: Job) -> Result<(), Rejected<Job>> {
        hand_over(job, |run| drop(self.runtime.spawn_blocking(run)))
    }
}

/// Gives `job` to `spawn`. If `spawn` panics because the system refuses a thread, the job is handed back.
#[cfg(any(feature = "rayon", feature = "tokio"))]
fn hand_over(job: Job, spawn: impl FnOnce(Run)) -> Result<(), Rejected<Job>> {
    // A `spawn` that panics may keep the closure in its queue or drop it, so the job must not be inside the closure.
    let slot = Arc::new(Mutex::new(Some(job)));
    let run: Run = {
        let slot = Arc::clone(&slot);
        Box::new(move || {
            let job = slot.lock().take();
            if let Some(job) = job {
                job.run();
            }
        })
    };
    let Err(panic) = panic::catch(|| spawn(run)) else { return Ok(()) };
    let reason = panic.message().to_owned();
    drop_quietly(panic);
    let job = slot.lock().take();
    match job {
        Some(job) => Err(Rejected::new(job, ErrorKind::WorkerStart(reason.into()))),
        None => Ok(()),
    }
}

#[cfg(any(feature = "rayon", feature = "tokio"))]
type Run = Box<dyn FnOnce() + Send>;
