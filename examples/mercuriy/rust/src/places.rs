//! The places that blocking work can go to: see [`Mode`].

use std::error::Error;
use std::future::Future;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use offloop::{OnFull, ProcessPool, ThreadPool, prepare};
use offloop_cluster::{Cluster, ClusterBuilder};
use tracing::Span;

use crate::failure::Failure;
use crate::logs;
use crate::mode::Mode;
use crate::processes::Processes;
use crate::traces;

/// The most memory that a worker may need for a document, in bytes. A worker that needs more is killed.
const MAX_RSS: u64 = 2 << 30;

/// The documents that may wait for a worker.
const DOCUMENTS_QUEUE: u32 = 64;

/// The queue of the cluster that documents are put in, and the executor's name in the metrics.
const CLUSTER_QUEUE: &str = "mercuriy";

/// The mode, and the places of each mode.
#[derive(Debug)]
pub struct Places {
    mode: AtomicU8,
    documents: ProcessPool,
    files: ThreadPool,
    messages: ThreadPool,
    processes: Processes,
    /// Only if the service was started so: it needs a server, which may not be installed.
    cluster: Option<Cluster>,
}

/// The blocking work that is no document and no function of a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Reads a file, or writes to the audit log.
    File(&'static str),
    /// Uses the file of messages, which has one writer.
    Messages(&'static str),
}

impl Places {
    /// Builds offloop's pools. Those of the other modes are started when they are needed.
    ///
    /// The documents' workers send their traces to the collector at `otlp`. For [`Mode::Cluster`] this blocks until the
    /// cluster of the service's own has started, unless `cluster` is the URL of another one.
    pub fn new(mode: Mode, otlp: Option<String>, cluster: Option<&str>) -> Result<Self, Box<dyn Error>> {
        let cluster = (mode == Mode::Cluster).then(|| open_cluster(cluster)).transpose()?;
        let documents = ProcessPool::builder()
            .name("documents")
            .queue_capacity(DOCUMENTS_QUEUE as usize)
            .on_full(OnFull::Reject)
            .max_rss(MAX_RSS)
            .carry(traces::carried)
            .initializer(&logs::start_in_worker.with(otlp))
            .build()?;
        let threads = |name| ThreadPool::builder().name(name).queue_capacity(1000).on_full(OnFull::Reject);
        Ok(Self {
            mode: AtomicU8::new(mode as u8),
            documents,
            files: threads("files").max_workers(8).build()?,
            messages: threads("messages").max_workers(1).build()?,
            processes: Processes::default(),
            cluster,
        })
    }

    /// Returns the places that work can go to.
    pub fn modes(&self) -> impl Iterator<Item = Mode> {
        Mode::ALL.into_iter().filter(|mode| *mode != Mode::Cluster || self.cluster.is_some())
    }

    /// Returns the place of new work.
    pub fn mode(&self) -> Mode {
        Mode::from_index(self.mode.load(Ordering::Relaxed))
    }

    /// Sets the place of new work, which is one of [`modes`](Self::modes). Returns the one before. Work that has begun ends
    /// where it began.
    pub fn set_mode(&self, mode: Mode) -> Mode {
        Mode::from_index(self.mode.swap(mode as u8, Ordering::Relaxed))
    }

    /// Returns the executor on a cluster, if the service was started with one.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// Returns offloop's processes for documents.
    pub fn documents(&self) -> &ProcessPool {
        &self.documents
    }

    /// Returns procspawn's processes.
    pub fn processes(&self) -> &Processes {
        &self.processes
    }

    /// Does `work`, which blocks, in the place for it.
    pub async fn run<T: Send + 'static>(
        &self,
        task: Task,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        match self.mode() {
            Mode::Loop => Ok(work()),
            // A process cannot be handed an open file or the one writer of the messages.
            Mode::Threads | Mode::Processes => on_blocking_thread(work).await,
            Mode::Offloop | Mode::Cluster => {
                let (pool, name) = match task {
                    Task::File(name) => (&self.files, name),
                    Task::Messages(name) => (&self.messages, name),
                };
                Ok(pool.run(prepare(work).name(name).request(logs::current_request())).await?)
            }
        }
    }

    /// Ends the pools. Work that still runs after `drain` is cancelled.
    pub async fn shut_down(&self, drain: Duration) {
        let documents = self.documents.shutdown(drain);
        let (files, messages) = (self.files.shutdown(drain), self.messages.shutdown(drain));
        let cluster = self.cluster.as_ref().map(|cluster| cluster.shutdown(drain));
        for end in [documents, files, messages].into_iter().chain(cluster) {
            match end.await {
                Ok(report) => tracing::info!(?report, "a pool has ended"),
                Err(error) => tracing::warn!(%error, "a pool was not shut down"),
            }
        }
        self.processes.kill();
    }
}

/// Returns an executor on the cluster at `url`, or on one of this process's own. Blocks while that is started.
fn open_cluster(url: Option<&str>) -> Result<Cluster, offloop_cluster::BuildError> {
    let settings = |cluster: ClusterBuilder| {
        let capacity = u64::from(DOCUMENTS_QUEUE);
        cluster.name(CLUSTER_QUEUE).queue(CLUSTER_QUEUE).capacity(capacity).on_full(OnFull::Reject)
    };
    match url {
        Some(url) => settings(Cluster::builder(url)).build(),
        None => Cluster::embedded().cluster(settings).build(),
    }
}

/// Begins with `work` on one of tokio's threads for blocking calls, within the span of the caller. The work goes on if the
/// future is dropped.
pub fn on_blocking_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T, Failure>> + Send {
    let span = Span::current();
    let work = tokio::task::spawn_blocking(move || span.in_scope(work));
    async { work.await.map_err(|error| Failure::Internal(error.to_string())) }
}

/// Calls a function, which may block, on one of tokio's threads when it is dropped. For the end of work whose caller has
/// gone.
#[must_use = "it acts when it is dropped"]
pub struct CancelOnDrop(Option<Box<dyn FnOnce() + Send>>);

impl CancelOnDrop {
    /// Prepares the call.
    pub fn new(cancel: impl FnOnce() + Send + 'static) -> Self {
        Self(Some(Box::new(cancel)))
    }

    /// Forgets the call: the work has ended.
    pub fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let (Some(cancel), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn_blocking(cancel);
        }
    }
}

impl std::fmt::Debug for CancelOnDrop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CancelOnDrop").finish_non_exhaustive()
    }
}
