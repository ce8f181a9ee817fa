//! What is chosen, and how: everything random comes from here, and from the seed alone.
//!
//! Each thread that chooses has a generator of its own, so its sequence of choices does not depend on what the
//! others do. What depends on time stays out: how far each sequence gets, and which pool is in a slot by then.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;
use offloop::OnFull;

use crate::payload::mix;

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// Takes some bytes and returns others, up to some pages.
    Echo,
    /// The same with a megabyte in one direction or both.
    EchoLarge,
    /// The same with 64 of them.
    EchoHuge,
    Nap,
    Compute,
    /// Prints to standard output and error, also past the standard library.
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
    /// Limits its address space and allocates until it aborts.
    Exhaust,
    /// Closes all its descriptors and stays.
    CloseAll,
    /// Closes all its descriptors and returns.
    CloseAllReturn,
    /// Writes garbage to every descriptor above 2 and stays.
    Garbage,
    /// Goes on beyond its run limit.
    Overrun,
    /// The same, and it ignores SIGTERM.
    Stubborn,
}

/// What ends a job that nobody cancels, limits or kills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nature {
    /// It returns its value.
    Returns,
    Panics,
    /// Its worker dies of it.
    Dies,
    /// Its worker may survive it.
    MayDie,
    /// Nothing.
    Stays,
}

impl Kind {
    /// All of them, with how often out of a thousand.
    pub(crate) const ALL: [(Self, u32); 18] = [
        (Self::Echo, 418),
        (Self::EchoLarge, 60),
        (Self::EchoHuge, 4),
        (Self::Nap, 110),
        (Self::Compute, 100),
        (Self::Chatter, 60),
        (Self::Nest, 15),
        (Self::Panic, 53),
        (Self::Exit, 20),
        (Self::Abort, 20),
        (Self::Segfault, 20),
        (Self::KillSelf, 20),
        (Self::Exhaust, 15),
        (Self::CloseAll, 10),
        (Self::CloseAllReturn, 15),
        (Self::Garbage, 15),
        (Self::Overrun, 30),
        (Self::Stubborn, 15),
    ];

    pub(crate) fn nature(self) -> Nature {
        match self {
            Self::Echo
            | Self::EchoLarge
            | Self::EchoHuge
            | Self::Nap
            | Self::Compute
            | Self::Chatter
            | Self::Nest => Nature::Returns,
            Self::Panic => Nature::Panics,
            Self::Exit
            | Self::Abort
            | Self::Segfault
            | Self::KillSelf
            | Self::Exhaust
            | Self::CloseAll
            | Self::Garbage => Nature::Dies,
            Self::CloseAllReturn => Nature::MayDie,
            Self::Overrun | Self::Stubborn => Nature::Stays,
        }
    }
}

/// How a job's handle is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reception {
    /// `wait()`.
    Wait,
    /// `wait_timeout()` again and again.
    WaitInSlices(Duration),
    /// Awaited, on this thread.
    Await,
    /// Awaited together with others, on this thread.
    AwaitTogether,
    /// Cancelled right after the submission.
    CancelAtOnce,
    /// Cancelled after this pause, when its turn has come.
    Cancel(Duration),
    /// Dropped likewise.
    Drop(Duration),
    /// Detached; after a wait for room in the queue or not.
    Detach { accepted: bool },
}

/// One job to be.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) kind: Kind,
    /// Bytes of the argument and of the result, where the kind has such.
    pub(crate) argument: usize,
    pub(crate) result: usize,
    /// How long it naps, where it does; what else varies within its kind.
    pub(crate) millis: u64,
    pub(crate) variant: u64,
    pub(crate) name: Option<String>,
    pub(crate) priority: i8,
    pub(crate) queue_limit: Option<Duration>,
    pub(crate) run_limit: Option<Duration>,
    /// `Handle::timeout`.
    pub(crate) total_limit: Option<Duration>,
    /// Whether it is submitted by `try_run`.
    pub(crate) tried: bool,
    pub(crate) reception: Reception,
}

