//! Errors of the engine as Python exceptions: the only table.

use std::any::Any;

use offloop::job::NotSent;
use offloop::{BuildError, Error, ErrorKind, Panic, WorkerDied, WorkerExit};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::interpreter::attach;
use crate::once::Once;

/// An error that becomes an exception.
pub(crate) trait IntoException {
    fn into_exception(self, py: Python<'_>) -> PyErr;
}

impl IntoException for Error {
    fn into_exception(self, py: Python<'_>) -> PyErr {
        (&self).into_exception(py)
    }
}

impl IntoException for &Error {
    fn into_exception(self, py: Python<'_>) -> PyErr {
        let message = self.to_string();
        let class = match self.kind() {
            ErrorKind::Cancelled => "CancelledError",
            ErrorKind::QueueTimeout(_) => "QueueTimeout",
            ErrorKind::RunTimeout(_) | ErrorKind::LoadTimeout(_) => "RunTimeout",
            ErrorKind::QueueFull { .. } => "QueueFull",
            ErrorKind::Shed => "JobShed",
            ErrorKind::Broken(_) => "PoolBroken",
            ErrorKind::Closed | ErrorKind::Forked => "PoolClosed",
            ErrorKind::WorkerStart(_) => "WorkerStartError",
            ErrorKind::WorkerDied(died) => {
                return details_of(py, died)
                    .map_or_else(|error| error, |details| new(py, "WorkerDied", &message, Some(&details)));
            }
            ErrorKind::Lost { .. } => "WorkerLost",
            ErrorKind::NoSuchTask { .. } => "NoSuchTask",
            ErrorKind::Unreachable(_) => "ClusterUnreachable",
            ErrorKind::NotTrusted(_) => "NotTrusted",
            ErrorKind::Panicked(panic) if is_exception(panic) => {
                static REMOTE: Once<Py<PyAny>> = Once::new();
                let made = REMOTE
                    .attribute(py, "offloop._worker.remote_errors", "of_cluster")
                    .and_then(|make| make.call1((panic.message(), panic.backtrace())));
                return made.map_or_else(|error| error, PyErr::from_value);
            }
            _ => "OffloopError",
        };
        new(py, class, &message, None)
    }
}

impl IntoException for BuildError {
    fn into_exception(self, py: Python<'_>) -> PyErr {
        match self {
            Self::Setting(message) => PyValueError::new_err(message.into_owned()),
            error => new(py, "WorkerStartError", &error.to_string(), None),
        }
    }
}

impl IntoException for NotSent {
    fn into_exception(self, _: Python<'_>) -> PyErr {
        PyRuntimeError::new_err(self.to_string())
    }
}

impl IntoException for std::io::Error {
    fn into_exception(self, _: Python<'_>) -> PyErr {
        self.into()
    }
}

/// Returns whether a panic is an exception of Python that has come from another machine: it has the traceback.
fn is_exception(panic: &Panic) -> bool {
    panic.backtrace().is_some_and(|backtrace| backtrace.contains("Traceback (most recent call last):"))
}

/// Returns the exception for what the cluster's executor or worker has refused.
pub(crate) fn refused(error: &dyn std::fmt::Display) -> PyErr {
    attach(|py| new(py, "OffloopError", &error.to_string(), None)).unwrap_or_else(PyErr::from)
}

/// Returns the exception for a panic of the engine, which is an error in the engine itself.
pub(crate) fn of_panic(py: Python<'_>, payload: &(dyn Any + Send)) -> PyErr {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = format!(
        "offloop panicked, which is an error in offloop itself; please report it: {}",
        text.unwrap_or("the panic has no text")
    );
    new(py, "OffloopError", &message, None)
}

/// Makes an exception by `<class>(message, **details)`. If that fails, returns the exception that it raises.
fn new(py: Python<'_>, class: &str, message: &str, details: Option<&Bound<'_, PyDict>>) -> PyErr {
    static ERRORS: Once<Py<PyModule>> = Once::new();
    static PROCESS_ERRORS: Once<Py<PyModule>> = Once::new();
    static CLUSTER_ERRORS: Once<Py<PyModule>> = Once::new();
    let module = if matches!(class, "WorkerLost" | "NoSuchTask" | "ClusterUnreachable" | "NotTrusted") {
        CLUSTER_ERRORS.get(|| py.import("offloop._cluster_errors").map(Bound::unbind))
    } else if matches!(class, "PoolBroken" | "WorkerDied" | "WorkerStartError") {
        PROCESS_ERRORS.get(|| py.import("offloop._process_errors").map(Bound::unbind))
    } else {
        ERRORS.get(|| py.import("offloop._errors").map(Bound::unbind))
    };
    let made = module.and_then(|module| module.bind(py).getattr(class)?.call((message,), details));
    made.map_or_else(|error| error, PyErr::from_value)
}

/// Returns the exit code of a worker, if the system has reported it. As in `multiprocessing`, a signal is a negative one.
pub(crate) fn exitcode(exit: WorkerExit) -> Option<i32> {
    match exit {
        WorkerExit::Code(code) => Some(code),
        WorkerExit::Signal(signal) => Some(-signal),
        WorkerExit::Protocol | WorkerExit::Unknown | WorkerExit::Lost => None,
    }
}

/// Returns the keyword arguments of `WorkerDied`.
fn details_of<'py>(py: Python<'py>, died: &WorkerDied) -> PyResult<Bound<'py, PyDict>> {
    let details = PyDict::new(py);
    details.set_item("pid", died.pid)?;
    details.set_item("exitcode", exitcode(died.exit))?;
    details.set_item("task", &died.task)?;
    details.set_item("max_rss", died.peak_memory)?;
    details.set_item("out_of_memory", died.out_of_memory)?;
    details.set_item("stderr", &died.stderr)?;
    Ok(details)
}
