//! A worker's side of a call: it is unpickled, made and answered here, without a frame of Python but the user's.
//!
//! What is seldom needed is asked of the package's `_worker.main`, by functions whose names are in this module.

use offloop::Blob;
use offloop::embed::{self, mark_failed};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyModule, PyTuple};

use crate::call::check_result;
use crate::data::encode_data;
use crate::interpreter::{self, attach, imported};
use crate::message::{REFUSED, RESULT, RUNS_FOR_CLUSTER, Reply, exports, view};
use crate::once::{Once, intern};
use crate::pickle::{self, Attempt, Pickled};
use crate::reference;

/// The first byte of a call with a prelude. A pickle begins with another one. As in the package's `_worker.main`.
const PRELUDE: u8 = 0;

/// The package's code for what is seldom needed in a process that performs calls.
struct Package {
    /// The module `_worker.main`.
    main: Py<PyModule>,
    /// The part of a worker alone: a pool's own process has none.
    worker: Option<Forwarder>,
}

/// The handler that sends log records to the parent.
struct Forwarder {
    handler: Py<PyAny>,
    /// Its records that were not sent.
    pending: Py<PyAny>,
    /// A dictionary of `logging`, and what is in it for as long as no logger's level changes; `None` if nothing says so.
    levels: Option<(Py<PyDict>, Py<PyAny>)>,
}

static PACKAGE: Once<Package> = Once::new();

/// Prepares this process for performing calls: as a worker whose log records `forwarder` sends, or as a pool's own
/// process. `main` is the module `_worker.main`. Called before the first call, and again in a fork that becomes a worker.
#[pyfunction]
pub(crate) fn set_performer(main: Py<PyModule>, forwarder: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
    let worker = match forwarder {
        Some(handler) => Some(Forwarder {
            pending: handler.getattr("pending")?.unbind(),
            levels: handler.call_method0("probe")?.extract()?,
            handler: handler.clone().unbind(),
        }),
        None => None,
    };
    PACKAGE.replace(Package { main, worker });
    Ok(())
}

/// Performs a pickled call and returns the reply. An exception, whatever it is, is in the reply.
fn perform(py: Python<'_>, body: &Blob, buffers: Option<Bound<'_, PyAny>>, as_data: bool) -> PyResult<Reply> {
    let package = Package::get()?;
    let job_runs = intern!(py, "job_runs");
    let Some(worker) = &package.worker else { return package.reply(py, body, buffers, as_data) };
    let handler = worker.handler.bind(py);
    if handler.getattr(job_runs)?.is_truthy()? {
        // A job has made a pool of its own, whose queue has no room for this call.
        return package.reply(py, body, buffers, as_data);
    }
    handler.setattr(job_runs, true)?;
    let reply = package.reply(py, body, buffers, as_data);
    if worker.pending.bind(py).len()? > 0 {
        handler.call_method0(intern!(py, "flush"))?;
    }
    handler.setattr(job_runs, false)?;
    flush_output(py)?;
    reply
}

impl Package {
    fn get() -> PyResult<&'static Self> {
        let unset = || PyRuntimeError::new_err("this process performs no calls: it is no worker of a pool");
        PACKAGE.peek().ok_or_else(unset)
    }

    fn reply<'py>(
        &self,
        py: Python<'py>,
        body: &Blob,
        buffers: Option<Bound<'py, PyAny>>,
        as_data: bool,
    ) -> PyResult<Reply> {
        let main = self.main.bind(py);
        let loaded = match Loaded::of(main, body, buffers) {
            Ok(loaded) => loaded,
            Err(error) => {
                return Reply::from_python(&main.call_method1("unreadable", (error.into_value(py),))?);
            }
        };
        let (function, args) = (&loaded.function, &loaded.args);
        let answered =
            self.make(main, &loaded).and_then(|value| answer(main, function, args, &value, as_data));
        answered.or_else(|error| Reply::from_python(&main.call_method1("failed", (error.into_value(py),))?))
    }

    /// Makes an unpickled call and returns its value.
    fn make<'py>(&self, main: &Bound<'py, PyModule>, loaded: &Loaded<'py>) -> PyResult<Bound<'py, PyAny>> {
        let py = main.py();
        if let Some(worker) = &self.worker {
            let keeps_levels = match &worker.levels {
                Some((cache, probe)) => cache.bind(py).contains(probe)?,
                None => false,
            };
            if !keeps_levels {
                worker.handler.call_method0(py, intern!(py, "keep_levels"))?;
            }
        }
        let Loaded { context, function, args, kwargs } = loaded;
        // Until now the modules of the function and of its arguments were imported. Its timeout counts from here.
        embed::begin_call();
        let value = if context.is_none() && self.worker.is_some() {
            interpreter::call(function, args, kwargs.as_ref())?
        } else {
            // In the pool's own process, too, where the call must not change the context of its caller.
            let kwargs = kwargs.clone().unwrap_or_else(|| PyDict::new(py));
            let arguments = (context, function, args, kwargs).into_pyobject(py)?;
            interpreter::call(&main.getattr(intern!(py, "run_in_context"))?, &arguments, None)?
        };
        check_result(function, &value)?;
        Ok(value)
    }
}

/// An unpickled call.
struct Loaded<'py> {
    /// The values of context variables that it is made with, if there are any.
    context: Option<Bound<'py, PyAny>>,
    function: Bound<'py, PyAny>,
    args: Bound<'py, PyTuple>,
    /// `None` if there are none.
    kwargs: Option<Bound<'py, PyDict>>,
}

