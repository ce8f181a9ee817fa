//! The live view: the engine makes the document and serves it on threads of its own, which never need the interpreter.
//!
//! Here the engine learns what it cannot see of Python: the program's name, the names of calls on threads, and the stacks of
//! jobs, which are read from memory.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use offloop::embed::{self, Inspector, JobPlace, JobStack};
use offloop::observe::{self, EventStream, Handler, Peer, Reply, Request, Server};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::call::UNNAMED;
use crate::interpreter::{Mutex, detach};
use crate::watch::{StackFrame, StackReader, Stacks, ThreadKey};

/// Makes this process ready to be looked at. `service` is its name, unless the environment has another one; `package` is the
/// directory of the Python package, with a slash at the end. The first call counts.
#[pyfunction]
pub(crate) fn prepare_view(service: &str, package: String, stacks: Option<&Stacks>) {
    embed::set_program("python", service);
    if let Some(stacks) = stacks {
        embed::set_inspector(PythonJobs { stacks: Arc::clone(&stacks.0), package });
    }
}

/// Returns the state of this process as JSON.
#[pyfunction(name = "observe")]
pub(crate) fn snapshot(py: Python<'_>) -> PyResult<String> {
    detach(py, || observe::snapshot().to_json())
}

/// Opens the view that the environment variable asks for.
#[pyfunction]
pub(crate) fn observe_from_environment(py: Python<'_>) -> PyResult<()> {
    detach(py, observe::init_from_env)
}

/// Python's jobs, as the engine's view sees them. It has no lock that a fork could leave behind.
struct PythonJobs {
    stacks: Arc<StackReader>,
    package: String,
}

impl PythonJobs {
    /// Reads the stack of the job's thread or worker process, the outermost frame first. An error is a sentence.
    fn read(&self, place: &JobPlace<'_>) -> Result<Vec<StackFrame>, String> {
        if let Some(pid) = place.pid {
            let read = i32::try_from(pid).ok().map(|pid| self.stacks.of_process(pid));
            let read = read.unwrap_or_else(|| Err(io::ErrorKind::InvalidInput.into()));
            return read
                .map_err(|error| format!("The stack of the worker process {pid} cannot be read: {error}."));
        }
        let thread = place.thread.and_then(|tid| i32::try_from(tid).ok());
        let stack = thread.and_then(|tid| self.stacks.take(ThreadKey::Tid(tid)));
        stack.ok_or_else(|| "The thread runs no Python code.".to_owned())
    }

    /// Returns the part of a stack that the job's function has: what the package has called.
    fn of_function<'a>(&self, stack: &'a [StackFrame]) -> &'a [StackFrame] {
        let is_ours = |frame: &StackFrame| frame.file().starts_with(&self.package);
        let first = stack.iter().position(is_ours).unwrap_or(0);
        let ours = stack[first..].iter().take_while(|frame| is_ours(frame)).count();
        &stack[first + ours..]
    }
}

impl Inspector for PythonJobs {
    /// Names a call that was submitted before anybody looked, if its function is one of Python's.
    fn job_name(&self, place: &JobPlace<'_>) -> Option<String> {
        if place.name != UNNAMED {
            return None;
        }
        let stack = self.read(place).ok()?;
        Some(self.of_function(&stack).first()?.qualname().to_owned())
    }

    fn stack(&self, place: &JobPlace<'_>) -> Option<JobStack> {
        Some(match self.read(place) {
            Ok(stack) => {
                let frames: Vec<_> =
                    self.of_function(&stack).iter().rev().map(StackFrame::to_job_frame).collect();
                let is_empty = frames.is_empty();
                let stack = JobStack::new(frames);
                if is_empty { stack.note("The job is in a function that has no Python code.") } else { stack }
            }
            Err(reason) => JobStack::new(Vec::new()).note(reason),
        })
    }
}

/// A server of the view.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct ObserveServer {
    /// Taken when it is closed.
    server: Mutex<Option<Server>>,
    socket_path: Option<String>,
    http_address: Option<String>,
}

