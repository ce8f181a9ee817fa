//! Thread pools: the engine's threads, made by Python, that call Python functions.
//!
//! The engine asks for a thread; the package makes a `threading.Thread`, which calls [`Life::run`]. That detaches
//! from the interpreter for as long as the thread serves the pool, and each spell of work attaches again. So many
//! short calls cost one hand-over of the interpreter, and nobody waits for it with a lock of the engine's.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use offloop::embed::{self, HandleExt as _, ThreadPoolBuilderExt as _, ThreadPoolExt as _, WorkerThread};
use offloop::{Handle, JobState, prepare};
use pyo3::exceptions::PyException;
use pyo3::ffi::PyObject;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::errors;
use crate::mailbox::{Job, Mailbox, Receive, completer, watch};
use crate::metrics::{self, GilWait, Metrics};
use crate::once::{Once, intern};
use crate::settings::{policy, purpose_of, seconds};

/// How long a thread keeps the interpreter while it has work: for longer than the interval (5 ms) after which another
/// thread that waits for it may demand it, and then gets it. Whoever waits is woken at each release; were that more
/// often, and the interpreter taken again at once, it would begin to wait anew each time and never demand it.
const SPELL: Duration = Duration::from_millis(10);

/// A pool of threads that call Python functions.
#[pyclass(frozen, weakref, module = "offloop._offloop")]
pub(crate) struct ThreadPool {
    pool: offloop::ThreadPool,
    crew: Arc<Crew>,
}

/// What a pool and its threads count and share.
struct Crew {
    max_workers: usize,
    pid: u32,
    /// Threads that were started and have not ended.
    threads: AtomicUsize,
    /// Calls that were submitted and have not ended.
    calls: AtomicUsize,
    /// Makes the exception that all calls end with from now on.
    broken: OnceLock<Py<PyAny>>,
}

/// One thread more, for as long as this lives.
struct Alive(Arc<Crew>);

impl Alive {
    fn new(crew: &Arc<Crew>) -> Self {
        crew.threads.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(crew))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.threads.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One call more, for as long as this lives.
struct Counted(Arc<Crew>);

impl Counted {
    fn new(crew: &Arc<Crew>) -> Self {
        crew.calls.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(crew))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

#[pymethods]
impl ThreadPool {
    /// `start(life)` is called for each new thread, which then calls `life.run()`.
    #[new]
    #[expect(clippy::too_many_arguments, reason = "each is one of a pool's settings")]
    fn new(
        py: Python<'_>,
        start: Py<PyAny>,
        name: String,
        purpose: &str,
        max_workers: usize,
        queue_capacity: usize,
        on_full: &str,
        idle_timeout: f64,
    ) -> PyResult<Self> {
        let on_full = policy(on_full)?;
        let gil_wait = GilWait::default();
        let crew = Arc::new(Crew {
            max_workers,
            pid: std::process::id(),
            threads: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            broken: OnceLock::new(),
        });
        let ours = Arc::clone(&crew);
        let pool = offloop::ThreadPool::builder()
            .name(name)
            .purpose(purpose_of(purpose)?)
            .on_advice(metrics::tell)
            .lock_wait(&gil_wait)
            .max_workers(max_workers)
            .queue_capacity(queue_capacity)
            .on_full(on_full)
            .idle_timeout(seconds("idle_timeout", idle_timeout)?)
            .spawn_handler(move |thread| {
                let life =
                    Life { thread: Mutex::new(Some((thread, Alive::new(&ours)))), seat: Arc::default() };
                Python::try_attach(|py| {
                    start.call1(py, (life,)).map(drop).map_err(|error| {
                        let told = std::io::Error::other(error.to_string());
                        TROUBLE.set(Some(error));
                        told
                    })
                })
                .unwrap_or_else(|| Err(std::io::Error::other("the interpreter is shutting down")))
            })
            .around_batch(SPELL, move |spell| {
                let began = Instant::now();
                Python::try_attach(|py| {
                    gil_wait.record(began.elapsed());
                    spell();
                    tell_last(py);
                });
            })
            .build()
            .map_err(|error| errors::of_build(py, &error))?;
        Ok(Self { pool, crew })
    }

