//! The reference that the clones of a pool share. When the last clone goes, the pool closes.

use std::ops::Deref;
use std::sync::Arc;

/// The engine of a pool, which can be told that it gets no more work.
pub(crate) trait Close {
    /// Accepts no more jobs. Those accepted before are still run. Does not block.
    fn close(&self);
}

/// A reference to a pool's engine. Dropping the last of its clones closes the pool.
///
/// The pool's workers hold the engine itself, so that it lives until they have run what was accepted.
pub(crate) struct PoolRef<T: Close>(Arc<CloseOnDrop<T>>);

struct CloseOnDrop<T: Close>(Arc<T>);

impl<T: Close> PoolRef<T> {
    pub(crate) fn new(engine: Arc<T>) -> Self {
        Self(Arc::new(CloseOnDrop(engine)))
    }

    /// Returns a reference that does not keep the pool open.
    pub(crate) fn engine(&self) -> Arc<T> {
        Arc::clone(&self.0.0)
    }
}

impl<T: Close> Clone for PoolRef<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Close> Deref for PoolRef<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.0
    }
}

impl<T: Close> Drop for CloseOnDrop<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}
