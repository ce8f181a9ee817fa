//! The worker of a cluster as Python sees it: the engine's agent, which feeds a process pool of the package.
//!
//! Between the network and a worker process there is no interpreter: the agent passes the bytes of a job on, and the
//! bytes of its answer back. Only log records come to the interpreter of this process, on the log thread.

use std::collections::HashSet;
use std::sync::Arc;

use offloop::ErrorKind;
use offloop::remote::{Answer, Canceller, NamedCall, Outbound, Performance, perform, unpack_error};
use offloop_cluster::records::{Codec, Job};
use offloop_cluster::worker::{
    Offer, Performer, Ran, Run, Running, Worker, WorkerBuilder, WorkerHandle, instructions,
};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::cluster::{connection_of, no_setting};
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

/// The number of log records that wait to be handled, in a job that streams no items.
const LOG_RECORDS: usize = 100;

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
        let (connection, settings) = connection_of(url, settings)?;
        let mut builder = Worker::builder(connection).performer(python);
        for (name, value) in settings {
            builder = match &*name {
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
                    labels.into_iter().fold(builder, WorkerBuilder::label)
                }
                _ => return Err(no_setting(&name)),
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
        let mut asked = instructions(job);
        if asked.name.is_empty() {
            asked.name.clone_from(&job.task);
        }
        // Log records come as items, too.
        asked.stream.get_or_insert(LOG_RECORDS);
        let outbound = Outbound::received(CLUSTER_TASK, NamedCall::<()>::ANY, request, asked);
        let performance =
            perform(&self.pool, outbound.map_err(|error| ErrorKind::Decode(error.to_string()))?)?;
        let canceller = performance.canceller();
        // The methods of a performer are called on the network's thread.
        tokio::spawn(attend(performance, canceller.clone(), job.stream.is_some(), run));
        Ok(Box::new(canceller))
    }
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
    rmp::encode::write_bin_len(&mut request, size).map_err(|error| ErrorKind::Encode(error.to_string()))?;
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
        match after_text(&item).and_then(block).and_then(<[u8]>::split_first) {
            Some((&LOG, record)) => log(&id, record),
            Some((_, item)) if is_streamed => {
                // No name: it has the types of another language.
                run.pass_on([&[0xa0], item].concat(), &mut performance).await;
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

/// Reads a text of MessagePack. Returns the bytes behind it.
fn after_text(mut bytes: &[u8]) -> Option<&[u8]> {
    let length = rmp::decode::read_str_len(&mut bytes).ok()?;
    bytes.get(length as usize..)
}

/// Reads a block of bytes of MessagePack.
fn block(mut bytes: &[u8]) -> Option<&[u8]> {
    let length = rmp::decode::read_bin_len(&mut bytes).ok()?;
    bytes.get(..length as usize)
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
    fn deliver(self: Arc<Self>, py: Python<'_>) -> PyResult<()> {
        static EMIT: Once<Py<PyAny>> = Once::new();
        let emit = EMIT.attribute(py, "offloop._worker.logs", "emit")?;
        emit.call1((PyBytes::new(py, &self.record), true, &self.job)).map(drop)
    }
}
