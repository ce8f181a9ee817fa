//! Messages between this interpreter and those of the workers: pickled calls and results, with the buffers beside them.

use std::cell::Cell;

use offloop::{Blob, BlobMut, embed};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use serde::{Deserialize, Serialize, Serializer};

use crate::buffer::{self, Reserve};
use crate::errors::IntoException as _;
use crate::interpreter::{self, wait};
use crate::once::{Once, intern};
use crate::pickle;
use crate::receive::{Receive, Results};

/// The code of a reply that holds a result, as the package's `_worker.replies` defines it.
pub(crate) const RESULT: u8 = 0;

/// The code of a reply whose body is the reason why the initializer has failed.
pub(crate) const REFUSED: u8 = 3;

/// The code of a log record, which a job sends before its reply.
const LOG: u8 = 4;

/// The longest body, in bytes, that is copied to the message. A longer one is put where it need not be copied again.
const SHORT: usize = 1024;

/// The longest body, in bytes, that becomes an object in a moment.
const LARGE: usize = 64 * 1024;

/// A message from a worker: the reply of a job, or an item or a log record before it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Reply {
    /// Tells what the body is. The package's Python code defines the values.
    pub(crate) code: u8,
    pub(crate) body: Blob,
    buffers: Vec<Blob>,
}

impl Reply {
    /// Makes a reply of a pickled result.
    pub(crate) fn of_result(body: &Bound<'_, PyBytes>, buffers: &[Bound<'_, PyAny>]) -> PyResult<Self> {
        Self::new(RESULT, body, buffers)
    }

    /// Makes a reply of the tuple that the worker's Python code returns.
    pub(crate) fn from_python(reply: &Bound<'_, PyAny>) -> PyResult<Self> {
        let (code, body, buffers): (u8, Bound<'_, PyBytes>, Vec<Bound<'_, PyAny>>) = reply.extract()?;
        Self::new(code, &body, &buffers)
    }

    fn new(code: u8, body: &Bound<'_, PyBytes>, buffers: &[Bound<'_, PyAny>]) -> PyResult<Self> {
        let reserve = &BlobMut::with_capacity;
        Ok(Self { code, body: to_body(&[body.as_bytes()], reserve), buffers: to_blobs(buffers, reserve)? })
    }

    /// Sends this before the reply of the job that runs here. Blocks while there is no room.
    pub(crate) fn emit(&self, py: Python<'_>) -> PyResult<()> {
        if RUNS_FOR_CLUSTER.get() {
            return emit_item(py, &Encoded([&[self.code], &*self.body].concat()));
        }
        emit_item(py, self)
    }

    /// Returns the body of the reply if it is a log record. Otherwise returns the reply.
    pub(crate) fn into_log(self) -> Result<Blob, Self> {
        if self.code == LOG { Ok(self.body) } else { Err(self) }
    }
}

/// Hands a log record to the handlers of this process, in a context. Blocks for as long as they do.
pub(crate) fn log(context: &Bound<'_, PyAny>, record: &[u8], trusts_worker: bool) -> PyResult<()> {
    static EMIT: Once<Py<PyAny>> = Once::new();
    let py = context.py();
    let emit = EMIT.attribute(py, "offloop._worker.logs", "emit")?;
    let run = context.getattr(intern!(py, "run"))?;
    interpreter::call(&run, &(emit, PyBytes::new(py, record), trusts_worker).into_pyobject(py)?, None)
        .map(drop)
}

