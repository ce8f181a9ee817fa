//! The values of settings, as users write them.

use std::time::Duration;

use offloop::metrics::Activity;
use offloop::{OnCrash, OnFull};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

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

/// Returns the exception for a setting whose value is none of the `choices`.
fn unknown(setting: &str, word: &str, choices: &str) -> PyErr {
    PyValueError::new_err(format!("{setting} is '{word}'; it must be {choices}"))
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
