//! The conversion of results into Python objects.

use pyo3::prelude::*;

/// A result of a job that becomes a Python object, or an exception, for the job's receiver.
pub(crate) trait Receive: Send + Sized + 'static {
    fn receive(self, py: Python<'_>) -> PyResult<Py<PyAny>>;
}
