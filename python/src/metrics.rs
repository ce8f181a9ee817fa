//! The figures of pools, as values.

use std::collections::BTreeMap;
use std::sync::Arc;

use offloop::metrics::{self as engine, Kind};
use pyo3::prelude::*;

use crate::once::intern;

/// The figures of one pool.
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

    /// What its workers are: "threads" or "processes".
    #[getter]
    fn kind(&self) -> &'static str {
        self.0.kind.as_str()
    }

    /// How many jobs have come to which end.
    #[getter]
    fn outcomes(&self) -> BTreeMap<&'static str, u64> {
        self.0.outcomes.iter().map(|(outcome, count)| (outcome.as_str(), count)).collect()
    }

    /// How long jobs waited for a worker.
    #[getter]
    fn queue_wait(&self) -> Histogram {
        Histogram(self.0.queue_wait.clone())
    }

    /// How long jobs ran.
    #[getter]
    fn run_time(&self) -> Histogram {
        Histogram(self.0.run_time.clone())
    }

    /// How long threads waited for the interpreter's lock before they began with calls; of processes, None.
    #[getter]
    fn gil_wait(&self) -> Option<Histogram> {
        self.0.lock_wait.clone().map(Histogram)
    }

    /// How many jobs wait for a worker.
    #[getter]
    fn queued(&self) -> usize {
        self.0.queued
    }

    /// How many jobs run.
    #[getter]
    fn running(&self) -> usize {
        self.0.running
    }

    /// How many workers are in which state.
    #[getter]
    fn workers(&self) -> BTreeMap<&'static str, usize> {
        self.0.workers_by_state().collect()
    }

    /// How many worker processes were replaced for which reason.
    #[getter]
    fn restarts(&self) -> BTreeMap<&'static str, u64> {
        match self.0.kind {
            Kind::Processes => self.0.restarts.iter().collect(),
            _ => BTreeMap::new(),
        }
    }

    /// The bytes of shared memory that this process has for large payloads: in use, and kept for later ones.
    #[getter]
    fn arena(&self) -> Option<BTreeMap<&'static str, u64>> {
        self.0.arena.map(|arena| BTreeMap::from([("used", arena.used), ("kept", arena.kept)]))
    }

    /// Which calls would be better off elsewhere.
    #[getter]
    fn advice(&self) -> Vec<Advice> {
        self.0.advice.iter().cloned().map(Advice).collect()
    }

    /// All of it as a dictionary of plain values, times in seconds: for a log, or JSON.
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

/// How often which times were seen, in seconds.
#[pyclass(frozen, eq, module = "offloop")]
#[derive(PartialEq)]
pub(crate) struct Histogram(engine::Histogram);

#[pymethods]
impl Histogram {
    /// How many times were recorded.
    #[getter]
    fn count(&self) -> u64 {
        self.0.count()
    }

    /// All of them together.
    #[getter]
    fn sum(&self) -> f64 {
        self.0.sum().as_secs_f64()
    }

    /// Their mean; None if there are none.
    #[getter]
    fn mean(&self) -> Option<f64> {
        self.0.mean().map(|time| time.as_secs_f64())
    }

    /// What this share of them, from 0 to 1, do not exceed: 0.5 is the median. None if there are none.
    fn quantile(&self, share: f64) -> Option<f64> {
        self.0.quantile(share).map(|time| time.as_secs_f64())
    }

    /// Upper bounds, and how many times lie below each; the last bound is infinite.
    fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = self.0.cumulative();
        bounds
            .map(|(bound, count)| (bound.map_or(f64::INFINITY, |bound| bound.as_secs_f64()), count))
            .collect()
    }

    fn __repr__(&self) -> String {
        match (self.quantile(0.5), self.quantile(0.99)) {
            (Some(median), Some(most)) => {
                format!("<offloop.Histogram of {}: p50 {median:.2e} s, p99 {most:.2e} s>", self.count())
            }
            _ => "<offloop.Histogram of nothing>".to_owned(),
        }
    }
}

/// Calls that would be better off elsewhere; as a text, a sentence that says where.
#[pyclass(frozen, module = "offloop")]
pub(crate) struct Advice(pub(crate) engine::Advice);

#[pymethods]
impl Advice {
    /// The pool that they run on.
    #[getter]
    fn pool(&self) -> &str {
        &self.0.pool
    }

    /// What they are called.
    #[getter]
    fn task(&self) -> &str {
        &self.0.task
    }

    /// What is out of place: `computes` or `only_waits`.
    #[getter]
    fn found(&self) -> &'static str {
        self.0.found.as_str()
    }

    /// How many of them were measured; short ones, below 2 ms, are not.
    #[getter]
    fn jobs(&self) -> u64 {
        self.0.jobs
    }

    /// How many seconds those ran.
    #[getter]
    fn ran(&self) -> f64 {
        self.0.ran.as_secs_f64()
    }

    /// For how many of these they were on a core.
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

/// The figures of all pools of this program that have not ended.
#[pyfunction]
pub(crate) fn metrics(py: Python<'_>) -> Vec<Metrics> {
    py.detach(engine::all).into_iter().map(Metrics).collect()
}

/// Figures in Prometheus' text format; of all pools, if none are given.
#[pyfunction]
#[pyo3(signature = (metrics=None))]
pub(crate) fn prometheus(py: Python<'_>, metrics: Option<Vec<PyRef<'_, Metrics>>>) -> String {
    match metrics {
        Some(metrics) => {
            let metrics: Vec<_> = metrics.iter().map(|metrics| metrics.0.clone()).collect();
            engine::prometheus(&metrics)
        }
        None => py.detach(|| engine::prometheus(&engine::all())),
    }
}

/// Has the package tell of an advice, by `logging`.
pub(crate) fn tell(advice: &engine::Advice) {
    let advice = Advice(advice.clone());
    Python::try_attach(|py| {
        let told =
            py.import("offloop._metrics").and_then(|module| module.call_method1("log_advice", (advice,)));
        if let Err(error) = told {
            error.write_unraisable(py, None);
        }
    });
}

/// Where a pool's threads record how long they waited for the interpreter.
pub(crate) type GilWait = Arc<engine::Recorder>;
