//! Each job ends exactly once and nothing hangs, whatever is done to a pool and in whatever order.

#![allow(missing_docs, reason = "a test crate has no users")]

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{comes_back, end, eventually};
use offloop::{ErrorKind, Handle, OnFull, Prepared, Rejected, ThreadPool, job, prepare};
use proptest::prelude::*;

/// A timeout that may or may not pass while the case goes on.
const TINY: Duration = Duration::from_micros(300);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Quick,
    Panics,
    /// Blocks until the gate is open, or until asked to stop.
    Blocks,
    /// Waits for a job of its own pool.
    Nests,
    /// Starts a job of its own pool and detaches it.
    Spawns,
}

#[derive(Debug, Clone, Copy)]
struct Submission {
    kind: Kind,
    priority: i8,
    queue_limit: bool,
    run_limit: bool,
    try_run: bool,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Submit(Submission),
    Cancel(usize),
    Drop(usize),
    Detach(usize),
    Timeout(usize),
    Wait(usize),
    OpenGate,
    CloseGate,
    Shutdown { at_once: bool },
}

#[derive(Debug, Clone)]
struct Case {
    threads: usize,
    capacity: usize,
    policy: OnFull,
    idle_timeout: Duration,
    steps: Vec<Step>,
}

fn submissions() -> impl Strategy<Value = Submission> {
    let kind = prop_oneof![
        4 => Just(Kind::Quick),
        1 => Just(Kind::Panics),
        3 => Just(Kind::Blocks),
        2 => Just(Kind::Nests),
        1 => Just(Kind::Spawns),
    ];
    let rarely = prop::bool::weighted(0.15);
    (kind, -1..=1_i8, rarely, rarely, rarely).prop_map(|(kind, priority, queue_limit, run_limit, try_run)| {
        Submission { kind, priority, queue_limit, run_limit, try_run }
    })
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => submissions().prop_map(Step::Submit),
        2 => any::<usize>().prop_map(Step::Cancel),
        2 => any::<usize>().prop_map(Step::Drop),
        2 => any::<usize>().prop_map(Step::Detach),
        1 => any::<usize>().prop_map(Step::Timeout),
        1 => any::<usize>().prop_map(Step::Wait),
        2 => Just(Step::OpenGate),
        2 => Just(Step::CloseGate),
        1 => any::<bool>().prop_map(|at_once| Step::Shutdown { at_once }),
    ]
}

fn cases() -> impl Strategy<Value = Case> {
    let policy = prop_oneof![
        2 => Just(OnFull::Wait),
        1 => Just(OnFull::Reject),
        1 => Just(OnFull::CallerRuns),
        1 => Just(OnFull::ShedOldest),
    ];
    let idle_timeout = prop_oneof![Just(Duration::ZERO), Just(TINY), Just(Duration::from_secs(10))];
    let steps = prop::collection::vec(steps(), 1..60);
    (1..=3_usize, 1..=4_usize, policy, idle_timeout, steps).prop_map(
        |(threads, capacity, policy, idle_timeout, steps)| Case {
            threads,
            capacity,
            policy,
            idle_timeout,
            steps,
        },
    )
}

/// Counts the runs and the drops of one job. Written by the job itself.
#[derive(Default, Debug)]
struct Record {
    ran: AtomicUsize,
    dropped: AtomicUsize,
}

impl Record {
    fn ran(&self) -> usize {
        self.ran.load(Ordering::SeqCst)
    }

    fn dropped(&self) -> usize {
        self.dropped.load(Ordering::SeqCst)
    }
}

/// The state that the jobs of a case share.
#[derive(Default)]
struct Site {
    open: AtomicBool,
    /// Jobs that were submitted by jobs.
    inner: Mutex<Vec<Arc<Record>>>,
}

/// What the test did with the handle of a job.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Kept,
    Cancelled,
    Dropped,
    Detached,
    Returned,
}

struct Tracked {
    submission: Submission,
    record: Arc<Record>,
    fate: Fate,
    timed: bool,
    handle: Option<Handle<usize>>,
}

