//! The executor on a cluster as Python sees it. Arguments and results pass through as bytes; the package's Python code
//! encodes and opens them.

use std::path::PathBuf;
use std::time::Duration;

use offloop::remote::{Encoded, NamedCall};
use offloop::{OnFull, Prepared, prepare};
use offloop_cluster::security::{SigningKey, Trust};
use offloop_cluster::worker::WorkerBuilder;
use offloop_cluster::{ClusterBuilder, ClusterHandle, Credentials, Ulid};
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
use crate::settings::{policy, seconds};
use crate::shutdown;

/// The answer of a job, for the package's Python code.
impl Receive for Encoded {
    fn receive(self, py: Python<'_>, _: Results) -> PyResult<Py<PyAny>> {
        Ok(PyBytes::new(py, &self.0).into_any().unbind())
    }
}

/// The settings that submitters and workers have alike.
pub(crate) trait Party: Sized {
    fn namespace(self, namespace: String) -> Self;
    fn credentials(self, credentials: Credentials) -> Self;
    fn trust(self, trust: Trust) -> Self;
    fn key(self, key: SigningKey) -> Self;
}

macro_rules! party {
    ($($builder:ty),*) => {
        $(impl Party for $builder {
            fn namespace(self, namespace: String) -> Self {
                <$builder>::namespace(self, namespace)
            }

            fn credentials(self, credentials: Credentials) -> Self {
                <$builder>::credentials(self, credentials)
            }

            fn trust(self, trust: Trust) -> Self {
                <$builder>::trust(self, trust)
            }

            fn key(self, key: SigningKey) -> Self {
                <$builder>::key(self, key)
            }
        })*
    };
}

party!(ClusterBuilder, WorkerBuilder);

/// Gives a builder one of the settings that both kinds have.
pub(crate) fn setting_of<B: Party>(builder: B, name: &str, value: &Bound<'_, PyAny>) -> PyResult<B> {
    Ok(match name {
        "namespace" => builder.namespace(value.extract()?),
        "user" => {
            let (user, password) = value.extract()?;
            builder.credentials(Credentials::User { user, password })
        }
        "token" => builder.credentials(Credentials::Token(value.extract()?)),
        "nkey" => builder.credentials(Credentials::Nkey(value.extract()?)),
        "creds" => builder.credentials(Credentials::Creds(value.extract()?)),
        "key" => {
            let key = value.extract::<String>()?.parse();
            builder.key(key.map_err(|error| PyValueError::new_err(format!("key: {error}")))?)
        }
        "trust" => {
            let (keys, accepts_pickles): (Vec<String>, bool) = value.extract()?;
            let mut trust = Trust::none();
            for key in keys {
                trust = trust.with(&key).map_err(|error| PyValueError::new_err(format!("trust: {error}")))?;
            }
            builder.trust(if accepts_pickles { trust.accept_pickles() } else { trust })
        }
        _ => return Err(PyValueError::new_err(format!("a cluster has no setting {name:?}"))),
    })
}

/// An executor on a cluster.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct Cluster(offloop_cluster::Cluster);

#[pymethods]
impl Cluster {
    /// Opens an executor. The settings have their public names. Does not wait for the server.
    #[new]
    fn new(py: Python<'_>, url: &str, settings: &Bound<'_, PyDict>) -> PyResult<Self> {
        let mut builder = offloop_cluster::Cluster::builder(url);
        for (name, value) in settings {
            let name: String = name.extract()?;
            builder = match &*name {
                "queue" => builder.queue(value.extract::<String>()?),
                "queue_capacity" => builder.capacity(value.extract()?),
                "on_full" => builder.on_full(on_full(&value.extract::<String>()?)?),
                "name" => builder.name(value.extract::<String>()?),
                "cancel_if_lost" => builder.cancel_if_lost(value.extract()?),
                "unreachable_after" => builder.unreachable_after(seconds(&name, value.extract()?)?),
                "root_certificates" => builder.root_certificates(value.extract::<PathBuf>()?),
                "client_certificate" => {
                    let (certificate, key): (PathBuf, PathBuf) = value.extract()?;
                    builder.client_certificate(certificate, key)
                }
                "require_tls" if value.is_truthy()? => builder.require_tls(),
                "require_tls" => builder,
                _ => setting_of(builder, &name, &value)?,
            };
        }
        detach(py, || builder.build())?.map(Self).map_err(|error| refused(&error))
    }

    /// Submits a call. `receiver` learns of its end through `mailbox`, or on the results thread if that is None; a result
    /// is bytes, as they came. With `pickle`, a Python version, the arguments are a pickled call. Returns the job, and its
    /// id in the cluster; None if it was not taken.
    #[expect(clippy::too_many_arguments, reason = "each is one of a job's instructions")]
    #[expect(clippy::needless_pass_by_value, reason = "the arguments are extracted")]
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
        extra: (Option<String>, Option<String>, bool),
        request: &Bound<'_, PyAny>,
    ) -> PyResult<(Job, Option<String>)> {
        let mut work: Prepared<_> = prepare(NamedCall::<Encoded>::encoded(task, arguments)).name(name);
        if let Some(options) = options {
            work = options.apply(work);
        }
        if let Some(request) = request_of(request) {
            work = work.request(request);
        }
        let (key, queue, exclusive) = extra;
        let handle = detach(py, || {
            let mut submit = self.0.submit(work).exclusive(exclusive);
            if let Some(key) = key {
                submit = submit.key(key);
            }
            if let Some(queue) = queue {
                submit = submit.queue(queue);
            }
            if let Some(version) = pickle {
                submit = submit.pickle(version);
            }
            submit.send()
        })?;
        watched(handle, receiver, mailbox)
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
        Ok(watched(handle, receiver, mailbox)?.0)
    }

    /// Returns the names of the workers that are there, with their machines.
    fn workers(&self, py: Python<'_>) -> PyResult<Vec<(String, String)>> {
        let workers =
            try_detach(py, || self.0.workers().map_err(|error| std::io::Error::other(error.to_string())))?;
        Ok(workers.into_iter().map(|worker| (worker.name, worker.host)).collect())
    }

    /// Returns why the cluster cannot be used at this moment; None if it can.
    fn trouble(&self, py: Python<'_>) -> PyResult<Option<String>> {
        detach(py, || self.0.trouble())
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
    receiver: Py<PyAny>,
    mailbox: Option<&Bound<'_, Mailbox>>,
) -> PyResult<(Job, Option<String>)> {
    let id = handle.remote_id().map(|id| id.to_string());
    let handle = handle.into_handle();
    let job = match mailbox {
        Some(mailbox) => watch(handle, receiver, mailbox.get().completions(), None),
        None => watch(handle, receiver, &results_thread()?, None),
    };
    Ok((job, id))
}

/// A NATS server that belongs to this program and ends with it.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct EmbeddedServer(crate::interpreter::Mutex<Option<offloop_cluster::embedded::Embedded>>);

#[pymethods]
impl EmbeddedServer {
    /// Starts a server, and waits until it is ready. Raises OSError if there is no program, or it cannot be started.
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

/// Returns the public half of a secret key. Raises ValueError if it is none.
#[pyfunction]
pub(crate) fn public_key(secret: &str) -> PyResult<String> {
    let key: SigningKey = secret.parse().map_err(|error| PyValueError::new_err(format!("{error}")))?;
    Ok(key.public().to_string())
}
