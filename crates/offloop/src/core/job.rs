//! Jobs: what an executor is given, and what a running job can ask about itself.

use std::borrow::Cow;
use std::cell::Cell as StdCell;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64 as StdAtomicU64, Ordering as StdOrdering};
use std::time::Duration;

use crate::base::clock::Moment;
use crate::base::fork::Generation;
use crate::base::panic;
#[cfg(feature = "process")]
use crate::base::sync::atomic::AtomicU32;
use crate::base::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use crate::base::sync::{Mutex, thread_local};
use crate::core::cancel::Hooks;
pub use crate::core::cancel::{OnCancel, on_cancel};
use crate::core::captured::Captured;
use crate::core::cell::Runnable;
use crate::core::compensation::Compensation;
use crate::core::error::ErrorKind;
use crate::core::span::JobSpan;
use crate::metrics::Outcome;
use crate::metrics::stats::{Books, KEPT, NoBooks};
#[cfg(feature = "process")]
use crate::processes::pool::items::Tray;

/// Identifies a job within this process. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(u64);

impl JobId {
    fn next() -> Self {
        static NEXT: StdAtomicU64 = StdAtomicU64::new(1);
        Self(NEXT.fetch_add(1, StdOrdering::Relaxed))
    }

    #[cfg(feature = "process")]
    pub(crate) fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum JobState {
    /// The queue is full; the job waits for room in it.
    Waiting,
    /// In the queue.
    Queued,
    /// A worker runs it.
    Running,
    /// It has a result or an error, or had one that was taken.
    Ended,
}

/// How a job is to be treated. Made by [`prepare`].
#[doc(hidden)]
#[derive(Debug, Clone)]
pub struct Options {
    pub(crate) name: Cow<'static, str>,
    pub(crate) priority: i8,
    pub(crate) queue_limit: Option<Duration>,
    pub(crate) run_limit: Option<Duration>,
    pub(crate) capture: Option<Captured>,
    pub(crate) carried: Option<Box<[u8]>>,
    pub(crate) retry: Option<Retry>,
    /// Where its items go, if it may send some.
    #[cfg(feature = "process")]
    pub(crate) tray: Option<Arc<Tray>>,
    /// A full queue hands the work back, whatever the pool's policy.
    pub(crate) never_wait: bool,
    pub(crate) place: &'static Location<'static>,
}

impl Options {
    #[track_caller]
    pub(crate) fn new() -> Self {
        Self {
            name: Cow::Borrowed(""),
            priority: 0,
            queue_limit: None,
            run_limit: None,
            capture: None,
            carried: None,
            retry: None,
            #[cfg(feature = "process")]
            tray: None,
            never_wait: false,
            place: Location::caller(),
        }
    }
}

/// Work with instructions: a name, a priority, deadlines. Made by [`prepare`]; accepted wherever bare work is.
#[must_use = "prepared work does nothing until an executor is given it"]
#[derive(Debug)]
pub struct Prepared<W> {
    pub(crate) work: W,
    pub(crate) options: Options,
}

/// Adds instructions to work before it is submitted.
///
/// ```
/// # use std::time::Duration;
/// let pool = offloop::ThreadPool::builder().max_threads(2).build()?;
/// let work = offloop::prepare(|| 6 * 7).name("answer").priority(5).run_timeout(Duration::from_secs(1));
/// assert_eq!(pool.run(work).wait()?, 42);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[track_caller]
pub fn prepare<W>(work: W) -> Prepared<W> {
    Prepared { work, options: Options::new() }
}

impl<W> From<W> for Prepared<W> {
    #[track_caller]
    fn from(work: W) -> Self {
        prepare(work)
    }
}

impl<W> Prepared<W> {
    /// The name that errors, reports and spans call the job by. Default: the function's path.
    pub fn name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.options.name = name.into();
        self
    }

    /// Queued jobs of a higher priority run first; among equals, first come, first served. Default 0.
    /// A steady stream of high priorities can starve low ones.
    pub fn priority(mut self, priority: i8) -> Self {
        self.options.priority = priority;
        self
    }

