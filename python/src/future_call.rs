//! A call for a `concurrent.futures.Future`, which the thread that runs the call ends itself.

use std::sync::MutexGuard;

use offloop::embed::HandleExt as _;
use offloop::{Handle, JobState};
use pyo3::prelude::*;

use crate::call::{Call, is_between_calls};
use crate::deferred_result;
use crate::errors::IntoException as _;
use crate::interpreter::{Mutex, attach};
use crate::once::intern;

/// The work that the engine runs. If it is dropped unrun, the future is abandoned.
pub(crate) struct FutureCall {
    /// Taken when it runs.
    call: Option<Call>,
    future: Py<PyAny>,
}

impl FutureCall {
    pub(crate) fn new(call: Call, future: Py<PyAny>) -> Self {
        Self { call: Some(call), future }
    }

    /// Makes the call and ends the future. While the interpreter exits, the future is left as it is.
    pub(crate) fn run(mut self) {
        let Some(call) = self.call.take() else { return };
        let _ = attach(|py| {
            let future = self.future.bind(py);
            if let Err(error) = Self::run_attached(py, future, call) {
                error.write_unraisable(py, Some(future));
            }
            // Here, while the thread is attached.
            drop(self);
        });
    }

    fn run_attached(py: Python<'_>, future: &Bound<'_, PyAny>, call: Call) -> PyResult<()> {
        deferred_result::flush(py);
        if !future.call_method0(intern!(py, "set_running_or_notify_cancel"))?.is_truthy()? {
            return Ok(());
        }
        let is_outermost = is_between_calls();
        let (end, value) = match call.run(py) {
            Ok(value) => (intern!(py, "set_result"), value),
            Err(error) => (intern!(py, "set_exception"), error.into_value(py).into_any()),
        };
        let end = future.getattr(end)?;
        if is_outermost {
            deferred_result::defer(future, &end, value)
        } else {
            deferred_result::end_future(&end, value)
        }
    }
}

impl Drop for FutureCall {
    fn drop(&mut self) {
        let Some(call) = self.call.take() else { return };
        let _ = attach(|py| {
            drop(call);
            let future = self.future.bind(py);
            if let Err(error) = future.call_method0(intern!(py, "_abandon")) {
                error.write_unraisable(py, Some(future));
            }
        });
    }
}

/// A submitted call, as its future holds it.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct SubmittedCall {
    /// Taken when the call is cancelled, or its error returned.
    handle: Mutex<Option<Handle<()>>>,
    /// The process that has submitted the call.
    pid: u32,
}

impl SubmittedCall {
    pub(crate) fn new(handle: Handle<()>, pid: u32) -> Self {
        Self { handle: Mutex::new(Some(handle)), pid }
    }

    fn handle(&self) -> MutexGuard<'_, Option<Handle<()>>> {
        self.handle.lock()
    }
}

#[pymethods]
impl SubmittedCall {
    /// Removes the call from the queue, if it is there.
    fn cancel_queued(&self) {
        let handle = self.handle().take();
        if let Some(handle) = handle {
            handle.cancel_queued();
            handle.detach();
        }
    }

    /// Returns the reason why the call ended without being run; only once.
    pub(crate) fn error(&self, py: Python<'_>) -> Option<PyErr> {
        let mut handle = self.handle();
        if handle.as_ref()?.state() != JobState::Ended {
            return None;
        }
        let ended = handle.take()?.try_result();
        drop(handle);
        Some(ended?.err()?.into_exception(py))
    }

    /// Returns whether this is a child made by `fork()`, and the call is its parent's.
    fn is_forked(&self) -> bool {
        self.pid != std::process::id()
    }
}

impl Drop for SubmittedCall {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.get_mut().take() {
            handle.detach();
        }
    }
}
