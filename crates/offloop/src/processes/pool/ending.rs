//! How workers end: they are asked or killed, collected, and what is left of their groups is ended. What a death means
//! for the worker's jobs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::child::{Child, Ending, ExitRequest, ReapedBy, Remnant};
use super::config::OnCrash;
use super::death::Death;
use super::remote::{Outbound, RemoteCall};
use super::supervisor::Supervisor;
use super::worker::{Contact, LeaveReason, WorkerPhase, WorkerRecord};
use crate::base::panic;
use crate::core::error::{ErrorKind, WorkerDied};
use crate::processes::os::process::{End, Process, ProcessEnd};

/// The time that a worker may take to be dead when it has been killed. The system needs it to free what the worker had.
/// One that lives on is given up: the system refuses to signal it, or it hangs in a system call.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest grace period for what is left of a worker's group. A longer one means as good as forever.
const LONGEST_GRACE: Duration = Duration::from_secs(1 << 32);

/// A job whose workers die this many times before they begin with it is considered the cause.
const MAX_LOSSES: u32 = 16;

impl Supervisor {
    /// Asks the workers that are to leave to exit.
    pub(super) fn begin_exits(&mut self) {
        let (leaving, stopped): (Vec<(u32, ExitRequest)>, _) = self.dispatcher.look(|scheduler, _| {
            let request = |worker: &WorkerRecord| Some((worker.pid, ExitRequest::of(worker)?));
            (scheduler.workers.iter().filter_map(request).collect(), scheduler.stopped)
        });
        if stopped == Some(End::Kill) {
            // Those that were asked before have no more time.
            for number in self.numbers_of(|child| child.ending == Ending::Asked) {
                self.end(number, End::Kill);
            }
        }
        for (pid, request) in leaving {
            let is_due = |child: &Child| match child.ending {
                Ending::NotBegun => true,
                Ending::Asked => matches!(request, ExitRequest::Kill),
                Ending::Killed => false,
            };
            let is_it = |child: &Child| child.process.pid() == pid && is_due(child);
            let found = self.children.iter_mut().find(|(_, child)| is_it(child));
            let Some((number, child)) = found.map(|(number, child)| (*number, child)) else { continue };
            match request {
                ExitRequest::CloseLink => {
                    child.link.close();
                    child.spares_group = true;
                    child.ending = Ending::Asked;
                    child.deadline = Instant::now().checked_add(self.dispatcher.config.grace);
                }
                ExitRequest::Terminate => self.end(number, End::Ask),
                ExitRequest::Kill => self.end(number, End::Kill),
            }
        }
    }

    /// Asks a worker to end, or kills it. If the system refuses the signal, the worker's parent sends it, where that is
    /// the template. If nobody can ask the worker, and in any case when it is to be killed, its lifeline is cut.
    pub(super) fn end(&mut self, number: u64, how: End) {
        let config = &self.dispatcher.config;
        let Some(child) = self.children.get_mut(&number) else { return };
        let whole_group = config.kill_children && !child.spares_group;
        let mut is_asked = how == End::Ask;
        if let Err(error) = child.process.end(how, whole_group) {
            child.refusal = Some(error);
            let is_of_template = child.reaped_by == ReapedBy::Template;
            is_asked &= is_of_template && self.forks.end_worker(child.process.pid(), how, whole_group);
            if !is_asked {
                child.lifeline.cut();
            }
        }
        child.ending = if is_asked { Ending::Asked } else { Ending::Killed };
        child.deadline = Instant::now().checked_add(if is_asked { config.grace } else { KILL_TIMEOUT });
    }

    /// Removes a worker that has ended, in the way that `end` says if the template has reported it, and clears up after
    /// it.
    pub(super) fn reap(&mut self, number: u64, end: Option<ProcessEnd>) {
        let Some(child) = self.take_child(number) else { return };
        self.ready.remove(child.process.pidfd());
        let end = end.unwrap_or_else(|| match child.reaped_by {
            ReapedBy::Supervisor => child.process.status(),
            ReapedBy::Template | ReapedBy::TemplateLate => ProcessEnd::UNKNOWN,
        });
        let has_left = self.settle(&child, end);
        self.clear_up(child, !has_left);
    }

    /// Gives up a worker that was killed and lives on. Another one takes its place.
    pub(super) fn lose(&mut self, number: u64) {
        let Some(child) = self.take_child(number) else { return };
        let pid = child.process.pid();
        let reason = match &child.refusal {
            Some(error) => format!("process {pid}, which could not be killed: {error}"),
            None => format!("process {pid}, which was killed and has not ended"),
        };
        self.dispatcher.look(|scheduler, _| scheduler.note_lost(pid, &reason));
        self.settle(&child, ProcessEnd::LOST);
        self.lost.insert(number, child);
    }

    /// Removes a worker's process from those of the pool. Only its end is still watched.
    fn take_child(&mut self, number: u64) -> Option<Child> {
        let child = self.children.remove(&number)?;
        if child.link_is_open {
            self.ready.remove(child.link.socket());
        }
        Some(child)
    }

    /// Collects a worker that has ended. If it has `failed`, it ends what is left of its group, after the grace period
    /// if the group was not killed already.
    fn clear_up(&mut self, child: Child, failed: bool) {
        let Child { mut process, reaped_by, ending, pipes, .. } = child;
        let config = &self.dispatcher.config;
        if !failed || !config.kill_children {
            return self.collect(&mut process, reaped_by);
        }
        let may_live = match ending {
            Ending::NotBegun => self.end_group(&process, reaped_by, End::Ask),
            Ending::Asked => process.may_lead_group(),
            Ending::Killed => {
                self.end_group(&process, reaped_by, End::Kill);
                false
            }
        };
        // If other code has collected it, as the system does where SIGCHLD is ignored, its id is kept no longer.
        let is_collected = !may_live || process.group_outlasts_it() || !process.has_its_id();
        if is_collected {
            self.collect(&mut process, reaped_by);
        }
        let deadline = Instant::now() + config.grace.min(LONGEST_GRACE);
        let remnant = Remnant { process, reaped_by, is_collected, deadline, _pipes: pipes };
        if may_live && remnant.may_live() {
            self.remnants.push(remnant);
        }
    }

