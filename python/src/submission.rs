//! The way of a call into a pool: what is checked and taken of it, without a frame of Python.
//!
//! What is seldom needed is asked of the package's executors, by methods whose names are in this module.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::completion_queue::Mailbox;
use crate::interpreter::{self, Mutex};
use crate::once::{Once, intern};
use crate::options::{CallOptions, request_of};

/// The flags of code objects whose calls run none of their code: coroutines and asynchronous generators. The numbers are
/// those of Python's `inspect`: `CO_COROUTINE`, `CO_ITERABLE_COROUTINE`, `CO_ASYNC_GENERATOR`.
const ASYNC_FLAGS: i64 = 0x80 | 0x100 | 0x200;

/// Returns whether an object is a function that was written in Python.
pub(crate) fn is_function(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    static FUNCTION: Once<Py<PyAny>> = Once::new();
    Ok(object.get_type().is(FUNCTION.attribute(object.py(), "types", "FunctionType")?))
}

/// Raises `TypeError` if a call of `function` runs an async function.
pub(crate) fn check_sync(function: &Bound<'_, PyAny>) -> PyResult<()> {
    static CHECK: Once<Py<PyAny>> = Once::new();
    let py = function.py();
    if is_function(function)? {
        let code = function.getattr(intern!(py, "__code__"))?;
        if code.getattr(intern!(py, "co_flags"))?.extract::<i64>()? & ASYNC_FLAGS == 0 {
            return Ok(());
        }
    }
    CHECK.attribute(py, "offloop._calls", "check_sync")?.call1((function,)).map(drop)
}

/// Returns whether an executor takes no more calls, as its attribute `closed` says, or the interpreter is about to exit.
pub(crate) fn is_closed(executor: &Bound<'_, PyAny>, closed: &Bound<'_, PyString>) -> PyResult<bool> {
    static EXIT: Once<Py<PyAny>> = Once::new();
    let py = executor.py();
    let exit = EXIT.attribute(py, "offloop._pools.exit", "exit_handler")?;
    Ok(executor.getattr(closed)?.is_truthy()? || exit.getattr(intern!(py, "has_begun"))?.is_truthy()?)
}

/// Returns the event loop that runs on this thread. Raises `RuntimeError` if there is none.
pub(crate) fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static RUNNING_LOOP: Once<Py<PyAny>> = Once::new();
    RUNNING_LOOP.attribute(py, "asyncio", "get_running_loop")?.call0()
}

/// Returns the type of the futures that `run` returns.
fn job_future(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static JOB_FUTURE: Once<Py<PyAny>> = Once::new();
    JOB_FUTURE.attribute(py, "offloop._pools.loop", "JobFuture")
}

/// Returns a future for a call that is awaited on the running loop.
pub(crate) fn new_future(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    job_future(py)?.call0()
}

/// Returns whether an object is such a future, and of no type derived from that.
pub(crate) fn is_job_future(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(object.get_type().is(job_future(object.py())?))
}

/// Returns a copy of the caller's context.
pub(crate) fn copy_context(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static COPY: Once<Py<PyAny>> = Once::new();
    COPY.attribute(py, "contextvars", "copy_context")?.call0()
}

/// Returns a copy of the caller's context in which a call of this process changes nothing that its caller sees.
pub(crate) fn copy_context_apart(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static COPY: Once<Py<PyAny>> = Once::new();
    // The modules that keep an object in a context variable and change it in place, as in the package's `_contexts`.
    let is_shared = |module| interpreter::imported(module).is_some();
    if is_shared(intern!(py, "decimal")) || is_shared(intern!(py, "gmpy2")) {
        COPY.attribute(py, "offloop._contexts", "copy_context")?.call0()
    } else {
        copy_context(py)
    }
}

/// Returns the id of the request that a call works for, which is made in `context`.
pub(crate) fn request_of_call(
    context: &Bound<'_, PyAny>,
    options: Option<&Bound<'_, CallOptions>>,
) -> PyResult<Option<Arc<str>>> {
    static REQUEST: Once<Py<PyAny>> = Once::new();
    static OF_CALL: Once<Py<PyAny>> = Once::new();
    let py = context.py();
    let request = if options.is_some_and(|options| options.get().has_request()) {
        OF_CALL.attribute(py, "offloop._requests", "of_call")?.call1((options, context))?
    } else {
        let get = || py.import("offloop._requests")?.getattr("request_id")?.getattr("get").map(Bound::unbind);
        REQUEST.get(get)?.bind(py).call0()?
    };
    Ok(request_of(&request))
}

/// The event loop whose mailbox was asked for last: most programs have one.
#[derive(Default)]
pub(crate) struct LastLoop {
    listener: Mutex<Option<Arc<Listener>>>,
}

struct Listener {
    /// A weak reference to the loop.
    event_loop: Py<PyAny>,
    mailbox: Py<Mailbox>,
}

impl LastLoop {
    /// Sets the loop, a weak reference to it, and its mailbox.
    pub(crate) fn set(&self, event_loop: Py<PyAny>, mailbox: Py<Mailbox>) {
        let before = self.listener.lock().replace(Arc::new(Listener { event_loop, mailbox }));
        drop(before);
    }

    /// Returns the mailbox of an event loop, if it is the last one.
    pub(crate) fn mailbox<'py>(
        &self,
        event_loop: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, Mailbox>>> {
        let py = event_loop.py();
        let listener = self.listener.lock().clone();
        match listener {
            Some(listener) if listener.event_loop.bind(py).call0()?.is(event_loop) => {
                Ok(Some(listener.mailbox.bind(py).clone()))
            }
            _ => Ok(None),
        }
    }
}
