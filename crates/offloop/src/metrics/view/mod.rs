//! What the live view shows of pools beside their metrics: their workers, the jobs that run, the deaths of workers.
//!
//! All of it is gathered when somebody looks.

pub(crate) mod deaths;
pub(crate) mod first_pool;
pub(crate) mod inspector;

use std::sync::Arc;
use std::time::Duration;

use super::values::Metrics;
use crate::core::header::Header;

/// A pool at one moment.
pub(crate) struct PoolView {
    pub(crate) metrics: Metrics,
    /// The number of jobs that its queue can hold. `None` if the queue is not in this process.
    pub(crate) capacity: Option<usize>,
    /// The time for which the oldest job without a worker has been waiting.
    pub(crate) oldest_queued: Option<Duration>,
    /// The number of workers that it may have. Zero if they do not belong to this process.
    pub(crate) max_workers: usize,
    /// Its worker processes, or the threads that have a job.
    pub(crate) workers: Vec<WorkerView>,
    /// The jobs that run.
    pub(crate) jobs: Vec<JobView>,
}

/// The place where a job runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct WorkerPlace {
    /// The process id of a worker process.
    pub(crate) pid: Option<u32>,
    /// The system's id of a thread of this process.
    pub(crate) thread: Option<u32>,
    /// The addresses of that thread's stack. They are empty if they are unknown.
    pub(crate) stack: (usize, usize),
}

/// A worker at one moment.
pub(crate) struct WorkerView {
    pub(crate) place: WorkerPlace,
    /// Its state, as the metrics name it.
    pub(crate) state: &'static str,
    /// The time since it was started.
    pub(crate) age: Option<Duration>,
}

/// A job that runs.
pub(crate) struct JobView {
    pub(crate) id: u64,
    /// The name that it was given, or that of its function.
    pub(crate) name: String,
    pub(crate) request: Option<Arc<str>>,
    pub(crate) running: Duration,
    /// The time until its run timeout.
    pub(crate) time_left: Option<Duration>,
    pub(crate) place: WorkerPlace,
    pub(crate) is_cancelled: bool,
}

impl JobView {
    /// Describes a job that has been running for this time.
    pub(crate) fn new(header: &Header, running: Duration, place: WorkerPlace) -> Self {
        Self {
            id: header.id.as_u64(),
            name: header.options.name.clone().into_owned(),
            request: header.options.extras().request.clone(),
            running,
            time_left: header.options.extras().run_timeout.map(|limit| limit.saturating_sub(running)),
            place,
            is_cancelled: header.is_cancelled(),
        }
    }
}