#[pymethods]
impl ObserveServer {
    /// Starts a server on the private socket, and on an address if one is given.
    #[new]
    fn new(
        py: Python<'_>,
        service: Option<String>,
        http: Option<String>,
        token: Option<String>,
        allow_cancel: bool,
    ) -> PyResult<Self> {
        let mut builder = Server::builder().allow_cancel(allow_cancel);
        if let Some(service) = service {
            builder = builder.service(service);
        }
        if let Some(http) = http {
            builder = builder.http(http);
        }
        if let Some(token) = token {
            builder = builder.token(token);
        }
        let server = detach(py, move || builder.start())?.map_err(|error| refused(&error))?;
        Ok(Self {
            socket_path: server.socket_path().map(|path| path.display().to_string()),
            http_address: server.http_address().map(|address| address.to_string()),
            server: Mutex::new(Some(server)),
        })
    }

    /// The path of the socket.
    #[getter]
    fn socket_path(&self) -> Option<&str> {
        self.socket_path.as_deref()
    }

    /// The address of HTTP.
    #[getter]
    fn http_address(&self) -> Option<&str> {
        self.http_address.as_deref()
    }

    /// Ends the server.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let server = self.server.lock().take();
        detach(py, || drop(server))
    }
}

/// Returns the exception for a server that was not started.
fn refused(error: &io::Error) -> PyErr {
    match error.kind() {
        io::ErrorKind::InvalidInput => PyValueError::new_err(error.to_string()),
        io::ErrorKind::AddrInUse => PyOSError::new_err((libc::EADDRINUSE, error.to_string())),
        _ => PyOSError::new_err(error.to_string()),
    }
}

/// The routes of the view, for a program that has a web server of its own.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct ObserveHandler(Handler);

#[pymethods]
impl ObserveHandler {
    #[new]
    fn new(token: Option<String>, allow_cancel: bool) -> Self {
        let mut builder = Handler::builder().allow_cancel(allow_cancel);
        if let Some(token) = token {
            builder = builder.token(token);
        }
        Self(builder.build())
    }

    /// Answers a request: by a status, headers and a body, or by a stream of events. `path` is that below the place of the
    /// view, `peer` the address of the client. Blocks, for some seconds at most.
    #[expect(clippy::needless_pass_by_value, reason = "a sequence of Python becomes a vector")]
    fn handle(
        &self,
        py: Python<'_>,
        method: &str,
        path: &str,
        query: &str,
        headers: Vec<(String, Vec<u8>)>,
        peer: Option<&str>,
    ) -> PyResult<Py<PyAny>> {
        let peer = peer.and_then(|peer| peer.parse::<IpAddr>().ok()).map_or(Peer::Unknown, Peer::Address);
        let reply = detach(py, || {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), &value[..])).collect();
            self.0.handle(&Request { method, path, query, headers: &headers, peer })
        })?;
        match reply {
            Reply::Response(response) => {
                let body = PyBytes::new(py, &response.body);
                Ok((response.status, response.headers, body).into_pyobject(py)?.into_any().unbind())
            }
            Reply::Events(stream) => {
                let (headers, interval) = (stream.headers(), stream.interval().as_secs_f64());
                Ok(Py::new(py, ObserveEvents { stream: Mutex::new(stream), headers, interval })?.into_any())
            }
            _ => unreachable!("there are no other replies"),
        }
    }
}

/// Events of the view, for one client.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct ObserveEvents {
    /// Locked while an event is made.
    stream: Mutex<EventStream>,
    headers: Vec<(&'static str, String)>,
    interval: f64,
}

#[pymethods]
impl ObserveEvents {
    /// The headers of the response.
    #[getter]
    fn headers(&self) -> Vec<(&'static str, String)> {
        self.headers.clone()
    }

    /// The seconds between two events.
    #[getter]
    fn interval(&self) -> f64 {
        self.interval
    }

    /// Makes the next event, as it is to be sent. Blocks for about half a second at most.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let event = detach(py, || self.stream.lock().event())?;
        Ok(PyBytes::new(py, &event))
    }
}
