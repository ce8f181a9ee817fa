//! The values of settings, as users write them.

use std::time::Duration;

use offloop::OnFull;
use offloop::metrics::Activity;
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

/// Returns the activity that a pool is for. `None` if it is for any.
pub(crate) fn activity(purpose: &str) -> PyResult<Option<Activity>> {
    Ok(match purpose {
        "any" => None,
        "waiting" => Some(Activity::Waits),
        "computing" => Some(Activity::Computes),
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