impl<'py> Loaded<'py> {
    /// Unpickles a call.
    fn of(main: &Bound<'py, PyModule>, body: &Blob, buffers: Option<Bound<'py, PyAny>>) -> PyResult<Self> {
        let py = main.py();
        let awaits_multiprocessing = main.getattr(intern!(py, "awaits_multiprocessing"))?.is_truthy()?;
        let request = offloop::job::request();
        let is_special = body.first() == Some(&PRELUDE)
            || request.is_some()
            || (awaits_multiprocessing
                && (pickle::contains(body, b"multiprocessing")
                    || imported(intern!(py, "multiprocessing.process")).is_some()))
            || (pickle::contains(body, b"_main__")
                && main.getattr(intern!(py, "awaits_main"))?.is_truthy()?);
        let (context, start): (Option<Bound<'py, PyAny>>, usize) = if is_special {
            let request = request.map(|id| id.to_string());
            main.call_method1(intern!(py, "prepare"), (view(py, body, 0)?, request))?.extract()?
        } else {
            (None, 0)
        };
        let (function, args, kwargs) = match reference::read(&body[start..]) {
            Some((module, name, length)) => {
                let function = reference::find(py, module, name)?;
                if start + length == body.len() {
                    (function, PyTuple::empty(py), PyDict::new(py))
                } else {
                    let pickled = view(py, body, start + length)?;
                    let (args, kwargs) = pickle::loads(&pickled, buffers)?.extract()?;
                    (function, args, kwargs)
                }
            }
            None => pickle::loads(&view(py, body, start)?, buffers)?.extract()?,
        };
        if awaits_multiprocessing && imported(intern!(py, "multiprocessing.process")).is_some() {
            main.call_method0(intern!(py, "begin_multiprocessing"))?;
        }
        let kwargs = (!kwargs.is_empty()).then_some(kwargs);
        Ok(Self { context, function, args, kwargs })
    }
}

/// Returns the value of the call `function(*args)` as it travels.
fn answer<'py>(
    main: &Bound<'py, PyModule>,
    function: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    value: &Bound<'py, PyAny>,
    as_data: bool,
) -> PyResult<Reply> {
    let py = main.py();
    if RUNS_FOR_CLUSTER.get() && value.get_type().is(main.getattr(intern!(py, "Encoded"))?) {
        return Reply::of_result(&value.getattr(intern!(py, "body"))?.cast_into()?, &[]);
    }
    let (body, buffers) = if as_data {
        encode_data(value, true)?
    } else {
        match pickle::dumps(value)? {
            Attempt::Done(Pickled { body, buffers }) => (body, buffers),
            Attempt::Left(refusal) => {
                let refusal = refusal.map(|error| error.into_value(py));
                let name = intern!(py, "pickle_result");
                main.call_method1(name, (value, function, args, refusal))?.extract()?
            }
        }
    };
    Reply::of_result(&body, &buffers)
}

/// Sends an item of the stream that the job on this thread makes by calling `function`.
#[pyfunction]
pub(crate) fn emit_item(function: &Bound<'_, PyAny>, item: &Bound<'_, PyAny>, as_data: bool) -> PyResult<()> {
    let py = item.py();
    answer(Package::get()?.main.bind(py), function, &PyTuple::empty(py), item, as_data)?.emit(py)
}

/// Flushes standard output and standard error, so that what a job has printed is there before its result.
fn flush_output(py: Python<'_>) -> PyResult<()> {
    static SYS: Once<Py<PyAny>> = Once::new();
    let sys = SYS.get(|| Ok(py.import("sys")?.into_any().unbind()))?.bind(py);
    for name in [intern!(py, "stdout"), intern!(py, "stderr")] {
        // The job may have replaced the stream, or closed it.
        drop(sys.getattr(name).and_then(|stream| stream.call_method0(intern!(py, "flush"))));
    }
    Ok(())
}

/// Performs a call on this thread, which has not entered the interpreter.
fn perform_attached(body: &Blob, buffers: &[Blob], as_data: bool) -> PyResult<Reply> {
    attach(|py| perform(py, body, exports(py, buffers)?, as_data))?
}

/// Performs a call in a worker process. The result is pickled, or is plain data.
#[offloop::task]
pub(crate) fn call(body: Blob, buffers: Vec<Blob>, as_data: bool) -> Reply {
    // The Python code returns all errors of the job. If it fails itself, there is no memory or no interpreter any more.
    let reply = perform_attached(&body, &buffers, as_data).unwrap_or_else(|error| panic!("{error}"));
    if reply.code != RESULT {
        mark_failed();
    }
    reply
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
        // Of memory that arrays may share and change.
        let buffers = PyTuple::new(py, [PyByteArray::new(py, request)])?.into_any();
        perform(py, &Blob::from(CLUSTER_CALL.to_vec()), Some(buffers), false)
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
    match perform_attached(&body, &[], false) {
        Ok(Reply { code: RESULT, .. }) => Ok(()),
        Ok(Reply { code: REFUSED, body, .. }) => Err(String::from_utf8_lossy(&body).into_owned()),
        Ok(Reply { body, .. }) => Err(reason_of(&body).unwrap_or_else(|error| error.to_string())),
        Err(error) => Err(error.to_string()),
    }
}
