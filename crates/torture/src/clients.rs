//! The clients: submit jobs and receive their ends in every way there is.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::task::Poll;
use std::time::Duration;

use fastrand::Rng;
use futures_lite::future::{block_on, poll_fn};
use offloop::{Blob, BlobMut, Call, Error, Handle, JobId, JobState, OnFull, ProcessPool, prepare};
use serde::de::DeserializeOwned;

use crate::clock::{Moment, poll_fairly};
use crate::handles::{JobHandle, Returned};
use crate::oracle::{Cancel, Observation, Outcome};
use crate::payload;
use crate::plan::{HandleUse, Job, Kind, chance};
use crate::run_log;
use crate::tasks::{chatter, compute, degrade, echo, fork, fork_and_drop, give, misbehave, nap, nest};
use crate::world::{OpenPool, SLOTS, World};

/// The longest fair time in which a blocker begins. It is the next job to run in its pool.
const UNTIL_BLOCKED: Duration = Duration::from_secs(10);

struct Client {
    world: &'static World,
    index: usize,
}

/// A submitted job whose end is still to be received.
struct Pending {
    number: u64,
    job: Arc<Job>,
    id: JobId,
    handle: JobHandle,
}

impl Pending {
    /// Checks that a job whose handle returned a result has ended, and returns its outcome.
    fn outcome(&self, result: Result<Returned, Error>) -> Outcome {
        if self.handle.state() != JobState::Ended || self.handle.cancel() {
            return Outcome::Unexpected("it continued after its end".to_owned());
        }
        Outcome::of(result, self.number, &self.job, self.id)
    }
}

/// Runs a client.
pub(crate) fn run(world: &'static World, index: usize, mut rng: Rng) {
    let client = Client { world, index };
    while !world.load_over.load(SeqCst) {
        // A generator per burst: how many jobs a pool accepts depends on time, but the next burst's choices must not.
        let rng = &mut rng.fork();
        match rng.u32(0..100) {
            0..70 => client.mixed(rng),
            70..85 => client.storm(rng),
            _ => client.behind_a_blocker(rng),
        }
    }
}

impl Client {
    /// Submits some jobs of all kinds to all pools.
    fn mixed(&self, rng: &mut Rng) {
        let jobs: Vec<_> = (0..rng.usize(1..20)).map(|_| (Job::random(rng), rng.usize(0..SLOTS))).collect();
        let submit = |(job, slot)| self.submit(&*self.pool(slot)?, job);
        let pending = jobs.into_iter().filter_map(submit).collect();
        self.receive_all(pending, rng);
    }

    /// Submits many small jobs to one pool.
    fn storm(&self, rng: &mut Rng) {
        let jobs: Vec<_> = (0..rng.usize(20..300)).map(|_| Job::small(rng)).collect();
        let Some(open) = self.pool(rng.usize(0..SLOTS)) else { return };
        let pending = jobs.into_iter().filter_map(|job| self.submit(&open, job)).collect();
        self.receive_all(pending, rng);
    }

    /// Keeps the only worker of a pool busy with a blocker and cancels jobs behind it, which must never run.
    ///
    /// While the blocker's body has not ended, the worker that began it has begun no other job. While its handle is
    /// pending, the pool has not replaced that worker.
    fn behind_a_blocker(&self, rng: &mut Rng) {
        let blocker = Job::blocker(rng);
        let jobs: Vec<_> = (0..rng.usize(1..10)).map(|_| Job::random(rng)).collect();
        let Some(open) = self.pool(0) else { return };
        let Some(blocker) = self.submit(&open, blocker) else { return };
        let has_begun =
            || run_log::read(blocker.number).begun > 0 || blocker.handle.state() == JobState::Ended;
        if !poll_fairly(UNTIL_BLOCKED, Duration::from_millis(1), has_begun) {
            let number = blocker.number;
            self.world.oracle().report(format!("job {number} did not begin within {UNTIL_BLOCKED:?}"));
        }
        let mut pending: Vec<_> = jobs.into_iter().filter_map(|job| self.submit(&open, job)).collect();
        rng.shuffle(&mut pending);
        let (victims, others): (Vec<_>, Vec<_>) = pending.into_iter().partition(|_| chance(rng, 67));
        let is_blocked = || {
            let runs = run_log::read(blocker.number);
            open.plan.workers == 1
                && (runs.begun, runs.ended) == (1, 0)
                && runs.pid != std::process::id()
                && blocker.handle.state() == JobState::Running
        };
        for victim in victims {
            let cancel = HandleUse::Cancel(Duration::ZERO);
            let handle = if chance(rng, 33) { HandleUse::Drop(Duration::ZERO) } else { cancel };
            self.receive(victim, handle, &is_blocked);
        }
        self.receive(blocker, HandleUse::Wait, &|| false);
        self.receive_all(others, rng);
    }

