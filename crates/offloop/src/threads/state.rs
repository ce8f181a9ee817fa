//! A pool whose threads each own a value, such as one connection per worker.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::local;
use super::pool::ThreadPool;
use crate::core::error::{ErrorKind, Rejected};
use crate::core::executor::Accepts;
use crate::core::handle::Handle;
use crate::core::options::Options;
use crate::core::shutdown::ShutdownReport;
use crate::core::work::{Work, sealed};
use crate::metrics::Metrics;

/// A [`ThreadPool`] in which each thread owns one value of `S` and lends it to each of its jobs as `&mut S`. For
/// connections that threads cannot share.
///
/// The value is opened on its thread when the first job comes, and dropped there when the thread leaves. After a panic,
/// or after a job called [`discard_worker_state`](crate::job::discard_worker_state), it is dropped and the next job
/// gets a new one. A job whose value cannot be opened ends with [`ErrorKind::WorkerState`]; the next job tries again.
///
/// ```
/// let pool = offloop::ThreadPool::builder()
///     .max_workers(4)
///     .build_with_worker_state(|| Ok::<_, std::io::Error>(Vec::new()))?;
/// let rows = pool.run(|connection: &mut Vec<u32>| {
///     connection.push(7);
///     connection.len()
/// });
/// assert_eq!(rows.wait()?, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// For many jobs of one kind, see [`offloop::map`](crate::map): `offloop::map(pool.clone(), jobs)`.
pub struct StatePool<S> {
    pool: ThreadPool,
    open: Arc<Open<S>>,
}

type BoxError = Box<dyn StdError + Send + Sync>;
type Open<S> = dyn Fn() -> Result<S, BoxError> + Send + Sync;

impl<S: 'static> StatePool<S> {
    pub(super) fn new(
        pool: ThreadPool,
        open: impl Fn() -> Result<S, BoxError> + Send + Sync + 'static,
    ) -> Self {
        Self { pool, open: Arc::new(open) }
    }

    /// Runs `work`, a closure over `&mut S`, on a thread of the pool. Does not block.
    #[track_caller]
    pub fn run<F, T>(&self, work: F) -> Handle<T>
    where
        F: FnOnce(&mut S) -> T + Send + 'static,
        T: Send + 'static,
    {
        self.place(work, Options::new())
    }

    /// Runs `work` if there is room for it now. Otherwise returns it, whatever the policy. Never blocks.
    #[track_caller]
    pub fn try_run<F, T>(&self, work: F) -> Result<Handle<T>, Rejected<F>>
    where
        F: FnOnce(&mut S) -> T + Send + 'static,
        T: Send + 'static,
    {
        self.try_place(work, Options::new())
    }

    /// Ends the pool like [`ThreadPool::shutdown`]. The values of its threads are dropped before it reports.
    pub fn shutdown(&self, drain: Duration) -> Handle<ShutdownReport> {
        self.pool.shutdown(drain)
    }

    /// Accepts no more jobs from now on. Accepted ones are still run, then the threads drop their values and leave.
    /// Does not block.
    pub fn close(&self) {
        self.pool.close();
    }

    /// Ends all queued jobs like [`ThreadPool::cancel_queued`]. Returns their number.
    pub fn cancel_queued(&self) -> usize {
        self.pool.cancel_queued()
    }

    /// Returns the pool's metrics. Takes the pool's lock for some microseconds.
    pub fn metrics(&self) -> Metrics {
        self.pool.metrics()
    }

    /// Returns the number of accepted jobs that wait for a thread at this moment, those that wait for room included.
    pub fn queued(&self) -> usize {
        self.pool.queued()
    }

    /// Returns the number of threads that the pool has at this moment.
    pub fn worker_count(&self) -> usize {
        self.pool.worker_count()
    }

    /// Returns the same pool for work that needs no value.
    pub fn thread_pool(&self) -> &ThreadPool {
        &self.pool
    }
}

impl<S> Clone for StatePool<S> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone(), open: Arc::clone(&self.open) }
    }
}

impl<S> fmt::Debug for StatePool<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StatePool").field(&self.pool).finish()
    }
}

impl<S, F, T> Accepts<F> for StatePool<S>
where
    S: 'static,
    F: FnOnce(&mut S) -> T + Send + 'static,
    T: Send + 'static,
{
    type Output = T;

    fn place(&self, work: F, options: Options) -> Handle<T> {
        self.pool.place(WithState { work, open: Arc::clone(&self.open) }, options)
    }

    fn try_place(&self, work: F, options: Options) -> Result<Handle<T>, Rejected<F>> {
        let work = WithState { work, open: Arc::clone(&self.open) };
        self.pool.try_place(work, options).map_err(|rejected| {
            let (work, kind) = rejected.into_parts();
            Rejected::new(work.work, kind)
        })
    }
}

/// A closure over the value of the worker that will run it.
struct WithState<S, F> {
    work: F,
    open: Arc<Open<S>>,
}

impl<S, F> sealed::Sealed for WithState<S, F> {}

impl<S, F, T> Work for WithState<S, F>
where
    S: 'static,
    F: FnOnce(&mut S) -> T + Send + 'static,
    T: Send + 'static,
{
    type Output = T;

    fn perform(self) -> Result<T, ErrorKind> {
        local::with_state(|| (self.open)(), self.work).map_err(ErrorKind::WorkerState)
    }

    fn label(&self) -> Cow<'static, str> {
        Cow::Borrowed(std::any::type_name::<F>())
    }
}
