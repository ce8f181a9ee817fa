//! The lock of a process pool, and what is done after it is released.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::config::Config;
use super::items::ItemSource;
use super::remote::RemoteCall;
use super::results;
use super::scheduler::{Deferred, Scheduler, Sleep};
use crate::base::fork::OwnProcess;
use crate::base::line::Line;
use crate::base::panic;
use crate::base::sync::{Condvar, Mutex, MutexGuard, wait_until};
use crate::core::error::{ErrorKind, WorkerExit};
use crate::core::header::Header;
use crate::core::id::{JobId, JobState};
use crate::core::outcome::Outcome;
use crate::core::pool_ref::Close;
use crate::core::runnable::{AbortIf, Owner};
use crate::core::shutdown::ShutdownReport;
use crate::core::spin::{self, SpinOutcome};
use crate::metrics::stats::{OutcomeCounters, Timing};
#[cfg(feature = "observe")]
use crate::metrics::view::PoolView;
use crate::metrics::{Activity, Advisor, Measured, Metrics, PoolKind};
use crate::processes::link::{Link, state};
use crate::processes::os::fd::EventFd;
use crate::processes::os::process::End;

/// The engine of a process pool, which submitters, waiting callers and the supervisor share.
///
/// Its lock is held for moments only. No foreign code runs under it. Two system calls are made under it, seldom: one empties
/// the pipes of a captured job, and one wakes a caller that sleeps for a call which is withdrawn.
pub(super) struct Dispatcher {
    /// Never changes.
    pub(super) config: Config,
    /// The pool's state. A forked child has no access: the workers are its parent's, and another thread may have held the
    /// lock at the fork.
    scheduler: OwnProcess<Line<Mutex<Scheduler>>>,
    /// Wakes the supervisor. Signalled by any thread, drained by the supervisor.
    pub(super) event: EventFd,
    /// Wakes the listener, which takes answers besides the supervisor. Signalled by the workers, drained by the
    /// listener.
    pub(super) listener: EventFd,
    /// The pool has a listener. Set by the first call of `listen`, never cleared.
    has_listener: AtomicBool,
    /// Signalled when the supervisor has ended.
    changed: Condvar,
    /// Counts the ends of jobs, by outcome. Written by the thread that ends a job.
    pub(super) counts: Arc<OutcomeCounters>,
    /// Learns from the answers which tasks only wait.
    advisor: Advisor,
    /// This pool, as the jobs that it has accepted know it.
    owner: Weak<dyn Owner>,
}

impl Dispatcher {
    pub(super) fn new(config: Config) -> io::Result<Arc<Self>> {
        let (event, listener) = (EventFd::new()?, EventFd::new()?);
        Ok(Arc::new_cyclic(|this: &Weak<Self>| Self {
            scheduler: OwnProcess::new(Line(Mutex::new(Scheduler::new(&config)))),
            counts: Arc::default(),
            advisor: Advisor::new(&config.name, Some(Activity::Computes), false, config.on_advice.clone()),
            config,
            event,
            listener,
            has_listener: AtomicBool::new(false),
            changed: Condvar::new(),
            owner: this.clone(),
        }))
    }

