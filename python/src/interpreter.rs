//! The only way into the interpreter and out of it.
//!
//! All other modules use these functions, and never those of `PyO3` or the locks of `std`; `clippy.toml` forbids it.
//!
//! - [`attach`] enters the interpreter on a thread of the engine, and [`call`] calls a Python function there.
//! - [`detach`] releases the interpreter while the engine works, and [`try_detach`] does so for work that can fail.
//!   Panics and errors become exceptions here. [`wait`] is for work that may take long: Ctrl-C ends it.
//! - [`imported`] looks at what has been imported, without importing.
//! - [`Mutex`] and [`Condvar`] guard data that threads with and without the interpreter share.
//!
//! # The interpreter's exit
//!
//! Threads of the engine may outlast the interpreter. From the moment at which it begins to exit, [`attach`] calls
//! nothing and returns [`ShuttingDown`]. A thread that has asked just before that moment is suspended forever: the
//! interpreter wants to end it, and before Python 3.14 does so by unwinding its stack, which Rust does not allow.
//! `PyO3` suspends such a thread within `attach` and `detach`, and [`call`] does within a Python function. The exit
//! waits for none of them.
//!
//! # Locks
//!
//! A thread that holds a [`Mutex`] must not run Python code, and must not drop a Python object, which may run some.
//! Python code may release the interpreter to a thread that waits for the same mutex without releasing it: then neither
//! goes on. Values are therefore taken out under the lock, and used or dropped after it.

use std::ffi::{CStr, c_int, c_void};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use crate::errors::{self, IntoException};

/// The error of [`attach`]: the interpreter is about to exit, or has done so.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShuttingDown;

impl ShuttingDown {
    const TEXT: &str = "the interpreter is shutting down, so no Python code can be run any more";
}

impl From<ShuttingDown> for std::io::Error {
    fn from(_: ShuttingDown) -> Self {
        Self::other(ShuttingDown::TEXT)
    }
}

impl From<ShuttingDown> for PyErr {
    fn from(_: ShuttingDown) -> Self {
        pyo3::exceptions::PyRuntimeError::new_err(ShuttingDown::TEXT)
    }
}

