//! A process pool as Python sees it.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::time::Instant;

use offloop::embed::{self, ProcessPoolBuilderExt as _, ProcessPoolExt as _};
use offloop::{BlobMut, ProcessPoolBuilder, prepare};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use crate::completion_queue::{Completion, Mailbox, deliver_results_on_loop, results_thread};
use crate::errors::{IntoException as _, exitcode};
use crate::interpreter::{Mutex, attach, detach, wait};
use crate::job::{Job, watch};
use crate::message;
use crate::metrics::{self, Metrics};
use crate::once::intern;
use crate::options::CallOptions;
use crate::perform;
use crate::pickled_call::{self, PickledCall};
use crate::prelude::{Preludes, Silence};
use crate::receive::Results;
use crate::sent_items::SentItems;
use crate::settings::{self, name_setting, on_crash, policy, seconds};
use crate::shutdown;
use crate::submission::{self, LastLoop};

/// The number of a job's log records that wait for the interpreter. If there are more, the job waits.
const LOG_RECORDS: usize = 100;

/// The setting that hands descriptors over.
const START_FILES: &str = "start_files";

/// A pool of worker processes: interpreters that are forks of one template.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct ProcessPool {
    pool: offloop::ProcessPool,
    results: Results,
    /// A crash breaks the pool, and what the package takes for one as well.
    breaks: bool,
    /// The next call starts all workers. Cleared by that call.
    starts_all: AtomicBool,
    /// The loop that takes the workers' answers.
    listener: LastLoop,
    preludes: Preludes,
}

impl ProcessPool {
    /// Returns the engine's pool.
    pub(crate) fn engine(&self) -> &offloop::ProcessPool {
        &self.pool
    }
}

#[pymethods]
impl ProcessPool {
    /// Makes a pool. The settings have their public names, and one that is None has its default.
    ///
    /// `program` is the template's command line. Or `fork` is a function that forks this process into the template: it
    /// gets the template's end of a socket, and returns the template's process id.
    #[new]
    fn new(py: Python<'_>, settings: &Bound<'_, PyDict>) -> PyResult<Self> {
        let mut builder = offloop::ProcessPool::builder().on_advice(metrics::log_advice);
        // A reply is some numbers, and blobs that stay where they are.
        builder = builder.decode_here();
        let mut results = Results::default();
        let (mut breaks, mut starts_all) = (false, false);
        // First, so that they are closed if another setting is refused.
        if let Some(files) = settings.get_item(START_FILES)? {
            builder = set(builder, START_FILES, &files)?;
        }
        for (name, value) in settings {
            let name: String = name.extract()?;
            if name == START_FILES {
                continue;
            }
            breaks |= name == "on_crash" && value.eq("break")?;
            if name == "starts_all" {
                starts_all = value.extract()?;
            } else if name == "results" {
                results = value
                    .extract::<String>()
                    .and_then(|value| settings::results(&value))
                    .map_err(|error| name_setting(py, &name, error))?;
            } else if !value.is_none() {
                builder = set(builder, &name, &value).map_err(|error| name_setting(py, &name, error))?;
            }
        }
        let pool = builder.build().map_err(|error| error.into_exception(py))?;
        Ok(Self {
            pool,
            results,
            breaks,
            starts_all: starts_all.into(),
            listener: LastLoop::default(),
            preludes: Preludes::default(),
        })
    }

