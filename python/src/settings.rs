//! The values of settings, as users write them.

use std::time::Duration;

use offloop::embed;
use offloop::metrics::Activity;
use offloop::{OnCrash, OnFull};
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::interpreter::detach;
use crate::receive::Results;

/// Returns the policy of a pool whose queue is full.
pub(crate) fn policy(word: &str) -> PyResult<OnFull> {
    Ok(match word {
        "wait" => OnFull::Wait,
        "reject" => OnFull::Reject,
        "caller_runs" => OnFull::CallerRuns,
        "shed_oldest" => OnFull::ShedOldest,
        _ => return Err(unknown("on_full", word, "'wait', 'reject', 'caller_runs' or 'shed_oldest'")),
    })
}

/// Returns the effect of a worker's crash on the pool.
pub(crate) fn on_crash(word: &str) -> PyResult<OnCrash> {
    Ok(match word {
        "isolate" => OnCrash::Isolate,
        "break" => OnCrash::Break,
        _ => return Err(unknown("on_crash", word, "'isolate' or 'break'")),
    })
}

/// Returns the activity that a pool is for.
pub(crate) fn activity(word: &str) -> PyResult<Activity> {
    Ok(match word {
        "waits" => Activity::Waits,
        "computes" => Activity::Computes,
        _ => return Err(unknown("activity", word, "'waits', 'computes' or None")),
    })
}

/// Returns the way in which a pool's results travel.
pub(crate) fn results(word: &str) -> PyResult<Results> {
    Ok(match word {
        "pickle" => Results::Pickle,
        "data" => Results::Data,
        _ => return Err(unknown("results", word, "'pickle' or 'data'")),
    })
}

/// Returns the number of cores that this process may use at this moment, by the affinity of its main thread and the quota
/// of its cgroup.
#[pyfunction]
pub(crate) fn present_cores(py: Python<'_>) -> PyResult<usize> {
    detach(py, embed::present_cores)
}

/// Returns the exception for a setting whose value is none of the `choices`.
fn unknown(setting: &str, word: &str, choices: &str) -> PyErr {
    PyValueError::new_err(format!("{setting} is '{word}'; it must be {choices}"))
}

/// A job's priority, as an argument of a function.
#[derive(Clone, Copy)]
pub(crate) struct Priority(pub(crate) i8);

impl<'py> FromPyObject<'_, 'py> for Priority {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        value.extract().map(Self).map_err(|error: PyErr| {
            if error.is_instance_of::<PyOverflowError>(value.py()) {
                PyValueError::new_err(format!("priority is {}; it must be from -128 to 127", &*value))
            } else {
                error
            }
        })
    }
}

/// Adds the name of a setting to the exception that its value has the wrong type or size.
pub(crate) fn name_setting(py: Python<'_>, name: &str, error: PyErr) -> PyErr {
    let text = || format!("{name}: {}", error.value(py));
    if error.is_instance_of::<PyOverflowError>(py) {
        PyOverflowError::new_err(text())
    } else if error.is_instance_of::<PyTypeError>(py) {
        PyTypeError::new_err(text())
    } else {
        error
    }
}

/// Returns the duration that the setting or argument `name` gives in seconds.
pub(crate) fn seconds(name: &str, seconds: f64) -> PyResult<Duration> {
    // Longer than any program runs. The infinite becomes finite.
    const LONGEST: f64 = 1e9;
    let clamped = if seconds > LONGEST { LONGEST } else { seconds };
    Duration::try_from_secs_f64(clamped).map_err(|_| {
        PyValueError::new_err(format!("{name} is {seconds}; it must be a number of seconds, 0 or more"))
    })
}
