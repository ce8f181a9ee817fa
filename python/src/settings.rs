//! Settings as users write them.

use std::time::Duration;

use offloop::OnFull;
use offloop::metrics::Purpose;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// What happens when a queue is full.
pub(crate) fn policy(name: &str) -> PyResult<OnFull> {
    Ok(match name {
        "wait" => OnFull::Wait,
        "reject" => OnFull::Reject,
        "caller_runs" => OnFull::CallerRuns,
        "shed_oldest" => OnFull::ShedOldest,
        other => {
            return Err(PyValueError::new_err(format!(
                "on_full is {other:?}; it can be 'wait', 'reject', 'caller_runs' or 'shed_oldest'"
            )));
        }
    })
}

/// What a pool is for.
pub(crate) fn purpose_of(name: &str) -> PyResult<Purpose> {
    Ok(match name {
        "any" => Purpose::Any,
        "waiting" => Purpose::Waiting,
        "computing" => Purpose::Computing,
        other => {
            return Err(PyValueError::new_err(format!(
                "purpose is {other:?}; it can be 'any', 'waiting' or 'computing'"
            )));
        }
    })
}

/// A length of time.
pub(crate) fn seconds(name: &str, seconds: f64) -> PyResult<Duration> {
    // For ever, as far as anybody can tell.
    const LONGEST: f64 = 1e9;
    let clamped = if seconds > LONGEST { LONGEST } else { seconds };
    Duration::try_from_secs_f64(clamped).map_err(|_| {
        PyValueError::new_err(format!("{name} is {seconds}; it is a number of seconds, 0 or more"))
    })
}
