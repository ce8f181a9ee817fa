//! The functions that a job calls while it runs on this thread.

use offloop::embed;
use offloop::job::{self, OnCancel};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::completion_queue;
use crate::interpreter::{self, Mutex, attach, detach};

/// Calls `function(*args)`, which waits. If this is a pool's thread, or the one that reports results, another takes its place
/// meanwhile.
#[pyfunction]
#[pyo3(signature = (function, *args))]
pub(crate) fn blocking<'py>(
    function: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    let _stand_in = completion_queue::stand_in();
    job::blocking(|| function.call1(args))
}

/// Returns the seconds for which this thread could have run but had no core; 0 if the system does not report it.
#[pyfunction]
pub(crate) fn run_delay() -> f64 {
    embed::run_delay().unwrap_or_default().as_secs_f64()
}

/// Returns whether the job that runs on this thread should stop.
#[pyfunction]
pub(crate) fn is_cancelled() -> bool {
    job::is_cancelled()
}

/// Returns the id of the request that the job on this thread works for; None if there is none, or no job.
#[pyfunction]
pub(crate) fn request() -> Option<String> {
    job::request().map(|id| id.to_string())
}

/// Calls `callback()` on a thread of its own when the job that runs on this thread should stop.
///
/// The engine may have no thread for it, for instance after a fork, and the job's own thread may block until then.
#[pyfunction]
pub(crate) fn on_cancel(callback: Py<PyAny>) -> CancelGuard {
    let guard = job::on_cancel(move || {
        // If the system starts no thread, the callback is not called, and the job goes on as it would without one.
        let _ = embed::start_thread("offloop-cancel", || {
            let _ = attach(|py| call_back(&callback.into_bound(py)));
        });
    });
    CancelGuard(Mutex::new(Some(guard)))
}

fn call_back(callback: &Bound<'_, PyAny>) {
    if let Err(error) = interpreter::call(callback, &PyTuple::empty(callback.py()), None) {
        error.write_unraisable(callback.py(), Some(callback));
    }
}

/// Keeps a callback of `on_cancel` armed until this is dropped or disarmed.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct CancelGuard(Mutex<Option<OnCancel>>);

#[pymethods]
impl CancelGuard {
    /// Disarms the callback: it is not called any more. A call that has begun goes on.
    fn disarm(&self, py: Python<'_>) -> PyResult<()> {
        let guard = self.0.lock().take();
        detach(py, || drop(guard))
    }
}
