//! Random choices, all from the seed.
//!
//! Each thread that chooses has its own generator, so its choices do not depend on what other threads do. Two things
//! depend on time and cannot be replayed: how far each thread gets, and which pool is in a slot at that moment.

use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;
use offloop::OnFull;
use serde::{Deserialize, Serialize};

use crate::payload::mix;

/// The behaviour of a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// Takes bytes and returns others, up to a few pages.
    Echo,
    /// The same with 1 MiB in one direction or both.
    EchoLarge,
    /// The same with 64 MiB.
    EchoHuge,
    #[default]
    Nap,
    Compute,
    /// Prints to standard output and error, also without the standard library.
    Chatter,
    /// Opens a pool of its own and runs a job there.
    Nest,
    Panic,
    Exit,
    Abort,
    /// Raises SIGSEGV.
    Segfault,
    /// Sends itself SIGKILL.
    KillSelf,
    /// Limits its data segment and allocates until it aborts.
    Exhaust,
    /// Closes all its descriptors and stays.
    CloseAll,
    /// Closes all its descriptors and returns.
    CloseAllReturn,
    /// Writes garbage to every descriptor above 2 and stays.
    Garbage,
    /// Sleeps until its run timeout.
    Overrun,
    /// The same, and it ignores SIGTERM.
    Stubborn,
    /// The same, and it has started a process.
    LeaveBehind,
    /// Forks a child that lives for a while.
    Fork,
    /// Forks a child that drops the job's argument.
    ForkAndDrop,
    /// Gives up the rights of its process, for all later jobs there.
    DropPrivileges,
    /// Ignores or blocks signals, for all later jobs there.
    LoseSignals,
    /// Returns a value of every type.
    Odd,
    /// Returns a nested value that is surely not too deep.
    Deep,
    /// Returns one that may be too deep.
    Deeper,
    /// Returns one that is.
    TooDeep,
    /// Returns a value that encodes itself as one that does not exist.
    Lie,
    /// Returns a value that encodes itself as more than it is.
    LongLie,
}

/// The end of a job that is not cancelled, timed out or killed from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nature {
    Returns,
    /// Its result cannot be encoded or decoded.
    IsRefused,
    /// It returns, or its result is refused.
    MayBeRefused,
    Panics,
    /// Its worker dies of it.
    Dies,
    /// Its worker may survive it.
    MayDie,
    /// Nothing does.
    Stays,
}

/// All kinds: the share of the jobs that are of each, and their natures.
pub(crate) const KINDS: [(Kind, u32, Nature); 29] = [
    (Kind::Echo, 418, Nature::Returns),
    (Kind::EchoLarge, 60, Nature::Returns),
    (Kind::EchoHuge, 4, Nature::Returns),
    (Kind::Nap, 110, Nature::Returns),
    (Kind::Compute, 100, Nature::Returns),
    (Kind::Chatter, 60, Nature::Returns),
    (Kind::Nest, 15, Nature::Returns),
    (Kind::Panic, 53, Nature::Panics),
    (Kind::Exit, 20, Nature::Dies),
    (Kind::Abort, 20, Nature::Dies),
    (Kind::Segfault, 20, Nature::Dies),
    (Kind::KillSelf, 20, Nature::Dies),
    (Kind::Exhaust, 15, Nature::Dies),
    (Kind::CloseAll, 10, Nature::Dies),
    (Kind::CloseAllReturn, 15, Nature::MayDie),
    (Kind::Garbage, 15, Nature::Dies),
    (Kind::Overrun, 30, Nature::Stays),
    (Kind::Stubborn, 15, Nature::Stays),
    (Kind::LeaveBehind, 10, Nature::Stays),
    (Kind::Fork, 15, Nature::Returns),
    (Kind::ForkAndDrop, 15, Nature::Returns),
    (Kind::DropPrivileges, 5, Nature::Returns),
    (Kind::LoseSignals, 8, Nature::Returns),
    (Kind::Odd, 15, Nature::Returns),
    (Kind::Deep, 8, Nature::Returns),
    (Kind::Deeper, 8, Nature::MayBeRefused),
    (Kind::TooDeep, 5, Nature::IsRefused),
    (Kind::Lie, 10, Nature::IsRefused),
    (Kind::LongLie, 5, Nature::MayBeRefused),
];

impl Kind {
    pub(crate) fn nature(self) -> Nature {
        KINDS[self as usize].2
    }
}

/// How a client treats the handle of a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum HandleUse {
    /// Calls `wait()`.
    #[default]
    Wait,
    /// Calls `wait_timeout()` until it returns the result.
    WaitInSlices(Duration),
    /// Awaits it on the client's thread.
    Await,
    /// Awaits it together with others on the client's thread.
    AwaitTogether,
    /// Cancels it right after the submission.
    CancelAtOnce,
    /// Cancels it after this pause.
    Cancel(Duration),
    /// Drops it after this pause.
    Drop(Duration),
    /// Detaches it; before that it may wait for room in the queue.
    Detach { accepted: bool },
}

