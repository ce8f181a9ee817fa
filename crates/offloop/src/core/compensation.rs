//! Stand-in threads for workers that wait: a job that waits for another job holds its worker thread without using it,
//! so its pool lends another thread meanwhile. (A fork-join pool calls this compensation.)

use std::cell::RefCell;
use std::sync::Arc;

use crate::base::fork::OwnProcess;
use crate::base::sync::{Mutex, thread_local};

/// A pool whose worker threads may block on handles.
pub(crate) trait Compensate: Send + Sync {
    /// Records that one more worker is blocked. Another thread may stand in for it.
    fn block(&self);
    /// Records that one worker fewer is blocked.
    fn unblock(&self);
}

/// The pool that this thread works for.
struct CurrentPool {
    pool: Arc<dyn Compensate>,
    /// The wait of the job that runs now. Made when the job first polls a handle in vain.
    blocked: Option<Arc<BlockedJob>>,
}

thread_local! {
    static CURRENT_POOL: RefCell<Option<CurrentPool>> = const { RefCell::new(None) };
}

/// Makes this thread a worker of `pool`.
pub(crate) fn enter(pool: Arc<dyn Compensate>) {
    CURRENT_POOL.with(|current| current.replace(Some(CurrentPool { pool, blocked: None })));
}

/// Ends the wait of this thread's job, which has returned. Its handles may live on elsewhere.
pub(crate) fn end_job() {
    let blocked =
        CURRENT_POOL.with(|current| current.borrow_mut().as_mut().and_then(|current| current.blocked.take()));
    if let Some(blocked) = blocked {
        blocked.close();
    }
}

/// Ends this thread's membership in its pool.
pub(crate) fn leave() {
    end_job();
    drop(CURRENT_POOL.with(RefCell::take));
}

/// One job that waits. However many handles it waits for, it holds one thread, so one thread may stand in.
struct BlockedJob {
    pool: Arc<dyn Compensate>,
    /// Counts the handles that the job waits for. `None` once the job has ended. In a forked child no thread stands in.
    pending: OwnProcess<Mutex<Option<usize>>>,
}

impl BlockedJob {
    fn add(&self) {
        let Some(mut pending) = self.pending.get().map(Mutex::lock) else { return };
        let before = *pending;
        *pending = before.map(|pending| pending + 1);
        drop(pending);
        if before == Some(0) {
            self.pool.block();
        }
    }

    fn remove(&self) {
        let Some(mut pending) = self.pending.get().map(Mutex::lock) else { return };
        *pending = pending.map(|pending| pending - 1);
        let after = *pending;
        drop(pending);
        if after == Some(0) {
            self.pool.unblock();
        }
    }

    fn close(&self) {
        let pending = self.pending.get().and_then(|pending| pending.lock().take());
        if pending.is_some_and(|pending| pending > 0) {
            self.pool.unblock();
        }
    }
}

/// Keeps a stand-in for the worker thread that began it, until it is dropped or that thread's job ends.
pub(crate) struct Compensation(Arc<BlockedJob>);

impl Compensation {
    /// Returns `None` on a thread that is no pool's worker.
    pub(crate) fn begin() -> Option<Self> {
        let blocked = CURRENT_POOL.try_with(|current| {
            let mut current = current.borrow_mut();
            let CurrentPool { pool, blocked } = current.as_mut()?;
            let new = || {
                Arc::new(BlockedJob { pool: Arc::clone(pool), pending: OwnProcess::new(Mutex::new(Some(0))) })
            };
            Some(Arc::clone(blocked.get_or_insert_with(new)))
        });
        let blocked = blocked.ok().flatten()?;
        blocked.add();
        Some(Self(blocked))
    }
}

impl Drop for Compensation {
    fn drop(&mut self) {
        self.0.remove();
    }
}

/// Runs `f`, which blocks this thread until something else happens. If the thread is a pool's worker, another thread
/// stands in for it meanwhile, so the pool goes on even when `f` waits for a job of the same pool.
///
/// Handles do that by themselves. This is for other ways to wait. Outside of a worker, `f` is simply called.
pub fn blocking<R>(f: impl FnOnce() -> R) -> R {
    let _stand_in = Compensation::begin();
    f()
}
