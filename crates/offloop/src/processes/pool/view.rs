//! What the live view shows of a process pool.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::death::Death;
use super::dispatcher::Dispatcher;
use super::scheduler::Scheduler;
use super::worker::{WorkerRecord, WorkerState};
use crate::base::clock::Moment;
use crate::base::panic::drop_quietly;
use crate::core::error::{ErrorKind, WorkerDied};
use crate::core::header::Header;
use crate::core::runnable::AbortIf;
use crate::metrics::view::deaths::{self, DeathRecord};
use crate::metrics::view::{JobView, PoolView, WorkerPlace, WorkerView};

impl WorkerState {
    /// Returns the state as the metrics name it.
    fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Leaving => "leaving",
        }
    }
}

impl WorkerRecord {
    fn place(&self) -> WorkerPlace {
        WorkerPlace { pid: Some(self.pid), ..WorkerPlace::default() }
    }
}

impl Dispatcher {
    /// See [`Measured::view`](crate::metrics::Measured::view).
    pub(super) fn view(&self) -> PoolView {
        let now = Instant::now();
        let look = |scheduler: &Scheduler| {
            let workers: Vec<WorkerView> = (scheduler.workers.iter())
                .map(|worker| WorkerView {
                    place: worker.place(),
                    state: worker.state().as_str(),
                    age: Some(now.saturating_duration_since(worker.started)),
                })
                .collect();
            let jobs: Vec<JobView> = (scheduler.workers.iter())
                .filter_map(|worker| {
                    let (job, since) = worker.running()?;
                    let running = now.saturating_duration_since(since);
                    let view = JobView::new(job.header(), running, worker.place());
                    Some(JobView { time_left: worker.time_left(now), ..view })
                })
                .collect();
            let later = scheduler.later.iter().map(|(_, job)| job.header().submitted).min();
            let oldest = scheduler.backlog.oldest().into_iter().chain(later).min();
            (workers, jobs, oldest, scheduler.grow_to.unwrap_or(scheduler.target))
        };
        let (metrics, found) = self.measure(look);
        let (workers, jobs, oldest, max_workers) = found.unwrap_or_default();
        PoolView {
            metrics,
            capacity: Some(self.config.queue.capacity),
            oldest_queued: oldest.map(Moment::elapsed),
            max_workers,
            workers,
            jobs,
        }
    }

    /// See [`Measured::cancel_running`](crate::metrics::Measured::cancel_running).
    pub(super) fn cancel_running(&self, id: u64) -> bool {
        let job = self.lock().and_then(|scheduler| {
            let running = scheduler.workers.iter().filter_map(WorkerRecord::running);
            let mut running = running.map(|(job, _)| job);
            running.find(|job| job.header().id.as_u64() == id).map(Arc::clone)
        });
        let is_cancelled = job.as_ref().is_some_and(|job| job.abort(ErrorKind::Cancelled, AbortIf::Live));
        drop_quietly(job);
        is_cancelled
    }
}

impl Death {
    /// Remembers the death for the live view, unless the worker was told to leave. `error` describes it without what is
    /// particular to the job. `job` is what it ran.
    pub(super) fn remember(&self, pool: &str, error: &WorkerDied, job: Option<&Header>) {
        if !self.is_crash() {
            return;
        }
        let memory = match error.max_rss {
            Some(limit) => format!(", out of memory: it used more than its max_rss of {} MiB", limit >> 20),
            None if error.out_of_memory => ", out of memory".to_owned(),
            None => String::new(),
        };
        deaths::record(DeathRecord {
            time: SystemTime::now(),
            pool: pool.to_owned(),
            pid: self.pid,
            how: format!("{}{memory}", error.exit),
            job: job.map(|header| (header.id.as_u64(), header.options.name.clone().into_owned())),
            peak_memory: error.peak_memory,
            last_words: error.stderr.clone(),
        });
    }
}