/// The plan of one job.
#[derive(Debug, Clone, Default)]
pub(crate) struct Job {
    pub(crate) kind: Kind,
    /// Bytes of the argument and of the result of an echo; 0 for other kinds.
    pub(crate) argument: usize,
    pub(crate) result: usize,
    /// The time for which it naps or computes.
    pub(crate) millis: u64,
    /// Selects variants within a kind.
    pub(crate) variant: u64,
    pub(crate) name: Option<String>,
    pub(crate) priority: i8,
    pub(crate) queue_timeout: Option<Duration>,
    pub(crate) run_timeout: Option<Duration>,
    /// The limit given to `Handle::timeout`.
    pub(crate) total_timeout: Option<Duration>,
    /// It is submitted by `try_run`.
    pub(crate) tried: bool,
    pub(crate) handle: HandleUse,
}

impl Job {
    pub(crate) fn random(rng: &mut Rng) -> Self {
        let mut job = Self { kind: kind(rng), handle: handle_use(rng), ..Self::default() };
        (job.argument, job.result) = lengths(rng, job.kind);
        job.millis = if chance(rng, 78) { rng.u64(0..12) } else { rng.u64(12..80) };
        job.variant = rng.u64(..);
        job.name = chance(rng, 20).then(|| format!("torture {:04x}", rng.u16(..)));
        job.priority = if chance(rng, 31) { rng.i8(-2..=2) } else { 0 };
        job.tried = chance(rng, 8);
        job.queue_timeout = chance(rng, 10).then(|| millis(rng, 0..150));
        let must_be_limited = job.kind.nature() == Nature::Stays;
        job.run_timeout = (chance(rng, 10) || must_be_limited).then(|| millis(rng, 1..150));
        job.total_timeout = chance(rng, 5).then(|| millis(rng, 0..300));
        job
    }

    /// Returns one of many small jobs.
    pub(crate) fn small(rng: &mut Rng) -> Self {
        let handle = match rng.u32(0..10) {
            0 => HandleUse::CancelAtOnce,
            1 => HandleUse::Drop(Duration::ZERO),
            2 | 3 => HandleUse::Wait,
            _ => HandleUse::AwaitTogether,
        };
        let (argument, result) = (rng.usize(0..200), rng.usize(0..200));
        Self { kind: Kind::Echo, argument, result, priority: rng.i8(-1..=1), handle, ..Self::default() }
    }

    /// Returns a job that keeps a worker busy for a while.
    pub(crate) fn blocker(rng: &mut Rng) -> Self {
        Self { millis: rng.u64(20..120), priority: 3, ..Self::default() }
    }

    /// Makes it harmless for a pool that runs jobs on the submitting thread.
    pub(crate) fn tamed(self) -> Self {
        let nap = Self { kind: Kind::Nap, millis: 3, ..self.clone() };
        match self.kind.nature() {
            _ if matches!(self.kind, Kind::DropPrivileges | Kind::LoseSignals) => nap,
            // The children would stay as zombies.
            _ if matches!(self.kind, Kind::Fork | Kind::ForkAndDrop) => nap,
            Nature::Dies | Nature::MayDie | Nature::Stays => nap,
            _ => self,
        }
    }

    /// Returns the exit status of a job of the kind `Exit`.
    pub(crate) fn status(&self) -> i32 {
        i32::try_from(self.variant % 100).unwrap_or(0)
    }
}

/// The use that a client makes of the report of a shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReportUse {
    Wait,
    Drop,
    Detach,
}

/// The plan of one pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PoolPlan {
    pub(crate) workers: usize,
    pub(crate) capacity: usize,
    pub(crate) on_full: OnFull,
    pub(crate) grace: Duration,
    pub(crate) has_initializer: bool,
    pub(crate) max_tasks_per_child: Option<u64>,
    pub(crate) max_worker_age: Option<Duration>,
    /// The time for which it is used.
    pub(crate) life: Duration,
    /// The time for which its shutdown drains; `None` if its last clone is dropped instead.
    pub(crate) drain: Option<Duration>,
    pub(crate) report: ReportUse,
    /// The time for which its slot stays empty afterwards, if it may.
    pub(crate) pause: Duration,
}

impl PoolPlan {
    pub(crate) fn random(rng: &mut Rng, workers: Option<usize>) -> Self {
        use OnFull::{CallerRuns, Reject, ShedOldest, Wait};
        Self {
            workers: workers.unwrap_or_else(|| rng.usize(1..=3)),
            capacity: pick(rng, &[1, 3, 16, 64, 1000]),
            on_full: pick(rng, &[Wait, Wait, Reject, CallerRuns, ShedOldest]),
            grace: millis(rng, 10..400),
            has_initializer: chance(rng, 25),
            max_tasks_per_child: chance(rng, 25).then(|| rng.u64(1..12)),
            max_worker_age: chance(rng, 20).then(|| millis(rng, 20..800)),
            life: millis(rng, 500..4000),
            drain: chance(rng, 75).then(|| Duration::from_millis(pick(rng, &[0, 10, 100, 1000, 3000]))),
            report: pick(rng, &[ReportUse::Wait, ReportUse::Wait, ReportUse::Drop, ReportUse::Detach]),
            pause: millis(rng, 0..700),
        }
    }
}

