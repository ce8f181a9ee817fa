//! A thread pool as Python sees it: the engine's scheduling, on threads that Python makes, for calls of Python
//! functions.
//!
//! When the engine needs a thread, the package makes a `threading.Thread`, which calls [`WorkerThread::run`]. That
//! releases the interpreter as long as the thread serves the pool, and attaches again for each batch of calls. So many
//! short calls cost one change of the interpreter's owner, and no lock of the engine is held while a thread waits for
//! it.

use std::borrow::Cow;
use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use offloop::embed::{self, Growth, ThreadPoolBuilderExt as _};
use offloop::{Prepared, prepare};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyWeakrefReference};

use crate::call::{Call, CurrentFunction, Returned, UNNAMED, set_current_function};
use crate::completion_queue::{Mailbox, results_thread};
use crate::deferred_result;
use crate::errors::IntoException as _;
use crate::future_call::{FutureCall, SubmittedCall, report_overrun};
use crate::interpreter::{Mutex, attach, detach};
use crate::job::{Job, watch};
use crate::metrics::{self, GilWait, Metrics};
use crate::once::{Once, intern};
use crate::options::CallOptions;
use crate::pool_state::PoolState;
use crate::settings::{self, policy, seconds};
use crate::shutdown;
use crate::submission::{self, LastLoop};

/// The time for which a thread keeps the interpreter while it has calls.
///
/// It is longer than the interpreter's switch interval (5 ms), after which another thread may demand the interpreter. A
/// thread that waits for it is woken at each release. If releases came more often, and the interpreter were taken again
/// at once, that thread would begin to wait anew each time, and never demand it.
const BATCH_LIMIT: Duration = Duration::from_millis(10);

thread_local! {
    /// The exception that has kept this thread from starting another one: the system's refusal, or an exception of a
    /// signal's handler. Set within the engine, taken after the submission.
    static SPAWN_ERROR: Cell<Option<PyErr>> = const { Cell::new(None) };
}

/// A pool of threads that call Python functions.
#[pyclass(frozen, weakref, module = "offloop._offloop")]
pub(crate) struct ThreadPool {
    engine: offloop::ThreadPool,
    state: Arc<PoolState>,
    last_loop: LastLoop,
}

#[pymethods]
impl ThreadPool {
    /// Makes a pool. `start(worker)` is called for each new thread, which then calls `worker.run()`.
    #[new]
    #[expect(clippy::too_many_arguments, reason = "each is one of a pool's settings")]
    fn new(
        py: Python<'_>,
        start: Py<PyAny>,
        name: String,
        activity: Option<&str>,
        max_workers: usize,
        queue_capacity: usize,
        on_full: &str,
        idle_timeout: f64,
    ) -> PyResult<Self> {
        let gil_wait = GilWait::default();
        let state = PoolState::new();
        let threads = Arc::clone(&state);
        let mut builder = offloop::ThreadPool::builder()
            .name(name)
            .on_advice(metrics::log_advice)
            .lock_wait(&gil_wait)
            .max_workers(max_workers)
            // Calls of Python functions mostly wait, so each gets a thread, as far as there may be.
            .growth(Growth::Eager)
            .queue_capacity(queue_capacity)
            .on_full(policy(on_full)?)
            .idle_timeout(seconds("idle_timeout", idle_timeout)?)
            .spawn_handler(move |thread| start_thread(&start, WorkerThread::new(thread, &threads)))
            .around_batch(BATCH_LIMIT, move |batch| run_batch(&gil_wait, batch));
        if let Some(word) = activity {
            builder = builder.activity(settings::activity(word)?);
        }
        let engine = builder.build().map_err(|error| error.into_exception(py))?;
        Ok(Self { engine, state, last_loop: LastLoop::default() })
    }