    /// Locks the state. Returns `None` in a forked child, whose parent has the workers and the supervisor.
    pub(super) fn lock(&self) -> Option<MutexGuard<'_, Scheduler>> {
        self.scheduler.get().map(|scheduler| scheduler.lock())
    }

    /// Locks the state on a thread that exists only in the process that built the pool.
    fn lock_here(&self) -> MutexGuard<'_, Scheduler> {
        self.lock().expect("this thread exists only in the process that built the pool")
    }

    /// Changes the state under the lock, then releases the lock and does what follows. Returns `None` in a forked
    /// child.
    fn change<R>(&self, change: impl FnOnce(&mut Scheduler, &mut Deferred) -> R) -> Option<R> {
        let mut after = Deferred::default();
        let result = change(&mut *self.lock()?, &mut after);
        self.run_deferred(after);
        Some(result)
    }

    fn run_deferred(&self, after: Deferred) {
        after.wake.iter().for_each(|link| link.wake());
        if after.notify {
            self.event.notify();
        }
        after.admitted.iter().for_each(|job| job.admit());
        after.with_items.iter().for_each(|items| items.wake());
        for finished in after.finished {
            let Timing { began, took, usage } = finished.answer.ran;
            let header = finished.job.header();
            header.span.record_times(began.since(header.submitted), took);
            if let Some(usage) = usage {
                self.advisor.record(header, took, usage);
            }
            results::finish(finished, &self.counts, self.config.decodes_here);
        }
        drop(after.ended);
    }

    /// Accepts a job, or returns the reason why not.
    pub(super) fn execute(&self, job: Arc<dyn RemoteCall>) -> Result<(), ErrorKind> {
        self.accept(job).inspect_err(|kind| self.counts.count(Outcome::of(kind)))
    }

    fn accept(&self, job: Arc<dyn RemoteCall>) -> Result<(), ErrorKind> {
        let accepted = self.change(|scheduler, after| scheduler.accept(job, &self.owner, after));
        let offer = accepted.unwrap_or(Err(ErrorKind::Forked))?;
        offer.settle(&*self.counts).map_err(|(_, kind)| kind)
    }

    /// Accepts no more jobs. Those accepted are still run, then the workers leave. Returns the number of those jobs.
    pub(super) fn close(&self) -> usize {
        self.change(Scheduler::close).unwrap_or(0)
    }

    /// Breaks the pool: ends all jobs with [`ErrorKind::Broken`] and all workers. If the pool is broken already, the
    /// first reason stays.
    pub(super) fn break_with(&self, reason: &str) {
        if let Some(jobs) = self.change(|scheduler, after| scheduler.break_with(reason, after)) {
            self.fail_all(jobs, || ErrorKind::Broken(reason.to_owned()));
        }
    }

    /// Ends jobs that were taken out of the pool.
    pub(super) fn fail_all(&self, jobs: Vec<Arc<dyn RemoteCall>>, kind: impl Fn() -> ErrorKind) {
        for job in jobs {
            job.fail(kind(), &*self.counts);
        }
    }

    /// Returns the reason why the pool is broken, if it is.
    pub(super) fn broken(&self) -> Option<String> {
        self.lock()?.broken.clone()
    }

    /// Waits for a closed pool to run its `pending` jobs, for at most `drain`. Then cancels the rest and ends the
    /// workers.
    pub(super) fn shut_down(&self, pending: usize, drain: Duration) -> ShutdownReport {
        let Some(mut scheduler) = self.lock() else { return ShutdownReport::default() };
        let killed_before = scheduler.killed;
        scheduler = wait_until(&self.changed, scheduler, drain, |scheduler| scheduler.over);

        let mut left = scheduler.drain();
        left.extend(scheduler.in_flight().map(Arc::clone));
        drop(scheduler);
        let ids: Vec<JobId> = left.iter().map(|job| job.header().id).collect();
        // For a job in a worker this calls `interrupt`, which ends the worker.
        let cancelled = left.iter().filter(|job| job.abort(ErrorKind::Cancelled, AbortIf::Live)).count();
        self.change(Scheduler::notify);

        // SIGKILL follows after one grace period, and what it ends is collected within the second.
        let grace = self.config.grace.saturating_mul(2).saturating_add(Duration::from_secs(1));
        let scheduler = wait_until(&self.changed, self.lock_here(), grace, |scheduler| scheduler.over);
        let stuck = scheduler.stuck();
        // Jobs of workers that could not be ended may have ended, for the pool, long ago.
        let lived_on = stuck.iter().filter(|stuck| ids.contains(&stuck.job)).count();
        let killed = (scheduler.killed - killed_before).min(cancelled).saturating_sub(lived_on);
        ShutdownReport {
            drained: pending.saturating_sub(cancelled),
            cancelled: cancelled.saturating_sub(killed + lived_on),
            killed,
            stuck,
        }
    }

    /// Cancels the jobs that no worker has. Returns the number of those.
    pub(super) fn cancel_queued(&self) -> usize {
        let Some(mut scheduler) = self.lock() else { return 0 };
        let queued = scheduler.drain();
        drop(scheduler);
        let cancelled = queued.iter().filter(|job| job.abort(ErrorKind::Cancelled, AbortIf::Live)).count();
        self.change(Scheduler::notify);
        cancelled
    }

    /// Sets the target number of workers.
    pub(super) fn resize(&self, workers: usize) {
        self.change(|scheduler, after| scheduler.resize(workers, after));
    }

    /// Raises the target to this number of workers.
    pub(super) fn prestart(&self, workers: usize) {
        self.change(|scheduler, after| scheduler.prestart(workers, after));
    }

    /// Sets the largest number of workers.
    pub(super) fn set_max_workers(&self, workers: usize) {
        self.change(|scheduler, after| scheduler.set_max_workers(workers, after));
    }

    /// Ends all workers, with what they run, and cancels the jobs that no worker has.
    pub(super) fn stop(&self, how: End) {
        if let Some(queued) = self.change(|scheduler, after| scheduler.stop(how, after)) {
            self.fail_all(queued, || ErrorKind::Cancelled);
        }
    }

    /// Ends one worker, with what it runs.
    pub(super) fn stop_worker(&self, pid: u32, how: End) {
        self.change(|scheduler, after| scheduler.stop_worker(pid, how, after));
    }

    /// Waits until the pool is closed and its workers are gone, for at most `limit`. Returns whether they are.
    pub(super) fn wait_over(&self, limit: Duration) -> bool {
        let Some(scheduler) = self.lock() else { return true };
        wait_until(&self.changed, scheduler, limit, |scheduler| scheduler.over).over
    }

    /// Registers `waker` to be woken when that is so. Returns true if it is. In a forked child it never is, since there is
    /// no supervisor.
    pub(super) fn on_over(&self, waker: &Waker) -> bool {
        let Some(mut scheduler) = self.lock() else { return false };
        if !scheduler.over {
            scheduler.at_end.push(waker.clone());
        }
        scheduler.over
    }

    /// Returns the last workers that have ended, the oldest first.
    pub(super) fn exits(&self) -> Vec<(u32, WorkerExit)> {
        self.lock().map_or_else(Vec::new, |scheduler| scheduler.exits())
    }

    /// Returns the number of workers that the pool should have. 0 in a forked child.
    pub(super) fn target_workers(&self) -> usize {
        self.lock().map_or(0, |scheduler| scheduler.target)
    }

    /// Returns the process ids of the workers that do not leave.
    pub(super) fn worker_pids(&self) -> Vec<u32> {
        let Some(scheduler) = self.lock() else { return Vec::new() };
        scheduler.workers.iter().filter(|worker| !worker.is_done()).map(|worker| worker.pid).collect()
    }

    pub(super) fn is_over(&self) -> bool {
        self.lock().is_none_or(|scheduler| scheduler.over)
    }

    pub(super) fn outstanding(&self) -> usize {
        self.lock().map_or(0, |scheduler| scheduler.outstanding())
    }

    pub(super) fn queued(&self) -> usize {
        self.lock().map_or(0, |scheduler| scheduler.queued())
    }

    /// Makes the workers notify the listener of their answers from now on.
    pub(super) fn listen(&self) {
        self.has_listener.store(true, Ordering::Relaxed);
        self.take_answers();
    }

    pub(super) fn has_listener(&self) -> bool {
        self.has_listener.load(Ordering::Relaxed)
    }

    /// Takes the answers that have come, on behalf of the listener.
    pub(super) fn take_answers(&self) {
        self.change(|scheduler, after| {
            self.listener.drain();
            for at in 0..scheduler.workers.len() {
                scheduler.workers[at].link.listen();
                scheduler.harvest(at, after);
            }
        });
    }

    fn take_answers_of(&self, link: &Arc<Link>) {
        self.change(|scheduler, after| {
            let at = scheduler.workers.iter().position(|worker| Arc::ptr_eq(&worker.link, link));
            if let Some(at) = at {
                scheduler.harvest(at, after);
            }
        });
    }

    /// Changes the state on behalf of the supervisor. Other threads notify the supervisor again from now on.
    ///
    /// The supervisor's thread exists only in the process that built the pool.
    pub(super) fn look<R>(&self, look: impl FnOnce(&mut Scheduler, &mut Deferred) -> R) -> R {
        let mut after = Deferred::default();
        let mut scheduler = self.lock_here();
        scheduler.note_look();
        let result = look(&mut scheduler, &mut after);
        drop(scheduler);
        self.run_deferred(after);
        result
    }

    /// Lets the supervisor go to sleep until what `deadline` returns. Returns `None` if something has come up
    /// meanwhile.
    ///
    /// The supervisor asks and goes to sleep under one lock. So a thread that gives a worker a job knows whether the
    /// supervisor has taken that into account.
    pub(super) fn fall_asleep(&self, deadline: impl FnOnce(&Scheduler) -> Sleep) -> Option<Sleep> {
        self.lock_here().fall_asleep(deadline)
    }

    /// Returns the metrics, and what `look` finds under the same lock. It finds nothing in a forked child.
    pub(super) fn measure<R>(&self, look: impl FnOnce(&Scheduler) -> R) -> (Metrics, Option<R>) {
        let mut metrics = Metrics::new(&self.advisor, PoolKind::Processes);
        self.counts.add_to(&mut metrics.outcomes);
        let found = self.lock().map(|scheduler| {
            metrics.arena = Some(self.config.memory.bytes());
            scheduler.add_to(&mut metrics);
            look(&scheduler)
        });
        (metrics, found)
    }

    /// Records that the supervisor has ended. Returns the jobs that are left.
    pub(super) fn end(&self) -> Vec<Arc<dyn RemoteCall>> {
        let mut scheduler = self.lock_here();
        scheduler.closed = true;
        scheduler.over = true;
        let mut left = scheduler.drain();
        let workers = std::mem::take(&mut scheduler.workers);
        let mut at_end = std::mem::take(&mut scheduler.at_end);
        drop(scheduler);
        for worker in workers {
            at_end.extend(worker.at_end);
            left.extend(worker.calls.into_iter().filter_map(|call| call.work).map(|(job, _)| job));
        }
        self.changed.notify_all();
        at_end.into_iter().for_each(panic::wake_quietly);
        left
    }
}

