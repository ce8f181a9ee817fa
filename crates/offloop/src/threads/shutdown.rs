//! How a pool ends: it takes no more jobs, drains, cancels, and reports.

use std::sync::Arc;
use std::time::Duration;

use super::registry::Registry;
use super::scheduler::{Scheduler, Worker};
use crate::base::clock::Moment;
use crate::base::panic::drop_quietly;
use crate::base::sync::{MutexGuard, wait_until};
use crate::core::error::ErrorKind;
use crate::core::id::{JobId, JobState};
use crate::core::runnable::Runnable;
use crate::core::shutdown::{ShutdownReport, StuckJob};

impl Registry {
    /// Takes no more jobs from now on. Those accepted are still run, then the threads leave. Says how many
    /// jobs those are.
    pub(super) fn close(&self) -> usize {
        if self.is_forked() {
            return 0;
        }
        let mut scheduler = self.scheduler.lock();
        scheduler.closed = true;
        self.collect(&mut scheduler);
        let help = self.changed(&mut scheduler);
        let idle = scheduler.idle.clone();
        let queued = scheduler.backlog.total();
        let running = scheduler.running();
        drop(scheduler);
        self.give(help);
        for worker in idle {
            worker.unpark();
        }
        let live = running.iter().filter(|(_, job, _)| job.header().state() != JobState::Ended).count();
        drop_quietly(running);
        queued + live
    }

    /// Drains a closed pool of its `pending` jobs, then cancels, then reports. Blocks for `drain` and the
    /// grace period at most.
    pub(super) fn shut_down(&self, pending: usize, drain: Duration) -> ShutdownReport {
        drop(self.wait_for_threads(self.scheduler.lock(), drain));
        let (removed, asked) = self.cancel_all();
        let scheduler = self.wait_for_threads(self.scheduler.lock(), self.config.grace);
        let stuck = Self::stuck(scheduler);
        let is_stuck = |id: &&JobId| stuck.iter().any(|stuck| stuck.job == **id);
        let stopped = asked.len() - asked.iter().filter(is_stuck).count();
        ShutdownReport {
            drained: pending.saturating_sub(removed + asked.len()),
            cancelled: removed + stopped,
            killed: 0,
            stuck,
        }
    }

    /// Ends the queued jobs. Says how many those were.
    pub(super) fn cancel_queued(&self) -> usize {
        if self.is_forked() {
            return 0;
        }
        let mut scheduler = self.scheduler.lock();
        self.collect(&mut scheduler);
        let queued = scheduler.backlog.drain();
        let help = self.changed(&mut scheduler);
        drop(scheduler);
        self.give(help);
        let removed = queued.len();
        for job in queued {
            job.fail(ErrorKind::Cancelled, &self.counts);
            drop_quietly(job);
        }
        removed
    }

    /// Ends all jobs. Says how many were removed from the queue, and which running ones were asked to stop.
    fn cancel_all(&self) -> (usize, Vec<JobId>) {
        let removed = self.cancel_queued();
        let running = self.scheduler.lock().running();
        let mut asked = Vec::new();
        for (_, job, _) in running {
            if job.fail(ErrorKind::Cancelled, &self.counts) {
                asked.push(job.header().id);
            }
            drop_quietly(job);
        }
        (removed, asked)
    }

    /// The jobs that still run.
    fn stuck(scheduler: MutexGuard<'_, Scheduler>) -> Vec<StuckJob> {
        let running = scheduler.running();
        drop(scheduler);
        let stuck = |(worker, job, since): &(Arc<Worker>, Arc<dyn Runnable>, Moment)| {
            StuckJob::new(job.header(), worker.name.clone(), since.elapsed())
        };
        let stuck = running.iter().map(stuck).collect();
        drop_quietly(running);
        stuck
    }

    fn wait_for_threads<'a>(
        &'a self,
        scheduler: MutexGuard<'a, Scheduler>,
        limit: Duration,
    ) -> MutexGuard<'a, Scheduler> {
        wait_until(&self.left, scheduler, limit, Scheduler::is_empty)
    }
}
