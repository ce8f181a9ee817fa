//! What travels between the interpreters: pickled calls and results, and the buffers that go beside them.

use std::ffi::c_char;

use offloop::{Blob, BlobMut};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyList, PyModule, PyTuple};
use serde::{Deserialize, Serialize};

use crate::buffer;
use crate::mailbox::Receive;
use crate::once::Once;

/// What a job came to.
#[derive(Serialize, Deserialize)]
pub(crate) struct Reply {
    /// 0: a result. Otherwise what went wrong, in the words of the package's Python side.
    code: u8,
    body: Blob,
    buffers: Vec<Blob>,
}

/// A view to read; `PyO3` has this number only for Python 3.11 and later.
const PYBUF_READ: std::ffi::c_int = 0x100;

/// Longer bodies are put where they need not be copied again, in bytes.
const SHORT: usize = 1024;

impl Reply {
    /// From what the worker's Python side returns.
    fn from_python(reply: &Bound<'_, PyAny>) -> PyResult<Self> {
        let (code, body, buffers): (u8, Bound<'_, PyBytes>, Vec<Bound<'_, PyAny>>) = reply.extract()?;
        let bytes = body.as_bytes();
        let body = if bytes.len() <= SHORT {
            Blob::from(bytes.to_vec())
        } else {
            let mut blob = BlobMut::with_capacity(bytes.len());
            blob.extend_from_slice(bytes);
            blob.freeze()
        };
        Ok(Self { code, body, buffers: to_blobs(&buffers)? })
    }
}

/// What is sent before a reply, as its code says.
const LOG: u8 = 4;

impl Reply {
    /// A log record that the job has sent goes where it belongs; what else it sends is given back.
    pub(crate) fn or_log(self, py: Python<'_>) -> PyResult<Option<Self>> {
        static EMIT: Once<Py<PyAny>> = Once::new();
        if self.code != LOG {
            return Ok(Some(self));
        }
        attribute(py, &EMIT, "offloop._worker.logs", "emit")?.call1((PyBytes::new(py, &self.body),))?;
        Ok(None)
    }
}

/// Sends something before the reply of the job that runs here. Blocks while nobody makes room for it.
#[pyfunction]
pub(crate) fn emit(reply: &Bound<'_, PyAny>) -> PyResult<()> {
    let item = Reply::from_python(reply)?;
    let sent = reply.py().detach(|| offloop::job::emit(&item));
    sent.map_err(|error| pyo3::exceptions::PyRuntimeError::new_err(error.to_string()))
}

impl Receive for Reply {
    fn receive(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        static OPEN: Once<Py<PyAny>> = Once::new();
        let open = attribute(py, &OPEN, "offloop._worker.replies", "open_reply")?;
        let buffers = exports(py, &self.buffers)?;
        let body = view(py, &self.body)?;
        open.call1((self.code, body, buffers)).map(Bound::unbind)
    }
}

/// An attribute of one of the package's modules, looked up once.
fn attribute<'py>(
    py: Python<'py>,
    cache: &'static Once<Py<PyAny>>,
    module: &str,
    name: &str,
) -> PyResult<&'py Bound<'py, PyAny>> {
    let found = cache.get(py, || PyModule::import(py, module)?.getattr(name).map(Bound::unbind))?;
    Ok(found.bind(py))
}

pub(crate) fn to_blobs(buffers: &[Bound<'_, PyAny>]) -> PyResult<Vec<Blob>> {
    buffers.iter().map(buffer::to_blob).collect()
}

fn exports<'py>(py: Python<'py>, blobs: &[Blob]) -> PyResult<Bound<'py, PyAny>> {
    if blobs.is_empty() {
        return Ok(PyTuple::empty(py).into_any());
    }
    let exports: Vec<_> = blobs.iter().map(|blob| buffer::from_blob(py, blob)).collect::<PyResult<_>>()?;
    Ok(PyList::new(py, exports)?.into_any())
}

/// A pickle to be read: a short one copied, a long one where it is.
fn view<'py>(py: Python<'py>, body: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    if body.len() <= SHORT {
        return Ok(PyBytes::new(py, body).into_any());
    }
    let start = body.as_ptr().cast::<c_char>().cast_mut();
    // No memory is longer than that.
    let length = ffi::Py_ssize_t::try_from(body.len()).unwrap_or(ffi::Py_ssize_t::MAX);
    // SAFETY: so many bytes are there, and are only read. Unpickling, the one thing that is done with the view, copies
    // what it keeps; callers keep the bytes until it is done.
    unsafe {
        let view = ffi::PyMemoryView_FromMemory(start, length, PYBUF_READ);
        Bound::from_owned_ptr_or_err(py, view)
    }
}

/// What a worker's Python side does with a call: `perform(pickled, buffers) -> (code, pickled, buffers)`.
static PERFORM: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// Sets what is done with calls in this process; before the first.
#[pyfunction]
pub(crate) fn perform_by(py: Python<'_>, perform: Py<PyAny>) {
    let _ = PERFORM.set(py, perform);
}

fn call_python<'py>(py: Python<'py>, body: &[u8], buffers: &[Blob]) -> PyResult<Bound<'py, PyAny>> {
    let unset = || pyo3::exceptions::PyRuntimeError::new_err("this process does not perform calls");
    let perform = PERFORM.get(py).ok_or_else(unset)?;
    perform.bind(py).call1((view(py, body)?, exports(py, buffers)?))
}

/// A call, in a worker process.
#[offloop::task]
pub(crate) fn call(body: &[u8], buffers: Vec<Blob>) -> Reply {
    Python::attach(|py| {
        let reply = call_python(py, body, &buffers).and_then(|reply| Reply::from_python(&reply));
        // The Python side returns whatever goes wrong in a job; if it fails itself, memory is used up or the
        // interpreter is being taken down.
        let reply = reply.unwrap_or_else(|error| panic!("{error}"));
        if reply.code != 0 {
            offloop::embed::mark_failed();
        }
        reply
    })
}

/// A worker's initializer, pickled like a call. It returns why it failed, if it did, as its body.
#[offloop::task]
pub(crate) fn initialise(body: &[u8]) -> Result<(), String> {
    Python::attach(|py| {
        let reply = call_python(py, body, &[]).and_then(|reply| Reply::from_python(&reply));
        match reply {
            Ok(Reply { code: 0, .. }) => Ok(()),
            Ok(Reply { body, .. }) => Err(String::from_utf8_lossy(&body).into_owned()),
            Err(error) => Err(error.to_string()),
        }
    })
}