    /// Calls `run(*args, **kwargs)` on a thread and ends `future`, which gets the job as `_job`. `args[0]` is the
    /// function that it is about. Does not block, unless the policy is `caller_runs`.
    fn submit(
        &self,
        py: Python<'_>,
        future: &Bound<'_, PyAny>,
        run: Py<PyAny>,
        args: Py<PyTuple>,
        kwargs: Option<Py<PyDict>>,
    ) -> PyResult<()> {
        let call = Call { run, args, kwargs, counted: Counted::new(&self.crew) };
        let work = Submitted { call: Some(call), future: future.clone().unbind() };
        let handle = self.pool.run(prepare(move || work.run()).name("a call"));
        let job = Py::new(py, Entry { handle: Mutex::new(Some(handle)), pid: self.crew.pid })?;
        future.setattr(intern!(py, "_job"), &job)?;
        self.grow();
        let trouble = TROUBLE.take();
        match job.get().error(py) {
            // Refused. Whatever ends it from now on tells the future.
            Some(error) => Err(trouble.unwrap_or(error)),
            None => interrupted(py, trouble),
        }
    }

    /// The same for a receiver that is told through the mailbox, or by the completer. Times in seconds.
    #[allow(clippy::too_many_arguments, reason = "it is called in one place, by position")]
    fn run(
        &self,
        py: Python<'_>,
        receiver: Py<PyAny>,
        mailbox: Option<&Mailbox>,
        run: Py<PyAny>,
        args: Py<PyTuple>,
        kwargs: Option<Py<PyDict>>,
        timeout: Option<f64>,
        queue_timeout: Option<f64>,
        priority: i8,
    ) -> PyResult<Job> {
        let name = if timeout.is_some() || queue_timeout.is_some() {
            let function = args.bind(py).get_item(0)?;
            name_of(&function)?.into()
        } else {
            std::borrow::Cow::Borrowed("a call")
        };
        let call = Call { run, args, kwargs, counted: Counted::new(&self.crew) };
        let mut work =
            prepare(move || Python::attach(|py| Returned(call.run(py)))).name(name).priority(priority);
        if let Some(limit) = queue_timeout {
            work = work.queue_timeout(seconds("queue_timeout", limit)?);
        }
        if let Some(limit) = timeout {
            work = work.run_timeout(seconds("timeout", limit)?);
        }
        let handle = self.pool.run(work);
        let job = match mailbox {
            Some(mailbox) => watch(handle, receiver, mailbox.letters(), None),
            None => watch(handle, receiver, &completer()?, None),
        };
        self.grow();
        interrupted(py, TROUBLE.take())?;
        Ok(job)
    }

    /// Takes no more calls; those accepted are still run. Does not block.
    fn close(&self) {
        self.pool.close();
    }

    /// Ends the queued calls as cancelled. Does not block.
    fn cancel_queued(&self) {
        self.pool.cancel_queued();
    }

    /// Closes the pool, ends the queued calls as cancelled and turns the tokens of the running ones. Does not block.
    fn abandon(&self) {
        self.pool.close();
        self.pool.cancel_queued();
        self.pool.shutdown(Duration::ZERO).detach();
    }

    /// What the pool has done and is doing.
    fn metrics(&self, py: Python<'_>) -> Metrics {
        py.detach(|| self.pool.metrics()).into()
    }