impl Job {
    fn new(kind: Kind, reception: Reception) -> Self {
        Self {
            kind,
            argument: 0,
            result: 0,
            millis: 0,
            variant: 0,
            name: None,
            priority: 0,
            queue_limit: None,
            run_limit: None,
            total_limit: None,
            tried: false,
            reception,
        }
    }

    /// What becomes of it in a pool that runs jobs on their submitters, which must survive them.
    pub(crate) fn tamed(mut self) -> Self {
        if !matches!(self.kind.nature(), Nature::Returns | Nature::Panics) {
            self.kind = Kind::Nap;
            self.millis = 3;
        }
        self
    }

    /// The exit status that it leaves with, if it does.
    pub(crate) fn status(&self) -> i32 {
        i32::try_from(self.variant % 100).unwrap_or(0)
    }

    /// The shortest of the limits that end it while it runs.
    pub(crate) fn run_deadline(&self) -> Option<Duration> {
        self.run_limit.into_iter().chain(self.total_limit).min()
    }

    /// The shortest of the limits that end it while it is queued.
    pub(crate) fn queue_deadline(&self) -> Option<Duration> {
        self.queue_limit.into_iter().chain(self.total_limit).min()
    }
}

/// What matters of it, in one line; what is as usual is left out.
impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)?;
        if (self.argument, self.result) != (0, 0) {
            write!(f, " {} to {} bytes", self.argument, self.result)?;
        }
        if self.millis > 0 {
            write!(f, ", {} ms", self.millis)?;
        }
        if self.priority != 0 {
            write!(f, ", priority {}", self.priority)?;
        }
        let limits = [("queue", self.queue_limit), ("run", self.run_limit), ("total", self.total_limit)];
        for (what, limit) in limits {
            if let Some(limit) = limit {
                write!(f, ", {what} limit {limit:?}")?;
            }
        }
        if self.tried {
            f.write_str(", try_run")?;
        }
        write!(f, ", {:?}", self.reception)
    }
}

/// What a client does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Burst {
    /// Some jobs of all kinds, to all pools.
    Mixed(usize),
    /// Many small ones, to one pool.
    Storm(usize),
    /// A job that keeps a pool's only worker busy, and some behind it, of which many are cancelled: these were
    /// queued for certain, so they must not run.
    Behind(usize),
}

/// How a pool ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Its last clone is dropped.
    Drop,
    /// It is shut down; the report is waited for, or its handle dropped or detached.
    Shutdown { drain: Duration, report: Reporting },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reporting {
    Awaited,
    Dropped,
    Detached,
}

/// One pool to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PoolPlan {
    pub(crate) workers: usize,
    pub(crate) capacity: usize,
    pub(crate) on_full: OnFull,
    pub(crate) grace: Duration,
    pub(crate) has_initializer: bool,
    /// How long it is used.
    pub(crate) life: Duration,
    pub(crate) ending: Ending,
    /// How long its slot stays empty afterwards, if it may.
    pub(crate) pause: Duration,
}

/// What the havoc does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blow {
    /// How long it holds back before.
    pub(crate) pause: Duration,
    /// Which pool's worker, and which of them.
    pub(crate) slot: usize,
    pub(crate) worker: usize,
    /// Stopped for so long; killed if none.
    pub(crate) stop: Option<Duration>,
}

/// Who chooses.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stream {
    Client(u64),
    Keeper(u64),
    Havoc,
}

/// A sequence of choices.
#[derive(Debug, Clone)]
pub(crate) struct Choices(Rng);

impl Choices {
    pub(crate) fn of(seed: u64, stream: Stream) -> Self {
        let stream = match stream {
            Stream::Havoc => 0,
            Stream::Keeper(index) => 1 + 2 * index,
            Stream::Client(index) => 2 + 2 * index,
        };
        Self(Rng::with_seed(mix(seed ^ mix(stream))))
    }