    /// Submits the call `function(*args, **kwargs)` of an `executor` that has this engine. Returns a future of
    /// `concurrent.futures`, whose `_job` is the call. Does not block, unless the policy is `caller_runs`. If the options
    /// limit the time of the run, `future._overrun(error)` is called when that has passed.
    fn submit<'py>(
        &self,
        executor: &Bound<'py, PyAny>,
        function: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, PyDict>,
        options: Option<&Bound<'py, CallOptions>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        static FUTURE: Once<Py<PyAny>> = Once::new();
        static LIMITED: Once<Py<PyAny>> = Once::new();
        let py = executor.py();
        let taken = self.take(executor, function, args, kwargs, options)?;
        let is_limited = options.is_some_and(|options| options.get().limits_run());
        let future = if is_limited {
            LIMITED.attribute(py, "offloop._pools.futures", "LimitedFuture")?.call0()?
        } else {
            FUTURE.attribute(py, "offloop._pools.futures", "Future")?.call0()?
        };
        let call = FutureCall::new(taken.call, future.clone().unbind(), is_limited);
        let work = prepare(move || call.run()).name(taken.name);
        let handle = self.engine.run(with_options(options, taken.request, work));
        let job = Py::new(py, SubmittedCall::new(handle, self.state.pid()))?;
        future.setattr(intern!(py, "_job"), &job)?;
        if is_limited {
            report_overrun(py, &job, &future)?;
        }
        let spawn_error = SPAWN_ERROR.take();
        match job.get().refusal_error(py) {
            // The pool has refused the call. If it ends later, the future learns of it.
            Some(error) => return Err(spawn_error.unwrap_or(error)),
            None => raise_interruption(py, spawn_error)?,
        }
        Ok(future)
    }

    /// Submits a call, as `submit` does. Returns a future that the running loop ends.
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
        let job = self.dispatch(executor, &future, Some(&event_loop), function, args, kwargs, options)?;
        future.setattr(intern!(py, "_job"), job)?;
        Ok(future)
    }

    /// Submits a call, as `submit` does. `receiver` learns of its end: on the event loop, or on the results thread if there is
    /// none.
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
    ) -> PyResult<Job> {
        let py = executor.py();
        let Taken { call, name, request } = self.take(executor, function, args, kwargs, options)?;
        let mailbox = event_loop.map(|event_loop| self.mailbox(event_loop)).transpose()?;
        let work = move || Returned(attach(|py| call.run(py)).unwrap_or_else(|error| Err(error.into())));
        let handle = self.engine.run(with_options(options, request, prepare(work).name(name)));
        let receiver = receiver.clone().unbind();
        let job = match mailbox {
            Some(mailbox) => watch(handle, receiver, mailbox.get().completions(), None),
            None => watch(handle, receiver, &results_thread()?, None),
        };
        raise_interruption(py, SPAWN_ERROR.take())?;
        Ok(job)
    }

    /// Takes no more calls. Accepted ones still run. Does not block.
    fn close(&self) {
        self.engine.close();
    }

    /// Sets the largest number of threads. Does not block.
    fn set_max_workers(&self, workers: usize) {
        self.engine.set_max_workers(workers);
    }

    /// Ends the queued calls as cancelled. Does not block.
    fn cancel_queued(&self) {
        self.engine.cancel_queued();
    }

    /// Closes the pool, cancels queued calls and asks running ones to stop. Does not block.
    fn abandon(&self) {
        self.engine.close();
        self.engine.cancel_queued();
        self.engine.shutdown(Duration::ZERO).detach();
    }

    /// Takes no more calls, waits for accepted ones for `drain` seconds (None: forever), then cancels queued calls and asks
    /// running ones to stop. Returns what became of them: see [`shutdown::Report`].
    fn shutdown(&self, py: Python<'_>, drain: Option<f64>) -> PyResult<shutdown::Report> {
        shutdown::finish(py, drain, |drain| self.engine.shutdown(drain))
    }

    /// Returns the pool's metrics.
    fn metrics(&self, py: Python<'_>) -> PyResult<Metrics> {
        detach(py, || self.engine.metrics().into())
    }

    /// Returns the number of calls that wait for a thread.
    fn queued(&self) -> usize {
        self.engine.queued()
    }
}

/// A call that was checked.
struct Taken {
    call: Call,
    /// The name that errors and the live view have for it, if its options have none.
    name: Cow<'static, str>,
    request: Option<Arc<str>>,
}