impl Measured for Dispatcher {
    fn metrics(&self) -> Metrics {
        self.measure(|_| ()).0
    }

    fn is_over(&self) -> bool {
        Self::is_over(self)
    }

    #[cfg(feature = "observe")]
    fn view(&self) -> PoolView {
        Self::view(self)
    }

    #[cfg(feature = "observe")]
    fn cancel_running(&self, job: u64) -> bool {
        Self::cancel_running(self, job)
    }
}

impl Close for Dispatcher {
    fn close(&self) {
        Dispatcher::close(self);
    }
}

/// The pool of a job on behalf of a caller elsewhere.
pub(crate) trait JobEngine: ItemSource {
    /// Makes the worker of a job that was aborted die without a grace period.
    fn hurry(&self, job: JobId);

    /// Registers `waker` to be woken when no worker has the job any more: it has answered, or is dead, or was given up.
    /// Returns true if none has it, and in a forked child.
    fn on_gone(&self, job: JobId, waker: &Waker) -> bool;
}

impl JobEngine for Dispatcher {
    fn hurry(&self, job: JobId) {
        self.change(|scheduler, after| scheduler.hurry(job, after));
    }

    fn on_gone(&self, job: JobId, waker: &Waker) -> bool {
        self.lock().is_none_or(|mut scheduler| scheduler.on_gone(job, waker))
    }
}

