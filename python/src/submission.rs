//! The way of a call into a process pool: it is checked, pickled and described here, without a frame of Python.
//!
//! What is seldom needed is asked of the package's executor, by methods whose names are in this module.

use std::sync::Arc;

use pyo3::Borrowed;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};

use crate::completion_queue::Mailbox;
use crate::interpreter::{self, Mutex};
use crate::once::{Once, intern};
use crate::options::{CallOptions, request_of};
use crate::pickle::{self, Attempt, Pickled};
use crate::reference;

/// The flags of code objects whose calls run none of their code: coroutines and asynchronous generators. The numbers are
/// those of Python's `inspect`: `CO_COROUTINE`, `CO_ITERABLE_COROUTINE`, `CO_ASYNC_GENERATOR`.
const ASYNC_FLAGS: i64 = 0x80 | 0x100 | 0x200;

/// A call as it travels to a worker process.
pub(crate) struct PickledCall<'py> {
    /// The name of the user's function.
    pub(crate) name: String,
    /// What precedes the pickle: a reference to the function, or nothing if the function is pickled as well.
    pub(crate) reference: Vec<u8>,
    pub(crate) pickle: Bound<'py, PyBytes>,
    /// What travels beside the pickle.
    pub(crate) buffers: Vec<Bound<'py, PyAny>>,
}

impl<'py> FromPyObject<'_, 'py> for PickledCall<'py> {
    type Error = PyErr;

    /// Takes over what the package's Python code has pickled: its `_pools.pickled_call.PickledCall`.
    fn extract(call: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let (name, pickle, buffers) = call.extract()?;
        Ok(Self { name, reference: Vec::new(), pickle, buffers })
    }
}

/// Returns whether an object is a function that was written in Python.
fn is_function(object: &Bound<'_, PyAny>) -> PyResult<bool> {
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

/// Returns whether an executor takes no more calls, or the interpreter is about to exit.
pub(crate) fn is_closed(executor: &Bound<'_, PyAny>) -> PyResult<bool> {
    static EXIT: Once<Py<PyAny>> = Once::new();
    let py = executor.py();
    let exit = EXIT.attribute(py, "offloop._pools.exit", "exit_handler")?;
    Ok(executor.getattr(intern!(py, "_closed"))?.is_truthy()?
        || exit.getattr(intern!(py, "has_begun"))?.is_truthy()?)
}

/// Pickles a call. Raises `PicklingFailed`.
pub(crate) fn pickle_call<'py>(
    function: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    kwargs: &Bound<'py, PyDict>,
) -> PyResult<PickledCall<'py>> {
    static PICKLE: Once<Py<PyAny>> = Once::new();
    let py = function.py();
    let mut refusal = None;
    if !pickle::has_large(args, kwargs) {
        let reference = reference_to(function)?;
        let attempt = if reference.is_empty() {
            pickle::dumps(PyTuple::new(py, [function, args.as_any(), kwargs.as_any()])?.as_any())
        } else if args.is_empty() && kwargs.is_empty() {
            Ok(Attempt::Done(Pickled { body: PyBytes::new(py, b""), buffers: Vec::new() }))
        } else {
            pickle::dumps(PyTuple::new(py, [args.as_any(), kwargs.as_any()])?.as_any())
        };
        match attempt.map_err(|error| pickling_failed(py, error))? {
            Attempt::Done(Pickled { body, buffers }) => {
                return Ok(PickledCall { name: name_of(function, args)?, reference, pickle: body, buffers });
            }
            Attempt::Left(error) => refusal = error.map(|error| error.into_value(py)),
        }
    }
    PICKLE
        .attribute(py, "offloop._pools.pickled_call", "pickle_call")?
        .call1((function, args, kwargs, py.None(), refusal))?
        .extract()
}

/// Returns the bytes by which workers find a function, if plain pickle would send its names as well and workers need
/// nothing else for it; none otherwise. They are read by `perform`.
fn reference_to(function: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let py = function.py();
    if !is_function(function)? {
        return Ok(Vec::new());
    }
    let module = function.getattr(intern!(py, "__module__"))?;
    let name = function.getattr(intern!(py, "__qualname__"))?;
    let (Ok(module), Ok(name)) = (module.cast::<PyString>(), name.cast::<PyString>()) else {
        return Ok(Vec::new());
    };
    let found = interpreter::imported(module).map(|module| module.getattr_opt(name)).transpose()?.flatten();
    if !found.is_some_and(|found| found.is(function)) {
        return Ok(Vec::new());
    }
    let (module, name) = (module.to_cow()?, name.to_cow()?);
    // Not all workers can import the main module.
    if pickle::contains(module.as_bytes(), b"_main__") {
        return Ok(Vec::new());
    }
    Ok(reference::write(&module, &name))
}

static PICKLING_FAILED: Once<Py<PyAny>> = Once::new();

/// Returns the exception that says that a call could not be pickled for this reason.
fn pickling_failed(py: Python<'_>, error: PyErr) -> PyErr {
    let wrapped = PICKLING_FAILED
        .attribute(py, "offloop._pools.executor", "PicklingFailed")
        .and_then(|kind| kind.call1((error.into_value(py),)));
    wrapped.map_or_else(|error| error, PyErr::from_value)
}