impl ThreadPool {
    /// Takes a call, in a copy of the caller's context.
    fn take<'py>(
        &self,
        executor: &Bound<'py, PyAny>,
        function: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, PyDict>,
        options: Option<&Bound<'py, CallOptions>>,
    ) -> PyResult<Taken> {
        let py = executor.py();
        if self.state.is_broken() || submission::is_closed(executor, intern!(py, "_shutdown"))? {
            executor.call_method0(intern!(py, "_check_open"))?;
        }
        submission::check_sync(function)?;
        let context = submission::copy_context_apart(py)?;
        let request = submission::request_of_call(&context, options)?;
        let call = Call::new(&self.state, context, function, args, kwargs)?;
        // Only limits make errors that show it.
        let name = if embed::is_observed() || options.is_some_and(|options| options.get().has_limits()) {
            Cow::Owned(call.name(py)?)
        } else {
            Cow::Borrowed(UNNAMED)
        };
        Ok(Taken { call, name, request })
    }

    /// Returns the mailbox of an event loop.
    fn mailbox<'py>(&self, event_loop: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Mailbox>> {
        static MAILBOX: Once<Py<PyAny>> = Once::new();
        let py = event_loop.py();
        if let Some(mailbox) = self.last_loop.mailbox(event_loop)? {
            return Ok(mailbox);
        }
        let mailbox_of = MAILBOX.attribute(py, "offloop._pools.loop", "mailbox_of")?;
        let mailbox: Bound<'py, Mailbox> = mailbox_of.call1((event_loop,))?.cast_into()?;
        let weak = PyWeakrefReference::new(event_loop)?.into_any();
        self.last_loop.set(weak.unbind(), mailbox.clone().unbind());
        Ok(mailbox)
    }
}

/// Gives `work` the options, and the id of the request that it works for, if there are any.
fn with_options<W>(
    options: Option<&Bound<'_, CallOptions>>,
    request: Option<Arc<str>>,
    mut work: Prepared<W>,
) -> Prepared<W> {
    if let Some(options) = options {
        work = options.get().apply(work);
    }
    match request {
        Some(request) => work.request(request),
        None => work,
    }
}

/// Makes the package start a thread. On the thread that submits, or on one of the pool's.
fn start_thread(start: &Py<PyAny>, thread: WorkerThread) -> io::Result<()> {
    attach(|py| {
        start.call1(py, (thread,)).map(drop).map_err(|error| {
            let text = error.to_string();
            SPAWN_ERROR.set(Some(error));
            io::Error::other(text)
        })
    })?
}

/// Runs a batch of calls with the interpreter, and records how long this thread has waited for it.
fn run_batch(gil_wait: &GilWait, batch: &mut dyn FnMut()) {
    let began = Instant::now();
    // While the interpreter exits, the engine cancels a call for each batch that is not run.
    let _ = attach(|py| {
        gil_wait.record(began.elapsed());
        batch();
        deferred_result::flush(py);
    });
}

/// Raises an exception that is not about the submitted call but about the program, such as that of Ctrl-C.
fn raise_interruption(py: Python<'_>, error: Option<PyErr>) -> PyResult<()> {
    match error {
        Some(error) if !error.is_instance_of::<PyException>(py) => Err(error),
        _ => Ok(()),
    }
}

/// The engine's side of one thread of a pool.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct WorkerThread {
    /// Taken when the thread begins to run it.
    engine: Mutex<Option<embed::WorkerThread>>,
    pool: Arc<PoolState>,
    function: Arc<CurrentFunction>,
}

impl WorkerThread {
    fn new(thread: embed::WorkerThread, pool: &Arc<PoolState>) -> Self {
        Self { engine: Mutex::new(Some(thread)), pool: Arc::clone(pool), function: Arc::default() }
    }
}

#[pymethods]
impl WorkerThread {
    /// Runs calls on this thread until the pool ends the thread.
    fn run(&self, py: Python<'_>) -> PyResult<()> {
        let thread = self.engine.lock().take();
        let Some(thread) = thread else { return Ok(()) };
        embed::begin_thread();
        set_current_function(Some(Arc::clone(&self.function)));
        let served = detach(py, || thread.run());
        set_current_function(None);
        served
    }

    /// Ends all calls that have not begun, and all later ones, with the exception that `make()` returns.
    fn break_with(&self, make: Py<PyAny>) {
        self.pool.break_with(make);
    }

    /// The function that the thread is calling.
    #[getter]
    fn function(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.function.lock().as_ref().map(|function| function.clone_ref(py))
    }
}
