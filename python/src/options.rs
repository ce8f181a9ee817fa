//! The options of one call: limits, priority, name, retries.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use offloop::{Prepared, Retry};
use pyo3::IntoPyObjectExt as _;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::settings::{Priority, name_setting, seconds};

/// The longest id of a request, in characters. Each job has a copy, and the live view shows it.
const LONGEST_REQUEST: usize = 200;

/// The options of a call, as `options(...)` was given them. They are checked once, when they are made.
#[pyclass(frozen, eq, hash, module = "offloop._offloop")]
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct CallOptions {
    timeout: Option<Duration>,
    queue_timeout: Option<Duration>,
    priority: i8,
    name: Option<String>,
    request: Option<Arc<str>>,
    retries: u32,
    buffersize: Option<usize>,
    /// The options that only a cluster's calls have.
    routing: Routing,
}

/// The options of a call that only a cluster knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Routing {
    /// The first call with a key runs, and others get its end.
    pub(crate) key: Option<String>,
    /// The queue that the call goes to; `None`: that of the executor.
    pub(crate) queue: Option<String>,
    /// Two starts of the call must never overlap.
    pub(crate) exclusive: bool,
    /// A start that has failed counts as one whose worker has died.
    retry_failures: bool,
}

#[pymethods]
impl CallOptions {
    /// Makes options. Those that are left out have no effect. Times in seconds.
    #[new]
    #[pyo3(signature = (
        *, timeout=None, queue_timeout=None, priority=None, name=None, request=None, retries=None, buffersize=None,
        key=None, queue=None, exclusive=false, retry_failures=false
    ))]
    #[expect(clippy::too_many_arguments, reason = "each is an option, given by its name")]
    fn new(
        timeout: Option<&Bound<'_, PyAny>>,
        queue_timeout: Option<&Bound<'_, PyAny>>,
        priority: Option<&Bound<'_, PyAny>>,
        name: Option<&Bound<'_, PyAny>>,
        request: Option<&Bound<'_, PyAny>>,
        retries: Option<&Bound<'_, PyAny>>,
        buffersize: Option<&Bound<'_, PyAny>>,
        key: Option<&Bound<'_, PyAny>>,
        queue: Option<&Bound<'_, PyAny>>,
        exclusive: bool,
        retry_failures: bool,
    ) -> PyResult<Self> {
        let retries = option("retries", retries, |name, count| at_least(0, name, count))?.unwrap_or(0);
        if retry_failures && retries == 0 {
            return Err(PyValueError::new_err(
                "retry_failures: it needs `retries`, the number of further starts",
            ));
        }
        Ok(Self {
            timeout: option("timeout", timeout, seconds)?,
            queue_timeout: option("queue_timeout", queue_timeout, seconds)?,
            priority: option("priority", priority, |_, Priority(priority)| Ok(priority))?.unwrap_or(0),
            name: option("name", name, |_, name| Ok(name))?,
            request: option("request", request, request_id)?,
            retries,
            buffersize: option("buffersize", buffersize, |name, count| at_least(1, name, count))?,
            routing: Routing {
                key: option("key", key, |_, key| Ok(key))?,
                queue: option("queue", queue, |_, queue| Ok(queue))?,
                exclusive,
                retry_failures,
            },
        })
    }

    /// The seconds for which the call may run.
    #[getter]
    fn timeout(&self) -> Option<f64> {
        self.timeout.map(|limit| limit.as_secs_f64())
    }

    /// The seconds for which the call may wait for a worker.
    #[getter]
    fn queue_timeout(&self) -> Option<f64> {
        self.queue_timeout.map(|limit| limit.as_secs_f64())
    }

    /// The priority. Calls with a higher one run first.
    #[getter]
    fn priority(&self) -> i8 {
        self.priority
    }

    /// The name that errors have for the call; None: that of its function.
    #[getter]
    fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The id of the request that the call works for; None: that of its caller.
    #[getter]
    fn request(&self) -> Option<&str> {
        self.request.as_deref()
    }

    /// The number of further workers that the call is given to when its worker has died.
    #[getter]
    fn retries(&self) -> u32 {
        self.retries
    }

    /// The number of results or items that may wait to be read; None: the default of the method.
    #[getter]
    fn buffersize(&self) -> Option<usize> {
        self.buffersize
    }

    /// Returns the options that have an effect, as they were given.
    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let mut text = String::new();
        let mut add = |name: &str, value: Option<Bound<'_, PyAny>>| -> PyResult<()> {
            if let Some(value) = value {
                let comma = if text.is_empty() { "" } else { ", " };
                let _ = write!(text, "{comma}{name}={}", value.repr()?);
            }
            Ok(())
        };
        let given = |count: i64| (count != 0).then_some(count);
        add("timeout", object(py, self.timeout())?)?;
        add("queue_timeout", object(py, self.queue_timeout())?)?;
        add("priority", object(py, given(self.priority.into()))?)?;
        add("name", object(py, self.name())?)?;
        add("request", object(py, self.request())?)?;
        add("retries", object(py, given(self.retries.into()))?)?;
        add("buffersize", object(py, self.buffersize)?)?;
        add("key", object(py, self.routing.key.as_deref())?)?;
        add("queue", object(py, self.routing.queue.as_deref())?)?;
        add("exclusive", object(py, self.routing.exclusive.then_some(true))?)?;
        add("retry_failures", object(py, self.routing.retry_failures.then_some(true))?)?;
        Ok(text)
    }
}