/// Returns the reason for which a call could not be pickled, if that is what `error` says. Otherwise returns `error`.
pub(crate) fn reason_of(py: Python<'_>, error: PyErr) -> PyResult<Bound<'_, PyAny>> {
    let kind = PICKLING_FAILED.attribute(py, "offloop._pools.executor", "PicklingFailed")?;
    let value = error.value(py);
    if value.is_instance(kind)? { value.getattr(intern!(py, "error")) } else { Err(error) }
}

/// Returns the name of the user's function.
fn name_of(function: &Bound<'_, PyAny>, args: &Bound<'_, PyTuple>) -> PyResult<String> {
    static NAME: Once<Py<PyAny>> = Once::new();
    let py = function.py();
    if is_function(function)? {
        let module = function.getattr(intern!(py, "__module__"))?;
        let name = function.getattr(intern!(py, "__qualname__"))?;
        if let (Ok(module), Ok(name)) = (module.extract::<&str>(), name.extract::<&str>())
            && !module.starts_with("offloop.")
        {
            return Ok([module, ".", name].concat());
        }
    }
    NAME.attribute(py, "offloop._pools.pickled_call", "name_of_call")?.call1((function, args))?.extract()
}

/// Returns a copy of the caller's context, and the id of the request that a call works for.
pub(crate) fn context_and_request<'py>(
    py: Python<'py>,
    options: Option<&Bound<'py, CallOptions>>,
) -> PyResult<(Bound<'py, PyAny>, Option<Arc<str>>)> {
    static COPY: Once<Py<PyAny>> = Once::new();
    static REQUEST: Once<Py<PyAny>> = Once::new();
    static OF_CALL: Once<Py<PyAny>> = Once::new();
    let context = COPY.attribute(py, "contextvars", "copy_context")?.call0()?;
    let request = if options.is_some_and(|options| options.get().has_request()) {
        OF_CALL.attribute(py, "offloop._requests", "of_call")?.call1((options, &context))?
    } else {
        let variable = REQUEST.attribute(py, "offloop._requests", "request_id")?;
        variable.call_method0(intern!(py, "get"))?
    };
    Ok((context, request_of(&request)))
}

/// What a pool has learnt about its calls, so that most of them need none of the executor's methods.
#[derive(Default)]
pub(crate) struct Shortcuts {
    listener: Mutex<Option<Arc<Listener>>>,
    silence: Mutex<Option<Arc<Silence>>>,
}

/// The event loop that takes the workers' answers.
struct Listener {
    /// A weak reference to the loop.
    event_loop: Py<PyAny>,
    mailbox: Py<Mailbox>,
}

/// The state of the program in which calls tell their workers nothing but themselves.
pub(crate) struct Silence {
    /// The search path.
    pub(crate) path: Py<PyList>,
    /// A dictionary of `logging`, and what is in it for as long as no logger's level changes.
    pub(crate) cache: Py<PyDict>,
    pub(crate) probe: Py<PyAny>,
    /// The levels that the workers have. Another pool may have looked at new ones.
    pub(crate) levels: Py<PyAny>,
}

impl Silence {
    /// Returns whether the program is in that state.
    fn holds(&self, py: Python<'_>) -> PyResult<bool> {
        static SYS: Once<Py<PyAny>> = Once::new();
        static LOGS: Once<Py<PyAny>> = Once::new();
        let sys = SYS.get(|| Ok(py.import("sys")?.into_any().unbind()))?.bind(py);
        let logs = LOGS.get(|| Ok(py.import("offloop._worker.logs")?.into_any().unbind()))?.bind(py);
        Ok(self.cache.bind(py).contains(&self.probe)?
            && logs.getattr(intern!(py, "known_levels"))?.is(&self.levels)
            && interpreter::imported(intern!(py, "opentelemetry.context")).is_none()
            && sys.getattr(intern!(py, "path"))?.eq(&self.path)?)
    }
}

impl Shortcuts {
    /// Sets the loop that takes the workers' answers.
    pub(crate) fn set_listener(&self, event_loop: Py<PyAny>, mailbox: Py<Mailbox>) {
        let before = self.listener.lock().replace(Arc::new(Listener { event_loop, mailbox }));
        drop(before);
    }

    /// Returns the mailbox of an event loop. If this is not the one that takes the answers, the executor is asked.
    pub(crate) fn mailbox<'py>(
        &self,
        executor: &Bound<'py, PyAny>,
        event_loop: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, Mailbox>> {
        let py = executor.py();
        let listener = self.listener.lock().clone();
        if let Some(listener) = listener
            && listener.event_loop.bind(py).call0()?.is(event_loop)
        {
            return Ok(listener.mailbox.bind(py).clone());
        }
        Ok(executor.call_method1(intern!(py, "_mailbox_on"), (event_loop,))?.cast_into()?)
    }

    /// Sets the state in which calls need no prelude.
    pub(crate) fn set_silence(&self, silence: Silence) {
        let before = self.silence.lock().replace(Arc::new(silence));
        drop(before);
    }

    /// Makes each call ask the executor for its prelude.
    pub(crate) fn end_silence(&self) {
        let before = self.silence.lock().take();
        drop(before);
    }

    /// Returns what the worker must know before it unpickles a call, if there is anything. Raises `PicklingFailed`.
    pub(crate) fn prelude<'py>(&self, executor: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let py = executor.py();
        let silence = self.silence.lock().clone();
        if let Some(silence) = silence
            && silence.holds(py)?
        {
            return Ok(None);
        }
        let prelude: Option<Bound<'py, PyBytes>> =
            executor.call_method0(intern!(py, "_prelude"))?.extract()?;
        if prelude.is_some() {
            // Workers that have followed it must be told if all is as before again.
            self.end_silence();
        }
        Ok(prelude)
    }
}
