//! A call of a Python function on a thread of a pool.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use offloop::embed;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::deferred_result;
use crate::interpreter::{self, Mutex};
use crate::once::{Once, intern};
use crate::pool_state::PoolState;
use crate::receive::{Receive, Results};

/// The shortest call that gets its own name in advice. Making the name would take a large part of a shorter call.
const NAMED_FROM: Duration = Duration::from_millis(1);

/// The name of a call that cannot end by a timeout, and that nobody looks at. Looking up its own name would cost more than a
/// short call.
pub(crate) const UNNAMED: &str = "a call";

/// The function that a thread is calling. Written by the thread, read by others that report about it.
pub(crate) type CurrentFunction = Mutex<Option<Py<PyAny>>>;

thread_local! {
    /// That of this thread, if it is one of a pool's.
    static CURRENT_FUNCTION: RefCell<Option<Arc<CurrentFunction>>> = const { RefCell::new(None) };
}

/// Sets where this thread writes down the function that it is calling. `None` when it ends.
pub(crate) fn set_current_function(current: Option<Arc<CurrentFunction>>) {
    CURRENT_FUNCTION.set(current);
}

/// Replaces the function that this thread is calling, and returns the one before. If no pool owns this thread, nothing
/// is written down, and the argument is returned.
fn replace_function(function: Option<Py<PyAny>>) -> Option<Py<PyAny>> {
    CURRENT_FUNCTION.with_borrow(|current| match current {
        Some(current) => std::mem::replace(&mut *current.lock(), function),
        None => function,
    })
}

/// Returns whether this thread is a pool's and runs no call.
pub(crate) fn is_between_calls() -> bool {
    CURRENT_FUNCTION.with_borrow(|current| current.as_ref().is_some_and(|current| current.lock().is_none()))
}

/// `contextvars.Context.run`.
static RUN: Once<Py<PyAny>> = Once::new();

/// A call `context.run(function, *args, **kwargs)`.
pub(crate) struct Call {
    /// The arguments of [`RUN`]: the context, the function that the user has submitted, and what that is called with.
    args: Py<PyTuple>,
    kwargs: Option<Py<PyDict>>,
    pool: Arc<PoolState>,
}

impl Call {
    /// Takes the call `function(*args, **kwargs)`, to be made in the context.
    pub(crate) fn new<'py>(
        pool: &Arc<PoolState>,
        context: Bound<'py, PyAny>,
        function: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, PyDict>,
    ) -> PyResult<Self> {
        let mut all = Vec::with_capacity(2 + args.len());
        all.push(context);
        all.push(function.clone());
        all.extend(args);
        let args = PyTuple::new(function.py(), all)?.unbind();
        let kwargs = (!kwargs.is_empty()).then(|| kwargs.clone().unbind());
        Ok(Self { args, kwargs, pool: Arc::clone(pool) })
    }

    /// Returns the name of the user's function.
    pub(crate) fn name(&self, py: Python<'_>) -> PyResult<String> {
        name_of_called(self.args.bind(py))
    }

    /// Makes the call. The thread stays attached for the whole batch, so all objects that are dropped here die at once.
    pub(crate) fn run(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        deferred_result::flush(py);
        let Self { args, kwargs, pool } = self;
        pool.check(py)?;
        let args = args.bind(py);
        let function = args.get_item(1)?;
        let run = RUN.get(|| args.get_item(0)?.get_type().getattr("run").map(Bound::unbind))?;
        let outer = replace_function(Some(function.clone().unbind()));
        let began = Instant::now();
        let result = interpreter::call(run.bind(py), args, kwargs.as_ref().map(|kwargs| kwargs.bind(py)));
        if result.is_err() {
            embed::mark_failed();
        }
        if began.elapsed() >= NAMED_FROM {
            describe(args);
        }
        drop(replace_function(outer));
        let value = result?;
        check_result(&function, &value)?;
        Ok(value.unbind())
    }
}

/// Names the call that this thread has just made, for advice. A call that a map has submitted is named by the function
/// that it maps.
fn describe(args: &Bound<'_, PyTuple>) {
    embed::describe(name_of_called(args).unwrap_or_default());
}

/// Returns the name of the user's function in the arguments of [`RUN`].
fn name_of_called(args: &Bound<'_, PyTuple>) -> PyResult<String> {
    let py = args.py();
    let name = args.get_item(1).and_then(|function| {
        let is_ours = function.getattr(intern!(py, "__module__"))?.eq("offloop._calls")?;
        name_of(&if is_ours { args.get_item(2)? } else { function })
    });
    // A callable may be without a module.
    name.or_else(|_| name_of(&args.get_item(1)?))
}

/// Returns the name of a function, or the text that shows another callable.
fn name_of(function: &Bound<'_, PyAny>) -> PyResult<String> {
    let name = function.getattr("__qualname__").or_else(|_| function.repr().map(Bound::into_any))?;
    Ok(name.to_string())
}

/// Raises `TypeError` if `function` has returned something that only an event loop can run.
pub(crate) fn check_result(function: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
    static COROUTINE: Once<Py<PyAny>> = Once::new();
    static GENERATOR: Once<Py<PyAny>> = Once::new();
    static CHECK: Once<Py<PyAny>> = Once::new();
    let (py, kind) = (value.py(), value.get_type());
    if kind.is(COROUTINE.attribute(py, "types", "CoroutineType")?)
        || kind.is(GENERATOR.attribute(py, "types", "AsyncGeneratorType")?)
    {
        CHECK.attribute(py, "offloop._calls", "check_result")?.call1((function, value))?;
    }
    Ok(())
}

/// The result of a call, for a receiver.
pub(crate) struct Returned(pub(crate) PyResult<Py<PyAny>>);

impl Receive for Returned {
    fn receive(self, _: Python<'_>, _: Results) -> PyResult<Py<PyAny>> {
        self.0
    }
}
