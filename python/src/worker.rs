//! The worker's side of a process pool: an interpreter that was started as the template of the pool's workers.

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use offloop::embed;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::interpreter::{Mutex, attach, detach, try_detach};

/// This process as the template of a pool's workers.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct Template(Mutex<Option<embed::Template>>);

impl Template {
    fn new(template: embed::Template) -> Self {
        Self(Mutex::new(Some(template)))
    }
}

#[pymethods]
impl Template {
    /// Makes this process, which was started as a template, one. None if its parent is dead already.
    #[staticmethod]
    fn connect() -> PyResult<Option<Self>> {
        Ok(embed::Template::connect()?.map(Self::new))
    }

    /// Makes this process, a fork of the process `parent`, a template. Takes the socket over.
    #[staticmethod]
    fn adopt(socket: i32, parent: u32) -> PyResult<Option<Self>> {
        // SAFETY: the caller hands the open descriptor over and does not use it any more.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        Ok(embed::Template::adopt(socket, parent)?.map(Self::new))
    }

    /// Returns the bytes that the pool was given as `start_data`.
    fn start_data<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let template = self.0.lock();
        let template =
            template.as_ref().ok_or_else(|| PyRuntimeError::new_err("the template has served already"))?;
        Ok(PyBytes::new(py, template.start_data()))
    }

    /// Returns the descriptors that the pool was given as `start_files`, in their order; none after the first call. The
    /// caller owns them.
    fn take_start_files(&self) -> Vec<i32> {
        let files = self.0.lock().as_mut().map(embed::Template::take_start_files).unwrap_or_default();
        files.into_iter().map(IntoRawFd::into_raw_fd).collect()
    }

    /// Forks workers by `fork` when the pool asks for them. Returns in each worker, and at the end, with None, in the
    /// template. That calls `at_rest()` once, when it has forked a worker and the pool has asked for nothing for a while.
    fn serve(
        &self,
        py: Python<'_>,
        fork: &Bound<'_, PyAny>,
        at_rest: &Bound<'_, PyAny>,
    ) -> PyResult<Option<Worker>> {
        let template = self.0.lock().take();
        let template = template.ok_or_else(|| PyRuntimeError::new_err("the template has served already"))?;
        let fork = fork.clone().unbind();
        let fork = || attach(|py| fork.call0(py)?.extract::<u32>(py))?.map_err(io::Error::other);
        let at_rest = at_rest.clone().unbind();
        let template = template.at_rest(move || {
            let _ = attach(|py| {
                if let Err(error) = at_rest.call0(py) {
                    error.write_unraisable(py, None);
                }
            });
        });
        let worker = try_detach(py, || template.serve(fork))?;
        Ok(worker.map(|worker| Worker(Mutex::new(Some(worker)))))
    }
}

/// This process as a worker.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct Worker(Mutex<Option<embed::Worker>>);

#[pymethods]
impl Worker {
    /// Runs jobs until the pool ends this worker.
    fn serve(&self, py: Python<'_>) -> PyResult<()> {
        let worker = self.0.lock().take();
        let worker = worker.ok_or_else(|| PyRuntimeError::new_err("the worker has served already"))?;
        detach(py, || worker.serve())
    }
}