    /// How many calls wait for a thread.
    fn queued(&self) -> usize {
        self.pool.queued()
    }
}

impl ThreadPool {
    /// Calls of Python functions mostly wait, so there is a thread for each as far as there may be.
    fn grow(&self) {
        let calls = self.crew.calls.load(Ordering::Relaxed);
        let threads = self.crew.threads.load(Ordering::Relaxed);
        if calls > threads && threads < self.crew.max_workers {
            self.pool.prestart(calls);
        }
    }
}

thread_local! {
    /// What a thread met that was to start another one: the system's refusal, or what a signal's handler raised.
    static TROUBLE: std::cell::Cell<Option<PyErr>> = const { std::cell::Cell::new(None) };
}

/// Raises what is not about the call that was submitted, but about the program: Ctrl-C.
fn interrupted(py: Python<'_>, trouble: Option<PyErr>) -> PyResult<()> {
    match trouble {
        Some(error) if !error.is_instance_of::<PyException>(py) => Err(error),
        _ => Ok(()),
    }
}

/// What a thread of the pool is at.
type Seat = Mutex<Option<Py<PyAny>>>;

thread_local! {
    static SEAT: std::cell::RefCell<Option<Arc<Seat>>> = const { std::cell::RefCell::new(None) };
}

fn at_seat<R>(f: impl FnOnce(&mut Option<Py<PyAny>>) -> R) -> Option<R> {
    SEAT.with_borrow(|seat| Some(f(&mut seat.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))))
}

/// The life of one thread, for that to run.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct Life {
    thread: Mutex<Option<(WorkerThread, Alive)>>,
    seat: Arc<Seat>,
}

#[pymethods]
impl Life {
    /// Serves the pool on this thread, until that lets it go.
    fn run(&self, py: Python<'_>) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((thread, _alive)) = thread else { return };
        SEAT.set(Some(Arc::clone(&self.seat)));
        py.detach(|| thread.run());
        SEAT.set(None);
    }

    /// All of the pool's calls that have not begun, and those to come, end with the exception that `make()` returns.
    fn break_with(&self, make: Py<PyAny>) {
        if let Some((_, Alive(crew))) = &*self.thread.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = crew.broken.set(make);
        }
    }

    /// The function that the thread is calling.
    #[getter]
    fn function(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let function = self.seat.lock().unwrap_or_else(PoisonError::into_inner);
        function.as_ref().map(|function| function.clone_ref(py))
    }
}

/// A call of a Python function.
struct Call {
    run: Py<PyAny>,
    args: Py<PyTuple>,
    kwargs: Option<Py<PyDict>>,
    counted: Counted,
}

impl Call {
    /// The interpreter is attached for the whole spell, so all that is dropped here is dropped at once.
    fn run(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        tell_last(py);
        let Self { run, args, kwargs, counted } = self;
        if let Some(make) = counted.0.broken.get() {
            return Err(PyErr::from_value(make.bind(py).call0()?));
        }
        let function = args.bind(py).get_item(0)?.unbind();
        let outer = at_seat(|seat| seat.replace(function.clone_ref(py)));
        let began = Instant::now();
        let result = call(run.bind(py), args.bind(py), kwargs.as_ref().map(|kwargs| kwargs.bind(py)));
        if result.is_err() {
            embed::mark_failed();
        }
        if began.elapsed() >= LONG {
            describe(args.bind(py));
        }
        let left = outer.and_then(|outer| at_seat(|seat| std::mem::replace(seat, outer)));
        drop(left);
        check(py, &function, result?)
    }
}

/// Shorter calls are not worth their name.
const LONG: Duration = Duration::from_millis(1);

/// Names the call that this thread has just made, in case that there is advice to give. What a map submits is named by
/// what it calls.
fn describe(args: &Bound<'_, PyTuple>) {
    let py = args.py();
    let name = args.get_item(0).and_then(|function| {
        let is_ours = function.getattr(intern!(py, "__module__"))?.eq("offloop._calls")?;
        name_of(&if is_ours { args.get_item(1)? } else { function })
    });
    // A callable may be without a module.
    embed::describe(name.or_else(|_| name_of(&args.get_item(0)?)).unwrap_or_default());
}

fn name_of(function: &Bound<'_, PyAny>) -> PyResult<String> {
    let name = function.getattr("__qualname__").or_else(|_| function.repr().map(Bound::into_any))?;
    Ok(name.to_string())
}

