//! A process pool as the interpreter sees it.

use std::os::fd::{AsRawFd, IntoRawFd};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use offloop::embed::{ProcessPoolBuilderExt as _, ProcessPoolExt as _};
use offloop::{OnCrash, ProcessPool as Pool, ShutdownReport, StuckJob, prepare};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors;
use crate::mailbox::{Job, Mailbox, Sent, completer, watch};
use crate::message::{self, call};
use crate::metrics::{self, Metrics};
use crate::settings::{policy, seconds};

/// A pool of worker processes: interpreters that are forks of one template.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct ProcessPool(Pool);

/// So many log records of a job wait for the interpreter; then the job waits.
const LOG_RECORDS: usize = 100;

/// For so long at most a wait goes on before signals are looked at.
const SLICE: Duration = Duration::from_millis(50);

/// Longer than any program runs.
const FOR_EVER: Duration = Duration::from_secs(1 << 32);

#[pymethods]
impl ProcessPool {
    /// Builds the pool from the settings, named as in the engine. `program` is the command line of the template; or
    /// `fork`, a function that forks this process: it gets the child's end of a socket, and returns the child's id.
    #[new]
    fn new(py: Python<'_>, settings: &Bound<'_, PyDict>) -> PyResult<Self> {
        let mut builder = Pool::builder().on_advice(metrics::tell);
        for (name, value) in settings {
            if value.is_none() {
                continue;
            }
            let name: String = name.extract()?;
            builder = match name.as_str() {
                "program" => {
                    let words: Vec<std::ffi::OsString> = value.extract()?;
                    let (program, arguments) = words
                        .split_first()
                        .ok_or_else(|| PyValueError::new_err("the template's command line is empty"))?;
                    builder.program(program).args(arguments).template()
                }
                "fork" => {
                    let fork = value.unbind();
                    builder.template_by(move |socket| {
                        let forked =
                            Python::attach(|py| fork.call1(py, (socket.into_raw_fd(),))?.extract::<u32>(py));
                        forked.map_err(std::io::Error::other)
                    })
                }
                "name" => builder.name(value.extract::<String>()?),
                "workers" => builder.max_workers(value.extract()?),
                "queue_capacity" => builder.queue_capacity(value.extract()?),
                "on_full" => builder.on_full(policy(&value.extract::<String>()?)?),
                "breaks" if value.extract()? => builder.on_crash(OnCrash::Break),
                "breaks" => builder,
                "grace" => builder.grace(seconds(&name, value.extract()?)?),
                "start_timeout" => builder.start_timeout(seconds(&name, value.extract()?)?),
                "max_payload" => builder.max_payload(value.extract()?),
                "max_tasks_per_child" => builder.max_tasks_per_child(value.extract()?),
                "max_worker_age" => builder.max_worker_age(seconds(&name, value.extract()?)?),
                "max_rss" => builder.max_rss(value.extract()?),
                "max_data" => builder.max_data(value.extract()?),
                "nice" => builder.nice(value.extract()?),
                "cpu_affinity" => builder.cpu_affinity(value.extract::<Vec<usize>>()?),
                "max_open_files" => builder.max_open_files(value.extract()?),
                "cwd" => builder.current_dir(value.extract::<std::path::PathBuf>()?),
                "env" => {
                    let variables: Vec<(std::ffi::OsString, std::ffi::OsString)> = value.extract()?;
                    variables.into_iter().fold(builder, |builder, (name, value)| builder.env(name, value))
                }
                "initializer" => {
                    let body: Vec<u8> = value.extract()?;
                    builder.initializer(&message::initialise.with(&body))
                }
                other => return Err(PyValueError::new_err(format!("unknown setting: {other}"))),
            };
        }
        match builder.build() {
            Ok(pool) => Ok(Self(pool)),
            Err(error) => Err(errors::of_build(py, &error)),
        }
    }

