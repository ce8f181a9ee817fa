//! How a pool ends: it takes no more jobs, drains, cancels, and reports.

use std::sync::Arc;
use std::time::Duration;

use super::registry::Crew;
use super::scheduler::{Roster, Worker};
use crate::base::clock::Moment;
use crate::base::panic::drop_quietly;
use crate::base::sync::{MutexGuard, wait_until};
use crate::core::cell::Runnable;
use crate::core::error::ErrorKind;
use crate::core::job::{JobId, JobState};
use crate::core::shutdown::{Report, Stuck};

impl Crew {
    /// Takes no more jobs from now on. Those accepted are still run, then the threads leave. Says how many
    /// jobs those are.
    pub(super) fn close(&self) -> usize {
        if self.is_forked() {
            return 0;
        }
        let mut roster = self.roster.lock();
        roster.closed = true;
        self.collect(&mut roster);
        let help = self.changed(&mut roster);
        let idle = roster.idle.clone();
        let queued = roster.backlog.total();
        let running = roster.running();
        drop(roster);
        self.give(help);
        for worker in idle {
            worker.unpark();
        }
        let live = running.iter().filter(|(_, job, _)| job.core().state() != JobState::Ended).count();
        drop_quietly(running);
        queued + live
    }

    /// Drains a closed pool of its `pending` jobs, then cancels, then reports. Blocks for `drain` and the
    /// grace period at most.
    pub(super) fn shut_down(&self, pending: usize, drain: Duration) -> Report {
        drop(self.wait_for_threads(self.roster.lock(), drain));
        let (removed, asked) = self.cancel_all();
        let roster = self.wait_for_threads(self.roster.lock(), self.config.grace);
        let stuck = Self::stuck(roster);
        let is_stuck = |id: &&JobId| stuck.iter().any(|stuck| stuck.job == **id);
        let stopped = asked.len() - asked.iter().filter(is_stuck).count();
        Report {
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
        let mut roster = self.roster.lock();
        self.collect(&mut roster);
        let queued = roster.backlog.drain();
        let help = self.changed(&mut roster);
        drop(roster);
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
        let running = self.roster.lock().running();
        let mut asked = Vec::new();
        for (_, job, _) in running {
            if job.fail(ErrorKind::Cancelled, &self.counts) {
                asked.push(job.core().id);
            }
            drop_quietly(job);
        }
        (removed, asked)
    }

    /// The jobs that still run.
    fn stuck(roster: MutexGuard<'_, Roster>) -> Vec<Stuck> {
        let running = roster.running();
        drop(roster);
        let stuck = |(worker, job, since): &(Arc<Worker>, Arc<dyn Runnable>, Moment)| {
            Stuck::new(job.core(), worker.name.clone(), since.elapsed())
        };
        let stuck = running.iter().map(stuck).collect();
        drop_quietly(running);
        stuck
    }

    fn wait_for_threads<'a>(
        &'a self,
        roster: MutexGuard<'a, Roster>,
        limit: Duration,
    ) -> MutexGuard<'a, Roster> {
        wait_until(&self.left, roster, limit, Roster::is_empty)
    }
}
