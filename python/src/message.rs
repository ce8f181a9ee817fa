//! Messages between this interpreter and those of the workers: pickled calls and results, with the buffers beside them.

use std::cell::Cell;

use offloop::embed::{self, mark_failed};
use offloop::{Blob, BlobMut};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyList, PyTuple};
use serde::{Deserialize, Serialize, Serializer};

use crate::buffer::{self, Reserve};
use crate::errors::IntoException as _;
use crate::interpreter::{self, attach, wait};
use crate::once::{Once, intern};
use crate::receive::{Receive, Results};

/// The code of a reply that holds a result, as the package's `_worker.replies` defines it.
const RESULT: u8 = 0;

/// The code of a reply whose body is the reason why the initializer has failed.
const REFUSED: u8 = 3;

/// The code of a log record, which a job sends before its reply.
const LOG: u8 = 4;

/// The longest body, in bytes, that is copied to the message. A longer one is put where it need not be copied again.
const SHORT: usize = 1024;

/// A message from a worker: the reply of a job, or an item or a log record before it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Reply {
    /// Tells what the body is. The package's Python code defines the values.
    code: u8,
    body: Blob,
    buffers: Vec<Blob>,
}

impl Reply {
    /// Makes a reply of the tuple that the worker's Python code returns.
    fn from_python(reply: &Bound<'_, PyAny>) -> PyResult<Self> {
        let (code, body, buffers): (u8, Bound<'_, PyBytes>, Vec<Bound<'_, PyAny>>) = reply.extract()?;
        let reserve = &BlobMut::with_capacity;
        Ok(Self { code, body: to_body(body.as_bytes(), reserve), buffers: to_blobs(&buffers, reserve)? })
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
        let open = OPEN.attribute(py, "offloop._worker.replies", "open_reply")?;
        let buffers = exports(py, &self.buffers)?;
        let body = view(py, &self.body)?;
        open.call1((self.code, body, buffers)).map(Bound::unbind)
    }
}

/// Sends an item or a log record of the job that runs here, before its reply. Blocks while there is no room, and raises what
/// the handlers of signals raise meanwhile.
#[pyfunction]
pub(crate) fn emit(reply: &Bound<'_, PyAny>) -> PyResult<()> {
    let item = Reply::from_python(reply)?;
    if RUNS_FOR_CLUSTER.get() {
        let item = Encoded([&[item.code], &*item.body].concat());
        return emit_item(reply.py(), &item);
    }
    emit_item(reply.py(), &item)
}

fn emit_item<T: Serialize + Sync>(py: Python<'_>, item: &T) -> PyResult<()> {
    let sent = wait(py, |limit| embed::item_room(limit).then(|| offloop::job::emit(item)))?;
    sent.map_err(|error| error.into_exception(py))
}

/// Says that the function of the call that runs here is loaded and begins now, so that its timeout counts.
#[pyfunction]
pub(crate) fn begin_call() {
    embed::begin_call();
}

/// Copies a pickle to a blob: to memory that `reserve` makes, if it is long.
pub(crate) fn to_body(pickled: &[u8], reserve: Reserve<'_>) -> Blob {
    if pickled.len() <= SHORT {
        return Blob::from(pickled.to_vec());
    }
    let mut blob = reserve(pickled.len());
    blob.extend_from_slice(pickled);
    blob.freeze()
}

/// Copies what these objects export to memory that `reserve` makes.
pub(crate) fn to_blobs(buffers: &[Bound<'_, PyAny>], reserve: Reserve<'_>) -> PyResult<Vec<Blob>> {
    buffers.iter().map(|buffer| buffer::to_blob(buffer, reserve)).collect()
}

/// Returns a sequence of objects that export the blobs.
fn exports<'py>(py: Python<'py>, blobs: &[Blob]) -> PyResult<Bound<'py, PyAny>> {
    if blobs.is_empty() {
        return Ok(PyTuple::empty(py).into_any());
    }
    let exports: Vec<_> = blobs.iter().map(|blob| buffer::from_blob(py, blob)).collect::<PyResult<_>>()?;
    Ok(PyList::new(py, exports)?.into_any())
}

/// Returns a pickle to be read: a copy of a short one, a view of a long one. The view keeps the memory: if unpickling
/// fails, the traceback of the exception has the view for as long as anyone keeps that.
fn view<'py>(py: Python<'py>, body: &Blob) -> PyResult<Bound<'py, PyAny>> {
    if body.len() <= SHORT {
        Ok(PyBytes::new(py, body).into_any())
    } else {
        Ok(buffer::view_of(py, body)?.into_any())
    }
}