/// Returns the generator of the thread of this name.
pub(crate) fn generator(seed: u64, thread: &str) -> Rng {
    Rng::with_seed(thread.bytes().fold(mix(seed), |state, byte| mix(state ^ u64::from(byte))))
}

pub(crate) fn chance(rng: &mut Rng, percent: u32) -> bool {
    rng.u32(0..100) < percent
}

pub(crate) fn millis(rng: &mut Rng, range: Range<u64>) -> Duration {
    Duration::from_millis(rng.u64(range))
}

fn pick<T: Copy>(rng: &mut Rng, among: &[T]) -> T {
    among[rng.usize(0..among.len())]
}

fn kind(rng: &mut Rng) -> Kind {
    let mut rest = rng.u32(0..KINDS.iter().map(|(_, weight, _)| weight).sum());
    let chosen = KINDS.iter().find(|(_, weight, _)| match rest.checked_sub(*weight) {
        None => true,
        Some(less) => {
            rest = less;
            false
        }
    });
    chosen.expect("the number is below the sum of the weights").0
}

fn handle_use(rng: &mut Rng) -> HandleUse {
    match rng.u32(0..100) {
        0..30 => HandleUse::Wait,
        30..42 => HandleUse::WaitInSlices(millis(rng, 0..30)),
        42..55 => HandleUse::Await,
        55..72 => HandleUse::AwaitTogether,
        72..76 => HandleUse::CancelAtOnce,
        76..86 => HandleUse::Cancel(millis(rng, 0..25)),
        86..92 => HandleUse::Drop(millis(rng, 0..25)),
        _ => HandleUse::Detach { accepted: rng.bool() },
    }
}

/// Returns the lengths of argument and result: any, but often near a multiple of a page or a limit of the pool.
fn lengths(rng: &mut Rng, kind: Kind) -> (usize, usize) {
    let near = |rng: &mut Rng, length: usize| length.saturating_add_signed(rng.isize(-40..40));
    let small = |rng: &mut Rng| {
        let border = pick(rng, &[0, 256, 4096, 16 << 10, 64 << 10]);
        if chance(rng, 25) { near(rng, border) } else { rng.usize(0..3000) }
    };
    let large = match kind {
        Kind::Echo => return (small(rng), small(rng)),
        Kind::EchoLarge => 1 << 20,
        Kind::EchoHuge => 64 << 20,
        Kind::Fork | Kind::ForkAndDrop => return (pick(rng, &[100, 4096, 70_000, 1 << 20]), 0),
        _ => return (0, 0),
    };
    let (argument, result) = (near(rng, large), near(rng, large));
    pick(rng, &[(argument, 10), (10, result), (argument, result)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jobs(seed: u64, thread: &str, count: usize) -> Vec<Job> {
        let mut rng = generator(seed, thread);
        (0..count).map(|_| Job::random(&mut rng)).collect()
    }

    #[test]
    fn a_seed_replays_its_choices_and_another_seed_or_thread_chooses_differently() {
        let sequence = |seed, thread| format!("{:?}", jobs(seed, thread, 50));
        assert_eq!(sequence(1, "client-0"), sequence(1, "client-0"));
        assert_ne!(sequence(1, "client-0"), sequence(2, "client-0"));
        assert_ne!(sequence(1, "client-0"), sequence(1, "client-1"));
    }

    #[test]
    fn every_kind_is_chosen_and_its_row_is_where_its_nature_is_looked_up() {
        let chosen: std::collections::BTreeSet<_> =
            jobs(7, "client-0", 10_000).iter().map(|job| job.kind).collect();
        let on = KINDS.iter().filter(|(_, weight, _)| *weight > 0);
        assert!(on.map(|(kind, ..)| *kind).eq(chosen));
        assert!(KINDS.iter().enumerate().all(|(row, (kind, ..))| *kind as usize == row));
    }

    #[test]
    fn a_job_that_stays_has_a_run_timeout_and_a_tamed_job_is_harmless() {
        for job in jobs(7, "client-0", 10_000) {
            assert!(job.kind.nature() != Nature::Stays || job.run_timeout.is_some());
            let tamed = job.tamed();
            assert!(!matches!(tamed.kind.nature(), Nature::Dies | Nature::MayDie | Nature::Stays));
            assert!(!matches!(tamed.kind, Kind::DropPrivileges | Kind::LoseSignals));
        }
    }
}
