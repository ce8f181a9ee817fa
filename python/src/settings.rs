//! The values of settings, as users write them.

use std::time::Duration;

use offloop::OnFull;
use offloop::metrics::Purpose;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Returns the policy of a pool whose queue is full.
pub(crate) fn policy(name: &str) -> PyResult<OnFull> {
    Ok(match name {
        "wait" => OnFull::Wait,
        "reject" => OnFull::Reject,
        "caller_runs" => OnFull::CallerRuns,
        "shed_oldest" => OnFull::ShedOldest,
        other => {
            return Err(PyValueError::new_err(format!(
                "on_full is {other:?}; it must be 'wait', 'reject', 'caller_runs' or 'shed_oldest'"
            )));
        }
    })
}

/// Returns the purpose of a pool.
pub(crate) fn purpose_of(name: &str) -> PyResult<Purpose> {
    Ok(match name {
        "any" => Purpose::Any,
        "waiting" => Purpose::Waiting,
        "computing" => Purpose::Computing,
        other => {
            return Err(PyValueError::new_err(format!(
                "purpose is {other:?}; it must be 'any', 'waiting' or 'computing'"
            )));
        }
    })
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