    /// Submits the call `function(*args, **kwargs)` of an `executor` that has this engine. Returns a future, which the
    /// running loop ends. Does not block, except to copy the call's buffers.
    fn run<'py>(
        &self,
        executor: &Bound<'py, PyAny>,
        function: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, PyDict>,
        options: Option<&Bound<'py, CallOptions>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = executor.py();
        let event_loop = submission::running_loop(py)?;
        let future = submission::new_future(py)?;
        match self.dispatch(executor, &future, Some(&event_loop), function, args, kwargs, options, None) {
            Ok(job) => future.setattr(intern!(py, "_job"), job)?,
            Err(error) => {
                let reason = pickled_call::reason_of(py, error)?;
                future.call_method1(intern!(py, "_raise"), (reason,))?;
            }
        }
        Ok(future)
    }

    /// Submits a call. `receiver` learns of its end: on the event loop, or on the results thread if there is none. With a
    /// `buffersize` it learns of items as well; if this number of items waits to be read, the job waits.
    ///
    /// Raises `PicklingFailed` if the call cannot be sent to where it is to run. Does not block, except to copy buffers.
    #[expect(clippy::too_many_arguments, reason = "each is one of a job's instructions")]
    fn dispatch<'py>(
        &self,
        executor: &Bound<'py, PyAny>,
        receiver: &Bound<'py, PyAny>,
        event_loop: Option<&Bound<'py, PyAny>>,
        function: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, PyDict>,
        options: Option<&Bound<'py, CallOptions>>,
        buffersize: Option<usize>,
    ) -> PyResult<Job> {
        let py = executor.py();
        submission::check_sync(function)?;
        if (self.breaks && self.pool.broken().is_some())
            || submission::is_closed(executor, intern!(py, "_closed"))?
        {
            executor.call_method0(intern!(py, "_check_open"))?;
        }
        if self.starts_all.swap(false, Ordering::Relaxed) {
            self.pool.prestart(executor.getattr(intern!(py, "_max_workers"))?.extract()?);
        }
        let call = pickled_call::pickle_call(function, args, kwargs)?;
        self.send(executor, receiver, event_loop, call, options, buffersize)
    }

    /// Submits a call that is pickled already. See `dispatch`.
    fn send<'py>(
        &self,
        executor: &Bound<'py, PyAny>,
        receiver: &Bound<'py, PyAny>,
        event_loop: Option<&Bound<'py, PyAny>>,
        call: PickledCall<'py>,
        options: Option<&Bound<'py, CallOptions>>,
        buffersize: Option<usize>,
    ) -> PyResult<Job> {
        let py = executor.py();
        let mailbox = match event_loop {
            Some(event_loop) => {
                let translator = executor.getattr(intern!(py, "_translator"))?;
                receiver.setattr(intern!(py, "_translator"), translator)?;
                Some(if let Some(mailbox) = self.listener.mailbox(event_loop)? {
                    mailbox
                } else {
                    let listening = executor.getattr(intern!(py, "_listening"))?;
                    listening.call_method1(intern!(py, "mailbox_on"), (event_loop,))?.cast_into()?
                })
            }
            None => None,
        };
        let prelude = self.preludes.of_call(executor)?;
        let context = submission::copy_context(py)?;
        let request = submission::request_of_call(&context, options)?;
        let PickledCall { name, reference, pickle, buffers } = call;
        let reserve = |length| self.pool.blob(length);
        let buffers = message::to_blobs(&buffers, &reserve)?;
        let prelude = prelude.as_ref().map_or(&[][..], |prelude| prelude.as_bytes());
        let body = message::to_body(&[prelude, &reference, pickle.as_bytes()], &reserve);
        let culprit = self.breaks.then(|| name.clone());
        let mut work = prepare(perform::call.with(body, buffers, self.results == Results::Data)).name(name);
        if let Some(options) = options {
            work = options.get().apply(work);
        }
        if let Some(request) = request {
            work = work.request(request);
        }
        let (handle, items) = self.pool.stream(work, buffersize.unwrap_or(LOG_RECORDS));
        let context = context.unbind();
        let sent = Some(SentItems::new(items, buffersize.is_some(), self.results, culprit, context));
        let receiver = receiver.clone().unbind();
        Ok(match mailbox {
            Some(mailbox) => watch(handle, receiver, mailbox.get().completions(), sent),
            None => watch(handle, receiver, &results_thread()?, sent),
        })
    }

    /// Sets the event loop that takes the workers' answers, a weak reference to it, and its mailbox.
    fn set_listener(&self, event_loop: Py<PyAny>, mailbox: Py<Mailbox>) {
        self.listener.set(event_loop, mailbox);
    }

    /// Sets the state in which calls have no prelude: as long as `sys.path` equals `path`, `cache` has `probe`, `levels` are
    /// the known levels of loggers, and OpenTelemetry is not imported.
    fn set_silence(&self, path: Py<PyList>, levels: Py<PyAny>, cache: Py<PyDict>, probe: Py<PyAny>) {
        self.preludes.set_silence(Silence { path, cache, probe, levels });
    }

    /// Makes each call ask for its prelude, until the next call of `set_silence`.
    fn end_silence(&self) {
        self.preludes.end_silence();
    }

    /// Returns the pool's metrics.
    fn metrics(&self, py: Python<'_>) -> PyResult<Metrics> {
        detach(py, || self.pool.metrics().into())
    }

    /// Returns the process ids of the workers that have started.
    fn workers(&self) -> Vec<u32> {
        self.pool.worker_pids()
    }

    /// Returns the number of jobs that wait for a worker.
    fn queued(&self) -> usize {
        self.pool.queued()
    }

    /// Returns the number of workers that the pool should have by now. Some of them may still be starting.
    fn target_workers(&self) -> usize {
        self.pool.target_workers()
    }

    /// Breaks the pool: it takes no more jobs, and all its jobs end with `PoolBroken` and this reason. Does not block. If
    /// the pool is broken already, the first reason is kept.
    fn break_with(&self, py: Python<'_>, reason: &str) -> PyResult<()> {
        detach(py, || self.pool.break_with(reason))
    }

    /// The reason why the pool is broken; None if it is not.
    #[getter]
    fn broken(&self) -> Option<String> {
        self.pool.broken()
    }

    /// Starts workers until the pool has this number of them. Does not wait for it.
    fn prestart(&self, workers: usize) {
        self.pool.prestart(workers);
    }

    /// Sets the largest number of workers.
    fn set_max_workers(&self, workers: usize) {
        self.pool.set_max_workers(workers);
    }

    /// Ends all workers, by SIGTERM or by SIGKILL, and closes the pool. Queued jobs are cancelled. Does not wait for it.
    fn stop(&self, py: Python<'_>, kill: bool) -> PyResult<()> {
        detach(py, || if kill { self.pool.kill_workers() } else { self.pool.terminate_workers() })
    }

    /// Ends one worker, by SIGTERM or by SIGKILL. Does not wait for it.
    fn stop_worker(&self, pid: u32, kill: bool) {
        self.pool.stop_worker(pid, kill);
    }

    /// Returns how the last workers have ended, the oldest first: process ids and exit codes.
    fn exits(&self) -> Vec<(u32, Option<i32>)> {
        self.pool.worker_exits().into_iter().map(|(pid, exit)| (pid, exitcode(exit))).collect()
    }

    /// Waits until the pool is closed and its workers are gone, for at most `timeout` seconds. Returns whether they are.
    fn wait_over(&self, py: Python<'_>, timeout: f64) -> PyResult<bool> {
        let deadline = Instant::now() + seconds("timeout", timeout)?;
        wait(py, |limit| {
            let left = deadline.saturating_duration_since(Instant::now());
            let is_over = self.pool.wait_over(limit.min(left));
            (is_over || left.is_zero()).then_some(is_over)
        })
    }

    /// Cancels the jobs that no worker has. Returns their number.
    fn cancel_queued(&self, py: Python<'_>) -> PyResult<usize> {
        detach(py, || self.pool.cancel_queued())
    }

    /// Returns the number of jobs that have not ended.
    fn outstanding(&self) -> usize {
        self.pool.outstanding()
    }

    /// Returns the descriptor that becomes readable when workers have answered. From then on the caller must watch it,
    /// and call `take_answers`.
    fn listen(&self) -> i32 {
        self.pool.listen().as_raw_fd()
    }

    /// Takes the workers' answers, and ends the futures that this thread's loop waits for: those of the mailbox, and those
    /// of `submit` that `asyncio` has wrapped. Does not block.
    fn take_answers(&self, py: Python<'_>, mailbox: &Bound<'_, Mailbox>) -> PyResult<()> {
        let completions = mailbox.get().completions();
        let take = || completions.without_notifying(|| self.pool.take_answers());
        let results = deliver_results_on_loop(py, take);
        mailbox.get().deliver(py).and(results)
    }

    /// Takes no more jobs. Accepted ones still run. Does not wait for them.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        detach(py, || self.pool.close())
    }

    /// Returns whether the pool is closed and its last worker is gone.
    fn is_over(&self) -> bool {
        self.pool.is_over()
    }

    /// Calls `callback()` when that is so, on the results thread. In a child made by `fork()` it is never called.
    fn on_over(&self, callback: Py<PyAny>) {
        let waker = Waker::from(Arc::new(AtEnd(Mutex::new(Some(callback)))));
        if self.pool.on_over(&waker) {
            waker.wake();
        }
    }

    /// Takes no more jobs, waits for accepted ones for `drain` seconds (None: forever), then cancels and kills.
    ///
    /// Returns what became of the jobs: see [`shutdown::Report`].
    fn shutdown(&self, py: Python<'_>, drain: Option<f64>) -> PyResult<shutdown::Report> {
        shutdown::finish(py, drain, |drain| self.pool.shutdown(drain))
    }
}