    /// How long it may wait to start, room in the queue included. After that it is removed unrun and ends
    /// with [`ErrorKind::QueueDeadline`].
    pub fn queue_timeout(mut self, limit: Duration) -> Self {
        self.options.queue_limit = Some(limit);
        self
    }

    /// How long it may run. After that it ends with [`ErrorKind::RunDeadline`]: a worker process is killed;
    /// a thread sees [`is_cancelled`] turn true and goes on until the function returns.
    pub fn run_timeout(mut self, limit: Duration) -> Self {
        self.options.run_limit = Some(limit);
        self
    }

    /// In a process pool: gives the job to another worker when its own has died. Without this it ends with
    /// [`ErrorKind::WorkerDied`]; with it, it does when all attempts have failed so, and the error counts the
    /// workers that it cost. Threads don't die, so there it has no effect.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.options.retry = Some(retry);
        self
    }

    /// Bytes that travel with the job, to [`carried`]: the context of a distributed trace, for instance.
    pub fn carry(mut self, bytes: impl Into<Box<[u8]>>) -> Self {
        self.options.carried = Some(bytes.into());
        self
    }

    /// In a process pool: keeps what the job prints in `captured` instead of passing it on. Threads share their
    /// process's output, so there it has no effect.
    pub fn capture(mut self, captured: &Captured) -> Self {
        self.options.capture = Some(captured.clone());
        self
    }
}

/// Whether a job may end in a moment, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Expected {
    No,
    FromThread,
    /// From a process that is awake.
    FromProcess,
    /// From a process that had to be woken. It may be about to run on the caller's core.
    FromSleeper,
}

/// How often, and when, a job whose worker process died is given to another one.
///
/// Only for tasks that may run more than once: the worker may have died after the task's effects and before its
/// answer. The pauses between attempts double up to 30 s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    times: u32,
    backoff: Duration,
}

impl Retry {
    /// At most `times` more attempts after the first; the first pause is 10 ms.
    pub const fn times(times: u32) -> Self {
        Self { times, backoff: Duration::from_millis(10) }
    }

    /// How long to pause before the second attempt; twice as long before the third, and so on.
    pub const fn backoff(mut self, first: Duration) -> Self {
        self.backoff = first;
        self
    }

    /// How long to pause after so many deaths; `None`: it is to be given up.
    #[cfg_attr(not(feature = "process"), allow(dead_code, reason = "only worker processes die"))]
    pub(crate) fn pause_after(self, deaths: u32) -> Option<Duration> {
        const LONGEST: Duration = Duration::from_secs(30);
        let doubled = 1_u32.checked_shl(deaths.saturating_sub(1)).unwrap_or(u32::MAX);
        (deaths <= self.times).then(|| self.backoff.saturating_mul(doubled).min(LONGEST.max(self.backoff)))
    }
}

/// In a note of a job's early end: the executor is told of it.
const TOLD: u8 = 0x80;

/// What the job's holders share whatever its type: identity, instructions, token.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) id: JobId,
    pub(crate) options: Options,
    pub(crate) born: Generation,
    pub(crate) submitted: Moment,
    /// Written by the queue that holds the job: its place in there.
    pub(crate) ticket: AtomicU64,
    /// A mirror of the cell's stage for lock-free reads; the cell's lock guards its writes.
    state: AtomicU8,
    cancelled: AtomicBool,
    /// It says itself that it has failed.
    failed: AtomicBool,
    /// Its outcome, one more than as a number, if another hand than the executor's has ended it; and whether the
    /// executor was told.
    early_end: AtomicU8,
    /// What it wants done when it is asked to stop.
    pub(crate) hooks: Hooks,
    /// Whether it may end in a moment.
    expected: AtomicU8,
    /// How many workers died that had it but had not begun with it.
    #[cfg(feature = "process")]
    losses: AtomicU32,
    /// How many workers died of it, as far as can be told.
    #[cfg(feature = "process")]
    deaths: AtomicU32,
    pub(crate) span: JobSpan,
}