    /// Asks what is left of the group of a worker to end, or kills it. If the system refuses the signal, the worker's
    /// parent sends it, where that is the template. Returns whether something may have got the signal.
    fn end_group(&self, process: &Process, reaped_by: ReapedBy, how: End) -> bool {
        process.end_group(how).unwrap_or_else(|_| {
            reaped_by != ReapedBy::Supervisor && self.forks.end_worker(process.pid(), how, true)
        })
    }

    /// Ends what is left of the group of a worker that has ended.
    fn kill_remnant(&self, remnant: Remnant) {
        let Remnant { mut process, reaped_by, is_collected, .. } = remnant;
        self.end_group(&process, reaped_by, End::Kill);
        if !is_collected {
            self.collect(&mut process, reaped_by);
        }
    }

    /// Collects a worker that has ended, or lets the template do that.
    fn collect(&self, process: &mut Process, reaped_by: ReapedBy) {
        match reaped_by {
            ReapedBy::Supervisor => drop(process.collect()),
            ReapedBy::Template | ReapedBy::TemplateLate => {
                self.forks.collect(process.pid());
                process.may_be_collected();
            }
        }
    }

    /// Removes the record of a worker that has ended, or was given up. Its death becomes the error of the job that it
    /// ran. Returns whether it has left by itself.
    fn settle(&mut self, child: &Child, end: ProcessEnd) -> bool {
        let pid = child.process.pid();
        let Some(mut worker) = self.dispatcher.look(|scheduler, after| {
            let at = scheduler.find(pid)?;
            // Answers that it gave before it died count, and so does an item that waits for room.
            scheduler.workers.edit(at).contact = Contact::Gone;
            scheduler.harvest(at, after);
            Some(scheduler.workers.swap_remove(at))
        }) else {
            return false;
        };
        let at_end = std::mem::take(&mut worker.at_end);
        let since = worker.running().map(|(_, since)| since);
        let (phase, begun, untouched) = worker.into_unfinished();
        let death = Death { pid, phase, end };
        let mut suspects = Vec::new();
        self.dispatcher.look(|scheduler, after| {
            // The times of an aborted job were recorded when it was aborted.
            if death.phase != WorkerPhase::Leaving(LeaveReason::JobAborted) {
                for ((job, _), since) in begun.iter().zip(since) {
                    scheduler.record_unanswered(job.header(), since);
                }
            }
            death.count(&mut scheduler.restarts);
            scheduler.note_exit(pid, death.end.exit);
            for (job, call) in untouched {
                if job.header().count_loss() < MAX_LOSSES {
                    scheduler.requeue(job, call, after);
                } else {
                    suspects.push((job, call));
                }
            }
            scheduler.assign(after);
        });
        let stderr = self.output.finish(&child.pipes);
        let config = &self.dispatcher.config;
        let start_failure = death.start_failure(&stderr);
        let error = death.error(stderr, config.max_rss, &mut self.out_of_memory_kills);
        #[cfg(feature = "observe")]
        death.remember(&config.name, &error, begun.first().map(|(job, _)| job.header()));
        if death.is_crash() && config.on_crash == OnCrash::Break {
            let culprit = begun.first().map(|(job, _)| job.header());
            self.dispatcher.break_with(&death.describe(culprit));
        }
        for (job, call) in begun.into_iter().chain(suspects) {
            self.worker_died(job, call, error.clone());
        }
        if let Some(reason) = start_failure {
            self.start_failed(&reason);
        }
        at_end.into_iter().for_each(panic::wake_quietly);
        death.phase == WorkerPhase::Leaving(LeaveReason::Idle)
    }

    /// Ends a job whose worker has died, or schedules another attempt.
    fn worker_died(&self, job: Arc<dyn RemoteCall>, call: Outbound, mut error: WorkerDied) {
        let header = job.header();
        error.workers_lost = header.count_death();
        let is_over = self.dispatcher.config.on_crash == OnCrash::Break
            || self.dispatcher.look(|scheduler, _| scheduler.stopped.is_some());
        let retry = header.options.extras().retry.filter(|_| !is_over);
        let pause = retry.and_then(|retry| retry.pause_after(error.workers_lost));
        if let Some(due) = pause.and_then(|pause| Instant::now().checked_add(pause)) {
            self.dispatcher.look(|scheduler, _| {
                if job.take_back(call) {
                    scheduler.retried += 1;
                    scheduler.later.push((due, job));
                }
            });
        } else {
            error.task = header.options.name.clone().into_owned();
            job.fail(ErrorKind::WorkerDied(error), &*self.dispatcher.counts);
        }
    }

    /// Collects a worker that was given up and has ended after all.
    pub(super) fn collect_lost(&mut self, number: u64) {
        let Some(child) = self.lost.remove(&number) else { return };
        self.ready.remove(child.process.pidfd());
        self.dispatcher.look(|scheduler, _| scheduler.forget_lost(child.process.pid()));
        self.clear_up(child, true);
    }

    /// Kills what is left of the groups of ended workers, where the grace period is over.
    pub(super) fn kill_remnants(&mut self, now: Instant) {
        for remnant in std::mem::take(&mut self.remnants) {
            if now < remnant.deadline && remnant.may_live() {
                self.remnants.push(remnant);
            } else {
                self.kill_remnant(remnant);
            }
        }
    }
}
