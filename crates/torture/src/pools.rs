//! The pools: a keeper for each slot builds one, lets it serve for a while, ends it under way and builds the next.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use offloop::{Handle, ProcessPool, Report};

use crate::clock;
use crate::ledger::PoolNumber;
use crate::plan::{Choices, Ending, PoolPlan, Reporting, Stream};
use crate::tasks::set_up;
use crate::watchdog::Wait;
use crate::world::World;

/// How many pools there are at a time. The first slot's have one worker; the last one is empty now and then.
pub(crate) const SLOTS: usize = 3;

/// How the last pools end: all that was accepted is run.
const LAST_DRAIN: Duration = Duration::from_secs(10);

/// What a shutdown may take beyond what it is told to wait.
const SLACK: Duration = Duration::from_secs(6);

/// A pool in use.
pub(crate) struct Open {
    pub(crate) number: PoolNumber,
    pub(crate) plan: PoolPlan,
    pub(crate) pool: ProcessPool,
    /// How many jobs it was given, those included that it did not take.
    pub(crate) given: AtomicU64,
}

/// Where the clients find pools.
#[derive(Default)]
pub(crate) struct Slots([Mutex<Option<Arc<Open>>>; SLOTS]);

impl Slots {
    fn slot(&self, index: usize) -> MutexGuard<'_, Option<Arc<Open>>> {
        self.0[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pool in this slot, if there is one now.
    pub(crate) fn get(&self, index: usize) -> Option<Arc<Open>> {
        self.slot(index).clone()
    }

    fn put(&self, index: usize, open: Option<Arc<Open>>) {
        let before = std::mem::replace(&mut *self.slot(index), open);
        // Dropping a pool takes locks of its own.
        drop(before);
    }
}

/// A shutdown that has begun.
struct Leaving {
    open: Arc<Open>,
    report: Handle<Report>,
    /// It must have reported by then.
    bound: Duration,
}

/// The life of a keeper.
pub(crate) fn keep(world: &World, slot: usize) {
    let mut choices = Choices::of(world.seed, Stream::Keeper(slot as u64));
    let mut leaving: Option<Leaving> = None;
    while !world.pools_are_to_end() {
        let plan = choices.pool((slot == 0).then_some(1));
        let (life, pause, ending) = (plan.life, plan.pause, plan.ending);
        let Some(open) = open(world, plan) else { return };
        world.slots.put(slot, Some(Arc::clone(&open)));
        // The old pool ends while the new one serves.
        if let Some(leaving) = leaving.take() {
            leaving.wait(world);
        }
        clock::poll_until(life, Duration::from_millis(20), || world.pools_are_to_end());
        let ending = if world.pools_are_to_end() {
            Ending::Shutdown { drain: LAST_DRAIN, report: Reporting::Awaited }
        } else {
            ending
        };
        leaving = end(world, slot, open, ending);
        if slot == SLOTS - 1 && !world.pools_are_to_end() {
            world.slots.put(slot, None);
            std::thread::sleep(pause);
        }
    }
    world.slots.put(slot, None);
    if let Some(leaving) = leaving {
        leaving.wait(world);
    }
}

fn open(world: &World, plan: PoolPlan) -> Option<Arc<Open>> {
    let mut builder = ProcessPool::builder()
        .workers(plan.workers)
        .queue_capacity(plan.capacity)
        .on_full(plan.on_full)
        .grace(plan.grace);
    if plan.has_initializer {
        builder = builder.initializer(&set_up.with());
    }
    match builder.build() {
        Ok(pool) => Some(Arc::new(Open {
            number: world.ledger.pool_opened(&plan),
            plan,
            pool,
            given: AtomicU64::new(0),
        })),
        Err(error) => {
            world.ledger.complain(format!("a pool could not be built: {error}; {plan:?}"));
            None
        }
    }
}

/// Ends a pool that is in use. Those who still have it find it closed, or drop the last of it.
fn end(world: &World, slot: usize, open: Arc<Open>, ending: Ending) -> Option<Leaving> {
    match ending {
        Ending::Drop => {
            world.slots.put(slot, None);
            None
        }
        Ending::Shutdown { drain, report } => {
            world.ledger.pool_shuts_down(open.number, drain);
            world.shut.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&open));
            let bound = drain + 2 * open.plan.grace + SLACK;
            let handle = open.pool.shutdown(drain);
            match report {
                Reporting::Awaited => return Some(Leaving { open, report: handle, bound }),
                Reporting::Dropped => drop(handle),
                Reporting::Detached => handle.detach(),
            }
            None
        }
    }
}

/// Whether the pools that were shut down have counted each of their jobs, once. To be asked when nobody submits any more
/// and all jobs have been seen to end.
pub(crate) fn audit(world: &World) {
    for open in std::mem::take(&mut *world.shut.lock().unwrap_or_else(PoisonError::into_inner)) {
        let given = open.given.load(Ordering::SeqCst);
        let counted = open.pool.metrics().outcomes.total();
        if counted != given {
            let outcomes: Vec<_> = open.pool.metrics().outcomes.iter().collect();
            let number = open.number;
            world
                .ledger
                .complain(format!("{number} was given {given} jobs and has counted {counted}: {outcomes:?}"));
        }
    }
}

impl Leaving {
    fn wait(self, world: &World) {
        let Self { open, mut report, bound } = self;
        let number = open.number;
        match world.watchdog.during(Wait::Shutdown(number), || report.wait_timeout(bound)) {
            None => world.ledger.complain(format!("{number} has not shut down within {bound:?}")),
            Some(Err(error)) => world.ledger.complain(format!("{number} has no report: {error}")),
            Some(Ok(report)) => {
                world.ledger.pool_is_over(number, &report);
                if !open.pool.workers().is_empty() || open.pool.queued() > 0 {
                    world
                        .ledger
                        .complain(format!("{number} has reported {report:?} and is still {:?}", open.pool));
                }
            }
        }
    }
}