/// The callback for a pool's end. Taken when it is called.
struct AtEnd(Mutex<Option<Py<PyAny>>>);

impl Wake for AtEnd {
    fn wake(self: Arc<Self>) {
        // The engine's thread does not wait for the interpreter. Without a results thread the callback is not called.
        if let Ok(completions) = results_thread() {
            completions.push(self);
        }
    }
}

impl Completion for AtEnd {
    fn deliver(self: Arc<Self>, py: Python<'_>) -> PyResult<()> {
        let callback = self.0.lock().take();
        callback.map_or(Ok(()), |callback| callback.call0(py).map(drop))
    }
}

/// Gives the builder one setting.
fn set(builder: ProcessPoolBuilder, name: &str, value: &Bound<'_, PyAny>) -> PyResult<ProcessPoolBuilder> {
    Ok(match name {
        "program" => {
            let words: Vec<OsString> = value.extract()?;
            let (program, arguments) = words
                .split_first()
                .ok_or_else(|| PyValueError::new_err("program is empty; it must be a command line"))?;
            builder.program(program).args(arguments).template()
        }
        "start_data" => builder.start_data(value.extract::<Vec<u8>>()?),
        START_FILES => {
            let files = value.extract::<Vec<i32>>()?.into_iter();
            // SAFETY: the caller hands the open descriptors over and does not use them any more.
            builder.start_files(files.map(|file| unsafe { OwnedFd::from_raw_fd(file) }).collect())
        }
        "on_request" => {
            let answer = Arc::new(value.clone().unbind());
            builder.on_request(move |asker| answer_aside(&answer, asker))
        }
        "start_preamble" => builder.start_preamble(value.extract::<Vec<u8>>()?),
        "fork" => {
            let fork = value.clone().unbind();
            builder.template_by(move |socket| fork_template(&fork, socket))
        }
        "name" => builder.name(value.extract::<String>()?),
        "max_workers" => builder.max_workers(value.extract()?),
        "min_workers" => builder.min_workers(value.extract()?),
        "queue_capacity" => builder.queue_capacity(value.extract()?),
        "on_full" => builder.on_full(policy(&value.extract::<String>()?)?),
        "on_crash" => builder.on_crash(on_crash(&value.extract::<String>()?)?),
        "grace" => builder.grace(seconds(name, value.extract()?)?),
        "kill_children" => builder.kill_children(value.extract()?),
        "start_timeout" => builder.start_timeout(seconds(name, value.extract()?)?),
        "setup_timeout" => builder.setup_timeout(seconds(name, value.extract()?)?),
        "load_timeout" => builder.load_timeout(seconds(name, value.extract()?)?),
        "idle_timeout" => builder.idle_timeout(seconds(name, value.extract()?)?),
        "recycle_rss" => builder.recycle_rss(value.extract()?),
        "stderr_tail" => builder.stderr_tail(value.extract()?),
        "max_payload" => builder.max_payload(value.extract()?),
        "max_tasks_per_child" => builder.max_tasks_per_child(value.extract()?),
        "max_worker_age" => builder.max_worker_age(seconds(name, value.extract()?)?),
        "max_rss" => builder.max_rss(value.extract()?),
        "max_data" => builder.max_data(value.extract()?),
        "nice" => builder.nice(value.extract()?),
        "cpu_affinity" => builder.cpu_affinity(value.extract::<Vec<usize>>()?),
        "max_open_files" => builder.max_open_files(value.extract()?),
        "cwd" => builder.current_dir(value.extract::<PathBuf>()?),
        "env" => {
            let variables: Vec<(OsString, OsString)> = value.extract()?;
            variables.into_iter().fold(builder, |builder, (name, value)| builder.env(name, value))
        }
        "initializer" => builder.initializer(
            &perform::initialise
                .with(message::to_body(&[&value.extract::<Vec<u8>>()?], &BlobMut::with_capacity)),
        ),
        other => return Err(PyValueError::new_err(format!("a process pool has no setting {other:?}"))),
    })
}

/// Calls the package's function that answers a request of a worker, with the end of a socket, which it closes. On a thread
/// of its own, since the engine's does not wait for the interpreter.
fn answer_aside(answer: &Arc<Py<PyAny>>, asker: OwnedFd) {
    let answer = Arc::clone(answer);
    // If there is no thread, or no interpreter any more, the socket is closed, and the worker goes on without an answer.
    let _ = embed::start_thread("offloop-request", move || {
        let _ = attach(|py| {
            if let Err(error) = answer.call1(py, (asker.into_raw_fd(),)) {
                error.write_unraisable(py, None);
            }
        });
    });
}

/// Calls the package's function that forks this process into the template. Returns the template's process id.
fn fork_template(fork: &Py<PyAny>, socket: OwnedFd) -> io::Result<u32> {
    attach(|py| fork.call1(py, (socket.into_raw_fd(),))?.extract::<u32>(py))?.map_err(io::Error::other)
}
