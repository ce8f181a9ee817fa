//! One worker thread: how it takes jobs, spins, rests and leaves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::local;
use super::registry::{Blockable, Registry};
use super::scheduler::{Role, RunningJob, Scheduler, SearchStep, WorkerRecord};
use crate::base::panic::{self, drop_quietly};
use crate::base::sync::atomic::Ordering;
use crate::base::sync::{MutexGuard, has_passed, park_timeout, thread};
use crate::core::compensation::{self, Compensate};
use crate::core::error::ErrorKind;
use crate::core::runnable::Runnable;
use crate::metrics::stats::WorkerClock;

/// The time for which a thread that came back without finding work looks for more before it parks.
///
/// It gives its core away between looks. A caller that awaits one job after the other is thus served without waking the
/// thread, even when its own wake-up, on a halted core, takes some tens of microseconds. The limit is a time and not a
/// number of looks, since on a crowded core one look may take milliseconds.
const SPIN: Duration = Duration::from_micros(50);

/// The number of looks before the clock is read. Few under a model checker, for which each is a step.
const FIRST_LOOKS: usize = if cfg!(any(shuttle, weak_memory)) { 1 } else { 3 };

/// The first and the longest time for which a searcher watches threads that keep up, before it looks again.
const WATCH: (Duration, Duration) = (Duration::from_micros(50), Duration::from_micros(200));

/// The loop of one worker thread. Lives on that thread's stack.
struct WorkerLoop<'a> {
    registry: &'a Registry,
    record: &'a Arc<WorkerRecord>,
    clock: WorkerClock,
}

/// A thread's next step.
enum Step {
    Run(Arc<dyn Runnable>),
    /// There is a job. It is to be taken within a batch, and the thread has this role until then.
    Batch(Role),
    Leave,
}

/// Serves the pool on this thread, from the thread's start to its end.
pub(super) fn serve(registry: &Arc<Registry>, record: &Arc<WorkerRecord>, mut role: Role) {
    let _ = record.thread.set(thread::current());
    #[cfg(feature = "observe")]
    let _ = record.birth.set(super::birth::Birth::of_this_thread());
    let blockable = Blockable { registry: Arc::clone(registry), worker: Arc::clone(record) };
    compensation::enter(Arc::new(blockable) as Arc<dyn Compensate>);
    if let Some(hook) = &registry.config.on_worker_start {
        drop_quietly(panic::catch(|| hook()));
    }
    let clock = WorkerClock::new(Arc::clone(&record.stats), Arc::clone(&registry.advisor));
    let worker = WorkerLoop { registry, record, clock };
    loop {
        role = match worker.next(role) {
            Step::Run(job) => {
                worker.run(job);
                Role::Returning
            }
            Step::Batch(role) => worker.run_batch(role),
            Step::Leave => break,
        };
        if registry.is_forked() {
            // The job has forked and this is the child, where the pool's locks may be held forever.
            return;
        }
    }
    local::close();
    compensation::leave();
    let mut scheduler = registry.lock_here();
    scheduler.remove(record);
    if scheduler.is_empty() {
        scheduler.backlog.shrink();
        registry.injector.shrink();
    }
    registry.worker_left.notify_all();
}

