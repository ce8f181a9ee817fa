//! The data that a thread pool shares with its threads and calls.

use std::sync::{Arc, OnceLock};

use pyo3::prelude::*;

/// The state of one pool.
pub(crate) struct PoolState {
    /// The process that made the pool.
    pid: u32,
    /// Makes the exception with which all calls end. Set once, by a thread whose initializer has failed.
    broken: OnceLock<Py<PyAny>>,
}

impl PoolState {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { pid: std::process::id(), broken: OnceLock::new() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Breaks the pool: calls that have not begun end with the exception that `make()` returns.
    pub(crate) fn break_with(&self, make: Py<PyAny>) {
        let _ = self.broken.set(make);
    }

    /// Returns whether the pool is broken.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.get().is_some()
    }

    /// Returns the exception with which calls end, if the pool is broken.
    pub(crate) fn check(&self, py: Python<'_>) -> PyResult<()> {
        match self.broken.get() {
            Some(make) => Err(PyErr::from_value(make.bind(py).call0()?)),
            None => Ok(()),
        }
    }
}