    /// Returns the pool in a slot, or in the next slot that has one.
    fn pool(&self, slot: usize) -> Option<Arc<OpenPool>> {
        let found = (0..SLOTS).find_map(|next| self.world.pool((slot + next) % SLOTS));
        if found.is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        found
    }

    fn submit(&self, open: &OpenPool, job: Job) -> Option<Pending> {
        let job = Arc::new(if open.plan.on_full == OnFull::CallerRuns { job.tamed() } else { job });
        let Some(number) = self.world.oracle().submit(&job, open.number, self.index, Moment::now()) else {
            self.world.load_over.store(true, SeqCst);
            return None;
        };
        run_log::add_job(number, open.number);
        // A pool may run the job here meanwhile.
        let start = || start(&open.pool, &job, number);
        let handle = match self.world.waits.during("the submission of job", number, start) {
            Ok(handle) => handle,
            Err(outcome) => {
                self.settle(number, outcome);
                return None;
            }
        };
        let pending = Pending { number, job, id: handle.id(), handle };
        if pending.job.handle == HandleUse::CancelAtOnce {
            self.receive(pending, HandleUse::CancelAtOnce, &|| false);
            return None;
        }
        Some(pending)
    }

    fn settle(&self, number: u64, observed: impl Into<Observation>) {
        let observed = observed.into();
        self.world.oracle().settle(number, &observed, run_log::read(number), Moment::now());
        if observed.outcome == Outcome::Closed {
            // Until the next pool is built.
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn receive_all(&self, mut pending: Vec<Pending>, rng: &mut Rng) {
        rng.shuffle(&mut pending);
        let is_together = |pending: &Pending| pending.job.handle == HandleUse::AwaitTogether;
        let (together, others): (Vec<_>, Vec<_>) = pending.into_iter().partition(is_together);
        for pending in others {
            let handle = pending.job.handle;
            self.receive(pending, handle, &|| false);
        }
        self.await_all(together);
    }

    /// Receives the end of a job. `is_blocked` returns whether no worker can have begun a queued job until now.
    fn receive(&self, mut pending: Pending, handle: HandleUse, is_blocked: &dyn Fn() -> bool) {
        let (waits, number) = (&self.world.waits, pending.number);
        let is_queued = |state| matches!(state, JobState::Queued | JobState::Waiting);
        if let HandleUse::Cancel(pause) | HandleUse::Drop(pause) = handle {
            std::thread::sleep(pause);
        }
        let before = pending.handle.state();
        let observed = match handle {
            HandleUse::Wait => self.wait(pending).into(),
            HandleUse::WaitInSlices(slice) => {
                let wait = || std::iter::repeat_with(|| pending.handle.wait_timeout(slice)).flatten().next();
                let result = waits.during("the end of job", number, wait);
                pending.outcome(result.expect("the iterator is endless")).into()
            }
            HandleUse::Await | HandleUse::AwaitTogether => return self.await_all(vec![pending]),
            HandleUse::CancelAtOnce | HandleUse::Cancel(_) => {
                let cancel = if pending.handle.cancel() { Cancel::Done } else { Cancel::TooLate };
                let surely_queued = cancel == Cancel::Done && is_queued(before) && is_blocked();
                Observation { outcome: self.wait(pending), cancel, surely_queued }
            }
            HandleUse::Drop(_) => {
                drop(pending);
                Observation { surely_queued: is_queued(before) && is_blocked(), ..Outcome::Dropped.into() }
            }
            HandleUse::Detach { accepted } => {
                if accepted {
                    waits.during("room in the queue for job", number, || pending.handle.wait_accepted());
                }
                if pending.handle.state() == JobState::Ended {
                    // It may have been refused, which the oracle must know.
                    self.wait(pending).into()
                } else {
                    pending.handle.detach();
                    Outcome::Detached.into()
                }
            }
        };
        self.settle(number, observed);
    }

    fn wait(&self, Pending { number, job, id, handle }: Pending) -> Outcome {
        let result = self.world.waits.during("the end of job", number, || handle.wait());
        Outcome::of(result, number, &job, id)
    }

    /// Awaits these jobs together on this thread and settles each when it ends. A lost wake-up is a hang.
    fn await_all(&self, mut all: Vec<Pending>) {
        while let Some(&Pending { number: first, .. }) = all.first() {
            let first_ready = poll_fn(|cx| {
                let mut ready = all.iter_mut().enumerate().filter_map(|(at, pending)| {
                    match Pin::new(&mut pending.handle).poll(cx) {
                        Poll::Ready(result) => Some((at, result)),
                        Poll::Pending => None,
                    }
                });
                ready.next().map_or(Poll::Pending, Poll::Ready)
            });
            let what = "one of several jobs, of which the first is job";
            let (at, result) = self.world.waits.during(what, first, || block_on(first_ready));
            let pending = all.swap_remove(at);
            self.settle(pending.number, pending.outcome(result));
        }
    }
}

/// Submits a job. The error is its outcome if the pool refused it.
fn start(pool: &ProcessPool, job: &Job, number: u64) -> Result<JobHandle, Outcome> {
    let argument = payload::argument(number, job.argument);
    let kind = job.kind;
    let call = match kind {
        Kind::Echo | Kind::EchoLarge | Kind::EchoHuge => {
            echo.with(number, &argument, job.argument, job.result)
        }
        Kind::Nap => nap.with(number, job.millis),
        Kind::Compute => compute.with(number, job.millis),
        Kind::Chatter => chatter.with(number, job.variant % 40),
        Kind::Nest => nest.with(number, number + 1, job.variant % 2 == 0, job.variant % 8 < 2),
        Kind::Fork => fork.with(number, &argument, job.argument, job.millis),
        Kind::ForkAndDrop => fork_and_drop.with(number, blob(&argument), job.argument, job.millis),
        Kind::DropPrivileges | Kind::LoseSignals => degrade.with(number, kind, job.variant),
        Kind::Odd | Kind::Deep | Kind::Deeper | Kind::TooDeep | Kind::Lie | Kind::LongLie => {
            let call = give.with(number, kind, job.variant);
            return submit(pool, job, number, call, JobHandle::Value);
        }
        kind => misbehave.with(number, kind, job.status()),
    };
    submit(pool, job, number, call, JobHandle::Bytes)
}

fn blob(bytes: &[u8]) -> Blob {
    let mut blob = BlobMut::with_capacity(bytes.len());
    blob.extend_from_slice(bytes);
    blob.freeze()
}

fn submit<R: DeserializeOwned + Send + 'static>(
    pool: &ProcessPool,
    job: &Job,
    number: u64,
    call: Call<'_, R>,
    into_handle: fn(Handle<R>) -> JobHandle,
) -> Result<JobHandle, Outcome> {
    let mut work = prepare(call).priority(job.priority);
    if let Some(name) = &job.name {
        work = work.name(name.clone());
    }
    if let Some(limit) = job.queue_timeout {
        work = work.queue_timeout(limit);
    }
    if let Some(limit) = job.run_timeout {
        work = work.run_timeout(limit);
    }
    let handle = if job.tried {
        pool.try_run(work).map_err(|rejected| Outcome::of_error(rejected.kind(), number))?
    } else {
        pool.run(work)
    };
    let handle = into_handle(handle);
    Ok(match job.total_timeout {
        Some(limit) => handle.timeout(limit),
        None => handle,
    })
}
