//! The reasons why a job has no result, told apart by type.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::id::JobId;
use super::signature::Signature;
use crate::base::panic::Panic;

/// The reason why a job has no result, and which job that is.
///
/// [`Error::kind`] tells the reasons apart. An error is one pointer wide, so a `Result<T, Error>` costs little more than its `T`.
pub struct Error(Box<Inner>);

struct Inner {
    job: JobId,
    name: Cow<'static, str>,
    queue: Option<Arc<str>>,
    kind: ErrorKind,
}

impl Error {
    pub(crate) fn new(job: JobId, name: Cow<'static, str>, queue: Option<Arc<str>>, kind: ErrorKind) -> Self {
        Self(Box::new(Inner { job, name, queue, kind }))
    }

    /// Returns the reason.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// Returns the reason by value, to take the payload of a panic for instance.
    pub fn into_kind(self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the identity of the job.
    pub fn job(&self) -> JobId {
        self.0.job
    }

    /// Returns the name of the job: the one given to it, else the function's path.
    pub fn job_name(&self) -> &str {
        &self.0.name
    }

    /// Returns the name of the queue that the job was submitted to. `None` if its executor has one queue without a name, as
    /// pools have.
    pub fn queue(&self) -> Option<&str> {
        self.0.queue.as_deref()
    }

    /// Returns whether the job was cancelled, by its handle or by a pool's shutdown.
    pub fn is_cancelled(&self) -> bool {
        matches!(self.kind(), ErrorKind::Cancelled)
    }

    /// Returns whether the job panicked.
    pub fn is_panic(&self) -> bool {
        matches!(self.kind(), ErrorKind::Panicked(_))
    }

    /// Returns whether a timeout ended the job, in the queue or while it ran.
    pub fn is_timeout(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::QueueTimeout(_) | ErrorKind::RunTimeout(_) | ErrorKind::LoadTimeout(_)
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { job, name, queue, kind } = &*self.0;
        write!(f, "job {job} `{name}`: ")?;
        match (kind, queue) {
            (ErrorKind::QueueTimeout(limit), Some(queue)) => write!(
                f,
                "still in the queue `{queue}` after its limit of {limit:?}, so it was removed unrun; start more workers \
                 for that queue or raise the limit"
            ),
            _ => write!(f, "{kind}"),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("job", &self.0.job)
            .field("name", &self.0.name)
            .field("kind", &self.0.kind)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.0.kind)
    }
}

/// The reason why a job has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The function panicked. Its worker goes on.
    #[error("panicked{0}")]
    Panicked(Panic),
    /// Its handle was cancelled, its executor dropped it, or its pool's shutdown passed its deadline.
    #[error("cancelled before it had a result")]
    Cancelled,
    /// It waited in the queue for longer than its limit, and was removed unrun.
    #[error("still queued after its limit of {0:?}, so it was removed unrun; add workers or raise the limit")]
    QueueTimeout(Duration),
    /// It ran for longer than its limit. Its worker process is ended. A thread was asked to stop, and goes on until the
    /// function returns.
    #[error(
        "still running after its limit of {0:?}; its worker process is being ended, or its thread was asked to stop"
    )]
    RunTimeout(Duration),
    /// It has a run timeout, and had not loaded its function when the pool's
    /// [`load_timeout`](crate::embed::ProcessPoolBuilderExt::load_timeout) had passed.
    #[error(
        "its function was not loaded within the pool's load_timeout of {0:?}, and its worker process is being ended; \
         load what takes long before the first job, or raise load_timeout"
    )]
    LoadTimeout(Duration),
    /// The queue was full, and the pool's policy is to reject work then.
    #[error(
        "the queue is full ({capacity} jobs); retry later, or give the pool a larger queue or another policy"
    )]
    QueueFull {
        /// The number of jobs that the queue holds.
        capacity: usize,
    },
    /// The queue was full, and newer work took the place of this job, as `OnFull::ShedOldest` says.
    #[error("shed from a full queue to make room for newer work")]
    Shed,
    /// Another worker process of its pool crashed, and the pool breaks then. The text describes the crash.
    #[error("its pool broke: {0}")]
    Broken(String),
    /// The executor no longer accepts work.
    #[error("the executor is closed; it was shut down or dropped")]
    Closed,
    /// The pool belongs to the process that this one was forked from.
    #[error(
        "the pool was made before fork() and its threads are in the parent; build a new pool in the child"
    )]
    Forked,
    /// The executor refused the job for a reason of its own.
    #[error("rejected: {0}")]
    Rejected(Cow<'static, str>),
    /// The worker process that ran it died.
    #[error("{0}")]
    WorkerDied(WorkerDied),
    /// No thread or process could be started to run it.
    #[error("no worker could be started to run it: {0}")]
    WorkerStart(Cow<'static, str>),
    /// The worker's own value, such as a connection, could not be opened.
    #[error("the worker's state could not be opened: {0}")]
    WorkerState(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Its arguments or its result could not be encoded for another process.
    #[error("could not encode {0}")]
    Encode(String),
    /// Its arguments or its result arrived, but could not be decoded.
    #[error("could not decode {0}")]
    Decode(String),
    /// The worker on another machine that ran it has been silent for too long, so it was given up. It may have run to its
    /// end there.
    #[error(
        "its worker `{worker}` on `{host}` was lost: not heard of for {silent_for:?}, in attempt {attempt}; it may have \
         run; look at that machine, or allow another attempt with `retry` if the task may run twice"
    )]
    Lost {
        /// The name of the worker.
        worker: String,
        /// The machine that the worker ran on.
        host: String,
        /// The number of the attempt that was lost, from 1.
        attempt: u32,
        /// The time for which nothing was heard of the worker.
        silent_for: Duration,
    },
    /// No program that could run it has its task, or only in another version or with other types. It was not run.
    #[error("{}", no_such_task(task, *wanted, offered, workers))]
    NoSuchTask {
        /// The name of the task.
        task: String,
        /// The signature that the caller's program has for it.
        wanted: Signature,
        /// The signatures that the others have for the name. Empty if none has it.
        offered: Vec<Signature>,
        /// The workers that were asked, if they have names.
        workers: Vec<String>,
    },
    /// The executor that was to run it cannot be reached, or has given it up without telling its end. The text says which,
    /// and whether the job may have run.
    #[error("its executor is out of reach: {0}")]
    Unreachable(Cow<'static, str>),
    /// The other side may not do this: a worker that may not run the job, or a result whose sender is not trusted. The text
    /// says why.
    #[error("not trusted: {0}")]
    NotTrusted(Cow<'static, str>),
}

fn no_such_task(task: &str, wanted: Signature, offered: &[Signature], workers: &[String]) -> String {
    let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(", ");
    let mut text = if offered.is_empty() {
        format!("no worker has the task `{task}` (wanted with signature {wanted})")
    } else {
        let offered = list(&mut offered.iter().map(ToString::to_string));
        format!(
            "no worker has this build's task `{task}`: wanted with signature {wanted}, offered with {offered}"
        )
    };
    if !workers.is_empty() {
        text = format!("{text}; asked were {}", list(&mut workers.iter().cloned()));
    }
    text + "; run workers of a build that has the task with this name, version and types"
}

/// How a worker process ended while it ran a job.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerDied {
    /// The process id of the worker.
    pub pid: u32,
    /// The way in which it ended.
    pub exit: WorkerExit,
    /// The task that it ran.
    pub task: String,
    /// The most memory that it ever had resident, in bytes. 0 if the system did not report it.
    pub peak_memory: u64,
    /// Whether memory was the cause, as far as that can be seen from outside: it exceeded the pool's `max_rss`, an
    /// allocation failed under the pool's `max_data`, or the system's out-of-memory killer ended it.
    pub out_of_memory: bool,
    /// The pool's `max_rss` in bytes, if it exceeded that.
    pub max_rss: Option<u64>,
    /// The number of workers that died with this job, this one included. More than one if it was retried.
    pub workers_lost: u32,
    /// The end of what it wrote to standard error, as far as the pool keeps it.
    pub stderr: String,
}

impl fmt::Display for WorkerDied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its worker process {} {} while running `{}`", self.pid, self.exit, self.task)?;
        if self.peak_memory > 0 {
            write!(f, ", peak memory {} MiB", self.peak_memory >> 20)?;
        }
        match self.max_rss {
            Some(limit) => {
                write!(f, ", out of memory: it used more than its max_rss of {} MiB", limit >> 20)?;
            }
            None if self.out_of_memory => f.write_str(", out of memory")?,
            None => {}
        }
        if self.workers_lost > 1 {
            write!(f, "; {} workers have died with this job", self.workers_lost)?;
        }
        if !self.stderr.is_empty() {
            write!(f, "; the end of its standard error:\n{}", self.stderr)?;
        }
        Ok(())
    }
}

