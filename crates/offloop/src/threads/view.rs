//! What the live view shows of a thread pool.

use std::sync::Arc;

use super::registry::Registry;
use super::scheduler::WorkerRecord;
use crate::base::clock::Moment;
use crate::base::panic::drop_quietly;
use crate::base::sync::atomic::Ordering;
use crate::core::error::ErrorKind;
use crate::core::runnable::AbortIf;
use crate::metrics::view::{JobView, PoolView, WorkerPlace, WorkerView};

impl WorkerRecord {
    fn place(&self) -> WorkerPlace {
        let Some(birth) = self.birth.get() else { return WorkerPlace::default() };
        let thread = u32::try_from(birth.thread).ok().filter(|id| *id != 0);
        WorkerPlace { pid: None, thread, stack: (birth.stack.start, birth.stack.end) }
    }

    fn view(&self) -> WorkerView {
        let state = if self.is_blocked.load(Ordering::Relaxed) { "blocked" } else { "busy" };
        WorkerView { place: self.place(), state, age: self.birth.get().map(|birth| birth.at.elapsed()) }
    }
}

impl Registry {
    /// See [`Measured::view`](crate::metrics::Measured::view).
    pub(super) fn view(&self) -> PoolView {
        let look = |scheduler: &super::scheduler::Scheduler| {
            (scheduler.running(), scheduler.backlog.oldest(), scheduler.max_workers)
        };
        let (metrics, found) = self.measure(look);
        let (running, oldest, max_workers) = found.unwrap_or_default();
        // A job whose function has returned runs no more, although its thread may not have come back for the next one.
        let jobs = running.iter().filter(|(_, job, _)| !job.header().has_returned());
        let view = PoolView {
            metrics,
            capacity: Some(self.config.queue.capacity),
            oldest_queued: oldest.map(Moment::elapsed),
            max_workers,
            workers: running.iter().map(|(worker, ..)| worker.view()).collect(),
            jobs: jobs
                .map(|(worker, job, since)| JobView::new(job.header(), since.elapsed(), worker.place()))
                .collect(),
        };
        drop_quietly(running);
        view
    }

    /// See [`Measured::cancel_running`](crate::metrics::Measured::cancel_running).
    pub(super) fn cancel_running(&self, id: u64) -> bool {
        let Some(running) = self.lock().map(|scheduler| scheduler.running()) else { return false };
        let found = running.iter().find(|(_, job, _)| job.header().id.as_u64() == id);
        let job = found.map(|(_, job, _)| Arc::clone(job));
        drop_quietly(running);
        let is_cancelled = job.as_ref().is_some_and(|job| job.abort(ErrorKind::Cancelled, AbortIf::Live));
        drop_quietly(job);
        is_cancelled
    }
}
