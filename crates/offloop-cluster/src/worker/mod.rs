//! Workers: programs that take jobs from the queues of a cluster and run them in a process pool.
//!
//! A worker claims a job before it runs it, renews its hold on it while it runs, and writes its end. It takes jobs over
//! from workers that have been silent for a whole lease. What it decides, the machine [`Delivery`](crate::protocol::Delivery)
//! decides; here is only what carries that out.
//!
//! ```no_run
//! use offloop_cluster::worker::Worker;
//!
//! #[offloop::task(name = "example:square")]
//! fn square(number: u64) -> u64 {
//!     number * number
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     offloop::init();
//!     let worker = Worker::builder("nats://10.0.0.1:4222").queue("default", 1).slots(4).build()?;
//!     let report = worker.serve()?;
//!     assert!(report.left.is_empty());
//!     Ok(())
//! }
//! ```

mod agent;
mod driver;
mod items;
mod metrics;
mod performer;
mod program;
mod slots;
mod spans;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use offloop::{BuildError, ProcessPool};
use tokio::signal::unix::{SignalKind, signal};

use agent::{Agent, Phase};
pub use metrics::WorkerMetrics;
pub use performer::{Offer, Performer, PoolPerformer, Ran, Run, Running, instructions};
pub use program::init;
use spans::Spans;

use crate::Ulid;
use crate::connection::Connection;
use crate::network::{block_on, runtime};
use crate::records::Presence;
use crate::store::{ConnectError, LayoutError, Store};

/// A worker that cannot be made, or cannot serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The way to the cluster cannot be right.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The cluster is none that this build can work with.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The pool could not be made.
    #[error("the worker's process pool cannot be made: {0}")]
    Pool(#[from] BuildError),
    /// The system has refused something.
    #[error("the worker cannot be started: {0}")]
    System(#[from] io::Error),
}

/// The clock of a worker's machine. It is used for one check only: whether a message is a copy of an old one.
pub trait Clock: Send + Sync + 'static {
    /// Returns the time.
    fn now(&self) -> SystemTime;
}

struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// The report of a worker that has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerReport {
    /// The jobs that it could not let go of, because the server did not answer or a process could not be killed. Other
    /// workers take them over.
    pub left: Vec<Ulid>,
}

/// The instructions for a worker.
#[must_use = "a builder does nothing until its worker is built"]
pub struct WorkerBuilder {
    connection: Connection,
    queues: Vec<(String, u32)>,
    capacity: Option<u64>,
    slots: Option<usize>,
    pool: Option<ProcessPool>,
    performer: Option<Box<dyn Performer>>,
    clock: Box<dyn Clock>,
    drain: Duration,
    result_ttl: Duration,
    name: Option<String>,
    version: String,
    labels: Vec<String>,
    spans: Spans,
}

impl WorkerBuilder {
    /// Adds a queue to take jobs from. With several of them, each comes first as often as its weight says. Default: the
    /// queue `default`.
    pub fn queue(mut self, name: impl Into<String>, weight: u32) -> Self {
        self.queues.push((name.into(), weight));
        self
    }

    /// Sets the number of jobs that each band of a queue of this namespace holds. Default: what it holds now, or 100,000.
    pub fn capacity(mut self, jobs: u64) -> Self {
        self.capacity = Some(jobs);
        self
    }

    /// Sets the number of jobs that it runs at a time. Default: the number of cores that this process may use.
    pub fn slots(mut self, slots: usize) -> Self {
        self.slots = Some(slots.max(1));
        self
    }

    /// Sets the pool to run jobs in, whose limits hold for them. It should have a worker for each slot, and give workers
    /// a grace period below [`Settings::margin`](crate::protocol::Settings::margin). Default: a pool with a worker for each slot.
    pub fn pool(mut self, pool: ProcessPool) -> Self {
        self.pool = Some(pool);
        self
    }

    /// Sets what runs the jobs, in place of a pool of this program. For bindings.
    pub fn performer(mut self, performer: impl Performer) -> Self {
        self.performer = Some(Box::new(performer));
        self
    }