/// The way in which a worker process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerExit {
    /// It exited with this status.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// It violated the protocol of its link, and was killed for that.
    Protocol,
    /// It could not be ended, and may run on: the system refuses to signal it, or it hangs in a system call. Another
    /// worker takes its place.
    Lost,
    /// It has ended, but other code of this program has collected its status.
    Unknown,
}

impl fmt::Display for WorkerExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with status {code}"),
            Self::Signal(signal) => match signal_name(*signal) {
                Some(name) => write!(f, "was ended by signal {signal} ({name})"),
                None => write!(f, "was ended by signal {signal}"),
            },
            Self::Protocol => {
                f.write_str("closed its link or sent data on it that is no answer, and was killed")
            }
            Self::Lost => f.write_str(
                "could not be killed and was given up: the system refuses the signal, or it hangs in a system call",
            ),
            Self::Unknown => f.write_str("ended (other code of this program collected its status)"),
        }
    }
}

#[cfg(not(unix))]
fn signal_name(_signal: i32) -> Option<&'static str> {
    None
}

#[cfg(unix)]
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGSYS => "SIGSYS",
        _ => return None,
    })
}

/// Work that an executor did not take, with the reason.
///
/// Nothing has been run and nothing is lost: [`Rejected::into_work`] returns the work.
pub struct Rejected<W> {
    work: W,
    kind: ErrorKind,
}

