//! The executor on a cluster as Python sees it. Arguments and results pass through as bytes; the package's Python code
//! encodes and opens them.

use std::path::PathBuf;
use std::time::Duration;

use offloop::remote::{Encoded, NamedCall};
use offloop::{OnFull, Prepared, prepare};
use offloop_cluster::security::{SigningKey, Trust};
use offloop_cluster::{ClusterHandle, Connection, Credentials, Ulid};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::completion_queue::{Mailbox, results_thread};
use crate::errors::refused;
use crate::interpreter::{detach, try_detach};
use crate::job::{Job, watch};
use crate::metrics::Metrics;
use crate::options::{CallOptions, request_of};
use crate::receive::{Receive, Results};
use crate::sent_items::SentItems;
use crate::settings::{policy, seconds};
use crate::shutdown;

/// The answer or an item of a job, for the package's Python code.
impl Receive for Encoded {
    fn receive(self, py: Python<'_>, _: Results) -> PyResult<Py<PyAny>> {
        Ok(PyBytes::new(py, &self.0).into_any().unbind())
    }
}

/// Settings by their names.
type Settings<'py> = Vec<(String, Bound<'py, PyAny>)>;

/// Takes the settings that submitters and workers have alike out of all settings. Returns the others.
pub(crate) fn connection_of<'py>(
    url: &str,
    settings: &Bound<'py, PyDict>,
) -> PyResult<(Connection, Settings<'py>)> {
    let (mut connection, mut others) = (Connection::to(url), Vec::new());
    for (name, value) in settings {
        let name: String = name.extract()?;
        connection = match &*name {
            "namespace" => connection.namespace(value.extract::<String>()?),
            "user" => {
                let (user, password) = value.extract()?;
                connection.credentials(Credentials::User { user, password })
            }
            "token" => connection.credentials(Credentials::Token(value.extract()?)),
            "nkey" => connection.credentials(Credentials::Nkey(value.extract()?)),
            "creds" => connection.credentials(Credentials::Creds(value.extract()?)),
            "root_certificates" => connection.root_certificates(value.extract::<PathBuf>()?),
            "client_certificate" => {
                let (certificate, key): (PathBuf, PathBuf) = value.extract()?;
                connection.client_certificate(certificate, key)
            }
            "require_tls" if value.is_truthy()? => connection.require_tls(),
            "require_tls" => connection,
            "key" => {
                let key = value.extract::<String>()?.parse();
                connection.key(key.map_err(|error| PyValueError::new_err(format!("key: {error}")))?)
            }
            "trust" => {
                let (keys, accepts_pickles): (Vec<String>, bool) = value.extract()?;
                let mut trust = Trust::none();
                for key in keys {
                    trust =
                        trust.with(&key).map_err(|error| PyValueError::new_err(format!("trust: {error}")))?;
                }
                connection.trust(if accepts_pickles { trust.accept_pickles() } else { trust })
            }
            _ => {
                others.push((name, value));
                connection
            }
        };
    }
    Ok((connection, others))
}

/// Returns the error of a setting that there is not.
pub(crate) fn no_setting(name: &str) -> PyErr {
    PyValueError::new_err(format!("a cluster has no setting {name:?}"))
}

/// An executor on a cluster.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct Cluster(offloop_cluster::Cluster);

#[pymethods]
impl Cluster {
    /// Opens an executor. The settings have their public names. Does not wait for the server.
    #[new]
    fn new(py: Python<'_>, url: &str, settings: &Bound<'_, PyDict>) -> PyResult<Self> {
        let (connection, settings) = connection_of(url, settings)?;
        let mut builder = offloop_cluster::Cluster::builder(connection);
        for (name, value) in settings {
            builder = match &*name {
                "queue" => builder.queue(value.extract::<String>()?),
                "queue_capacity" => builder.capacity(value.extract()?),
                "on_full" => builder.on_full(on_full(&value.extract::<String>()?)?),
                "name" => builder.name(value.extract::<String>()?),
                "cancel_if_lost" => builder.cancel_if_lost(value.extract()?),
                "unreachable_after" => builder.unreachable_after(seconds(&name, value.extract()?)?),
                _ => return Err(no_setting(&name)),
            };
        }
        detach(py, || builder.build())?.map(Self).map_err(|error| refused(&error))
    }

    /// Submits a call. `receiver` learns of its end through `mailbox`, or on the results thread if that is None; a result
    /// is bytes, as they came. With `pickle`, a Python version, the arguments are a pickled call. With a `buffersize` the
    /// receiver learns of items as well, which are bytes, too; if this number of items waits to be read, the job waits.
    /// Returns the job, and its id in the cluster; None if it was not taken.
    #[expect(clippy::too_many_arguments, reason = "each is one of a job's instructions")]
    fn submit(
        &self,
        py: Python<'_>,
        task: String,
        arguments: Vec<u8>,
        pickle: Option<String>,
        receiver: Py<PyAny>,
        mailbox: Option<&Bound<'_, Mailbox>>,
        name: String,
        options: Option<&CallOptions>,
        request: &Bound<'_, PyAny>,
        buffersize: Option<usize>,
    ) -> PyResult<(Job, Option<String>)> {
        let mut work: Prepared<_> = prepare(NamedCall::<Encoded>::encoded(task, arguments)).name(name);
        if let Some(options) = options {
            work = options.apply(work);
        }
        if let Some(request) = request_of(request) {
            work = work.request(request);
        }
        let routing = options.map(|options| options.routing().clone()).unwrap_or_default();
        if buffersize.is_some() && routing.key.is_some() {
            return Err(PyValueError::new_err(
                "key: the items of a stream go to one reader, so it cannot have one",
            ));
        }
        let (handle, items) = detach(py, || {
            let mut submit = self.0.submit(work).exclusive(routing.exclusive);
            if let Some(key) = routing.key {
                submit = submit.key(key);
            }
            if let Some(queue) = routing.queue {
                submit = submit.queue(queue);
            }
            if let Some(version) = pickle {
                submit = submit.pickle(version);
            }
            match buffersize {
                Some(buffersize) => {
                    let (handle, items) = submit.stream(buffersize);
                    (handle, Some(SentItems::of_cluster(items)))
                }
                None => (submit.send(), None),
            }
        })?;
        watched(handle, items, receiver, mailbox)
    }

