//! The promises of every executor of calls, as tests over any executor.
//!
//! A test crate implements [`Subject`] for its executor and writes `contract!(module, Subject)`. Another crate includes
//! this file by its path. A promise that an executor does not make is named by [`Subject::lacks`], with the reason, and
//! the test says so instead of passing in silence.
//!
//! Jobs may run in this process, in another one or on another machine that shares the file system. So they and the tests
//! talk through files in a [`Place`].

#![allow(dead_code, unreachable_pub, reason = "each test crate uses its own part of this module")]
#![allow(clippy::option_option, reason = "the difference must survive")]
#![allow(clippy::needless_pass_by_value, reason = "the tasks own their arguments on purpose")]

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use offloop::{
    Accepts, Call, Captured, ErrorKind, Handle, ItemStream, JobState, OnFull, Prepared, ShutdownReport, job,
    prepare, run_in_executor,
};
use serde::{Deserialize, Serialize};

/// The time after which a test gives up on what should happen soon.
const GIVE_UP: Duration = Duration::from_secs(60);

/// An executor under test.
pub trait Subject: Sized {
    type Executor: Accepts<Call<'static, u64>, Output = u64> + Accepts<Call<'static, Person>, Output = Person>;

    /// Returns the reason why such an executor cannot be opened on this machine. Then its tests say so and pass.
    fn is_missing() -> Option<&'static str> {
        None
    }

    /// Opens an executor with these settings, as far as it has them.
    fn open(settings: Settings) -> Self;

    fn executor(&self) -> &Self::Executor;

    /// Returns the capacity that errors name: larger than the wanted one if jobs that run take room in the queue.
    fn capacity(settings: Settings) -> usize {
        settings.capacity
    }

    /// Returns the reason why the executor does not make this promise.
    fn lacks(promise: Promise) -> Option<&'static str>;

    /// Shuts the executor down and returns the report.
    fn shut_down(&self, drain: Duration) -> ShutdownReport;

    /// Returns the number of jobs that its metrics count as ended.
    fn ended(&self) -> u64;

    /// Submits a job that sends items.
    fn stream(
        &self,
        work: Prepared<Call<'static, u64>>,
        buffersize: usize,
    ) -> (Handle<u64>, ItemStream<String>);
}

#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub workers: usize,
    pub capacity: usize,
    pub on_full: OnFull,
}

impl Settings {
    pub fn workers(workers: usize) -> Self {
        Self { workers, capacity: 10_000, on_full: OnFull::Wait }
    }
}

/// A promise that not every executor makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// Jobs run beside their submitter, and wait while all workers are busy.
    Queue,
    /// A running job that is to stop is killed, whatever it does.
    Kill,
    /// A job can crash without harm for anything else.
    Crash,
    /// A full queue does what its policy says.
    Backpressure,
    /// There is a shutdown.
    Shutdown,
    /// There are metrics.
    Metrics,
    /// Jobs send items.
    Stream,
    /// The output of a job is kept.
    Capture,
}

fn skips<S: Subject>(promise: Promise) -> bool {
    let reason = S::lacks(promise);
    if let Some(reason) = reason {
        eprintln!("does not apply ({promise:?}): {reason}");
    }
    reason.is_some()
}

/// A folder in which jobs and their test leave each other messages.
pub struct Place(PathBuf);

impl Place {
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("offloop-contract-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self) -> String {
        self.0.to_str().unwrap().to_owned()
    }

    fn has(&self, name: &str) -> bool {
        self.0.join(name).exists()
    }

    fn put(&self, name: &str) {
        fs::write(self.0.join(name), "").unwrap();
    }

    /// Returns how many times [`mark`] was called in this place.
    fn marks(&self) -> usize {
        fs::read(self.0.join("marks")).map_or(0, |marks| marks.len())
    }

