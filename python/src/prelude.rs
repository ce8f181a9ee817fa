//! What a worker must know before it unpickles a call, such as a new search path. Most calls have nothing of the kind.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::interpreter::{self, Mutex};
use crate::once::{Once, intern};

/// The state of the program in which calls tell their workers nothing but themselves.
pub(crate) struct Silence {
    /// The search path.
    pub(crate) path: Py<PyList>,
    /// A dictionary of `logging`, and what is in it for as long as no logger's level changes.
    pub(crate) cache: Py<PyDict>,
    pub(crate) probe: Py<PyAny>,
    /// The levels that the workers have. Another pool may have looked at new ones.
    pub(crate) levels: Py<PyAny>,
}

impl Silence {
    /// Returns whether the program is in that state.
    fn holds(&self, py: Python<'_>) -> PyResult<bool> {
        static SYS: Once<Py<PyAny>> = Once::new();
        static LOGS: Once<Py<PyAny>> = Once::new();
        let sys = SYS.get(|| Ok(py.import("sys")?.into_any().unbind()))?.bind(py);
        let logs = LOGS.get(|| Ok(py.import("offloop._worker.logs")?.into_any().unbind()))?.bind(py);
        Ok(self.cache.bind(py).contains(&self.probe)?
            && logs.getattr(intern!(py, "known_levels"))?.is(&self.levels)
            && interpreter::imported(intern!(py, "opentelemetry.context")).is_none()
            && sys.getattr(intern!(py, "path"))?.eq(&self.path)?)
    }
}

/// The state of a pool's preludes: whether its calls have any.
#[derive(Default)]
pub(crate) struct Preludes {
    silence: Mutex<Option<Arc<Silence>>>,
}

impl Preludes {
    /// Sets the state in which calls need none.
    pub(crate) fn set_silence(&self, silence: Silence) {
        let before = self.silence.lock().replace(Arc::new(silence));
        drop(before);
    }

    /// Makes each call ask the executor for its prelude.
    pub(crate) fn end_silence(&self) {
        let before = self.silence.lock().take();
        drop(before);
    }

    /// Returns what the worker must know before it unpickles a call, if there is anything. Raises `PicklingFailed`.
    pub(crate) fn of_call<'py>(&self, executor: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let py = executor.py();
        let silence = self.silence.lock().clone();
        if let Some(silence) = silence
            && silence.holds(py)?
        {
            return Ok(None);
        }
        let prelude: Option<Bound<'py, PyBytes>> =
            executor.call_method0(intern!(py, "_prelude"))?.extract()?;
        if prelude.is_some() {
            // Workers that have followed it must be told if all is as before again.
            self.end_silence();
        }
        Ok(prelude)
    }
}
