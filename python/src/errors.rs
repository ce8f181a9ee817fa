//! The engine's errors as Python's exceptions: one table.

use offloop::{BuildError, Error, ErrorKind, WorkerExit};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::once::Once;

/// Makes `offloop._errors.<class>(message, **details)`.
fn make(py: Python<'_>, class: &str, message: &str, details: Option<&Bound<'_, PyDict>>) -> PyErr {
    static MODULE: Once<Py<PyModule>> = Once::new();
    let module = MODULE.get(py, || py.import("offloop._errors").map(Bound::unbind));
    let made = module.and_then(|module| module.bind(py).getattr(class)?.call((message,), details));
    made.map_or_else(|error| error, PyErr::from_value)
}

pub(crate) fn to_python(py: Python<'_>, error: &Error) -> PyErr {
    let message = error.to_string();
    let class = match error.kind() {
        ErrorKind::Cancelled => "CancelledError",
        ErrorKind::QueueTimeout(_) => "QueueTimeout",
        ErrorKind::RunTimeout(_) => "RunTimeout",
        ErrorKind::QueueFull { .. } => "QueueFull",
        ErrorKind::Shed => "JobShed",
        ErrorKind::Broken(_) => "PoolBroken",
        ErrorKind::Closed | ErrorKind::Forked => "PoolClosed",
        ErrorKind::WorkerStart(_) => "WorkerStartError",
        ErrorKind::WorkerDied(_) => "WorkerDied",
        _ => "OffloopError",
    };
    let details = PyDict::new(py);
    if let ErrorKind::WorkerDied(died) = error.kind() {
        // As in `multiprocessing`: a signal is a negative exit code.
        let exitcode = match died.exit {
            WorkerExit::Code(code) => Some(code),
            WorkerExit::Signal(signal) => Some(-signal),
            WorkerExit::Protocol | WorkerExit::Unknown => None,
        };
        let set = || -> PyResult<()> {
            details.set_item("pid", died.pid)?;
            details.set_item("exitcode", exitcode)?;
            details.set_item("task", &died.task)?;
            details.set_item("max_rss", died.peak_memory)?;
            details.set_item("out_of_memory", died.out_of_memory)?;
            details.set_item("stderr", &died.stderr)
        };
        if let Err(error) = set() {
            return error;
        }
    }
    make(py, class, &message, Some(&details))
}

pub(crate) fn of_build(py: Python<'_>, error: &BuildError) -> PyErr {
    match error {
        BuildError::Setting(message) => PyValueError::new_err(message.to_string()),
        error => make(py, "WorkerStartError", &error.to_string(), None),
    }
}