impl<W> Rejected<W> {
    /// Wraps `work` that is handed back with the reason. Executors of your own use
    /// [`ErrorKind::Closed`], [`ErrorKind::QueueFull`] or [`ErrorKind::Rejected`].
    pub fn new(work: W, kind: ErrorKind) -> Self {
        Self { work, kind }
    }

    /// Returns the reason.
    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// Returns the work, to run it elsewhere or later.
    pub fn into_work(self) -> W {
        self.work
    }

    pub(crate) fn into_parts(self) -> (W, ErrorKind) {
        (self.work, self.kind)
    }
}

// Without a bound on the work, so that `?` takes a rejected closure too.
impl<W> fmt::Debug for Rejected<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl<W> fmt::Display for Rejected<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not accepted: {}", self.kind)
    }
}

impl<W> std::error::Error for Rejected<W> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.kind)
    }
}

/// A pool that could not be built: its settings contradict each other, or the system refused.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A setting is invalid. The text says which one, and what would be valid.
    #[error("{0}")]
    Setting(Cow<'static, str>),
    /// This program has not called `offloop::init()`, so its copies could not act as workers.
    #[error(
        "a process pool starts this same program again, so `main` must begin with `offloop::init();` \
         (in tests: `offloop::init_tests!();` once in the test crate)"
    )]
    NotInitialised,
    /// Process pools need Linux, and this program was built for another system.
    #[error(
        "process pools need Linux; on this system run the task's call on a thread: `offloop::run_cpu(f.with(args))`"
    )]
    Unsupported,
    /// The system refused to start a thread or to open a file that the pool needs.
    #[error("{what}: {source}")]
    System {
        /// The operation that failed.
        what: &'static str,
        /// The error of the system.
        source: std::io::Error,
    },
}

/// Formats the error as `Display` does, so that `unwrap` and a `main` that returns it show what to do.
impl fmt::Debug for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The error of [`check_cancelled`](crate::job::check_cancelled): the running job should stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the job was asked to stop")]
pub struct Cancelled;

/// The error of `job::emit`: an item was not sent. The text says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the item was not sent: {0}")]
pub struct NotSent(pub(crate) String);
