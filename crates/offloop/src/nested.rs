//! A job that waits for another job holds its worker thread without using it; its pool then lends a thread.

use std::cell::RefCell;
use std::sync::Arc;

/// A pool whose worker threads may block on handles.
pub(crate) trait Crew: Send + Sync {
    /// One more worker is blocked: another thread may stand in for it.
    fn block(&self);
    /// One fewer is.
    fn unblock(&self);
}

thread_local! {
    static CREW: RefCell<Option<Arc<dyn Crew>>> = const { RefCell::new(None) };
}

/// Says that this thread is a worker of `crew` from now on.
pub(crate) fn join(crew: Arc<dyn Crew>) {
    CREW.set(Some(crew));
}

/// Says that this thread is nobody's worker any more.
pub(crate) fn leave() {
    drop(CREW.take());
}

/// Holds a stand-in for the worker thread that began it, until dropped.
pub(crate) struct Compensation(Arc<dyn Crew>);

impl Compensation {
    /// `None` when this thread is no pool's worker.
    pub(crate) fn begin() -> Option<Self> {
        let crew = CREW.try_with(|crew| crew.borrow().clone()).ok().flatten()?;
        crew.block();
        Some(Self(crew))
    }
}

impl Drop for Compensation {
    fn drop(&mut self) {
        self.0.unblock();
    }
}