/// A coroutine that was made on a thread would never be awaited.
fn check(py: Python<'_>, function: &Py<PyAny>, value: Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    static COROUTINE: Once<Py<PyAny>> = Once::new();
    let coroutine =
        COROUTINE.get(py, || PyResult::Ok(py.import("types")?.getattr("CoroutineType")?.unbind()))?;
    if value.get_type().is(coroutine) {
        py.import("offloop._calls")?.call_method1("check_result", (function, &value))?;
    }
    Ok(value.unbind())
}

type CallsObject = unsafe extern "C-unwind" fn(*mut PyObject, *mut PyObject, *mut PyObject) -> *mut PyObject;

/// Stops the thread if it is unwound.
struct Hang;

impl Drop for Hang {
    fn drop(&mut self) {
        loop {
            std::thread::sleep(Duration::from_secs(3600));
        }
    }
}

/// Calls a function that may outlast the interpreter. Before 3.14 that ends a thread which then asks for it by
/// unwinding it, which the engine's frames must not see.
fn call<'py>(
    run: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let kwargs = kwargs.map_or(std::ptr::null_mut(), Bound::as_ptr);
    // SAFETY: only the ABI differs, and it allows more. The compiler must not see which function it is, or it uses
    // what PyO3's declaration promises: that nothing unwinds out of it.
    let object_call = std::hint::black_box(unsafe {
        std::mem::transmute::<*const (), CallsObject>(pyo3::ffi::PyObject_Call as *const ())
    });
    let guard = Hang;
    // SAFETY: the thread is attached, as `py` of the bounds says; the pointers are to live objects of the types that
    // the function takes.
    let value = unsafe { object_call(run.as_ptr(), args.as_ptr(), kwargs) };
    std::mem::forget(guard);
    // SAFETY: the function returns an owned reference, or null and an exception that is set.
    unsafe { Bound::from_owned_ptr_or_err(run.py(), value) }
}

/// The result of a call, for a receiver.
struct Returned(PyResult<Py<PyAny>>);

impl Receive for Returned {
    fn receive(self, _: Python<'_>) -> PyResult<Py<PyAny>> {
        self.0
    }
}

/// A call whose thread ends the future itself.
struct Submitted {
    /// `None` once it runs.
    call: Option<Call>,
    future: Py<PyAny>,
}

impl Submitted {
    fn run(mut self) {
        let Some(call) = self.call.take() else { return };
        Python::attach(|py| {
            let future = self.future.bind(py);
            if let Err(error) = Self::serve(py, future, call) {
                error.write_unraisable(py, Some(future));
            }
            // Here, while the thread is attached.
            drop(self);
        });
    }

    fn serve(py: Python<'_>, future: &Bound<'_, PyAny>, call: Call) -> PyResult<()> {
        tell_last(py);
        if !future.call_method0(intern!(py, "set_running_or_notify_cancel"))?.is_truthy()? {
            return Ok(());
        }
        let is_outermost = at_seat(|seat| seat.is_none()) == Some(true);
        let (end, value) = match call.run(py) {
            Ok(value) => (future.getattr(intern!(py, "set_result"))?, value),
            Err(error) => (future.getattr(intern!(py, "set_exception"))?, error.into_value(py).into_any()),
        };
        if is_outermost && may_wait(future)? {
            LAST.set(Some((end.unbind(), value)));
            Ok(())
        } else {
            tell(&end, value)
        }
    }
}

thread_local! {
    /// The end of this thread's last call, of which its future is yet to be told.
    ///
    /// It is told at the end of the spell, when the thread is the lookout already; so a caller that submits one call
    /// after the other, woken by it, finds this thread ready and calls no other one.
    static LAST: std::cell::Cell<Option<(Py<PyAny>, Py<PyAny>)>> = const { std::cell::Cell::new(None) };
}

