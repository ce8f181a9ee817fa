//! Calls as they travel to worker processes, pickled here without a frame of Python.
//!
//! What plain pickle alone does not do is asked of the package's `_pools.pickled_call`.

use pyo3::Borrowed;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};

use crate::interpreter;
use crate::once::{Once, intern};
use crate::pickle::{self, Attempt, Pickled};
use crate::reference;
use crate::submission::is_function;

/// A call as it travels to a worker process.
pub(crate) struct PickledCall<'py> {
    /// The name of the user's function.
    pub(crate) name: String,
    /// The bytes before the pickle: a reference to the function, or nothing if the function is pickled as well.
    pub(crate) reference: Vec<u8>,
    pub(crate) pickle: Bound<'py, PyBytes>,
    /// The buffers that travel beside the pickle.
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
    if !pickle::can_be_found(py, module.as_bytes())? {
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