impl Receive for Reply {
    fn receive(self, py: Python<'_>, results: Results) -> PyResult<Py<PyAny>> {
        static OPEN: Once<Py<PyAny>> = Once::new();
        static OPEN_DATA: Once<Py<PyAny>> = Once::new();
        if results == Results::Data {
            let open = OPEN_DATA.attribute(py, "offloop._worker.replies", "open_data")?;
            // Copies, which the worker cannot change while they are checked and read.
            let buffers: Vec<_> = self.buffers.iter().map(|blob| PyBytes::new(py, blob)).collect();
            return open.call1((self.code, PyBytes::new(py, &self.body), buffers)).map(Bound::unbind);
        }
        if self.code == RESULT && *self.body == *pickle::NONE {
            return Ok(py.None());
        }
        let body = view(py, &self.body, 0)?;
        if self.code == RESULT {
            let value = pickle::loads(&body, exports(py, &self.buffers)?);
            return value.map(Bound::unbind).map_err(|error| unreadable(py, error));
        }
        let open = OPEN.attribute(py, "offloop._worker.replies", "open_reply")?;
        open.call1((self.code, body)).map(Bound::unbind)
    }

    fn is_large(&self) -> bool {
        self.body.len() > LARGE
    }
}

/// Returns the exception that says that a result could not be unpickled for this reason.
fn unreadable(py: Python<'_>, error: PyErr) -> PyErr {
    static UNREADABLE: Once<Py<PyAny>> = Once::new();
    let wrapped = UNREADABLE
        .attribute(py, "offloop._worker.replies", "unreadable_result")
        .and_then(|wrap| wrap.call1((error.into_value(py),)));
    wrapped.map_or_else(|error| error, PyErr::from_value)
}

fn emit_item<T: Serialize + Sync>(py: Python<'_>, item: &T) -> PyResult<()> {
    let sent = wait(py, |limit| embed::item_room(limit).then(|| offloop::job::emit(item)))?;
    sent.map_err(|error| error.into_exception(py))
}

/// Sends an item or a log record of the job that runs here, before its reply. Blocks while there is no room, and raises what
/// the handlers of signals raise meanwhile.
#[pyfunction]
pub(crate) fn emit(reply: &Bound<'_, PyAny>) -> PyResult<()> {
    Reply::from_python(reply)?.emit(reply.py())
}

thread_local! {
    /// The job that runs on this thread is one of a cluster, so what it sends is encoded already.
    pub(crate) static RUNS_FOR_CLUSTER: Cell<bool> = const { Cell::new(false) };
}

/// Bytes that are encoded as one block.
struct Encoded(Vec<u8>);

impl Serialize for Encoded {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

/// Copies the parts of a body to a blob, one after the other: to memory that `reserve` makes, if it is long.
pub(crate) fn to_body(parts: &[&[u8]], reserve: Reserve<'_>) -> Blob {
    let length = parts.iter().map(|part| part.len()).sum();
    if length <= SHORT {
        return Blob::from(parts.concat());
    }
    let mut blob = reserve(length);
    for part in parts {
        blob.extend_from_slice(part);
    }
    blob.freeze()
}

/// Copies what these objects export to memory that `reserve` makes.
pub(crate) fn to_blobs(buffers: &[Bound<'_, PyAny>], reserve: Reserve<'_>) -> PyResult<Vec<Blob>> {
    buffers.iter().map(|buffer| buffer::to_blob(buffer, reserve)).collect()
}

/// Returns a sequence of objects that export the blobs, if there are any.
pub(crate) fn exports<'py>(py: Python<'py>, blobs: &[Blob]) -> PyResult<Option<Bound<'py, PyAny>>> {
    if blobs.is_empty() {
        return Ok(None);
    }
    let exports: Vec<_> = blobs.iter().map(|blob| buffer::from_blob(py, blob)).collect::<PyResult<_>>()?;
    Ok(Some(PyList::new(py, exports)?.into_any()))
}

/// Returns what a body has from `start` on, to be read: a copy if it is short, a view if it is long, which keeps the
/// memory.
pub(crate) fn view<'py>(py: Python<'py>, body: &Blob, start: usize) -> PyResult<Bound<'py, PyAny>> {
    if body.len() - start <= SHORT {
        Ok(PyBytes::new(py, &body[start..]).into_any())
    } else {
        Ok(buffer::view_of(py, body, start)?.into_any())
    }
}
