//! The worker of a cluster as Python sees it: the engine's agent, which feeds a process pool of the package.
//!
//! Between the network and a worker process there is no interpreter: the agent passes the bytes of a job on, and the
//! bytes of its answer back. Only log records come to the interpreter of this process, on the log thread.

use std::collections::HashSet;
use std::sync::Arc;

use offloop::ErrorKind;
use offloop::remote::{
    Answer, Canceller, Instructions, NamedCall, Outbound, Performance, perform, unpack_error,
};
use offloop_cluster::records::{Codec, Job};
use offloop_cluster::worker::{Offer, Performer, Ran, Run, Running, Worker, WorkerHandle};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::cluster::setting_of;
use crate::completion_queue::{Completion, log_thread};
use crate::errors::refused;
use crate::interpreter::{Mutex, detach, wait};
use crate::once::Once;
use crate::perform::CLUSTER_TASK;
use crate::processes::ProcessPool;
use crate::settings::seconds;

/// The flag of a request with a pickled call, as `offloop._worker.cluster` defines it.
const PICKLED: u8 = 1;

/// The flag of a request whose items are sent one by one.
const STREAMED: u8 = 2;

/// The code of a log record among the items, as the package's `_worker.replies` defines it.
const LOG: u8 = 4;

/// The number of items, log records included, that wait to be sent on.
const ITEMS: usize = 100;

/// The first byte of an answer.
mod answer {
    pub(super) const PLAIN: u8 = 0;
    pub(super) const ERROR: u8 = 1;
    pub(super) const FAILED: u8 = 2;
}

/// A worker of a cluster.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct ClusterWorker {
    handle: WorkerHandle,
    /// Taken by the thread that waits for the end.
    worker: Mutex<Option<Worker>>,
}

#[pymethods]
impl ClusterWorker {
    /// Starts a worker that runs jobs in `pool`. It has these tasks, and takes pickled calls of this `python`, a version,
    /// if it trusts the keys that have signed them. The other settings have the names of the command's options. Does not wait for the server.
    #[new]
    fn new(
        py: Python<'_>,
        url: &str,
        pool: &Bound<'_, ProcessPool>,
        tasks: HashSet<String>,
        python: String,
        settings: &Bound<'_, PyDict>,
    ) -> PyResult<Self> {
        let python = PythonPool { pool: pool.get().engine().clone(), tasks, python };
        let mut builder = Worker::builder(url).performer(python);
        for (name, value) in settings {
            let name: String = name.extract()?;
            builder = match &*name {
                "namespace" => builder.namespace(value.extract::<String>()?),
                "queues" => {
                    let queues: Vec<(String, u32)> = value.extract()?;
                    queues.into_iter().fold(builder, |builder, (queue, weight)| builder.queue(queue, weight))
                }
                "slots" => builder.slots(value.extract()?),
                "drain" => builder.drain(seconds(&name, value.extract()?)?),
                "name" => builder.name(value.extract::<String>()?),
                "version" => builder.version(value.extract::<String>()?),
                "labels" => {
                    let labels: Vec<String> = value.extract()?;
                    labels.into_iter().fold(builder, |builder, label| builder.label(label))
                }
                _ => setting_of(builder, &name, &value)?,
            };
        }
        let worker = detach(py, || builder.build())?.map_err(|error| refused(&error))?;
        Ok(Self { handle: worker.handle(), worker: Mutex::new(Some(worker)) })
    }

    /// The worker's id.
    #[getter]
    fn id(&self) -> String {
        self.handle.id().to_string()
    }

    /// Takes no more jobs, and ends when those that run have ended or their time is over. Does not wait for it.
    fn drain(&self) {
        self.handle.drain();
    }

    /// Ends now. Jobs that run are killed, and started elsewhere if they have a start left. Does not wait for it.
    fn stop(&self) {
        self.handle.stop();
    }