    /// Returns a job that was submitted before, by its id in the cluster.
    fn attach(
        &self,
        py: Python<'_>,
        id: &str,
        receiver: Py<PyAny>,
        mailbox: Option<&Bound<'_, Mailbox>>,
    ) -> PyResult<Job> {
        let id: Ulid = id.parse().map_err(|error| PyValueError::new_err(format!("{id:?}: {error}")))?;
        let handle = detach(py, || self.0.attach::<Encoded>(id))?;
        Ok(watched(handle, None, receiver, mailbox)?.0)
    }

    /// Returns the names of the workers that are there, with their machines.
    fn workers(&self, py: Python<'_>) -> PyResult<Vec<(String, String)>> {
        let workers =
            try_detach(py, || self.0.workers().map_err(|error| std::io::Error::other(error.to_string())))?;
        Ok(workers.into_iter().map(|worker| (worker.name, worker.host)).collect())
    }

    /// Returns the executor's metrics.
    fn metrics(&self, py: Python<'_>) -> PyResult<Metrics> {
        detach(py, || self.0.metrics().into())
    }

    /// Returns the number of jobs that wait.
    fn queued(&self) -> usize {
        self.0.queued()
    }

    /// Returns the number of jobs that run.
    fn running(&self) -> usize {
        self.0.running()
    }

    /// Cancels the jobs that no worker has. Returns their number.
    fn cancel_queued(&self, py: Python<'_>) -> PyResult<usize> {
        detach(py, || self.0.cancel_queued())
    }

    /// Takes no more jobs. Accepted ones go on. Does not wait for them.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        detach(py, || self.0.close())
    }

    /// Takes no more jobs, waits for accepted ones for `drain` seconds (None: forever), then cancels and kills.
    ///
    /// Returns what became of the jobs: see [`shutdown::Report`].
    fn shutdown(&self, py: Python<'_>, drain: Option<f64>) -> PyResult<shutdown::Report> {
        shutdown::finish(py, drain, |drain| self.0.shutdown(drain))
    }
}

fn on_full(word: &str) -> PyResult<OnFull> {
    match policy(word)? {
        policy @ (OnFull::Wait | OnFull::Reject) => Ok(policy),
        _ => Err(PyValueError::new_err(format!(
            "on_full is {word:?}; on a cluster it must be 'wait' or 'reject'"
        ))),
    }
}

fn watched(
    handle: ClusterHandle<Encoded>,
    items: Option<SentItems>,
    receiver: Py<PyAny>,
    mailbox: Option<&Bound<'_, Mailbox>>,
) -> PyResult<(Job, Option<String>)> {
    let id = handle.remote_id().map(|id| id.to_string());
    let handle = handle.into_handle();
    let job = match mailbox {
        Some(mailbox) => watch(handle, receiver, mailbox.get().completions(), items),
        None => watch(handle, receiver, &results_thread()?, items),
    };
    Ok((job, id))
}

/// A NATS server that belongs to this program and ends with it.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct EmbeddedServer(crate::interpreter::Mutex<Option<offloop_cluster::embedded::Embedded>>);

#[pymethods]
impl EmbeddedServer {
    /// Starts a server, and waits until it is ready. Raises `OSError` if there is no program, or it cannot be started.
    #[new]
    fn new(py: Python<'_>, program: Option<PathBuf>) -> PyResult<Self> {
        let mut builder = offloop_cluster::embedded::Embedded::builder();
        if let Some(program) = program {
            builder = builder.program(program);
        }
        let server =
            detach(py, || builder.start())?.map_err(|error| PyOSError::new_err(error.to_string()))?;
        Ok(Self(crate::interpreter::Mutex::new(Some(server))))
    }

    /// The server's URL, with the password.
    #[getter]
    fn url(&self) -> Option<String> {
        use offloop_cluster::embedded::USER;

        let server = self.0.lock();
        server.as_ref().map(|server| format!("nats://{USER}:{}@{}", server.password(), server.address()))
    }

    /// The server's directory, which only this user may read.
    #[getter]
    fn directory(&self) -> Option<PathBuf> {
        self.0.lock().as_ref().map(|server| server.directory().to_owned())
    }

    /// The server's process id.
    #[getter]
    fn pid(&self) -> Option<u32> {
        self.0.lock().as_ref().map(offloop_cluster::embedded::Embedded::pid)
    }

    /// Ends the server, within some seconds. Does nothing at the second call.
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        let server = self.0.lock().take();
        detach(py, || {
            if let Some(server) = server {
                server.stop(Duration::from_secs(5));
            }
        })
    }
}

/// Makes a secret key. Returns it and its public half, as texts.
#[pyfunction]
pub(crate) fn generate_key() -> (String, String) {
    let key = SigningKey::generate();
    (key.to_secret(), key.public().to_string())
}

/// Returns the public half of a secret key. Raises `ValueError` if it is none.
#[pyfunction]
pub(crate) fn public_key(secret: &str) -> PyResult<String> {
    let key: SigningKey = secret.parse().map_err(|error| PyValueError::new_err(format!("{error}")))?;
    Ok(key.public().to_string())
}
