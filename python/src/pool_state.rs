//! The data that a thread pool shares with its threads and calls.
//!
//! Calls of Python functions mostly wait, so the pool starts a thread for each call, as far as `max_workers` allows,
//! and does not wait to see whether the running threads would suffice. The counts here serve that alone.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use pyo3::prelude::*;

/// The state of one pool.
pub(crate) struct PoolState {
    max_workers: usize,
    /// The process that made the pool.
    pid: u32,
    /// The number of threads that were started and have not ended. Changed by [`CountedThread`].
    threads: AtomicUsize,
    /// The number of calls that were submitted and have not ended. Changed by [`CountedCall`].
    calls: AtomicUsize,
    /// Makes the exception with which all calls end. Set once, by a thread whose initializer has failed.
    broken: OnceLock<Py<PyAny>>,
}

impl PoolState {
    pub(crate) fn new(max_workers: usize) -> Arc<Self> {
        Arc::new(Self {
            max_workers,
            pid: std::process::id(),
            threads: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            broken: OnceLock::new(),
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns the number of threads that the pool should have. `None` if it has enough.
    pub(crate) fn wanted_threads(&self) -> Option<usize> {
        let calls = self.calls.load(Ordering::Relaxed);
        let threads = self.threads.load(Ordering::Relaxed);
        (calls > threads && threads < self.max_workers).then_some(calls)
    }

    /// Breaks the pool: calls that have not begun end with the exception that `make()` returns.
    pub(crate) fn break_with(&self, make: Py<PyAny>) {
        let _ = self.broken.set(make);
    }

    /// Returns the exception with which calls end, if the pool is broken.
    pub(crate) fn check(&self, py: Python<'_>) -> PyResult<()> {
        match self.broken.get() {
            Some(make) => Err(PyErr::from_value(make.bind(py).call0()?)),
            None => Ok(()),
        }
    }
}

/// Counts a thread as long as it lives.
pub(crate) struct CountedThread(Arc<PoolState>);

impl CountedThread {
    pub(crate) fn new(pool: &Arc<PoolState>) -> Self {
        pool.threads.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(pool))
    }

    pub(crate) fn pool(&self) -> &Arc<PoolState> {
        &self.0
    }
}

impl Drop for CountedThread {
    fn drop(&mut self) {
        self.0.threads.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a call as long as it lives.
pub(crate) struct CountedCall(Arc<PoolState>);

impl CountedCall {
    pub(crate) fn new(pool: &Arc<PoolState>) -> Self {
        pool.calls.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(pool))
    }

    pub(crate) fn pool(&self) -> &PoolState {
        &self.0
    }
}

impl Drop for CountedCall {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}