    /// Waits until the worker has ended. Returns the ids of the jobs that it could not let go of.
    fn wait(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        let taken = self.worker.lock().take();
        let worker = taken.ok_or_else(|| PyRuntimeError::new_err("another thread waits for this worker"))?;
        let (sender, report) = std::sync::mpsc::sync_channel(1);
        offloop::embed::start_thread("offloop-worker", move || drop(sender.send(worker.wait())))?;
        let report = wait(py, move |limit| report.recv_timeout(limit).ok())?;
        let report = report.map_err(|error| refused(&error))?;
        Ok(report.left.iter().map(ToString::to_string).collect())
    }

    /// Returns what the worker has done since it was started, as numbers by their names.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let metrics = self.handle.metrics();
        let values = PyDict::new(py);
        values.set_item("slots", metrics.slots)?;
        values.set_item("running", metrics.running)?;
        values.set_item("started", metrics.started)?;
        values.set_item("taken_over", metrics.taken_over)?;
        values.set_item("ended", metrics.ended.values().sum::<u64>())?;
        values.set_item("refused", metrics.refused)?;
        values.set_item("given_back", metrics.given_back)?;
        values.set_item("dead", metrics.dead)?;
        values.set_item("late_renewals", metrics.late_renewals)?;
        Ok(values)
    }
}

/// Runs jobs in worker processes of Python.
struct PythonPool {
    pool: offloop::ProcessPool,
    tasks: HashSet<String>,
    /// The Python version, with the minor number, whose pickles the workers read.
    python: String,
}

impl Performer for PythonPool {
    fn offers(&self) -> Vec<Offer> {
        let offer = |task: &String| Offer { task: task.clone(), signature: None };
        self.tasks.iter().map(offer).collect()
    }

    fn has(&self, job: &Job) -> bool {
        match job.codec {
            Codec::MessagePack => self.tasks.contains(&job.task),
            // Whether it is loaded is a matter of trust, which the agent has decided.
            Codec::Pickle => job.python == self.python,
        }
    }

    fn perform(&self, job: &Job, arguments: Vec<u8>, run: Run) -> Result<Box<dyn Running>, ErrorKind> {
        let request = request(job, &arguments)?;
        drop(arguments);
        let outbound = Outbound::received(CLUSTER_TASK, NamedCall::<()>::ANY, request, instructions(job));
        let performance =
            perform(&self.pool, outbound.map_err(|error| ErrorKind::Decode(error.to_string()))?)?;
        let canceller = performance.canceller();
        // The methods of a performer are called on the network's thread.
        tokio::spawn(attend(performance, canceller.clone(), job.stream.is_some(), run));
        Ok(Box::new(InPool(canceller)))
    }
}

/// Returns what a job asks of the pool. Its starts and its wait in the queue are the agent's matter.
fn instructions(job: &Job) -> Instructions {
    let mut asked = Instructions::default();
    let name = if job.name.is_empty() { &job.task } else { &job.name };
    asked.name.clone_from(name);
    asked.priority = job.priority;
    asked.run_timeout = job.run_timeout();
    asked.capture = job.capture.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
    asked.carried = (!job.carry.is_empty()).then(|| job.carry.clone().into_boxed_slice());
    asked.request = (!job.request.is_empty()).then(|| job.request.clone());
    asked.stream = Some(ITEMS);
    asked
}

/// Returns the encoded argument of the task that runs a job: see `offloop._worker.cluster`.
fn request(job: &Job, arguments: &[u8]) -> Result<Vec<u8>, ErrorKind> {
    let is_pickled = job.codec == Codec::Pickle;
    let flags = if is_pickled { PICKLED } else { 0 } | if job.stream.is_some() { STREAMED } else { 0 };
    let name = if is_pickled { &[] } else { job.task.as_bytes() };
    let name_head = if is_pickled { 0 } else { 4 };
    let size = 1 + name_head + name.len() + arguments.len();
    let size = u32::try_from(size).map_err(|_| ErrorKind::Encode("the arguments exceed 4 GiB".into()))?;
    let mut request = Vec::with_capacity(size as usize + 5);
    // One block of bytes, in MessagePack.
    request.push(0xc6);
    request.extend(size.to_be_bytes());
    request.push(flags);
    if !is_pickled {
        request.extend(u32::try_from(name.len()).unwrap_or(u32::MAX).to_le_bytes());
        request.extend(name);
    }
    request.extend(arguments);
    Ok(request)
}