/// Makes the work of a job, which counts its runs and, by its guard, its drops.
fn work(
    kind: Kind,
    pool: &ThreadPool,
    site: &Arc<Site>,
    record: &Arc<Record>,
) -> impl FnOnce() -> usize + Send + use<> {
    let guard = {
        let record = Arc::clone(record);
        common::OnDrop(move || {
            record.dropped.fetch_add(1, Ordering::SeqCst);
        })
    };
    let (pool, site, record) = (pool.clone(), Arc::clone(site), Arc::clone(record));
    let submitter = common::tid();
    move || {
        let _guard = guard;
        record.ran.fetch_add(1, Ordering::SeqCst);
        // With `CallerRuns` the job may run on the test's thread, which must not block.
        let may_block = common::tid() != submitter;
        match kind {
            Kind::Quick => {}
            // Bypasses the panic hook, which would print.
            Kind::Panics => std::panic::resume_unwind(Box::new("a panic of the case")),
            Kind::Blocks => {
                while may_block && !site.open.load(Ordering::SeqCst) && !job::is_cancelled() {
                    std::thread::sleep(Duration::from_micros(100));
                }
            }
            Kind::Nests | Kind::Spawns => {
                let inner = Arc::new(Record::default());
                site.inner.lock().unwrap().push(Arc::clone(&inner));
                let handle = pool.run(work(Kind::Quick, &pool, &site, &inner));
                if kind == Kind::Nests && may_block {
                    assert!(end(handle).is_err() || inner.ran() == 1, "a result without a run");
                } else {
                    handle.detach();
                }
            }
        }
        7
    }
}

fn submit(submission: Submission, pool: &ThreadPool, site: &Arc<Site>) -> Tracked {
    let record = Arc::default();
    let mut work = prepare(work(submission.kind, pool, site, &record)).priority(submission.priority);
    if submission.queue_limit {
        work = work.queue_timeout(TINY);
    }
    if submission.run_limit {
        work = work.run_timeout(TINY);
    }
    let mut tracked = Tracked { submission, record, fate: Fate::Kept, timed: false, handle: None };
    if submission.try_run {
        match pool.try_run(work) {
            Ok(handle) => tracked.handle = Some(handle),
            Err(rejected) => {
                assert_eq!(
                    (tracked.record.ran(), tracked.record.dropped()),
                    (0, 0),
                    "the work was used before it was returned"
                );
                let _: Prepared<_> = Rejected::into_work(rejected);
                tracked.fate = Fate::Returned;
            }
        }
    } else {
        tracked.handle = Some(pool.run(work));
    }
    tracked
}

impl Tracked {
    /// Checks the result of the handle against the job's own record.
    fn check(&self, result: &Result<usize, offloop::Error>, case: &Case, shut_down: bool) {
        let (ran, kind) = (self.record.ran(), self.submission.kind);
        let timed = self.timed;
        let unrun_by = |allowed: bool| assert!(allowed && ran == 0, "ran {ran} times, {result:?}");
        match result.as_ref().map_err(offloop::Error::kind) {
            Ok(value) => assert!(*value == 7 && ran == 1 && kind != Kind::Panics),
            Err(ErrorKind::Panicked(_)) => assert!(ran == 1 && kind == Kind::Panics, "{result:?}"),
            Err(ErrorKind::Cancelled) => assert!(self.fate == Fate::Cancelled || shut_down, "{result:?}"),
            Err(ErrorKind::QueueTimeout(_)) => unrun_by(timed || self.submission.queue_limit),
            Err(ErrorKind::RunTimeout(_)) => assert!(timed || self.submission.run_limit),
            Err(ErrorKind::QueueFull { .. }) => {
                unrun_by(matches!(case.policy, OnFull::Reject | OnFull::ShedOldest));
            }
            Err(ErrorKind::Shed) => unrun_by(case.policy == OnFull::ShedOldest),
            Err(ErrorKind::Closed) => unrun_by(shut_down),
            Err(other) => panic!("{other:?}"),
        }
    }

    /// Returns whether nothing can have kept the job from running.
    fn must_run(&self, case: &Case, shut_down: bool) -> bool {
        let limited = self.timed || self.submission.queue_limit || self.submission.run_limit;
        let wanted = self.fate == Fate::Kept || self.fate == Fate::Detached;
        let safe = matches!(case.policy, OnFull::Wait | OnFull::CallerRuns);
        wanted && safe && !limited && !shut_down
    }
}

