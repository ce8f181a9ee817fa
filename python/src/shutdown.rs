//! The end of a pool, which a thread of Python waits for.

use std::time::Duration;

use offloop::{Handle, ShutdownReport};
use pyo3::prelude::*;

use crate::errors::IntoException as _;
use crate::interpreter::{detach, wait};
use crate::settings::seconds;

/// A time that no program runs for.
const FOREVER: Duration = Duration::from_secs(1 << 32);

/// The numbers of jobs that were drained, cancelled and killed, and those that are stuck: the name of each, its worker, and
/// the seconds for which it has run.
pub(crate) type Report = (usize, usize, usize, Vec<(String, String, f64)>);

/// Shuts a pool down, which lets accepted jobs run for `drain` seconds (None: forever), and waits until it is.
///
/// If a signal's handler raises, the shutdown goes on without this thread.
pub(crate) fn finish(
    py: Python<'_>,
    drain: Option<f64>,
    shut_down: impl FnOnce(Duration) -> Handle<ShutdownReport> + Send,
) -> PyResult<Report> {
    let drain = drain.map_or(Ok(FOREVER), |drain| seconds("drain", drain))?;
    let mut handle = detach(py, || shut_down(drain))?;
    let report = match wait(py, |limit| handle.wait_timeout(limit)) {
        Ok(report) => report.map_err(|error| error.into_exception(py))?,
        Err(interruption) => {
            handle.detach();
            return Err(interruption);
        }
    };
    let ShutdownReport { drained, cancelled, killed, stuck, .. } = report;
    let stuck = stuck.into_iter().map(|job| (job.name, job.worker, job.running_for.as_secs_f64()));
    Ok((drained, cancelled, killed, stuck.collect()))
}