/// Calls `f` with this thread attached to the interpreter. Waits for the interpreter, unless the thread has it already.
///
/// Calls nothing while the interpreter exits, or collects garbage on this thread.
#[expect(clippy::disallowed_methods, reason = "this is the place for it")]
pub(crate) fn attach<R>(f: impl FnOnce(Python<'_>) -> R) -> Result<R, ShuttingDown> {
    if is_shutting_down() {
        return Err(ShuttingDown);
    }
    Python::try_attach(f).ok_or(ShuttingDown)
}

/// Calls `f` with the interpreter released, so that other threads can have it. Then waits for the interpreter.
///
/// A panic in `f` becomes an exception.
#[expect(clippy::disallowed_methods, reason = "this is the place for it")]
pub(crate) fn detach<R: Send>(py: Python<'_>, f: impl FnOnce() -> R + Send) -> PyResult<R> {
    let result = py.detach(|| catch_unwind(AssertUnwindSafe(f)));
    result.map_err(|payload| errors::of_panic(py, payload.as_ref()))
}

/// Calls `f` like [`detach`]. An error of `f` becomes an exception as well.
pub(crate) fn try_detach<R, E>(py: Python<'_>, f: impl FnOnce() -> Result<R, E> + Send) -> PyResult<R>
where
    R: Send,
    E: IntoException + Send,
{
    detach(py, f)?.map_err(|error| error.into_exception(py))
}

/// The time after which a [`wait`] looks at signals.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(50);

/// Calls `poll` with the interpreter released until it returns a value. Raises what the handlers of signals raise.
///
/// `poll` gets the time for which it may block.
pub(crate) fn wait<R: Send>(
    py: Python<'_>,
    mut poll: impl FnMut(Duration) -> Option<R> + Send,
) -> PyResult<R> {
    loop {
        if let Some(value) = detach(py, || poll(SIGNAL_INTERVAL))? {
            return Ok(value);
        }
        py.check_signals()?;
    }
}

/// The interpreter's function that returns whether it exits. Set by [`prepare`]; null if the interpreter hides it.
static IS_FINALIZING: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// Looks up the function that returns whether the interpreter exits. Called once, when the module is imported.
///
/// Its name is not part of the stable ABI before Python 3.13.
pub(crate) fn prepare() {
    let found = find(c"Py_IsFinalizing").or_else(|| find(c"_Py_IsFinalizing"));
    IS_FINALIZING.store(found.unwrap_or(ptr::null_mut()), Ordering::Relaxed);
}

/// Returns the address of a function of the interpreter, if the interpreter exports it.
pub(crate) fn find(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the name ends with a NUL.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

/// Returns whether the interpreter exits, so that this thread cannot attach to it. The main thread still can.
fn is_shutting_down() -> bool {
    let function = IS_FINALIZING.load(Ordering::Relaxed);
    if function.is_null() {
        return false;
    }
    // SAFETY: the address is that of a function with this signature, in a library that is never unloaded. The function
    // reads one word, and may be called on any thread.
    let is_finalizing = unsafe { mem::transmute::<*mut c_void, extern "C" fn() -> c_int>(function)() != 0 };
    // SAFETY: both functions only return a number.
    is_finalizing && unsafe { libc::getpid() != libc::gettid() }
}

type CallObject = unsafe extern "C-unwind" fn(*mut PyObject, *mut PyObject, *mut PyObject) -> *mut PyObject;

/// Suspends its thread forever when the stack is unwound through it.
struct SuspendThread;

impl Drop for SuspendThread {
    fn drop(&mut self) {
        loop {
            std::thread::sleep(Duration::from_secs(3600));
        }
    }
}

/// Calls a Python function that may still run when the interpreter exits. Such a call never returns.
///
/// Within the function the thread may release the interpreter and ask for it again after the exit has begun. Before
/// Python 3.14 its stack is unwound then. The unwinding must not reach the frames of the engine, so it ends here.
pub(crate) fn call<'py>(
    function: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let kwargs = kwargs.map_or(ptr::null_mut(), Bound::as_ptr);
    // SAFETY: only the ABI differs, and the new one allows more. The compiler must not see which function it is: PyO3
    // declares it as one that nothing unwinds out of, and the compiler would rely on that.
    let call_object = std::hint::black_box(unsafe {
        mem::transmute::<*const (), CallObject>(ffi::PyObject_Call as *const ())
    });
    let guard = SuspendThread;
    // SAFETY: the thread is attached, as the lifetime of the arguments proves. The pointers are to live objects of the
    // types that the function takes.
    let value = unsafe { call_object(function.as_ptr(), args.as_ptr(), kwargs) };
    mem::forget(guard);
    // SAFETY: the function returns an owned reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(function.py(), value) }
}

/// Calls `object.name(arg)`, without making a bound method or a tuple.
pub(crate) fn call_method<'py>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
    arg: &Py<PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let end = ptr::null_mut::<PyObject>();
    // SAFETY: the thread is attached, as the lifetime of the object proves. All pointers are to live objects, and a null
    // follows the last argument. The function returns an owned reference, or null with an exception set.
    unsafe {
        let value = ffi::PyObject_CallMethodObjArgs(object.as_ptr(), name.as_ptr(), arg.as_ptr(), end);
        Bound::from_owned_ptr_or_err(object.py(), value)
    }
}

/// Returns a module, if it has been imported. While another thread imports it, it may lack attributes.
pub(crate) fn imported<'py>(name: &Bound<'py, PyString>) -> Option<Bound<'py, PyAny>> {
    // SAFETY: the thread is attached, as the lifetime of the name proves. The function returns an owned reference, or null.
    let found = unsafe { Bound::from_owned_ptr_or_opt(name.py(), ffi::PyImport_GetModule(name.as_ptr())) };
    if found.is_none() && PyErr::occurred(name.py()) {
        // The lookup of a name raises nothing that matters more than that there is no such module.
        drop(PyErr::take(name.py()));
    }
    found
}

/// A mutex that is not poisoned by a panic: what it guards is valid after each statement. See [Locks](self#locks).
#[derive(Default)]
#[expect(clippy::disallowed_types, reason = "this is the place for it")]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

#[expect(clippy::disallowed_types, reason = "this is the place for it")]
impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    /// Waits for the mutex and locks it. Does not release the interpreter.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the value without locking, which the exclusive reference makes unnecessary.
    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A condition variable for a [`Mutex`]. Its waits belong into [`detach`].
#[derive(Default)]
#[expect(clippy::disallowed_types, reason = "this is the place for it")]
pub(crate) struct Condvar(std::sync::Condvar);

#[expect(clippy::disallowed_types, reason = "this is the place for it")]
impl Condvar {
    pub(crate) const fn new() -> Self {
        Self(std::sync::Condvar::new())
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Waits while `condition` returns true, for at most `timeout`. Returns whether the time was sufficient.
    pub(crate) fn wait_timeout_while<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
        condition: impl FnMut(&mut T) -> bool,
    ) -> (MutexGuard<'a, T>, bool) {
        let waited = self.0.wait_timeout_while(guard, timeout, condition);
        let (guard, result) = waited.unwrap_or_else(PoisonError::into_inner);
        (guard, !result.timed_out())
    }
}
