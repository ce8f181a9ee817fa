//! The metrics of pools, as values of Python.

use std::collections::BTreeMap;
use std::sync::Arc;

use offloop::metrics::{self as engine, PoolKind};
use pyo3::prelude::*;

use crate::interpreter::{attach, detach};
use crate::once::{Once, intern};

/// The metrics of one pool, at one moment.
#[pyclass(frozen, module = "offloop")]
pub(crate) struct Metrics(engine::Metrics);

impl From<engine::Metrics> for Metrics {
    fn from(metrics: engine::Metrics) -> Self {
        Self(metrics)
    }
}

#[pymethods]
impl Metrics {
    /// The pool's name.
    #[getter]
    fn pool(&self) -> &str {
        &self.0.pool
    }

    /// The kind of its workers: "threads" or "processes".
    #[getter]
    fn kind(&self) -> &'static str {
        self.0.kind.as_str()
    }

    /// The number of jobs by their end.
    #[getter]
    fn outcomes(&self) -> BTreeMap<&'static str, u64> {
        self.0.outcomes.iter().map(|(outcome, count)| (outcome.as_str(), count)).collect()
    }

    /// The times for which jobs waited for a worker.
    #[getter]
    fn queue_wait(&self) -> Histogram {
        Histogram(self.0.queue_wait.clone())
    }

    /// The times for which jobs ran.
    #[getter]
    fn run_time(&self) -> Histogram {
        Histogram(self.0.run_time.clone())
    }

    /// The times for which threads waited for the interpreter's lock before they ran calls; None for processes.
    #[getter]
    fn gil_wait(&self) -> Option<Histogram> {
        self.0.lock_wait.clone().map(Histogram)
    }

    /// The number of jobs that wait for a worker.
    #[getter]
    fn queued(&self) -> usize {
        self.0.queued
    }

    /// The number of jobs that run.
    #[getter]
    fn running(&self) -> usize {
        self.0.running
    }

    /// The number of workers by their state.
    #[getter]
    fn workers(&self) -> BTreeMap<&'static str, usize> {
        self.0.workers_by_state().collect()
    }

    /// The number of worker processes that were replaced, by the reason. Empty for threads.
    #[getter]
    fn restarts(&self) -> BTreeMap<&'static str, u64> {
        match self.0.kind {
            PoolKind::Processes => self.0.restarts.iter().collect(),
            _ => BTreeMap::new(),
        }
    }

    /// The bytes of shared memory that this process has for large payloads: "used", and "kept" for later ones.
    #[getter]
    fn arena(&self) -> Option<BTreeMap<&'static str, u64>> {
        self.0.arena.map(|arena| BTreeMap::from([("used", arena.used), ("kept", arena.kept)]))
    }

    /// The functions whose calls should run elsewhere.
    #[getter]
    fn advice(&self) -> Vec<Advice> {
        self.0.advice.iter().cloned().map(Advice).collect()
    }

    /// Returns all metrics as a dictionary of plain values, times in seconds: for a log, or JSON.
    fn as_dict<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.py().import("offloop._metrics")?.call_method1(intern!(slf.py(), "as_dict"), (slf,))
    }

    fn __repr__(&self) -> String {
        let engine::Metrics { pool, queued, running, outcomes, .. } = &self.0;
        let kind = self.0.kind.as_str();
        format!(
            "<offloop.Metrics of {kind} {pool:?}: {} ended, {running} running, {queued} queued>",
            outcomes.total()
        )
    }
}

/// The distribution of recorded times, in seconds.
#[pyclass(frozen, eq, module = "offloop")]
#[derive(PartialEq)]
pub(crate) struct Histogram(engine::Histogram);

#[pymethods]
impl Histogram {
    /// The number of recorded times.
    #[getter]
    fn count(&self) -> u64 {
        self.0.count()
    }

    /// Their sum.
    #[getter]
    fn sum(&self) -> f64 {
        self.0.sum().as_secs_f64()
    }

