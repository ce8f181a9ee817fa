//! The conversion of results into Python objects.

use pyo3::prelude::*;

/// A result of a job that becomes a Python object, or an exception, for the job's receiver.
pub(crate) trait Receive: Send + Sized + 'static {
    /// `results` is the pool's, if the result comes from a worker process.
    fn receive(self, py: Python<'_>, results: Results) -> PyResult<Py<PyAny>>;

    /// Returns whether that may take so long that an event loop should not do it without need.
    fn is_large(&self) -> bool {
        false
    }
}

/// The way in which results travel from worker processes, and whether the workers are trusted with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Results {
    /// They are pickled. Unpickling them runs whatever a worker wants.
    #[default]
    Pickle,
    /// They are plain data. Nothing that a worker has sent is unpickled.
    Data,
}