    /// A generator for one thing, so that the next one does not depend on how much of it was chosen.
    fn fork(&mut self) -> Rng {
        self.0.fork()
    }

    pub(crate) fn burst(&mut self) -> Burst {
        let mut rng = self.fork();
        match rng.u32(0..100) {
            0..70 => Burst::Mixed(rng.usize(1..20)),
            70..85 => Burst::Storm(rng.usize(20..300)),
            _ => Burst::Behind(rng.usize(1..10)),
        }
    }

    /// One of so many slots.
    pub(crate) fn slot(&mut self, slots: usize) -> usize {
        self.fork().usize(0..slots)
    }

    pub(crate) fn shuffle<T>(&mut self, things: &mut [T]) {
        self.fork().shuffle(things);
    }

    pub(crate) fn one_in(&mut self, count: u32) -> bool {
        self.fork().u32(0..count) == 0
    }

    pub(crate) fn job(&mut self) -> Job {
        let rng = &mut self.fork();
        let mut job = Job::new(kind(rng), reception(rng));
        (job.argument, job.result) = lengths(rng, job.kind);
        job.millis = if rng.u8(..) < 200 { rng.u64(0..12) } else { rng.u64(12..80) };
        job.variant = rng.u64(..);
        if rng.u8(..) < 50 {
            job.name = Some(format!("torture {:04x}", rng.u16(..)));
        }
        if rng.u8(..) < 80 {
            job.priority = rng.i8(-2..=2);
        }
        job.tried = rng.u8(..) < 20;
        if rng.u8(..) < 26 {
            job.queue_limit = Some(millis(rng, 0..150));
        }
        if rng.u8(..) < 26 {
            job.run_limit = Some(millis(rng, 1..150));
        }
        if rng.u8(..) < 13 {
            job.total_limit = Some(millis(rng, 0..300));
        }
        if job.kind.nature() == Nature::Stays {
            job.run_limit = Some(millis(rng, 1..150));
        }
        job
    }

    /// A job for a storm.
    pub(crate) fn small_job(&mut self) -> Job {
        let rng = &mut self.fork();
        let reception = match rng.u32(0..10) {
            0 => Reception::CancelAtOnce,
            1 => Reception::Drop(Duration::ZERO),
            2 | 3 => Reception::Wait,
            _ => Reception::AwaitTogether,
        };
        let mut job = Job::new(Kind::Echo, reception);
        (job.argument, job.result) = (rng.usize(0..200), rng.usize(0..200));
        job.priority = rng.i8(-1..=1);
        job
    }

    /// A job that holds a worker up for a while and that nobody minds waiting for.
    pub(crate) fn blocker(&mut self) -> Job {
        let rng = &mut self.fork();
        let mut job = Job::new(Kind::Nap, Reception::Wait);
        job.millis = rng.u64(20..120);
        job.priority = 3;
        job
    }

    pub(crate) fn pool(&mut self, workers: Option<usize>) -> PoolPlan {
        let rng = &mut self.fork();
        PoolPlan {
            workers: workers.unwrap_or_else(|| rng.usize(1..=3)),
            capacity: pick(rng, &[1, 3, 16, 64, 1000]),
            on_full: pick(
                rng,
                &[OnFull::Wait, OnFull::Wait, OnFull::Reject, OnFull::CallerRuns, OnFull::ShedOldest],
            ),
            grace: millis(rng, 10..400),
            has_initializer: rng.u8(0..4) == 0,
            life: millis(rng, 500..4000),
            ending: ending(rng),
            pause: millis(rng, 0..700),
        }
    }

    pub(crate) fn blow(&mut self, slots: usize) -> Blow {
        let rng = &mut self.fork();
        Blow {
            pause: millis(rng, 5..120),
            slot: rng.usize(0..slots),
            worker: rng.usize(..),
            stop: (rng.u8(0..5) < 2).then(|| millis(rng, 5..300)),
        }
    }
}