impl ItemSource for Dispatcher {
    fn resume(&self, job: JobId) {
        self.change(|scheduler, after| {
            if let Some(at) = scheduler.find_job(job) {
                scheduler.harvest(at, after);
            }
        });
    }
}

impl Owner for Dispatcher {
    fn count(&self, outcome: Outcome) {
        self.counts.count(outcome);
    }

    fn withdraw(&self, header: &Header) {
        let removed = self.change(|scheduler, after| {
            let removed = scheduler.withdraw(header, after);
            if scheduler.closed {
                scheduler.notify(after);
            }
            removed
        });
        // Dropped after the lock is released, since the job may be the last owner of the user's values.
        drop(removed);
    }

    fn interrupt(&self, header: &Header) {
        self.change(|scheduler, after| {
            scheduler.interrupt(header, after);
            if scheduler.closed {
                scheduler.notify(after);
            }
        });
    }

    fn spin_for_end(&self, header: &Header, spinning: Duration, sleeping: Duration) -> SpinOutcome {
        let place = {
            let Some(scheduler) = self.lock() else { return SpinOutcome::InVain };
            let found = scheduler.workers.iter().find_map(|worker| worker.find(header.id));
            found.map(|(link, slot)| (Arc::clone(link), slot))
        };
        let ended = |how| if header.state() == JobState::Ended { how } else { SpinOutcome::InVain };
        let Some((link, slot)) = place else { return ended(SpinOutcome::Spinning) };
        let spinning = if link.is_elsewhere() { spinning } else { Duration::ZERO };
        let began = Instant::now();
        let mut how = SpinOutcome::Spinning;
        while header.state() != JobState::Ended && link.state(slot) != state::ANSWERED {
            let waited = began.elapsed();
            if waited < spinning {
                spin::pause();
            } else if waited < spinning + sleeping {
                how = SpinOutcome::Sleeping;
                if !link.await_answer(slot, sleeping) {
                    break;
                }
            } else {
                break;
            }
        }
        if how == SpinOutcome::Sleeping || header.state() != JobState::Ended {
            self.take_answers_of(&link);
        }
        ended(how)
    }
}
