//! The other side: an interpreter that was started as the template of a pool's workers.

use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use offloop::embed;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// This process as the template of a pool's workers.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct Template(Mutex<Option<embed::Template>>);

#[pymethods]
impl Template {
    /// Takes up the role for which this program was started. None if its parent is dead already.
    #[staticmethod]
    fn connect() -> PyResult<Option<Self>> {
        Ok(embed::Template::connect()?.map(|template| Self(Mutex::new(Some(template)))))
    }

    /// The same for a fork of the process `parent`, with the socket that it was given, which is taken over.
    #[staticmethod]
    fn adopt(socket: i32, parent: u32) -> PyResult<Option<Self>> {
        // SAFETY: the caller gives the descriptor away.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        Ok(embed::Template::adopt(socket, parent)?.map(|template| Self(Mutex::new(Some(template)))))
    }

    /// Forks workers by `fork` when the pool asks for them. Returns in each of them with what that is to do; in the
    /// template with None, when the pool is gone.
    fn serve(&self, py: Python<'_>, fork: &Bound<'_, PyAny>) -> PyResult<Option<Worker>> {
        let template = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let template = template.ok_or_else(|| PyRuntimeError::new_err("a template serves once"))?;
        let fork = fork.clone().unbind();
        let worker = py.detach(|| {
            template.serve(|| {
                Python::attach(|py| fork.call0(py)?.extract::<u32>(py)).map_err(std::io::Error::other)
            })
        })?;
        Ok(worker.map(|worker| Worker(Mutex::new(Some(worker)))))
    }
}

/// This process as a worker.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct Worker(Mutex<Option<embed::Worker>>);

#[pymethods]
impl Worker {
    /// Runs jobs until the pool lets this worker go.
    fn serve(&self, py: Python<'_>) -> PyResult<()> {
        let worker = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let worker = worker.ok_or_else(|| PyRuntimeError::new_err("a worker serves once"))?;
        py.detach(|| worker.serve());
        Ok(())
    }
}