impl CallOptions {
    /// Returns whether an error may need the call's name.
    pub(crate) fn has_limits(&self) -> bool {
        self.timeout.is_some() || self.queue_timeout.is_some()
    }

    /// Returns whether the call has an id of a request of its own.
    pub(crate) fn has_request(&self) -> bool {
        self.request.is_some()
    }

    /// Returns whether the call may end by the run limit.
    pub(crate) fn limits_run(&self) -> bool {
        self.timeout.is_some()
    }

    /// Returns those that only a cluster knows.
    pub(crate) fn routing(&self) -> &Routing {
        &self.routing
    }

    /// Gives `work` these options, but for those that only a cluster knows.
    pub(crate) fn apply<W>(&self, mut work: Prepared<W>) -> Prepared<W> {
        work = work.priority(self.priority);
        if let Some(name) = &self.name {
            work = work.name(Cow::Owned(name.clone()));
        }
        if let Some(limit) = self.queue_timeout {
            work = work.queue_timeout(limit);
        }
        if let Some(limit) = self.timeout {
            work = work.run_timeout(limit);
        }
        if self.retries > 0 {
            let retry = Retry::times(self.retries);
            work = work.retry(if self.routing.retry_failures { retry.on_failure() } else { retry });
        }
        work
    }
}

/// Returns the value of the option `name`, if it was given one.
fn option<'py, T, R>(
    name: &str,
    value: Option<&Bound<'py, PyAny>>,
    check: impl FnOnce(&str, T) -> PyResult<R>,
) -> PyResult<Option<R>>
where
    T: for<'a> FromPyObject<'a, 'py, Error: Into<PyErr>>,
{
    let Some(value) = value else { return Ok(None) };
    let value = value.extract::<T>().map_err(|error| name_setting(value.py(), name, error.into()))?;
    check(name, value).map(Some)
}

/// Returns the id of a request, as it was given for one call.
fn request_id(name: &str, id: String) -> PyResult<Arc<str>> {
    if (1..=LONGEST_REQUEST).contains(&id.chars().count()) {
        return Ok(id.into());
    }
    Err(PyValueError::new_err(format!(
        "{name} has {} characters; it must have 1 to {LONGEST_REQUEST}",
        id.chars().count()
    )))
}

/// Returns the id of the request that a call works for, as a context variable had it. It may be anything, and any length.
pub(crate) fn request_of(value: &Bound<'_, PyAny>) -> Option<Arc<str>> {
    if value.is_none() {
        return None;
    }
    let text = value.str().ok()?.to_string();
    let end = text.char_indices().nth(LONGEST_REQUEST).map_or(text.len(), |(end, _)| end);
    Some(text[..end].into())
}

/// Returns a count that is not below `least`.
fn at_least<T: TryFrom<i64>>(least: i64, name: &str, count: i64) -> PyResult<T> {
    let in_range = Some(count).filter(|count| *count >= least);
    in_range.and_then(|count| T::try_from(count).ok()).ok_or_else(|| {
        let bound = if count < least { format!("{least} or more") } else { "smaller".to_owned() };
        PyValueError::new_err(format!("{name} is {count}; it must be {bound}"))
    })
}

fn object<'py, T: IntoPyObject<'py>>(
    py: Python<'py>,
    value: Option<T>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    value.map(|value| value.into_bound_py_any(py)).transpose()
}