    /// Their mean; None if there are none.
    #[getter]
    fn mean(&self) -> Option<f64> {
        self.0.mean().map(|time| time.as_secs_f64())
    }

    /// Returns the time that this share of them, from 0 to 1, does not exceed: 0.5 is the median. None if there are
    /// none.
    fn quantile(&self, share: f64) -> Option<f64> {
        self.0.quantile(share).map(|time| time.as_secs_f64())
    }

    /// Returns the upper bounds, and the number of times below each. The last bound is infinite.
    fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = self.0.cumulative();
        bounds
            .map(|(bound, count)| (bound.map_or(f64::INFINITY, |bound| bound.as_secs_f64()), count))
            .collect()
    }

    fn __repr__(&self) -> String {
        match (self.quantile(0.5), self.quantile(0.99)) {
            (Some(p50), Some(p99)) => {
                format!("<offloop.Histogram of {}: p50 {p50:.2e} s, p99 {p99:.2e} s>", self.count())
            }
            _ => "<offloop.Histogram of nothing>".to_owned(),
        }
    }
}

/// A function whose calls should run elsewhere. Its `str()` is a sentence that says where.
#[pyclass(frozen, module = "offloop")]
pub(crate) struct Advice(pub(crate) engine::Advice);

#[pymethods]
impl Advice {
    /// The pool on which the calls run.
    #[getter]
    fn pool(&self) -> &str {
        &self.0.pool
    }

    /// The name of the function.
    #[getter]
    fn task(&self) -> &str {
        &self.0.task
    }

    /// The activity that does not fit the pool: `computes` or `waits`.
    #[getter]
    fn activity(&self) -> &'static str {
        self.0.activity.as_str()
    }

    /// The number of calls that were measured. Calls below 2 ms are not.
    #[getter]
    fn jobs(&self) -> u64 {
        self.0.jobs
    }

    /// The seconds for which they ran, without those in which other threads had the cores.
    #[getter]
    fn ran(&self) -> f64 {
        self.0.ran.as_secs_f64()
    }

    /// The seconds of these in which they were on a core.
    #[getter]
    fn on_core(&self) -> f64 {
        self.0.on_core.as_secs_f64()
    }

    fn __str__(&self) -> String {
        self.0.to_string()
    }

    fn __repr__(&self) -> String {
        format!("<offloop.Advice: {}>", self.0)
    }
}

/// Returns the metrics of all pools of this program that have not ended.
#[pyfunction]
pub(crate) fn metrics(py: Python<'_>) -> PyResult<Vec<Metrics>> {
    Ok(detach(py, engine::all)?.into_iter().map(Metrics).collect())
}

/// Returns metrics in Prometheus' text format. Without an argument those of all pools, and of the loops that are watched.
#[pyfunction]
#[pyo3(signature = (metrics=None))]
pub(crate) fn prometheus(py: Python<'_>, metrics: Option<Vec<PyRef<'_, Metrics>>>) -> PyResult<String> {
    match metrics {
        Some(metrics) => {
            let metrics: Vec<_> = metrics.iter().map(|metrics| metrics.0.clone()).collect();
            Ok(engine::prometheus(&metrics))
        }
        None => detach(py, offloop::observe::prometheus),
    }
}

/// Passes an advice on to the package, which logs it.
pub(crate) fn log_advice(advice: &engine::Advice) {
    static LOG_ADVICE: Once<Py<PyAny>> = Once::new();
    let advice = Advice(advice.clone());
    // While the interpreter exits, there is no log any more.
    let _ = attach(|py| {
        let log_advice = LOG_ADVICE.attribute(py, "offloop._metrics", "log_advice");
        if let Err(error) = log_advice.and_then(|log_advice| log_advice.call1((advice,))) {
            error.write_unraisable(py, None);
        }
    });
}

/// The histogram in which a pool's threads record how long they waited for the interpreter.
pub(crate) type GilWait = Arc<engine::Recorder>;