    /// Submits a pickled call. Its end is told to `receiver` through `mailbox`, or by a thread if that is None. With
    /// `buffersize` the receiver is told of items as well; so many wait to be read, then the job waits. Does not
    /// block, but for the copy of the buffers.
    #[expect(clippy::too_many_arguments, reason = "each is one of a job's instructions")]
    #[expect(clippy::needless_pass_by_value, reason = "what the interpreter gives is a list")]
    fn submit(
        &self,
        body: &[u8],
        buffers: Vec<Bound<'_, PyAny>>,
        receiver: Py<PyAny>,
        mailbox: Option<&Bound<'_, Mailbox>>,
        name: String,
        priority: i8,
        timeout: Option<f64>,
        queue_timeout: Option<f64>,
        buffersize: Option<usize>,
    ) -> PyResult<Job> {
        let buffers = message::to_blobs(&buffers)?;
        let mut work = prepare(call.with(body, buffers)).name(name).priority(priority);
        if let Some(limit) = timeout {
            work = work.run_timeout(seconds("timeout", limit)?);
        }
        if let Some(limit) = queue_timeout {
            work = work.queue_timeout(seconds("queue_timeout", limit)?);
        }
        let (handle, items) = self.0.stream(work, buffersize.unwrap_or(LOG_RECORDS));
        let sent = Some(Sent { items: Mutex::new(items), is_read: buffersize.is_some() });
        Ok(match mailbox {
            Some(mailbox) => watch(handle, receiver, mailbox.get().letters(), sent),
            None => watch(handle, receiver, &completer()?, sent),
        })
    }

    /// What the pool has done and is doing.
    fn metrics(&self, py: Python<'_>) -> Metrics {
        py.detach(|| self.0.metrics()).into()
    }

    /// The process ids of the workers that are up.
    fn workers(&self) -> Vec<u32> {
        self.0.worker_pids()
    }

    /// How many jobs wait for a worker.
    fn queued(&self) -> usize {
        self.0.queued()
    }

    /// Has the pool have so many workers from now on.
    fn resize(&self, workers: usize) {
        self.0.resize(workers);
    }

    /// Cancels the jobs that no worker has; says how many those were.
    fn cancel_queued(&self, py: Python<'_>) -> usize {
        py.detach(|| self.0.cancel_queued())
    }

    /// How many jobs have not ended.
    fn outstanding(&self) -> usize {
        self.0.outstanding()
    }

    /// Takes no more work, cancels what is queued and kills what runs. Does not wait for it.
    fn abort(&self, py: Python<'_>) {
        py.detach(|| self.0.shutdown(Duration::ZERO).detach());
    }

    /// The descriptor that becomes readable when workers have answered. From then on somebody should look there, and
    /// `take_answers`.
    fn listen(&self) -> i32 {
        self.0.listen().as_raw_fd()
    }

    /// Takes the workers' answers, and delivers what has come for the mailbox. Does not block.
    fn take_answers(&self, py: Python<'_>, mailbox: &Bound<'_, Mailbox>) {
        mailbox.get().letters().gather(|| self.0.take_answers());
        mailbox.get().deliver(py);
    }

    /// Takes no more work. Jobs that were accepted are still run; nobody waits for them.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.0.close());
    }

    /// Whether it is closed and its last worker is gone.
    fn is_over(&self) -> bool {
        self.0.is_over()
    }

    /// Takes no more work, waits for what was accepted for `drain` seconds (None: for as long as it takes), then
    /// cancels and kills. Returns how many jobs were drained, cancelled, killed, and which are stuck.
    fn shutdown(&self, py: Python<'_>, drain: Option<f64>) -> PyResult<(usize, usize, usize, Vec<String>)> {
        let drain = drain.map_or(Ok(FOR_EVER), |drain| seconds("drain", drain))?;
        let mut handle = py.detach(|| self.0.shutdown(drain));
        let report = loop {
            if let Some(report) = py.detach(|| handle.wait_timeout(SLICE)) {
                break report.map_err(|error| errors::to_python(py, &error))?;
            }
            if let Err(interrupted) = py.check_signals() {
                // The shutdown goes on without us.
                handle.detach();
                return Err(interrupted);
            }
        };
        let stuck = |stuck: &StuckJob| format!("{} in {}", stuck.name, stuck.worker);
        let ShutdownReport { drained, cancelled, killed, .. } = report;
        Ok((drained, cancelled, killed, report.stuck.iter().map(stuck).collect()))
    }
}

/// Waits until every end of a job that is on its way to a thread's receivers has been told, for a second at most.
#[pyfunction]
pub(crate) fn settle(py: Python<'_>) -> PyResult<()> {
    let letters = completer()?;
    let deadline = Instant::now() + Duration::from_secs(1);
    py.detach(|| letters.settle(deadline));
    Ok(())
}