impl WorkerLoop<'_> {
    /// Decides what this thread does next, which may take it some rest. When it is to leave, it is no longer counted.
    fn next(&self, mut role: Role) -> Step {
        let Registry { config, injector, .. } = self.registry;
        let mut may_spin = role == Role::Returning || config.around_batch.is_some();
        let mut watch = WATCH.0;
        let mut scheduler = self.registry.lock_here();
        *scheduler.running_of(self.record) = None;
        scheduler.arrive(&mut role);
        loop {
            if scheduler.too_many_run() {
                // As many stay as may run, so no other thread is needed.
                scheduler.searching &= role != Role::Searcher;
                scheduler.threads -= 1;
                return Step::Leave;
            }
            if scheduler.backlog.len() == 0 && !injector.seems_empty() {
                self.registry.collect(&mut scheduler);
            }
            if role == Role::Returning {
                if scheduler.backlog.len() > 0 {
                    return self.begin(scheduler, role);
                }
            } else {
                match scheduler.next_step(self.registry.cores) {
                    SearchStep::Take => return self.begin(scheduler, role),
                    SearchStep::Watch => {
                        drop(scheduler);
                        self.clock.pause();
                        park_timeout(watch);
                        watch = (watch * 2).min(WATCH.1);
                        scheduler = self.registry.lock_here();
                        continue;
                    }
                    SearchStep::Rest => {}
                }
            }
            if may_spin && !scheduler.closed && (role == Role::Searcher || !scheduler.searching) {
                may_spin = false;
                role = Role::Searcher;
                scheduler.searching = true;
                injector.set_covered(true);
                injector.set_spinning(true);
                drop(scheduler);
                self.clock.pause();
                self.spin();
                scheduler = self.registry.lock_here();
                injector.set_spinning(false);
                continue;
            }
            // From here on this thread looks for no job. So it looks once more for submitters that relied on it.
            if role == Role::Searcher {
                scheduler.searching = false;
                role = Role::Returning;
            }
            injector.set_covered(scheduler.searching);
            if self.registry.collect(&mut scheduler) {
                continue;
            }
            if scheduler.closed || scheduler.has_surplus() {
                scheduler.threads -= 1;
                return Step::Leave;
            }
            self.clock.pause();
            scheduler = match self.rest(scheduler) {
                Some(scheduler) => scheduler,
                None => return Step::Leave,
            };
            role = Role::Searcher;
            watch = WATCH.0;
        }
    }

    /// Takes a job, which the backlog has. If there is a hook around batches, lets the hook come first.
    fn begin(&self, mut scheduler: MutexGuard<'_, Scheduler>, role: Role) -> Step {
        if self.registry.config.around_batch.is_none() {
            return Step::Run(self.take(scheduler, role));
        }
        if role == Role::Searcher {
            return Step::Batch(role);
        }
        scheduler.coming += 1;
        Step::Batch(Role::Coming)
    }

    /// Takes the first job, which the backlog has.
    fn take(&self, mut scheduler: MutexGuard<'_, Scheduler>, role: Role) -> Arc<dyn Runnable> {
        match role {
            Role::Searcher => scheduler.searching = false,
            _ => scheduler.handoffs = scheduler.handoffs.wrapping_add(1),
        }
        let (job, admitted) = scheduler.backlog.take().expect("the caller has seen a job under this lock");
        *scheduler.running_of(self.record) =
            Some(RunningJob { job: Arc::downgrade(&job), since: self.clock.begin() });
        self.registry.release(scheduler);
        if let Some(admitted) = admitted {
            admitted.admit();
        }
        job
    }

    fn run(&self, job: Arc<dyn Runnable>) {
        job.run(&self.clock);
        compensation::end_job();
    }

    /// Takes and runs jobs within the user's hook. Returns the thread's role afterwards.
    fn run_batch(&self, mut role: Role) -> Role {
        let Some((limit, hook)) = &self.registry.config.around_batch else { return role };
        let mut called = false;
        drop_quietly(panic::catch(|| {
            hook(&mut || {
                called = true;
                let begun = Instant::now();
                while let Some(job) = self.take_at_hand(&mut role) {
                    self.run(job);
                    if self.registry.is_forked() || begun.elapsed() >= *limit {
                        break;
                    }
                }
            });
        }));
        let stranded = if called { None } else { self.take_at_hand(&mut role) };
        if let Some(job) = stranded {
            job.fail(ErrorKind::Cancelled, &self.registry.counts);
            drop_quietly(job);
        }
        role
    }

    /// Takes the next job, if there is one already.
    ///
    /// If not, the thread becomes the searcher where there is none, so that no other thread is woken for a job that is
    /// submitted while this one leaves its batch.
    fn take_at_hand(&self, role: &mut Role) -> Option<Arc<dyn Runnable>> {
        let injector = &self.registry.injector;
        let mut scheduler = self.registry.lock_here();
        *scheduler.running_of(self.record) = None;
        scheduler.arrive(role);
        if scheduler.too_many_run() {
            return None;
        }
        if scheduler.backlog.len() == 0 && !injector.seems_empty() {
            self.registry.collect(&mut scheduler);
        }
        if scheduler.backlog.len() == 0 {
            if !scheduler.searching && !scheduler.closed {
                *role = Role::Searcher;
                scheduler.searching = true;
                injector.set_covered(true);
            }
            return None;
        }
        Some(self.take(scheduler, std::mem::replace(role, Role::Returning)))
    }

    /// Waits a moment for a job to be queued, without a lock.
    fn spin(&self) {
        let injector = &self.registry.injector;
        // A caller on this very core answers at the first look, before a clock is worth reading.
        for _ in 0..FIRST_LOOKS {
            if !injector.seems_empty() {
                return;
            }
            thread::yield_now();
        }
        let deadline = Instant::now() + SPIN;
        while injector.seems_empty() && !has_passed(deadline) {
            thread::yield_now();
        }
    }

    /// Parks until this thread is woken as the searcher. Returns `None` when it is to leave.
    fn rest<'a>(&'a self, mut scheduler: MutexGuard<'a, Scheduler>) -> Option<MutexGuard<'a, Scheduler>> {
        scheduler.idle.push(Arc::clone(self.record));
        let mut deadline = Instant::now().checked_add(self.registry.config.idle_timeout);
        loop {
            drop(scheduler);
            match deadline {
                Some(deadline) => park_timeout(deadline.saturating_duration_since(Instant::now())),
                None => thread::park(),
            }
            scheduler = self.registry.lock_here();
            if self.record.woken.swap(false, Ordering::Relaxed) {
                return Some(scheduler);
            }
            let expired = deadline.is_some_and(has_passed);
            let is_superfluous =
                scheduler.has_surplus() || (expired && scheduler.threads > scheduler.min_workers);
            if scheduler.closed || is_superfluous {
                scheduler.idle.retain(|other| !Arc::ptr_eq(other, self.record));
                scheduler.threads -= 1;
                return None;
            }
            if expired {
                // One of the minimum: it stays until it is needed or the pool closes.
                deadline = None;
                scheduler.backlog.shrink();
            }
        }
    }
}