/// Whether the future's end may wait for the end of the spell: nobody who hears of it there blocks the thread.
fn may_wait(future: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = future.py();
    // Without the lock of the interpreter, others could come to hear of it meanwhile.
    if cfg!(Py_GIL_DISABLED) {
        return Ok(false);
    }
    for callback in future.getattr(intern!(py, "_done_callbacks"))?.try_iter()? {
        // It tells an event loop.
        let is_asyncios = match callback?.getattr_opt(intern!(py, "__module__"))? {
            Some(module) => module.eq(intern!(py, "asyncio.futures"))?,
            None => false,
        };
        if !is_asyncios {
            return Ok(false);
        }
    }
    Ok(true)
}

fn tell_last(py: Python<'_>) {
    if let Some((end, value)) = LAST.take() {
        let end = end.into_bound(py);
        if let Err(error) = tell(&end, value) {
            error.write_unraisable(py, Some(&end));
        }
    }
}

/// Calls `end(value)`, which calls the functions that users attach to futures.
fn tell(end: &Bound<'_, PyAny>, value: Py<PyAny>) -> PyResult<()> {
    call(end, &PyTuple::new(end.py(), [value])?, None).map(drop)
}

impl Drop for Submitted {
    fn drop(&mut self) {
        let Some(call) = self.call.take() else { return };
        Python::try_attach(|py| {
            drop(call);
            let future = self.future.bind(py);
            if let Err(error) = future.call_method0(intern!(py, "_abandon")) {
                error.write_unraisable(py, Some(future));
            }
        });
    }
}

/// A submitted call, as its future knows it.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct Entry {
    handle: Mutex<Option<Handle<()>>>,
    pid: u32,
}

#[pymethods]
impl Entry {
    /// Takes the call out of the queue, if it is there.
    fn cancel_queued(&self) {
        let handle = self.handle().take();
        if let Some(handle) = handle {
            handle.cancel_queued();
            handle.detach();
        }
    }

    /// Why it ended without having been run; once.
    fn error(&self, py: Python<'_>) -> Option<PyErr> {
        let mut handle = self.handle();
        if handle.as_ref()?.state() != JobState::Ended {
            return None;
        }
        let ended = handle.take()?.try_result();
        drop(handle);
        Some(errors::to_python(py, &ended?.err()?))
    }

    /// Whether this is a child made by `fork()`, and the call the parent's.
    fn is_forked(&self) -> bool {
        self.pid != std::process::id()
    }
}

impl Entry {
    fn handle(&self) -> MutexGuard<'_, Option<Handle<()>>> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let handle = self.handle.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(handle) = handle {
            handle.detach();
        }
    }
}

/// Calls `function(*args)`, which waits. If this is a pool's thread, another stands in for it meanwhile.
#[pyfunction]
#[pyo3(signature = (function, *args))]
pub(crate) fn blocking<'py>(
    function: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    offloop::job::blocking(|| function.call1(args))
}

/// Whether the job that runs on this thread should stop.
#[pyfunction]
pub(crate) fn is_cancelled() -> bool {
    offloop::job::is_cancelled()
}

/// Has `callback()` called on a thread of its own when the job that runs on this thread should stop. The engine may
/// have none to lend, after a fork for instance, and this one may be needed until the job ends.
#[pyfunction]
pub(crate) fn on_cancel(callback: Py<PyAny>) -> Armed {
    let guard = offloop::job::on_cancel(move || {
        let answer = move || {
            Python::try_attach(|py| {
                let callback = callback.into_bound(py);
                if let Err(error) = call(&callback, &PyTuple::empty(py), None) {
                    error.write_unraisable(py, Some(&callback));
                }
            });
        };
        // Without a thread there is nobody to call it: the job goes on, as without a callback.
        let _ = std::thread::Builder::new().name("offloop-cancel".into()).spawn(answer);
    });
    Armed(Mutex::new(Some(guard)))
}

/// A callback that is armed until this is dropped or disarmed.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct Armed(Mutex<Option<offloop::job::OnCancel>>);

#[pymethods]
impl Armed {
    /// From now on it is not called any more. A call that has begun goes on.
    fn disarm(&self, py: Python<'_>) {
        let guard = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        py.detach(|| drop(guard));
    }
}
