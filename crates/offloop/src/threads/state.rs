//! A pool whose threads each own a value: one connection per worker.

use std::any::Any;
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::ThreadPool;
use crate::base::panic::drop_quietly;
use crate::base::sync::thread_local;
use crate::core::error::{ErrorKind, Rejected};
use crate::core::executor::Accepts;
use crate::core::handle::Handle;
use crate::core::options::Options;
use crate::core::shutdown::ShutdownReport;
use crate::core::work::{Work, sealed};

/// A [`ThreadPool`] in which each thread owns one value of `S` and lends it to each of its jobs as `&mut S`:
/// for connections that threads cannot share.
///
/// The value is opened on its thread when the first job comes, and dropped there when the thread leaves.
/// After a panic, or after a job called [`discard_worker_state`], it is dropped and the next job gets a new one. A
/// job whose value can't be opened ends with [`ErrorKind::WorkerState`]; the next job tries again.
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
pub struct StatePool<S> {
    pool: ThreadPool,
    open: Arc<Open<S>>,
}

type BoxError = Box<dyn StdError + Send + Sync>;
type Open<S> = dyn Fn() -> Result<S, BoxError> + Send + Sync;

thread_local! {
    /// The value of this worker thread. A thread serves one pool, so one is enough.
    static STATE: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
    static DISCARD: Cell<bool> = const { Cell::new(false) };
}

/// Says, from within a job, that this worker's state is broken: it is dropped when the job ends and the
/// worker's next job gets a new one. Without effect elsewhere.
pub fn discard_worker_state() {
    DISCARD.with(|discard| discard.set(true));
}

/// Drops this thread's state; the thread leaves.
pub(super) fn close() {
    drop_quietly(STATE.with(RefCell::take));
}

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

    /// Runs `work` if there is room for it now; else gives it back, whatever the policy. Never blocks.
    #[track_caller]
    pub fn try_run<F, T>(&self, work: F) -> Result<Handle<T>, Rejected<F>>
    where
        F: FnOnce(&mut S) -> T + Send + 'static,
        T: Send + 'static,
    {
        self.try_place(work, Options::new())
    }

    /// As [`ThreadPool::shutdown`]. The values of the threads are dropped before it reports.
    pub fn shutdown(&self, drain: Duration) -> Handle<ShutdownReport> {
        self.pool.shutdown(drain)
    }

    /// The pool without its state: its threads, for work that needs none.
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

/// A closure over the state of the worker that will run it.
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
        // Taken out for the job's time, so a panic leaves none behind.
        let mut state = match STATE.with(RefCell::take).and_then(|state| state.downcast::<S>().ok()) {
            Some(state) => state,
            None => Box::new((self.open)().map_err(ErrorKind::WorkerState)?),
        };
        DISCARD.with(|discard| discard.set(false));
        let result = (self.work)(&mut state);
        if DISCARD.with(Cell::take) {
            // It is broken, so its destructor may well panic; the job has its result nevertheless.
            drop_quietly(state);
        } else {
            STATE.with(|slot| slot.replace(Some(state)));
        }
        Ok(result)
    }

    fn label(&self) -> Cow<'static, str> {
        Cow::Borrowed(std::any::type_name::<F>())
    }
}
