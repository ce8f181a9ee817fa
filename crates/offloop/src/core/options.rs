//! Instructions for a job: its name, priority, deadlines and retries.

use std::borrow::Cow;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::captured::Captured;

/// A callback at a job's end, beside its handle's waker.
pub(crate) trait OnEnd: Send + Sync + fmt::Debug {
    /// Called once when the job has ended, after its lock is released. `woken` is the waker that is woken anyway.
    fn job_ended(&self, woken: Option<&Waker>);
}

/// The instructions of one job. Made by [`prepare`].
#[doc(hidden)]
#[derive(Debug, Clone)]
pub struct Options {
    pub(crate) name: Cow<'static, str>,
    pub(crate) priority: i8,
    /// A full queue hands the work back, whatever the pool's policy.
    pub(crate) never_wait: bool,
    /// The line that submitted the job.
    pub(crate) submitted_at: &'static Location<'static>,
    /// `None` if the job has none of them.
    pub(super) extras: Option<Box<Extras>>,
}

/// The instructions that few jobs have. The others have no room for them: with many jobs in a queue each byte counts.
#[derive(Debug, Clone)]
pub(crate) struct Extras {
    pub(crate) queue_timeout: Option<Duration>,
    pub(crate) run_timeout: Option<Duration>,
    pub(crate) capture: Option<Captured>,
    pub(crate) carried: Option<Box<[u8]>>,
    /// The id of the request that the job works for.
    pub(crate) request: Option<Arc<str>>,
    pub(crate) retry: Option<Retry>,
    /// The queue that the job waits in, if its executor has queues with names. For errors.
    pub(crate) queue: Option<Arc<str>>,
    /// Called at the job's end. Only jobs that send items have one.
    pub(crate) on_end: Option<Arc<dyn OnEnd>>,
}

impl Extras {
    const NONE: Self = Self {
        queue_timeout: None,
        run_timeout: None,
        capture: None,
        carried: None,
        request: None,
        retry: None,
        queue: None,
        on_end: None,
    };
}

impl Options {
    /// Returns the instructions of a job that was given none.
    #[allow(clippy::new_without_default, reason = "it notes the caller's line")]
    #[track_caller]
    pub fn new() -> Self {
        Self {
            name: Cow::Borrowed(""),
            priority: 0,
            never_wait: false,
            submitted_at: Location::caller(),
            extras: None,
        }
    }

    pub(crate) fn extras(&self) -> &Extras {
        static NONE: Extras = Extras::NONE;
        self.extras.as_deref().unwrap_or(&NONE)
    }

    /// Returns the seldom instructions, to add some.
    pub(crate) fn extras_mut(&mut self) -> &mut Extras {
        self.extras.get_or_insert_with(|| Box::new(Extras::NONE))
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
/// let pool = offloop::ThreadPool::builder().max_workers(2).build()?;
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
    /// Sets the name that errors, reports and spans use for the job. Default: the function's path.
    pub fn name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.options.name = name.into();
        self
    }

    /// Sets the priority. Queued jobs of a higher priority run first; jobs of one priority run first come, first
    /// served. Default 0. A steady stream of high priorities can starve low ones.
    pub fn priority(mut self, priority: i8) -> Self {
        self.options.priority = priority;
        self
    }

    /// Limits the time that the job may wait to start, including the wait for room in a full queue. When it has
    /// passed, the job is removed unrun and ends with [`ErrorKind::QueueTimeout`](crate::ErrorKind::QueueTimeout).
    pub fn queue_timeout(mut self, limit: Duration) -> Self {
        self.options.extras_mut().queue_timeout = Some(limit);
        self
    }

    /// Limits the time that the job may run. When it has passed, the job ends with
    /// [`ErrorKind::RunTimeout`](crate::ErrorKind::RunTimeout). A worker process is killed. In a thread,
    /// [`is_cancelled`](crate::job::is_cancelled) turns true, and the function goes on until it returns.
    pub fn run_timeout(mut self, limit: Duration) -> Self {
        self.options.extras_mut().run_timeout = Some(limit);
        self
    }

    /// Lets a process pool give the job to another worker when its own has died.
    ///
    /// Without this the job ends with [`ErrorKind::WorkerDied`](crate::ErrorKind::WorkerDied) at the first death. With
    /// it, it does when all attempts have failed, and the error counts the workers that died. Threads do not die, so
    /// there it has no effect.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.options.extras_mut().retry = Some(retry);
        self
    }

    /// Sends `bytes` along with the job, where [`carried`](crate::job::carried) returns them: the context of a
    /// distributed trace, for instance.
    pub fn carry(mut self, bytes: impl Into<Box<[u8]>>) -> Self {
        self.options.extras_mut().carried = Some(bytes.into());
        self
    }

    /// Sets the id of the request that the job works for. The job learns it from [`request`](crate::job::request), also in
    /// a worker process, and the live view shows it.
    ///
    /// ```
    /// let work = offloop::prepare(|| offloop::job::request()).request("7f3a");
    /// assert_eq!(offloop::run(work).wait()?.as_deref(), Some("7f3a"));
    /// # Ok::<(), offloop::Error>(())
    /// ```
    pub fn request(mut self, id: impl Into<Arc<str>>) -> Self {
        self.options.extras_mut().request = Some(id.into());
        self
    }

    /// Makes a process pool keep what the job prints in `captured` instead of passing it on. Threads share the standard
    /// output of their process, so there it has no effect.
    pub fn capture(mut self, captured: &Captured) -> Self {
        self.options.extras_mut().capture = Some(captured.clone());
        self
    }
}

/// How often, and after which pauses, a job whose worker process died is given to another worker.
///
/// Only for tasks that may run more than once: the worker may have died after the task's effects and before its
/// answer. The pauses between attempts double, up to 30 s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    times: u32,
    backoff: Duration,
    on_failure: bool,
}

impl Retry {
    /// Allows at most `times` more attempts after the first. The first pause is 10 ms.
    pub const fn times(times: u32) -> Self {
        Self { times, backoff: Duration::from_millis(10), on_failure: false }
    }

    /// Sets the pause before the second attempt. The pause before the third is twice as long, and so on.
    pub const fn backoff(mut self, first: Duration) -> Self {
        self.backoff = first;
        self
    }

    /// Makes a cluster start the job again also after a start that has failed: its task has panicked, has
    /// raised an exception of Python, or has run for too long. The handle gets the last failure. An `Err` that the task
    /// returns is a result like any other.
    ///
    /// In pools of this program it has no effect: there a failure is the job's end.
    pub const fn on_failure(mut self) -> Self {
        self.on_failure = true;
        self
    }

    /// Returns whether a failure leads to another attempt, in a cluster.
    pub const fn retries_failures(self) -> bool {
        self.on_failure
    }

    /// Returns the largest number of attempts after the first.
    pub const fn max_retries(self) -> u32 {
        self.times
    }

    /// Returns the pause before the second attempt.
    pub const fn first_pause(self) -> Duration {
        self.backoff
    }

    /// Returns the pause after the given number of lost workers, or `None` if the job is to be given up.
    pub fn pause_after(self, deaths: u32) -> Option<Duration> {
        const LONGEST: Duration = Duration::from_secs(30);
        let doubled = 1_u32.checked_shl(deaths.saturating_sub(1)).unwrap_or(u32::MAX);
        (deaths <= self.times).then(|| self.backoff.saturating_mul(doubled).min(LONGEST.max(self.backoff)))
    }
}