    #[track_caller]
    fn await_file(&self, name: &str) {
        eventually(name, || self.has(name));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < GIVE_UP, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits for a job's end, which must come.
#[track_caller]
fn end<T>(mut handle: Handle<T>) -> Result<T, offloop::Error> {
    handle.wait_timeout(GIVE_UP).expect("the job has no end")
}

#[track_caller]
fn error<T: std::fmt::Debug>(handle: Handle<T>) -> ErrorKind {
    end(handle).expect_err("the job has a result").into_kind()
}

/// Leaves a mark that outlives the process.
fn mark(place: &str) {
    let marks = OpenOptions::new().create(true).append(true).open(Path::new(place).join("marks"));
    marks.unwrap().write_all(b"x").unwrap();
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Shape {
    Point,
    Circle { radius: f64 },
    Named(String, Option<Option<u8>>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Person {
    pub name: String,
    pub age: Option<u8>,
    pub shapes: Vec<Shape>,
    pub large: u128,
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

#[offloop::task(name = "contract:add")]
pub fn add(place: String, a: u64, b: u64) -> u64 {
    mark(&place);
    a + b
}

#[offloop::task(name = "contract:older", version = 3)]
pub fn older(mut person: Person) -> Person {
    person.age = person.age.map(|age| age + 1);
    person
}

#[offloop::task(name = "contract:boom")]
pub fn boom(text: String) -> u64 {
    panic!("boom: {text}")
}

#[offloop::task(name = "contract:crash")]
pub fn crash() -> u64 {
    std::process::abort()
}

/// Runs until the test says `go`, or until it is asked to stop. Says `begun` and leaves a mark at once; says `over` when
/// it has run to its end.
#[offloop::task(name = "contract:linger")]
pub fn linger(place: String, name: String) -> u64 {
    mark(&place);
    let at = |what: &str| Path::new(&place).join(format!("{name}.{what}"));
    fs::write(at("pid"), std::process::id().to_string()).unwrap();
    fs::write(at("begun"), "").unwrap();
    let began = Instant::now();
    while !at("go").exists() && !job::is_cancelled() {
        // The test may have ended, and the place with it.
        if began.elapsed() > GIVE_UP || !Path::new(&place).exists() {
            return 0;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let _ = fs::write(at("over"), "");
    7
}

/// Returns a number that is the same for two jobs only if they ran on the same thread.
#[offloop::task(name = "contract:thread")]
pub fn thread() -> u64 {
    this_thread()
}

fn this_thread() -> u64 {
    // SAFETY: the call returns a plain number.
    u64::from(unsafe { libc::gettid() }.unsigned_abs())
}

#[offloop::task(name = "contract:count")]
pub fn count(place: String, up_to: u64) -> u64 {
    for number in 0..up_to {
        job::emit(&format!("number {number}")).unwrap();
        mark(&place);
    }
    up_to
}

#[offloop::task(name = "contract:print")]
pub fn print(text: String) -> u64 {
    println!("out: {text}");
    eprintln!("err: {text}");
    1
}

#[offloop::task(name = "contract:context")]
pub fn context(place: String) -> u64 {
    let text = format!("{:?} {:?} {:?}", job::name(), job::carried(), job::request());
    fs::write(Path::new(&place).join("context"), text).unwrap();
    1
}

fn linger_in(place: &Place, name: &str) -> Call<'static, u64> {
    linger.with(place.path(), name.to_owned())
}

/// Returns whether a process is dead. A zombie counts as dead.
fn is_gone(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X'])),
        Err(_) => true,
    }
}

/// Checks that a running job has stopped, as far as the executor promises that.
#[track_caller]
fn stopped<S: Subject>(place: &Place, name: &str) {
    if skips::<S>(Promise::Kill) {
        // It was asked to stop, and does.
        return place.await_file(&format!("{name}.over"));
    }
    let pid = fs::read_to_string(place.0.join(format!("{name}.pid"))).unwrap().parse().unwrap();
    eventually("the job's process is dead", || is_gone(pid));
    assert!(!place.has(&format!("{name}.over")), "it has run to its end");
}

/// Opens an executor whose only worker is busy until the test says `busy.go`.
fn busy<S: Subject>(settings: Settings) -> (S, Place, Handle<u64>) {
    let (subject, place) = (S::open(settings), Place::new());
    let handle = run_in_executor(subject.executor(), linger_in(&place, "busy"));
    place.await_file("busy.begun");
    (subject, place, handle)
}

pub fn each_job_runs_once_and_ends_with_its_own_result<S: Subject>() {
    let (subject, place) = (S::open(Settings::workers(2)), Place::new());
    let handles: Vec<_> =
        (0..200).map(|n| run_in_executor(subject.executor(), add.with(place.path(), n, 1))).collect();
    let results: Vec<u64> = handles.into_iter().map(|handle| end(handle).unwrap()).collect();
    assert_eq!(results, (1..=200).collect::<Vec<_>>());
    assert_eq!(place.marks(), 200);
    if !skips::<S>(Promise::Metrics) {
        assert_eq!(subject.ended(), 200);
    }
}

pub fn values_keep_their_meaning<S: Subject>() {
    let subject = S::open(Settings::workers(1));
    let person = Person {
        name: "Kilgore \u{1f41f}".to_owned(),
        age: Some(84),
        shapes: vec![
            Shape::Point,
            Shape::Circle { radius: f64::MIN_POSITIVE },
            Shape::Named("x".repeat(3000), Some(None)),
        ],
        large: u128::MAX - 1,
        bytes: (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect(),
    };
    let aged = end(run_in_executor(subject.executor(), older.with(person.clone()))).unwrap();
    assert_eq!(aged, Person { age: Some(85), ..person });
}

pub fn a_panic_is_the_error_of_its_job_alone<S: Subject>() {
    let (subject, place) = (S::open(Settings::workers(1)), Place::new());
    let handle = run_in_executor(subject.executor(), boom.with("so it goes".to_owned()));
    let ErrorKind::Panicked(panic) = error(handle) else { panic!("it is no panic") };
    assert_eq!(panic.message(), "boom: so it goes");
    assert!(panic.location().is_some_and(|location| location.contains("suite.rs")), "{panic:?}");
    assert_eq!(end(run_in_executor(subject.executor(), add.with(place.path(), 1, 2))).unwrap(), 3);
}

pub fn a_crash_ends_its_job_alone<S: Subject>() {
    if skips::<S>(Promise::Crash) {
        return;
    }
    let (subject, place) = (S::open(Settings::workers(2)), Place::new());
    let neighbour = run_in_executor(subject.executor(), linger_in(&place, "neighbour"));
    place.await_file("neighbour.begun");
    let kind = error(run_in_executor(subject.executor(), crash.with()));
    let ErrorKind::WorkerDied(died) = kind else { panic!("{kind:?}") };
    assert_eq!((died.exit, &*died.task), (offloop::WorkerExit::Signal(libc::SIGABRT), "contract:crash"));
    assert_eq!(end(run_in_executor(subject.executor(), add.with(place.path(), 1, 2))).unwrap(), 3);
    place.put("neighbour.go");
    assert_eq!(end(neighbour).unwrap(), 7);
}

pub fn a_queued_job_that_is_cancelled_never_runs<S: Subject>() {
    if skips::<S>(Promise::Queue) {
        return;
    }
    let (subject, place, holder) = busy::<S>(Settings::workers(1));
    let queued = run_in_executor(subject.executor(), linger_in(&place, "queued"));
    assert_ne!(queued.state(), JobState::Running);
    assert!(queued.cancel());
    assert!(!queued.cancel(), "it has ended already");
    assert!(matches!(error(queued), ErrorKind::Cancelled));
    place.put("busy.go");
    assert_eq!(end(holder).unwrap(), 7);
    assert_eq!(end(run_in_executor(subject.executor(), add.with(place.path(), 1, 2))).unwrap(), 3);
    assert!(!place.has("queued.begun"));
    assert_eq!(place.marks(), 2);
}

pub fn a_running_job_that_is_cancelled_stops<S: Subject>() {
    if skips::<S>(Promise::Queue) {
        return;
    }
    let (subject, place, holder) = busy::<S>(Settings::workers(1));
    assert!(holder.cancel());
    assert!(matches!(error(holder), ErrorKind::Cancelled));
    stopped::<S>(&place, "busy");
    // The worker, or another one in its place, goes on.
    assert_eq!(end(run_in_executor(subject.executor(), add.with(place.path(), 1, 2))).unwrap(), 3);
}

pub fn a_dropped_handle_cancels_its_job<S: Subject>() {
    if skips::<S>(Promise::Queue) {
        return;
    }
    let (subject, place, holder) = busy::<S>(Settings::workers(1));
    drop(run_in_executor(subject.executor(), linger_in(&place, "queued")));
    drop(holder);
    stopped::<S>(&place, "busy");
    assert_eq!(end(run_in_executor(subject.executor(), add.with(place.path(), 1, 2))).unwrap(), 3);
    assert!(!place.has("queued.begun"));
}

pub fn a_detached_job_goes_on<S: Subject>() {
    let (subject, place) = (S::open(Settings::workers(1)), Place::new());
    run_in_executor(subject.executor(), add.with(place.path(), 1, 2)).detach();
    eventually("the job has run", || place.marks() == 1);
}

pub fn a_job_that_waits_too_long_ends_unrun<S: Subject>() {
    if skips::<S>(Promise::Queue) {
        return;
    }
    let (subject, place, holder) = busy::<S>(Settings::workers(1));
    let limit = Duration::from_millis(20);
    let work = prepare(linger_in(&place, "late")).queue_timeout(limit);
    let kind = error(run_in_executor(subject.executor(), work));
    assert!(matches!(kind, ErrorKind::QueueTimeout(given) if given == limit), "{kind:?}");
    let in_time = prepare(add.with(place.path(), 1, 2)).queue_timeout(GIVE_UP);
    let in_time = run_in_executor(subject.executor(), in_time);
    place.put("busy.go");
    assert_eq!((end(holder).unwrap(), end(in_time).unwrap()), (7, 3));
    assert!(!place.has("late.begun"));
}

pub fn a_job_that_runs_too_long_ends_and_stops<S: Subject>() {
    if skips::<S>(Promise::Queue) {
        return;
    }
    let (subject, place) = (S::open(Settings::workers(1)), Place::new());
    let limit = Duration::from_millis(300);
    let work = prepare(linger_in(&place, "slow")).run_timeout(limit);
    let kind = error(run_in_executor(subject.executor(), work));
    assert!(matches!(kind, ErrorKind::RunTimeout(given) if given == limit), "{kind:?}");
    if place.has("slow.pid") {
        stopped::<S>(&place, "slow");
    }
    assert_eq!(end(run_in_executor(subject.executor(), add.with(place.path(), 1, 2))).unwrap(), 3);
}

pub fn a_handle_with_a_timeout_ends_in_time<S: Subject>() {
    if skips::<S>(Promise::Queue) {
        return;
    }
    let (subject, place, holder) = busy::<S>(Settings::workers(1));
    let queued = run_in_executor(subject.executor(), linger_in(&place, "queued"));
    let limit = Duration::from_millis(20);
    assert!(matches!(error(queued.timeout(limit)), ErrorKind::QueueTimeout(given) if given == limit));
    assert!(matches!(error(holder.timeout(limit)), ErrorKind::RunTimeout(given) if given == limit));
    stopped::<S>(&place, "busy");
    assert!(!place.has("queued.begun"));
}

fn full<S: Subject>(on_full: OnFull) -> (S, Place, [Handle<u64>; 2]) {
    let (subject, place, holder) = busy::<S>(Settings { workers: 1, capacity: 1, on_full });
    let queued = run_in_executor(subject.executor(), add.with(place.path(), 10, 10));
    (subject, place, [holder, queued])
}

pub fn a_job_waits_for_room_in_a_full_queue<S: Subject>() {
    if skips::<S>(Promise::Backpressure) {
        return;
    }
    let (subject, place, [holder, mut queued]) = full::<S>(OnFull::Wait);
    queued.wait_accepted();
    let mut waiting = run_in_executor(subject.executor(), add.with(place.path(), 1, 2));
    assert_eq!(waiting.state(), JobState::Waiting);
    let cancelled = run_in_executor(subject.executor(), linger_in(&place, "cancelled"));
    assert!(cancelled.cancel());
    place.put("busy.go");
    waiting.wait_accepted();
    assert_ne!(waiting.state(), JobState::Waiting);
    assert_eq!([holder, queued, waiting].map(|handle| end(handle).unwrap()), [7, 20, 3]);
    assert!(!place.has("cancelled.begun"));
}

pub fn a_full_queue_rejects_if_it_is_to<S: Subject>() {
    if skips::<S>(Promise::Backpressure) {
        return;
    }
    let (subject, place, [holder, queued]) = full::<S>(OnFull::Reject);
    let kind = error(run_in_executor(subject.executor(), linger_in(&place, "rejected")));
    let settings = Settings { workers: 1, capacity: 1, on_full: OnFull::Reject };
    assert!(
        matches!(kind, ErrorKind::QueueFull { capacity } if capacity == S::capacity(settings)),
        "{kind:?}"
    );
    place.put("busy.go");
    assert_eq!([holder, queued].map(|handle| end(handle).unwrap()), [7, 20]);
    assert_eq!(end(run_in_executor(subject.executor(), add.with(place.path(), 1, 2))).unwrap(), 3);
    assert!(!place.has("rejected.begun"));
}

pub fn the_caller_runs_what_a_full_queue_has_no_room_for<S: Subject>() {
    if skips::<S>(Promise::Backpressure) {
        return;
    }
    let (subject, place, [holder, queued]) = full::<S>(OnFull::CallerRuns);
    let handle = run_in_executor(subject.executor(), thread.with());
    assert_eq!(handle.state(), JobState::Ended);
    assert_eq!(end(handle).unwrap(), this_thread());
    let panicked = run_in_executor(subject.executor(), boom.with("here".to_owned()));
    assert!(matches!(error(panicked), ErrorKind::Panicked(_)));
    place.put("busy.go");
    assert_eq!([holder, queued].map(|handle| end(handle).unwrap()), [7, 20]);
}

pub fn a_shutdown_lets_jobs_end_in_time<S: Subject>() {
    if skips::<S>(Promise::Shutdown) {
        return;
    }
    let (subject, place, holder) = busy::<S>(Settings::workers(1));
    let queued = run_in_executor(subject.executor(), add.with(place.path(), 1, 2));
    place.put("busy.go");
    let report = subject.shut_down(GIVE_UP);
    assert_eq!((report.cancelled, report.killed, report.stuck.len()), (0, 0, 0), "{report:?}");
    assert_eq!([holder, queued].map(|handle| end(handle).unwrap()), [7, 3]);
    let late = error(run_in_executor(subject.executor(), add.with(place.path(), 1, 2)));
    assert!(matches!(late, ErrorKind::Closed), "{late:?}");
}

pub fn a_shutdown_ends_what_is_left<S: Subject>() {
    if skips::<S>(Promise::Shutdown) {
        return;
    }
    let (subject, place, holder) = busy::<S>(Settings::workers(1));
    let queued: Vec<_> =
        (0..3).map(|_| run_in_executor(subject.executor(), linger_in(&place, "queued"))).collect();
    let report = subject.shut_down(Duration::ZERO);
    assert_eq!(report.drained + report.cancelled + report.killed, 4, "{report:?}");
    assert!(report.cancelled >= 3, "{report:?}");
    for handle in queued.into_iter().chain([holder]) {
        assert!(matches!(error(handle), ErrorKind::Cancelled));
    }
    stopped::<S>(&place, "busy");
    assert!(!place.has("queued.begun"));
}

pub fn accepted_jobs_go_on_when_the_executor_is_dropped<S: Subject>() {
    if skips::<S>(Promise::Queue) {
        return;
    }
    let (subject, place, holder) = busy::<S>(Settings::workers(1));
    let queued = run_in_executor(subject.executor(), add.with(place.path(), 1, 2));
    drop(subject);
    place.put("busy.go");
    assert_eq!([holder, queued].map(|handle| end(handle).unwrap()), [7, 3]);
}

pub fn items_come_in_order_and_before_the_result<S: Subject>() {
    if skips::<S>(Promise::Stream) {
        return;
    }
    let (subject, place) = (S::open(Settings::workers(1)), Place::new());
    let (handle, mut items) = subject.stream(prepare(count.with(place.path(), 50)), 4);
    let mut seen = Vec::new();
    while let Some(item) = items.wait_next() {
        seen.push(item.unwrap());
    }
    assert_eq!(seen, (0..50).map(|number| format!("number {number}")).collect::<Vec<_>>());
    assert_eq!(end(handle).unwrap(), 50);
}

pub fn a_job_waits_for_the_reader_of_its_items<S: Subject>() {
    if skips::<S>(Promise::Stream) {
        return;
    }
    let (subject, place) = (S::open(Settings::workers(1)), Place::new());
    let (handle, mut items) = subject.stream(prepare(count.with(place.path(), 1000)), 2);
    assert_eq!(items.wait_next().unwrap().unwrap(), "number 0");
    // Whatever is under way between the two sides: it is bounded.
    std::thread::sleep(Duration::from_millis(200));
    assert!(place.marks() < 100, "the job does not wait for its reader");
    assert!(handle.cancel());
    while items.wait_next().is_some() {}
    assert_eq!(end(run_in_executor(subject.executor(), add.with(place.path(), 1, 2))).unwrap(), 3);
}

pub fn what_a_job_prints_comes_with_its_end<S: Subject>() {
    if skips::<S>(Promise::Capture) {
        return;
    }
    let subject = S::open(Settings::workers(1));
    let (whole, cut) = (Captured::new(1000), Captured::new(5));
    let work = prepare(print.with("so it goes".to_owned())).capture(&whole);
    end(run_in_executor(subject.executor(), work)).unwrap();
    assert_eq!(
        (whole.stdout(), whole.stderr()),
        (b"out: so it goes\n".to_vec(), b"err: so it goes\n".to_vec())
    );
    assert!(!whole.is_truncated());
    let work = prepare(print.with("so it goes".to_owned())).capture(&cut);
    end(run_in_executor(subject.executor(), work)).unwrap();
    assert_eq!((cut.stdout(), cut.is_truncated()), (b"out: ".to_vec(), true));
}

pub fn a_job_knows_what_it_was_given<S: Subject>() {
    let (subject, place) = (S::open(Settings::workers(1)), Place::new());
    let work = prepare(context.with(place.path())).name("the job").carry(*b"trace").request("7f3a");
    let handle = run_in_executor(subject.executor(), work);
    assert_eq!(handle.name(), "the job");
    end(handle).unwrap();
    let seen = fs::read_to_string(place.0.join("context")).unwrap();
    let carried = b"trace".to_vec();
    assert_eq!(seen, format!("{:?} {:?} {:?}", Some("the job"), Some(carried), Some("7f3a")));
    end(run_in_executor(subject.executor(), context.with(place.path()))).unwrap();
    let seen = fs::read_to_string(place.0.join("context")).unwrap();
    assert!(seen.contains("contract:context") && seen.ends_with("None None"), "{seen}");
}

/// Jobs of each kind that are cancelled, dropped, awaited or timed out at any moment. Each has one end, and none that was
/// cancelled before it began has run.
pub fn a_storm_of_ends_loses_and_doubles_none<S: Subject>() {
    let (subject, place) = (S::open(Settings::workers(2)), Place::new());
    let mut submitted = 0;
    for round in 0..20_u64 {
        let mut waited = Vec::new();
        for kind in 0..10 {
            let handle = run_in_executor(subject.executor(), add.with(place.path(), round, kind));
            submitted += 1;
            match (round + kind) % 5 {
                0 => drop(handle),
                1 => {
                    handle.cancel();
                    waited.push((handle, round + kind));
                }
                2 => waited.push((handle.timeout(Duration::from_micros(50 * round)), round + kind)),
                _ => waited.push((handle, round + kind)),
            }
        }
        for (handle, result) in waited {
            match end(handle) {
                Ok(value) => assert_eq!(value, result),
                Err(error) => assert!(error.is_cancelled() || error.is_timeout(), "{error}"),
            }
        }
    }
    assert!(place.marks() <= submitted, "a job ran twice");
    if !skips::<S>(Promise::Metrics) {
        let submitted = submitted as u64;
        eventually("each end is counted once", || subject.ended() >= submitted);
        assert_eq!(subject.ended(), submitted);
    }
}

/// Says which promises an executor does not make. At least one test would apply nowhere if they were all given up.
pub fn what_does_not_apply_is_said<S: Subject>() {
    use Promise::{Backpressure, Capture, Crash, Kill, Metrics, Queue, Shutdown, Stream};
    let all = [Queue, Kill, Crash, Backpressure, Shutdown, Metrics, Stream, Capture];
    let reasons: BTreeSet<_> = all.into_iter().filter_map(S::lacks).collect();
    assert!(reasons.iter().all(|reason| !reason.is_empty()));
    eprintln!("{reasons:#?}");
}

/// Makes a module of tests, one for each promise.
#[macro_export]
macro_rules! contract {
    ($module:ident, $subject:ty) => {
        $crate::contract!(@tests $module, $subject:
            each_job_runs_once_and_ends_with_its_own_result,
            values_keep_their_meaning,
            a_panic_is_the_error_of_its_job_alone,
            a_crash_ends_its_job_alone,
            a_queued_job_that_is_cancelled_never_runs,
            a_running_job_that_is_cancelled_stops,
            a_dropped_handle_cancels_its_job,
            a_detached_job_goes_on,
            a_job_that_waits_too_long_ends_unrun,
            a_job_that_runs_too_long_ends_and_stops,
            a_handle_with_a_timeout_ends_in_time,
            a_job_waits_for_room_in_a_full_queue,
            a_full_queue_rejects_if_it_is_to,
            the_caller_runs_what_a_full_queue_has_no_room_for,
            a_shutdown_lets_jobs_end_in_time,
            a_shutdown_ends_what_is_left,
            accepted_jobs_go_on_when_the_executor_is_dropped,
            items_come_in_order_and_before_the_result,
            a_job_waits_for_the_reader_of_its_items,
            what_a_job_prints_comes_with_its_end,
            a_job_knows_what_it_was_given,
            a_storm_of_ends_loses_and_doubles_none,
            what_does_not_apply_is_said,
        );
    };
    (@tests $module:ident, $subject:ty: $($test:ident,)*) => {
        mod $module {
            #[allow(unused_imports, reason = "the subject may be anywhere")]
            use super::*;

            $(
                #[test]
                fn $test() {
                    match <$subject as $crate::suite::Subject>::is_missing() {
                        Some(reason) => eprintln!("skipped: {reason}"),
                        None => $crate::suite::$test::<$subject>(),
                    }
                }
            )*
        }
    };
}
