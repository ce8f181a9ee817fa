//! Plain pickles: by the interpreter's own C pickler, called without a frame of Python.
//!
//! What plain pickle refuses, or would pickle in another way than a pool promises, is left to the package's
//! `_worker.pickling`.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyTuple};

use crate::interpreter;
use crate::once::{Once, intern};

/// The length in bytes from which buffers travel beside their pickle: `LARGE_BUFFER` of the package's `_worker.main`.
const LARGE_BUFFER: usize = 16 * 1024;

/// The length in bytes from which `bytes` and `bytearray` travel out of band: `LARGE` of the package's `_worker.pickling`.
const LARGE: usize = 256 * 1024;

/// The interpreter's own pickler. The module `pickle` has these very functions, and imports `re` and `enum` besides.
const PICKLER: &str = "_pickle";

/// A value as bytes, with the buffers that travel beside them.
pub(crate) struct Pickled<'py> {
    pub(crate) body: Bound<'py, PyBytes>,
    pub(crate) buffers: Vec<Bound<'py, PyAny>>,
}

thread_local! {
    /// The buffers that travel beside the value that this thread is pickling.
    static BESIDE: RefCell<Vec<Py<PyAny>>> = const { RefCell::new(Vec::new()) };
}

/// Returns whether a buffer travels inside of its pickle. Keeps one that does not. Called by the pickler.
#[pyfunction]
fn stays_inside(buffer: &Bound<'_, PyAny>) -> PyResult<bool> {
    let length = buffer.call_method0(intern!(buffer.py(), "raw"))?.len()?;
    if length >= LARGE_BUFFER {
        BESIDE.with_borrow_mut(|beside| beside.push(buffer.clone().unbind()));
    }
    Ok(length < LARGE_BUFFER)
}

/// The end of an attempt to pickle a value.
pub(crate) enum Attempt<'py> {
    Done(Pickled<'py>),
    /// The package's Python code must pickle the value: since plain pickle has raised this exception, or since workers
    /// might not be able to read its pickle.
    Left(Option<PyErr>),
}

/// The pickle of `None`, the most frequent result.
pub(crate) const NONE: &[u8] = b"\x80\x05N.";

/// Pickles a value by plain pickle, if that will do.
pub(crate) fn dumps<'py>(value: &Bound<'py, PyAny>) -> PyResult<Attempt<'py>> {
    static DUMPS: Once<Py<PyAny>> = Once::new();
    static OPTIONS: Once<Py<PyDict>> = Once::new();
    let py = value.py();
    if value.is_none() {
        return Ok(Attempt::Done(Pickled { body: PyBytes::new(py, NONE), buffers: Vec::new() }));
    }
    if is_large(value) || has_reducers(py)? {
        return Ok(Attempt::Left(None));
    }
    let options = OPTIONS.get(|| {
        let options = PyDict::new(py);
        options.set_item("protocol", 5)?;
        options.set_item("buffer_callback", wrap_pyfunction!(stays_inside, py)?)?;
        Ok(options.unbind())
    })?;
    let dumps = DUMPS.attribute(py, PICKLER, "dumps")?;
    // The methods of a value that is being pickled may submit another call.
    let outer = BESIDE.take();
    let pickled = interpreter::call(dumps, &PyTuple::new(py, [value])?, Some(options.bind(py)));
    let buffers = BESIDE.replace(outer);
    match pickled {
        Ok(body) => {
            let body = body.cast_into::<PyBytes>()?;
            let buffers = buffers.into_iter().map(|buffer| buffer.into_bound(py)).collect();
            if is_special(py, body.as_bytes())? {
                return Ok(Attempt::Left(None));
            }
            Ok(Attempt::Done(Pickled { body, buffers }))
        }
        // It may be one that the Python code has an answer to.
        Err(error) if error.is_instance_of::<PyException>(py) => Ok(Attempt::Left(Some(error))),
        Err(error) => Err(error),
    }
}

/// Unpickles a value, with its out-of-band buffers if there are any.
pub(crate) fn loads<'py>(
    pickled: &Bound<'py, PyAny>,
    buffers: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    static LOADS: Once<Py<PyAny>> = Once::new();
    let py = pickled.py();
    let loads = LOADS.attribute(py, PICKLER, "loads")?;
    let options = match buffers {
        Some(buffers) => {
            let options = PyDict::new(py);
            options.set_item(intern!(py, "buffers"), buffers)?;
            Some(options)
        }
        None => None,
    };
    interpreter::call(loads, &PyTuple::new(py, [pickled])?, options.as_ref())
}

/// Returns whether the package's Python code must look at a pickle: it refers to a main module that workers cannot import,
/// or to a connection, of which plain pickle sends only the number of its descriptor.
fn is_special(py: Python<'_>, body: &[u8]) -> PyResult<bool> {
    Ok(contains(body, b"multiprocessing.connection") || !can_be_found(py, body)?)
}

/// Returns whether workers can find what the names in `bytes` stand for, as far as they need the main module for that.
pub(crate) fn can_be_found(py: Python<'_>, bytes: &[u8]) -> PyResult<bool> {
    static IS_IMPORTABLE: Once<Py<PyAny>> = Once::new();
    if !contains(bytes, b"_main__") {
        return Ok(true);
    }
    IS_IMPORTABLE.attribute(py, "offloop._worker.main_module", "is_importable")?.call0()?.is_truthy()
}

/// Returns whether `bytes` contain `part`, which is short.
pub(crate) fn contains(bytes: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(bytes, part).is_some()
}

/// Returns whether the program has registered reducers of its own with multiprocessing, which must be preferred.
fn has_reducers(py: Python<'_>) -> PyResult<bool> {
    static REDUCERS: Once<Py<PyAny>> = Once::new();
    static HAS_REDUCERS: Once<Py<PyAny>> = Once::new();
    /// The number of reducers among which there were none but multiprocessing's own.
    static OWN: AtomicUsize = AtomicUsize::new(0);
    if REDUCERS.peek().is_none() {
        // While another thread imports the module, the attributes may be missing.
        let Some(module) = interpreter::imported(intern!(py, "multiprocessing.reduction")) else {
            return Ok(false);
        };
        let Some(pickler) = module.getattr_opt(intern!(py, "ForkingPickler"))? else { return Ok(false) };
        REDUCERS.set(pickler.getattr(intern!(py, "_extra_reducers"))?.unbind());
    }
    let number = REDUCERS.peek().map_or(Ok(0), |reducers| reducers.bind(py).len())?;
    if number == OWN.load(Ordering::Relaxed) {
        return Ok(false);
    }
    let has = HAS_REDUCERS.attribute(py, "offloop._worker.pickling", "has_reducers")?.call0()?.is_truthy()?;
    if !has {
        OWN.store(number, Ordering::Relaxed);
    }
    Ok(has)
}

/// Returns whether an argument is so large that the package's Python code wraps it.
pub(crate) fn has_large(args: &Bound<'_, PyTuple>, kwargs: &Bound<'_, PyDict>) -> bool {
    args.iter().any(|value| is_large(&value))
        || (!kwargs.is_empty() && kwargs.iter().any(|(_, value)| is_large(&value)))
}

/// Returns whether the package's Python code wraps a value, so that it travels out of band.
fn is_large(value: &Bound<'_, PyAny>) -> bool {
    if let Ok(bytes) = value.cast_exact::<PyBytes>() {
        bytes.as_bytes().len() >= LARGE
    } else if let Ok(bytes) = value.cast_exact::<PyByteArray>() {
        bytes.len() >= LARGE
    } else {
        false
    }
}
