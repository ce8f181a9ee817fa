//! The result of a thread's last call, whose future ends a little later.
//!
//! A batch of calls ends when the thread finds no further one. The future of the last call ends then, when this thread
//! is already the one that looks for work. So a caller that submits one call after another finds this thread ready, and
//! wakes no other one.

use std::cell::Cell;

use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::callbacks::{Callbacks, callbacks_of};
use crate::interpreter;
use crate::once::intern;

thread_local! {
    /// The method that ends the future, and its argument. Set by the last call, taken by the next one or by the end of
    /// the batch.
    static DEFERRED_RESULT: Cell<Option<(Py<PyAny>, Py<PyAny>)>> = const { Cell::new(None) };
}

/// Calls `end(value)`, which ends `future`, at the end of the batch or before this thread's next call.
///
/// Calls it now if the users of the future could notice the difference.
pub(crate) fn defer(future: &Bound<'_, PyAny>, end: &Bound<'_, PyAny>, value: Py<PyAny>) -> PyResult<()> {
    // Without the interpreter's lock, other threads could attach functions meanwhile.
    if !cfg!(Py_GIL_DISABLED) && callbacks_of(future)? != Callbacks::Others {
        DEFERRED_RESULT.set(Some((end.clone().unbind(), value)));
        Ok(())
    } else {
        end_future(end, value)
    }
}

/// Ends the future whose end was deferred on this thread, if there is one.
pub(crate) fn flush(py: Python<'_>) {
    if let Some((end, value)) = DEFERRED_RESULT.take() {
        let end = end.into_bound(py);
        if let Err(error) = end_future(&end, value) {
            error.write_unraisable(py, Some(&end));
        }
    }
}

/// Calls `end(value)`, which also calls the functions that users have attached to the future. If memory is short, the
/// future ends with that exception.
pub(crate) fn end_future(end: &Bound<'_, PyAny>, value: Py<PyAny>) -> PyResult<()> {
    let py = end.py();
    let ended = PyTuple::new(py, [value]).and_then(|args| interpreter::call(end, &args, None).map(drop));
    match ended {
        Err(error) if error.is_instance_of::<PyMemoryError>(py) => {
            let future = end.getattr(intern!(py, "__self__"))?;
            let set = future.getattr(intern!(py, "set_exception"))?;
            interpreter::call(&set, &PyTuple::new(py, [error.into_value(py)])?, None).map(drop)
        }
        ended => ended,
    }
}