impl Core {
    pub(crate) fn new(options: Options) -> Self {
        Self::with_id(JobId::next(), options, if KEPT { Moment::now() } else { Moment::default() })
    }

    /// A job of another process, as its worker sees it.
    #[cfg(feature = "process")]
    pub(crate) fn of_request(id: u64, options: Options, parent: Option<&str>) -> Self {
        // When it was submitted is known where that was.
        let core = Self::with_id(JobId(id), options, Moment::default());
        if let Some(parent) = parent {
            core.span.tell_parent(parent);
        }
        core
    }

    fn with_id(id: JobId, options: Options, submitted: Moment) -> Self {
        Self {
            span: JobSpan::new(id, &options.name),
            id,
            options,
            born: Generation::now(),
            submitted,
            ticket: AtomicU64::new(0),
            state: AtomicU8::new(JobState::Queued as u8),
            cancelled: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            early_end: AtomicU8::new(0),
            hooks: Hooks::default(),
            expected: AtomicU8::new(Expected::No as u8),
            #[cfg(feature = "process")]
            losses: AtomicU32::new(0),
            #[cfg(feature = "process")]
            deaths: AtomicU32::new(0),
        }
    }

    pub(crate) fn state(&self) -> JobState {
        match self.state.load(Ordering::Acquire) {
            0 => JobState::Waiting,
            1 => JobState::Queued,
            2 => JobState::Running,
            _ => JobState::Ended,
        }
    }

    pub(crate) fn set_state(&self, state: JobState) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// Notes that a worker was looking out for it when it was given out, so that it may end in a moment.
    pub(crate) fn expect(&self, expected: Expected) {
        self.expected.store(expected as u8, Ordering::Relaxed);
    }

    pub(crate) fn expected(&self) -> Expected {
        match self.expected.load(Ordering::Relaxed) {
            0 => Expected::No,
            1 => Expected::FromThread,
            2 => Expected::FromProcess,
            _ => Expected::FromSleeper,
        }
    }