fn pick<T: Copy>(rng: &mut Rng, among: &[T]) -> T {
    among[rng.usize(0..among.len())]
}

fn millis(rng: &mut Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.u64(range))
}

fn kind(rng: &mut Rng) -> Kind {
    let total = Kind::ALL.iter().map(|(_, weight)| weight).sum();
    let mut at = rng.u32(0..total);
    for (kind, weight) in Kind::ALL {
        match at.checked_sub(weight) {
            None => return kind,
            Some(rest) => at = rest,
        }
    }
    unreachable!("the number is below the sum of the weights")
}

fn reception(rng: &mut Rng) -> Reception {
    match rng.u32(0..100) {
        0..30 => Reception::Wait,
        30..42 => Reception::WaitInSlices(millis(rng, 0..30)),
        42..55 => Reception::Await,
        55..72 => Reception::AwaitTogether,
        72..76 => Reception::CancelAtOnce,
        76..86 => Reception::Cancel(millis(rng, 0..25)),
        86..92 => Reception::Drop(millis(rng, 0..25)),
        _ => Reception::Detach { accepted: rng.bool() },
    }
}

/// How long argument and result are: any length, with a liking for the borders of pages and of large payloads.
fn lengths(rng: &mut Rng, kind: Kind) -> (usize, usize) {
    const BORDERS: [usize; 5] = [0, 256, 4096, 16 * 1024, 64 * 1024];
    let mut small = || {
        if rng.u8(0..4) == 0 {
            pick(rng, &BORDERS).saturating_add_signed(rng.isize(-40..40))
        } else {
            rng.usize(0..3000)
        }
    };
    let around = |middle: usize, rng: &mut Rng| middle.saturating_add_signed(rng.isize(-40..40));
    let (argument, result) = match kind {
        Kind::Echo => return (small(), small()),
        Kind::EchoLarge => (around(1 << 20, rng), around(1 << 20, rng)),
        Kind::EchoHuge => (around(64 << 20, rng), around(64 << 20, rng)),
        _ => return (0, 0),
    };
    match rng.u8(0..3) {
        0 => (argument, 10),
        1 => (10, result),
        _ => (argument, result),
    }
}

fn ending(rng: &mut Rng) -> Ending {
    if rng.u8(0..4) == 0 {
        return Ending::Drop;
    }
    let drain = pick(rng, &[0, 10, 100, 1000, 3000]);
    let report =
        pick(rng, &[Reporting::Awaited, Reporting::Awaited, Reporting::Dropped, Reporting::Detached]);
    Ending::Shutdown { drain: Duration::from_millis(drain), report }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_choices_again_and_another_gives_others() {
        let sequence = |seed, stream| -> Vec<String> {
            let mut choices = Choices::of(seed, stream);
            let jobs = (0..50).map(|_| format!("{:?} {:?}", choices.burst(), choices.job()));
            jobs.collect()
        };
        assert_eq!(sequence(1, Stream::Client(0)), sequence(1, Stream::Client(0)));
        assert_ne!(sequence(1, Stream::Client(0)), sequence(2, Stream::Client(0)));
        assert_ne!(sequence(1, Stream::Client(0)), sequence(1, Stream::Client(1)));
    }

    #[test]
    fn every_kind_is_chosen() {
        let mut choices = Choices::of(7, Stream::Client(0));
        let chosen: std::collections::BTreeSet<_> = (0..10_000).map(|_| choices.job().kind).collect();
        assert_eq!(chosen.len(), Kind::ALL.len());
    }

    #[test]
    fn a_job_that_stays_has_a_limit_and_a_tamed_one_is_harmless() {
        let mut choices = Choices::of(7, Stream::Client(0));
        for _ in 0..10_000 {
            let job = choices.job();
            assert!(job.kind.nature() != Nature::Stays || job.run_limit.is_some());
            assert!(matches!(job.tamed().kind.nature(), Nature::Returns | Nature::Panics));
        }
    }
}
