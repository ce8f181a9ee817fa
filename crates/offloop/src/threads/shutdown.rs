//! How a pool ends: it accepts no more jobs, drains, cancels, and reports.

use std::sync::Arc;
use std::time::Duration;

use super::registry::Registry;
use super::scheduler::{Scheduler, WorkerRecord};
use crate::base::clock::Moment;
use crate::base::panic::drop_quietly;
use crate::base::sync::{MutexGuard, wait_until};
use crate::core::error::ErrorKind;
use crate::core::id::{JobId, JobState};
use crate::core::pool_ref::Close;
use crate::core::runnable::Runnable;
use crate::core::shutdown::{ShutdownReport, StuckJob};

impl Close for Registry {
    fn close(&self) {
        Registry::close(self);
    }
}

impl Registry {
    /// Accepts no more jobs from now on. Accepted ones are still run, then the threads leave.
    ///
    /// Returns the number of accepted jobs that have not ended, or `None` in a forked child.
    pub(super) fn close(&self) -> Option<usize> {
        let mut scheduler = self.lock()?;
        scheduler.closed = true;
        self.collect(&mut scheduler);
        let wakeup = self.restore_rule(&mut scheduler);
        let idle = scheduler.idle.clone();
        let queued = scheduler.backlog.total();
        let running = scheduler.running();
        drop(scheduler);
        self.wake(wakeup);
        for worker in idle {
            worker.unpark();
        }
        let live = running.iter().filter(|(_, job, _)| job.header().state() != JobState::Ended).count();
        drop_quietly(running);
        Some(queued + live)
    }

    /// Drains a closed pool of its `pending` jobs, then cancels, then reports. Blocks for `drain` and the grace period
    /// at most.
    pub(super) fn shut_down(&self, pending: usize, drain: Duration) -> ShutdownReport {
        drop(self.wait_for_threads(drain));
        let (removed, asked) = self.cancel_all();
        let stuck = Self::stuck(self.wait_for_threads(self.config.grace));
        let is_stuck = |id: &&JobId| stuck.iter().any(|stuck| stuck.job == **id);
        let stopped = asked.len() - asked.iter().filter(is_stuck).count();
        ShutdownReport {
            drained: pending.saturating_sub(removed + asked.len()),
            cancelled: removed + stopped,
            killed: 0,
            stuck,
        }
    }

    /// Ends the queued jobs. Returns their number.
    pub(super) fn cancel_queued(&self) -> usize {
        let Some(mut scheduler) = self.lock() else { return 0 };
        self.collect(&mut scheduler);
        let queued = scheduler.backlog.drain();
        self.release(scheduler);
        let removed = queued.len();
        for job in queued {
            job.fail(ErrorKind::Cancelled, &self.counts);
            drop_quietly(job);
        }
        removed
    }

    /// Ends all jobs. Returns the number of those that were removed from the queue, and the running ones that were
    /// asked to stop.
    fn cancel_all(&self) -> (usize, Vec<JobId>) {
        let removed = self.cancel_queued();
        let running = self.lock_here().running();
        let mut asked = Vec::new();
        for (_, job, _) in running {
            if job.fail(ErrorKind::Cancelled, &self.counts) {
                asked.push(job.header().id);
            }
            drop_quietly(job);
        }
        (removed, asked)
    }

    /// Returns the jobs that still run. A job whose function has returned does not, although its thread may not have
    /// come back for the next one yet.
    fn stuck(scheduler: MutexGuard<'_, Scheduler>) -> Vec<StuckJob> {
        let running = scheduler.running();
        drop(scheduler);
        let stuck = |(worker, job, since): &(Arc<WorkerRecord>, Arc<dyn Runnable>, Moment)| {
            StuckJob::new(job.header(), worker.name.clone(), since.elapsed())
        };
        let stuck = running.iter().filter(|(_, job, _)| !job.header().has_returned()).map(stuck).collect();
        drop_quietly(running);
        stuck
    }

    /// Waits until all threads have left, for at most `limit`.
    fn wait_for_threads(&self, limit: Duration) -> MutexGuard<'_, Scheduler> {
        wait_until(&self.worker_left, self.lock_here(), limit, Scheduler::is_empty)
    }
}