    /// Counts a worker that died with it but had not begun with it; says how many there were.
    #[cfg(feature = "process")]
    pub(crate) fn note_loss(&self) -> u32 {
        self.losses.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Counts a worker that died while it ran it; says how many there were.
    #[cfg(feature = "process")]
    pub(crate) fn note_death(&self) -> u32 {
        self.deaths.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// What it comes to if it ends like this.
    pub(crate) fn outcome<R>(&self, result: &Result<R, ErrorKind>) -> Outcome {
        match result {
            Ok(_) if self.has_failed() => Outcome::Failed,
            Ok(_) => Outcome::Completed,
            Err(kind) => Outcome::of(kind),
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    pub(crate) fn mark_failed(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Notes that another hand than the executor's ends it, and whether the executor is going to be told.
    pub(crate) fn note_early_end(&self, outcome: Outcome, is_told: bool) {
        self.early_end.store((outcome as u8 + 1) | if is_told { TOLD } else { 0 }, Ordering::Release);
    }

    /// How another hand than the executor's has ended it.
    pub(crate) fn early_end(&self) -> Option<Outcome> {
        let noted = self.early_end.load(Ordering::Acquire) & !TOLD;
        Outcome::ALL.get(usize::from(noted).checked_sub(1)?).copied()
    }

    /// The same, if the executor was not told.
    pub(crate) fn untold_end(&self) -> Option<Outcome> {
        let is_told = self.early_end.load(Ordering::Acquire) & TOLD != 0;
        if is_told { None } else { self.early_end() }
    }

    pub(crate) fn request_stop(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Runs the job's body as this job: in its span, known to [`is_cancelled`] and friends, panics caught.
    pub(crate) fn perform<R>(&self, body: impl FnOnce() -> Result<R, ErrorKind>) -> Result<R, ErrorKind> {
        let _current = Current::enter(self);
        let in_span = || self.span.within(body);
        let result = panic::catch(in_span).unwrap_or_else(|panic| Err(ErrorKind::Panicked(panic)));
        self.hooks.close();
        result
    }
}

/// One call that an executor has been given, whatever it computes.
///
/// [`run`](Self::run) it on any thread. Dropping it unrun cancels its handle, so nobody waits for ever.
#[must_use = "dropping a job cancels it"]
pub struct Job(Option<Arc<dyn Runnable>>);

impl Job {
    pub(crate) fn new(cell: Arc<dyn Runnable>) -> Self {
        Self(Some(cell))
    }

    /// Takes the cell out, and with it the duty to end the job.
    pub(crate) fn into_cell(mut self) -> Arc<dyn Runnable> {
        self.0.take().expect("a job holds its cell until it is consumed")
    }

    fn cell(&self) -> &Arc<dyn Runnable> {
        self.0.as_ref().expect("a job holds its cell until it is consumed")
    }

    /// Runs the job on this thread and ends its handle. Returns when the function has returned. Never
    /// panics: a panic of the function goes to the handle. Does nothing if the job was cancelled.
    pub fn run(self) {
        self.into_cell().run(&NoBooks);
    }

    /// The job's identity, the same as its handle's.
    pub fn id(&self) -> JobId {
        self.cell().core().id
    }

    /// The job's name: the one given, else the function's path.
    pub fn name(&self) -> &str {
        &self.cell().core().options.name
    }

    /// The job's priority; higher runs first.
    pub fn priority(&self) -> i8 {
        self.cell().core().options.priority
    }

    /// Whether its handle was cancelled or dropped, so that running it would be in vain.
    pub fn is_cancelled(&self) -> bool {
        self.cell().core().state() == JobState::Ended
    }

    /// The same job with `hook` around its run: for executors that measure, log or prepare something and
    /// pass the job on. The hook gets the run as a function and should call it; if it does not, the job is
    /// cancelled.
    pub fn around(self, hook: impl FnOnce(&mut dyn FnMut()) + Send + 'static) -> Self {
        Self::new(Arc::new(Around { inner: self.into_cell(), hook: Mutex::new(Some(Box::new(hook))) }))
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(cell) = self.0.take() {
            cell.fail(ErrorKind::Cancelled, &NoBooks);
        }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("id", &self.id()).field("name", &self.name()).finish_non_exhaustive()
    }
}

type Hook = Box<dyn FnOnce(&mut dyn FnMut()) + Send>;

/// A job with a hook around its run.
struct Around {
    inner: Arc<dyn Runnable>,
    hook: Mutex<Option<Hook>>,
}

impl Runnable for Around {
    fn core(&self) -> &Core {
        self.inner.core()
    }

    fn run(self: Arc<Self>, books: &dyn Books) {
        if self.core().state() != JobState::Ended {
            let hook = self.hook.lock().take();
            let caught = hook.map(|hook| panic::catch(|| hook(&mut || Arc::clone(&self.inner).run(books))));
            let kind = match caught {
                Some(Err(panic)) => ErrorKind::Panicked(panic),
                _ => ErrorKind::Cancelled,
            };
            self.inner.fail(kind, books);
        } else if let Some(outcome) = self.core().untold_end() {
            books.ended(outcome);
        }
        panic::drop_quietly(self);
    }

    fn fail(&self, kind: ErrorKind, books: &dyn Books) -> bool {
        self.inner.fail(kind, books)
    }

    fn attach(&self, owner: std::sync::Weak<dyn crate::core::cell::Owner>, state: JobState) {
        self.inner.attach(owner, state);
    }

    fn admit(&self) {
        self.inner.admit();
    }
}

thread_local! {
    static CURRENT: StdCell<Option<*const Core>> = const { StdCell::new(None) };
    static DESCRIPTION: StdCell<Option<String>> = const { StdCell::new(None) };
}

/// Makes a job the current one of this thread for as long as it lives.
struct Current {
    previous: Option<*const Core>,
}

impl Current {
    /// The caller keeps the returned guard no longer than `core`, as [`Core::perform`] does.
    fn enter(core: &Core) -> Self {
        Self { previous: CURRENT.with(|current| current.replace(Some(core))) }
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        CURRENT.with(|current| current.set(self.previous));
    }
}

pub(crate) fn current<R>(f: impl FnOnce(&Core) -> R) -> Option<R> {
    CURRENT.with(StdCell::get).map(|core| {
        // SAFETY: `perform` set the pointer from a reference that outlives its guard, and the guard
        // takes the pointer back before it goes; both happen on this thread.
        f(unsafe { &*core })
    })
}

/// Whether the job that runs on this thread should stop: its handle was cancelled or dropped, its run
/// deadline has passed, or its pool is shutting down. Outside of a job, `false`.
///
/// Worth asking in every long loop; one atomic load. For a call that does not ask, see [`on_cancel`].
pub fn is_cancelled() -> bool {
    current(Core::is_cancelled).unwrap_or(false)
}

/// `Err(Cancelled)` once the job that runs on this thread should stop, for use with `?`.
pub fn check() -> Result<(), Cancelled> {
    if is_cancelled() { Err(Cancelled) } else { Ok(()) }
}

/// Runs `f`, which blocks this thread until something else happens. If the thread is a pool's worker, another
/// one stands in for it meanwhile: so the pool does not stand still when what `f` waits for is a job of its own.
///
/// Handles do that by themselves; this is for other ways to wait. Outside of a worker, `f` is simply called.
pub fn blocking<R>(f: impl FnOnce() -> R) -> R {
    let _stand_in = Compensation::begin();
    f()
}

/// Sends an item to whoever reads the [`Items`](crate::Items) of the job that runs on this thread, of a process pool.
///
/// Blocks while nobody makes room. An error if nobody can read it: the job was not submitted by
/// [`stream`](crate::ProcessPool::stream), or it runs in a thread.
#[cfg(feature = "process")]
pub fn emit<T: serde::Serialize + ?Sized>(item: &T) -> Result<(), NotSent> {
    crate::processes::worker::main::emit(item)
}

/// An item was not sent; the text says why.
#[cfg(feature = "process")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the item was not sent: {0}")]
pub struct NotSent(pub(crate) String);

/// Calls the job that runs on this thread by another name in [advice](crate::metrics::Advice): for executors whose jobs
/// are all of one kind to Rust. To be called before the job returns, where its name is cheaper to have than when it was
/// submitted.
pub fn describe(name: String) {
    DESCRIPTION.with(|description| description.set(Some(name)));
}

/// What the job on this thread calls itself, once.
pub(crate) fn take_description() -> Option<String> {
    DESCRIPTION.with(StdCell::take)
}

/// Has the job that runs on this thread be counted as failed in its pool's [figures](crate::metrics), although its
/// function will return: for functions whose result says whether they went well. Outside of a job it does nothing.
pub fn mark_failed() {
    current(Core::mark_failed);
}

/// The identity of the job that runs on this thread.
pub fn id() -> Option<JobId> {
    current(|core| core.id)
}

/// The bytes that [travel](Prepared::carry) with the job that runs on this thread.
pub fn carried() -> Option<Vec<u8>> {
    current(|core| core.options.carried.as_deref().map(<[u8]>::to_vec)).flatten()
}

/// Has `hook` called around each job of a process pool that this process runs as a worker, for as long as it lives: to be
/// called once, by the pool's initializer. The hook gets the job as a function and should call it; [`name`], [`id`] and
/// [`carried`] tell about it. If it does not call it, or panics, the job ends with the reason.
///
/// This is where a context that was carried becomes that of the thread. Says whether it was the first to be set; others
/// are not heard.
#[cfg(feature = "process")]
pub fn surround(hook: impl Fn(&mut dyn FnMut()) + Send + Sync + 'static) -> bool {
    crate::processes::worker::main::surround(Box::new(hook))
}

/// The name of the job that runs on this thread.
pub fn name() -> Option<String> {
    current(|core| core.options.name.clone().into_owned())
}

/// A running job learned from [`check`] that it should stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the job was asked to stop")]
pub struct Cancelled;