    /// Sets the clock. Default: the system's.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Box::new(clock);
        self
    }

    /// Sets how long jobs may go on when the worker is told to end. Default: 30 s.
    pub fn drain(mut self, drain: Duration) -> Self {
        self.drain = drain;
        self
    }

    /// Sets for how long results that are too large for a record are stored. Default: 1 h.
    pub fn result_ttl(mut self, ttl: Duration) -> Self {
        self.result_ttl = ttl;
        self
    }

    /// Sets the worker's name, for those who look at the cluster. Default: the name of the program and its process id.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the version of the program, for those who look at the cluster. Default: none.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// Adds a label, for those who look at the cluster.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.labels.push(label.into());
        self
    }

    /// Sets a hook by which the worker's spans go on with the trace of the job's submitter. For each job the worker makes
    /// spans of `tracing`: `claim`, `run` and `report`, with the target `offloop` and the fields `job`, `task`, `queue`,
    /// `attempt` and `traceparent`. If the job carries something (see [`ClusterBuilder::carry`]), the hook gets each span and
    /// those bytes, on the network's thread, and must not block. With OpenTelemetry it sets the parent of the span.
    ///
    /// In the process that runs the job, [`surround`](offloop::job::surround) is the place for that.
    ///
    /// [`ClusterBuilder::carry`]: crate::ClusterBuilder::carry
    pub fn continue_trace(mut self, hook: impl Fn(&tracing::Span, &[u8]) + Send + Sync + 'static) -> Self {
        self.spans = Spans(Some(Box::new(hook)));
        self
    }

    /// Starts the worker. Does not wait for the server, which may be out of reach.
    ///
    /// # Errors
    ///
    /// The instructions cannot be right, or the system gives no thread or process.
    pub fn build(self) -> Result<Worker, WorkerError> {
        let slots = self.slots.unwrap_or_else(offloop::embed::present_cores);
        let mut queues = self.queues;
        if queues.is_empty() {
            queues.push(("default".to_owned(), 1));
        }
        if let Some((name, _)) = queues.iter().find(|(name, _)| !crate::names::is_name(name)) {
            return Err(ConnectError::Name { what: "the queue", name: name.clone() }.into());
        }
        let performer = match (self.performer, self.pool) {
            (Some(performer), _) => performer,
            (None, Some(pool)) => Box::new(PoolPerformer::new(pool)),
            (None, None) => {
                let pool = ProcessPool::builder().name("cluster").max_workers(slots).build()?;
                Box::new(PoolPerformer::new(pool))
            }
        };
        let presence = Presence {
            worker: Ulid::new(),
            name: self.name.unwrap_or_else(default_name),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            boot: boot_id(),
            pid: std::process::id(),
            build: self.version,
            queues: queues.clone(),
            labels: self.labels,
            slots: u32::try_from(slots).unwrap_or(u32::MAX),
            ..Presence::default()
        };
        let mut connection = self.connection;
        connection.name.clone_from(&presence.name);
        let seals = connection.seals.clone();
        let store = block_on(async move { Store::connect(&connection).await })??;
        let agent = Arc::new(Agent::new(
            store,
            performer,
            self.clock,
            self.result_ttl,
            self.drain,
            queues,
            self.capacity,
            seals,
            presence,
            self.spans,
        ));
        let (done, report) = std::sync::mpsc::sync_channel(1);
        let serving = Arc::clone(&agent).serve();
        runtime()?.spawn(async move {
            // Nobody may wait for it.
            let _ = done.send(serving.await);
        });
        Ok(Worker { handle: WorkerHandle(agent), report })
    }
}

/// A worker that takes jobs and runs them, in the background. When it is dropped, it [stops](WorkerHandle::stop), and the
/// drop waits for that.
pub struct Worker {
    handle: WorkerHandle,
    report: std::sync::mpsc::Receiver<Result<WorkerReport, WorkerError>>,
}

impl Worker {
    /// Returns the instructions for a worker of the cluster at this URL, such as `nats://10.0.0.1:4222`, or by this
    /// [`Connection`].
    pub fn builder(connection: impl Into<Connection>) -> WorkerBuilder {
        WorkerBuilder {
            connection: connection.into(),
            queues: Vec::new(),
            capacity: None,
            slots: None,
            pool: None,
            performer: None,
            clock: Box::new(SystemClock),
            drain: Duration::from_secs(30),
            result_ttl: Duration::from_secs(60 * 60),
            name: None,
            version: String::new(),
            labels: Vec::new(),
            spans: Spans::default(),
        }
    }

    /// Returns what tells the worker to end, from any thread.
    pub fn handle(&self) -> WorkerHandle {
        self.handle.clone()
    }

    /// Waits until the worker has ended, because it was told to or because the cluster is none that it can serve. Blocks
    /// meanwhile. Not for the network's thread.
    ///
    /// # Errors
    ///
    /// The cluster has a newer layout, its server is too old, or it refuses what is needed.
    pub fn wait(self) -> Result<WorkerReport, WorkerError> {
        self.report.recv().unwrap_or_else(|_| Err(io::Error::other("the worker has panicked").into()))
    }

    /// Does the same. SIGTERM and SIGINT tell the worker to end: the first one [drains](WorkerHandle::drain) it, the second
    /// one [stops](WorkerHandle::stop) it.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Self::wait), and that the signals cannot be received.
    pub fn serve(self) -> Result<WorkerReport, WorkerError> {
        let handle = self.handle();
        let runtime = runtime()?;
        let guard = runtime.enter();
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        drop(guard);
        let listens = runtime.spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if *handle.0.phase.borrow() == Phase::Serving { handle.drain() } else { handle.stop() }
            }
        });
        let report = self.wait();
        listens.abort();
        report
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.handle.stop();
        // It has ended already if its report was taken.
        let _ = self.report.recv();
    }
}

/// Tells a worker to end, and what it does.
#[derive(Clone)]
pub struct WorkerHandle(Arc<Agent>);

impl WorkerHandle {
    /// Returns the id of the worker.
    pub fn id(&self) -> Ulid {
        self.0.id()
    }

    /// Tells the worker to take no more jobs, and to end when those that run have ended, or when the time for that has
    /// passed. Does not wait for it.
    pub fn drain(&self) {
        self.0.advance(Phase::Draining);
    }

    /// Tells the worker to end now: jobs that run are killed. Those with a start left are released, so that other workers
    /// start them. Does not wait for it.
    pub fn stop(&self) {
        self.0.advance(Phase::Stopping);
    }

    /// Returns what the worker has done.
    pub fn metrics(&self) -> WorkerMetrics {
        self.0.metrics()
    }
}

fn default_name() -> String {
    let program = std::env::current_exe().ok();
    let program =
        program.as_deref().and_then(std::path::Path::file_name).map(std::ffi::OsStr::to_string_lossy);
    format!("{}-{}", program.as_deref().unwrap_or("worker"), std::process::id())
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

macro_rules! debug_by_id {
    ($($type:ident => $id:expr),*) => {
        $(impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let id: fn(&Self) -> Ulid = $id;
                f.debug_tuple(stringify!($type)).field(&id(self)).finish()
            }
        })*
    };
}

debug_by_id!(Worker => |it| it.handle.id(), WorkerHandle => |it| it.id());

impl std::fmt::Debug for WorkerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerBuilder")
            .field("url", &self.connection.url)
            .field("queues", &self.queues)
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}