fn play(case: &Case) {
    let pool = ThreadPool::builder()
        .max_workers(case.threads)
        .queue_capacity(case.capacity)
        .on_full(case.policy)
        .idle_timeout(case.idle_timeout)
        .grace(common::GIVE_UP)
        .build()
        .unwrap();
    let site = Arc::new(Site::default());
    let mut jobs: Vec<Tracked> = Vec::new();
    let mut shutdown = None;
    for step in &case.steps {
        match *step {
            Step::Submit(submission) => jobs.push(submit(submission, &pool, &site)),
            Step::OpenGate => site.open.store(true, Ordering::SeqCst),
            Step::CloseGate => site.open.store(false, Ordering::SeqCst),
            Step::Shutdown { at_once } => {
                let drain = if at_once { Duration::ZERO } else { common::GIVE_UP };
                shutdown.get_or_insert_with(|| pool.shutdown(drain));
            }
            Step::Cancel(n) => {
                if let Some(job) = held(&mut jobs, n) {
                    if job.handle.as_ref().unwrap().cancel() {
                        job.fate = Fate::Cancelled;
                        assert!(end(job.handle.take().unwrap()).unwrap_err().is_cancelled());
                    }
                }
            }
            Step::Drop(n) => {
                if let Some(job) = held(&mut jobs, n) {
                    job.fate = Fate::Dropped;
                    job.handle = None;
                }
            }
            Step::Detach(n) => {
                if let Some(job) = held(&mut jobs, n) {
                    job.fate = Fate::Detached;
                    job.handle.take().unwrap().detach();
                }
            }
            Step::Timeout(n) => {
                if let Some(job) = held(&mut jobs, n) {
                    job.timed = true;
                    job.handle = job.handle.take().map(|handle| handle.timeout(TINY));
                }
            }
            Step::Wait(n) => {
                if let Some(job) = held(&mut jobs, n) {
                    // The job may depend on the gate, so the wait is limited. Both outcomes are valid.
                    let result = job.handle.as_mut().unwrap().wait_timeout(TINY);
                    if let Some(result) = result {
                        job.handle = None;
                        job.check(&result, case, shutdown.is_some());
                    }
                }
            }
        }
    }
    site.open.store(true, Ordering::SeqCst);
    settle(case, pool, &site, jobs, shutdown);
}

/// Returns one of the jobs, if the test still has its handle.
fn held(jobs: &mut [Tracked], n: usize) -> Option<&mut Tracked> {
    let count = jobs.len().max(1);
    jobs.get_mut(n % count).filter(|job| job.handle.is_some())
}

/// Waits until everything has ended, and checks the counts.
fn settle(
    case: &Case,
    pool: ThreadPool,
    site: &Site,
    mut jobs: Vec<Tracked>,
    shutdown: Option<Handle<offloop::ShutdownReport>>,
) {
    let was_shut_down = shutdown.is_some();
    for job in &mut jobs {
        if let Some(handle) = job.handle.take() {
            let result = end(handle);
            job.check(&result, case, was_shut_down);
        }
    }
    let all_dropped = || jobs.iter().all(|job| job.record.dropped() == 1);
    if !was_shut_down {
        // As long as there are jobs, they may submit others.
        eventually("every job is dropped", all_dropped);
    }
    let report = end(shutdown.unwrap_or_else(|| pool.shutdown(common::GIVE_UP))).unwrap();
    let inner = std::mem::take(&mut *site.inner.lock().unwrap());
    assert_eq!((pool.worker_count(), pool.queued(), report.stuck.len()), (0, 0, 0), "{report:?}");
    assert!(report.drained + report.cancelled <= jobs.len() + inner.len(), "{report:?}");
    assert!(was_shut_down || report.cancelled == 0, "{report:?}");
    drop(pool);
    // The timer ends a job before it drops the work, so the pool may be over sooner.
    eventually("every job is dropped", all_dropped);

    for job in &jobs {
        let (ran, dropped) = (job.record.ran(), job.record.dropped());
        assert!(dropped == 1 && ran <= 1, "ran {ran} times and was dropped {dropped} times");
        assert!(ran == 1 || !job.must_run(case, was_shut_down), "it never ran");
        assert!(ran == 0 || job.fate != Fate::Returned, "it was returned and ran");
    }
    for job in inner {
        assert!(job.dropped() == 1 && job.ran() <= 1, "{job:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        max_shrink_time: 60_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn each_job_ends_exactly_once_whatever_is_done(case in cases()) {
        comes_back("the case", move || {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play(&case)))
        })
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}