/// Passes on the items of a job, and its end when no process is left.
async fn attend(mut performance: Performance, canceller: Canceller, is_streamed: bool, run: Run) {
    let id = run.job().to_string();
    while let Some(item) = performance.next_item().await {
        // The name of the item's type precedes it.
        match text(&item).and_then(|(_, rest)| block(rest)).and_then(<[u8]>::split_first) {
            Some((&LOG, record)) => log(&id, record),
            Some((_, item)) if is_streamed => {
                // No name: it has the types of another language.
                run.send([&[0xa0], item].concat()).await;
            }
            _ => {}
        }
    }
    let performed = performance.finish().await;
    canceller.gone().await;
    let mut ran = Ran::new(performed.result.and_then(|answer| read_answer(&answer.bytes)));
    (ran.stdout, ran.stderr, ran.is_truncated) = (performed.stdout, performed.stderr, performed.is_truncated);
    run.end(ran);
}

/// Reads the answer of a worker process.
fn read_answer(bytes: &[u8]) -> Result<Answer, ErrorKind> {
    match block(bytes).and_then(<[u8]>::split_first) {
        Some((&answer::PLAIN, value)) => Ok(Answer::new(value.to_vec())),
        Some((&answer::FAILED, error)) => Ok(Answer::new(error.to_vec()).failed(true)),
        Some((&answer::ERROR, error)) => {
            Err(unpack_error(error).unwrap_or_else(|error| ErrorKind::Decode(error.to_string())))
        }
        _ => Err(ErrorKind::Decode("the worker process has sent no answer".to_owned())),
    }
}

/// Reads a text of MessagePack. Returns it and the bytes behind it.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (marker, rest) = bytes.split_first()?;
    let (length, rest) = match marker {
        0xa0..=0xbf => (usize::from(marker & 0x1f), rest),
        0xd9 => rest.split_first().map(|(length, rest)| (usize::from(*length), rest))?,
        0xda => rest.split_first_chunk().map(|(length, rest)| (u16::from_be_bytes(*length).into(), rest))?,
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// Reads a block of bytes of MessagePack.
fn block(bytes: &[u8]) -> Option<&[u8]> {
    let (marker, rest) = bytes.split_first()?;
    let (length, rest) = match marker {
        0xc4 => rest.split_first().map(|(length, rest)| (usize::from(*length), rest))?,
        0xc5 => rest.split_first_chunk().map(|(length, rest)| (u16::from_be_bytes(*length).into(), rest))?,
        0xc6 => {
            rest.split_first_chunk().map(|(length, rest)| (u32::from_be_bytes(*length) as usize, rest))?
        }
        _ => return None,
    };
    rest.get(..length)
}

/// A job that runs in the pool.
struct InPool(Canceller);

impl Running for InPool {
    fn kill(&self, at_once: bool) {
        if at_once {
            self.0.kill();
        } else {
            self.0.cancel();
        }
    }
}

/// Hands a log record of a job to the handlers of this process, on the log thread.
fn log(job: &str, record: &[u8]) {
    // Without the thread nothing can be logged.
    if let Ok(thread) = log_thread() {
        thread.push(Arc::new(LogRecord { job: job.to_owned(), record: record.to_vec() }));
    }
}

struct LogRecord {
    job: String,
    record: Vec<u8>,
}

impl Completion for LogRecord {
    fn deliver(self: Arc<Self>, py: Python<'_>) {
        static EMIT: Once<Py<PyAny>> = Once::new();
        let emit = EMIT.attribute(py, "offloop._worker.logs", "emit");
        let record = PyBytes::new(py, &self.record);
        if let Err(error) = emit.and_then(|emit| emit.call1((record, true, &self.job))) {
            error.write_unraisable(py, None);
        }
    }
}
