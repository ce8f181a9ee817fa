//! The keepers: one per slot builds a pool, keeps it in use for a while, ends it under load and builds the next.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use fastrand::Rng;
use offloop::{Handle, ProcessPool, ShutdownReport};

use crate::clock::{now, poll_until, wait_fairly};
use crate::plan::{PoolPlan, ReportUse};
use crate::run_log;
use crate::tasks::{START_TIMEOUT, set_up};
use crate::world::{OpenPool, SLOTS, World, lock};

/// The time for which the last pools drain: long enough to run everything that they accepted.
const LAST_DRAIN: Duration = Duration::from_secs(10);

/// The fair time that a shutdown may take in addition to its drain and grace.
const SLACK: Duration = Duration::from_secs(6);

/// A shutdown whose report is waited for.
struct Shutdown {
    open: Arc<OpenPool>,
    report: Handle<ShutdownReport>,
    /// The longest fair time that it may take.
    limit: Duration,
}

/// Runs the keeper of a slot.
pub(crate) fn keep(world: &'static World, slot: usize, mut rng: Rng) {
    let mut shutdown: Option<Shutdown> = None;
    while !world.pools_over.load(SeqCst) {
        let Some(open) = open(world, PoolPlan::random(&mut rng, (slot == 0).then_some(1))) else { return };
        world.set_pool(slot, Some(Arc::clone(&open)));
        // The previous pool shuts down while the new one is in use.
        if let Some(shutdown) = shutdown.take() {
            shutdown.wait(world);
        }
        let (life, pause) = (open.plan.life, open.plan.pause);
        poll_until(life, Duration::from_millis(20), || world.pools_over.load(SeqCst));
        shutdown = end(world, slot, open);
        if slot == SLOTS - 1 && !world.pools_over.load(SeqCst) {
            world.set_pool(slot, None);
            std::thread::sleep(pause);
        }
    }
    world.set_pool(slot, None);
    if let Some(shutdown) = shutdown {
        shutdown.wait(world);
    }
}

fn open(world: &World, plan: PoolPlan) -> Option<Arc<OpenPool>> {
    let mut builder = ProcessPool::builder()
        .max_workers(plan.workers)
        .queue_capacity(plan.capacity)
        .on_full(plan.on_full)
        .start_timeout(START_TIMEOUT)
        .grace(plan.grace);
    if plan.has_initializer {
        builder = builder.initializer(&set_up.with());
    }
    if let Some(tasks) = plan.max_tasks_per_child {
        builder = builder.max_tasks_per_child(tasks);
    }
    if let Some(age) = plan.max_worker_age {
        builder = builder.max_worker_age(age);
    }
    match builder.build() {
        Ok(pool) => {
            let number = world.oracle().add_pool(&plan);
            run_log::add_pool(number, plan.workers);
            Some(Arc::new(OpenPool { number, plan, pool }))
        }
        Err(error) => {
            world.oracle().report(format!("a pool could not be built: {error}; {plan:?}"));
            None
        }
    }
}

/// Ends a pool in use as planned, or with [`LAST_DRAIN`]. A client that still has it finds it closed, or drops its
/// last clone.
fn end(world: &World, slot: usize, open: Arc<OpenPool>) -> Option<Shutdown> {
    let (mut drain, mut report) = (open.plan.drain, open.plan.report);
    if world.pools_over.load(SeqCst) {
        (drain, report) = (Some(LAST_DRAIN), ReportUse::Wait);
    }
    let Some(drain) = drain else {
        world.set_pool(slot, None);
        return None;
    };
    world.oracle().pools[open.number].begin_shutdown(now(), drain);
    lock(&world.shut_down).push(Arc::clone(&open));
    let limit = drain + 2 * open.plan.grace + SLACK;
    let handle = open.pool.shutdown(drain);
    match report {
        ReportUse::Wait => return Some(Shutdown { open, report: handle, limit }),
        ReportUse::Drop => drop(handle),
        ReportUse::Detach => handle.detach(),
    }
    None
}

impl Shutdown {
    fn wait(self, world: &World) {
        let Self { open, mut report, limit } = self;
        let number = open.number;
        let wait = || wait_fairly(limit, |slice| report.wait_timeout(slice));
        let report = world.waits.during("the shutdown of pool", number as u64, wait);
        let fault = match report {
            None => format!("did not shut down within {limit:?}"),
            Some(Err(error)) => format!("has no report of its shutdown: {error}"),
            Some(Ok(report)) => {
                let end = world.oracle().pools[number].end_shutdown(now(), &report);
                match end {
                    Err(fault) => fault,
                    Ok(()) if open.pool.worker_pids().is_empty() && open.pool.queued() == 0 => return,
                    Ok(()) => format!("reported {report:?} and is still {:?}", open.pool),
                }
            }
        };
        world.oracle().report(format!("pool {number} {fault}"));
    }
}

/// Checks that each pool that was shut down has counted each of its jobs once. Call it when all jobs have ended.
pub(crate) fn check_metrics(world: &World) {
    for open in std::mem::take(&mut *lock(&world.shut_down)) {
        let (number, outcomes) = (open.number, open.pool.metrics().outcomes);
        let mut oracle = world.oracle();
        let (counted, submitted) = (outcomes.total(), oracle.pools[number].submitted);
        if counted != submitted {
            let outcomes: Vec<_> = outcomes.iter().collect();
            let plan = &open.plan;
            oracle.report(format!(
                "pool {number} had {submitted} jobs, counted {counted}: {outcomes:?}, {plan:?}"
            ));
        }
    }
}
