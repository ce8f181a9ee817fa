//! A cluster of this program's own: a server and workers that end with it.

use std::fmt;
use std::mem::ManuallyDrop;

use super::{BuildError, Cluster, ClusterBuilder};
use crate::connection::{Connection, Credentials};
use crate::embedded::{Embedded, EmbeddedBuilder, USER};
use crate::worker::{Worker, WorkerBuilder};

type Adjust = Box<dyn Fn(WorkerBuilder) -> WorkerBuilder>;

/// The settings of a cluster of this program's own, made by [`Cluster::embedded`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct EmbeddedClusterBuilder {
    server: EmbeddedBuilder,
    connection: Connection,
    cluster: ClusterBuilder,
    workers: usize,
    slots: Option<usize>,
    worker: Adjust,
}

/// The parts of an embedded cluster, in the order in which they end.
pub(super) struct Parts(Option<(Vec<Worker>, Embedded)>);

impl EmbeddedClusterBuilder {
    pub(super) fn new() -> Self {
        Self {
            server: Embedded::builder(),
            connection: Connection::to(""),
            cluster: Cluster::builder(""),
            workers: 1,
            slots: None,
            worker: Box::new(|worker| worker),
        }
    }

    /// Sets the number of workers. Default: 1.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers.max(1);
        self
    }

    /// Sets the number of jobs that each worker runs at a time. Default: the number of cores, divided among the workers.
    pub fn slots(mut self, slots: usize) -> Self {
        self.slots = Some(slots.max(1));
        self
    }

    /// Changes the settings of the server.
    pub fn server(mut self, change: impl FnOnce(EmbeddedBuilder) -> EmbeddedBuilder) -> Self {
        self.server = change(self.server);
        self
    }

    /// Changes the settings that the executor and the workers have alike, such as the namespace. The URL and the
    /// credentials are those of the server.
    pub fn connection(mut self, change: impl FnOnce(Connection) -> Connection) -> Self {
        self.connection = change(self.connection);
        self
    }

    /// Changes the settings of the executor, such as its queue.
    pub fn cluster(mut self, change: impl FnOnce(ClusterBuilder) -> ClusterBuilder) -> Self {
        self.cluster = change(self.cluster);
        self
    }

    /// Changes the settings of each worker, such as its pool.
    pub fn worker(mut self, change: impl Fn(WorkerBuilder) -> WorkerBuilder + 'static) -> Self {
        self.worker = Box::new(change);
        self
    }

    /// Starts the server, the workers and the executor. Blocks until the server is ready, which takes some milliseconds.
    ///
    /// The workers live in this process, and their jobs run in processes of their own. All of it ends when the last clone of
    /// the executor has been dropped and the jobs that were accepted have ended, or with this program.
    ///
    /// # Errors
    ///
    /// There is no NATS server that can be run, or the system refuses something.
    pub fn build(self) -> Result<Cluster, BuildError> {
        let Self { server, mut connection, mut cluster, workers, slots, worker } = self;
        let server = server.start()?;
        connection.url = format!("nats://{}", server.address());
        let (user, password) = (USER.to_owned(), server.password().to_owned());
        connection.credentials = Credentials::User { user, password };
        connection.storage = connection.storage.or(Some(server.storage()));
        cluster.connection = connection.clone();
        let slots = slots.unwrap_or_else(|| (offloop::embed::present_cores() / workers).max(1));
        let build = |number: usize| {
            let builder = Worker::builder(connection.clone())
                .queue(&cluster.queue, 1)
                .slots(slots)
                .name(format!("embedded-{number}"));
            worker(builder).build()
        };
        let workers = (1..=workers).map(build).collect::<Result<_, _>>()?;
        cluster.build_with(Parts(Some((workers, server))))
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        if let Some(parts) = self.0.take() {
            // It is dropped on the network's thread, which the workers need in order to end. If the system gives no thread,
            // all of it ends with the process.
            let parts = ManuallyDrop::new(parts);
            let end = move || drop(ManuallyDrop::into_inner(parts));
            let _ = offloop::embed::start_thread("offloop-ending", end);
        }
    }
}

impl fmt::Debug for EmbeddedClusterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, connection, cluster, workers, slots, .. } = self;
        f.debug_struct("EmbeddedClusterBuilder")
            .field("server", server)
            .field("connection", connection)
            .field("cluster", cluster)
            .field("workers", workers)
            .field("slots", slots)
            .finish_non_exhaustive()
    }
}