/// The worker's Python function that performs calls: `handler(pickled, buffers, as_data) -> (code, body, buffers)`.
static CALL_HANDLER: Once<Py<PyAny>> = Once::new();

/// Sets the function that performs calls in this process. Called before the first call.
#[pyfunction]
pub(crate) fn set_call_handler(handler: Py<PyAny>) {
    CALL_HANDLER.set(handler);
}

/// Performs a call with the interpreter.
fn perform(body: &Blob, buffers: &[Blob], as_data: bool) -> PyResult<Reply> {
    attach(|py| {
        let unset = || PyRuntimeError::new_err("this process performs no calls: it is no worker of a pool");
        let handler = CALL_HANDLER.peek().ok_or_else(unset)?;
        let reply = handler.bind(py).call1((view(py, body)?, exports(py, buffers)?, as_data))?;
        Reply::from_python(&reply)
    })?
}

/// Performs a call in a worker process. The result is pickled, or is plain data.
#[offloop::task]
pub(crate) fn call(body: Blob, buffers: Vec<Blob>, as_data: bool) -> Reply {
    // The Python code returns all errors of the job. If it fails itself, there is no memory or no interpreter any more.
    let reply = perform(&body, &buffers, as_data).unwrap_or_else(|error| panic!("{error}"));
    if reply.code != RESULT {
        mark_failed();
    }
    reply
}

thread_local! {
    /// The job that runs on this thread is one of a cluster, so what it sends is encoded already.
    static RUNS_FOR_CLUSTER: Cell<bool> = const { Cell::new(false) };
}

/// Bytes that are encoded as one block.
struct Encoded(Vec<u8>);

impl Serialize for Encoded {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

/// The name of [`run_for_cluster`], by which agents call it.
pub(crate) const CLUSTER_TASK: &str = "offloop:python";

/// The pickled call of the package's function that runs a job of a cluster. Its argument is the buffer beside it.
const CLUSTER_CALL: &[u8] = b"\x80\x05coffloop._worker.cluster\nrun\n\x97\x85}\x87.";

/// Runs a job of a cluster in a worker process. `request` says what to run, and the result is an answer as it travels;
/// `offloop._worker.cluster` describes both.
#[allow(dead_code, reason = "it is called by its name only")]
#[offloop::task(name = "offloop:python")]
pub(crate) fn run_for_cluster(request: &[u8]) -> Vec<u8> {
    RUNS_FOR_CLUSTER.set(true);
    let reply = attach(|py| {
        let unset = || PyRuntimeError::new_err("this process performs no calls: it is no worker of a pool");
        let handler = CALL_HANDLER.peek().ok_or_else(unset)?;
        // Of memory that arrays may share and change.
        let request = PyByteArray::new(py, request);
        let reply = handler.bind(py).call1((PyBytes::new(py, CLUSTER_CALL), (request,), false))?;
        Reply::from_python(&reply)
    });
    RUNS_FOR_CLUSTER.set(false);
    match reply {
        Ok(Ok(Reply { code: RESULT, body, .. })) => body.to_vec(),
        Ok(Ok(Reply { body, .. })) => {
            panic!("{}", reason_of(&body).unwrap_or_else(|error| error.to_string()))
        }
        Ok(Err(error)) => panic!("{error}"),
        Err(error) => panic!("{}", std::io::Error::from(error)),
    }
}

/// Returns the exception in a reply as a text.
fn reason_of(body: &[u8]) -> PyResult<String> {
    static REASON: Once<Py<PyAny>> = Once::new();
    attach(|py| {
        let reason = REASON.attribute(py, "offloop._worker.replies", "reason")?;
        reason.call1((PyBytes::new(py, body),))?.extract()
    })?
}

/// Runs a worker's initializer, which is pickled like a call. If it fails, the body of the reply is the reason.
#[offloop::task]
pub(crate) fn initialise(body: Blob) -> Result<(), String> {
    match perform(&body, &[], false) {
        Ok(Reply { code: RESULT, .. }) => Ok(()),
        Ok(Reply { code: REFUSED, body, .. }) => Err(String::from_utf8_lossy(&body).into_owned()),
        Ok(Reply { body, .. }) => Err(reason_of(&body).unwrap_or_else(|error| error.to_string())),
        Err(error) => Err(error.to_string()),
    }
}
