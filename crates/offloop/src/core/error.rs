//! What can go wrong with a job, told apart by type.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use crate::core::job::{Core, JobId};

/// Why a job has no result: what happened ([`Error::kind`]) and to which job.
///
/// It is one pointer wide, so a `Result<T, Error>` costs little more than its `T`.
pub struct Error(Box<Inner>);

struct Inner {
    job: JobId,
    name: Cow<'static, str>,
    kind: ErrorKind,
}

impl Error {
    pub(crate) fn new(core: &Core, kind: ErrorKind) -> Self {
        Self(Box::new(Inner { job: core.id, name: core.options.name.clone(), kind }))
    }

    /// What happened.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// What happened, by value: to take the payload of a panic, say.
    pub fn into_kind(self) -> ErrorKind {
        self.0.kind
    }

    /// The job it happened to.
    pub fn job(&self) -> JobId {
        self.0.job
    }

    /// That job's name: the one given to it, else the function's path.
    pub fn job_name(&self) -> &str {
        &self.0.name
    }

    /// Whether the job was cancelled, by its handle or by a pool's shutdown.
    pub fn is_cancelled(&self) -> bool {
        matches!(self.kind(), ErrorKind::Cancelled)
    }

    /// Whether the job panicked.
    pub fn is_panic(&self) -> bool {
        matches!(self.kind(), ErrorKind::Panicked(_))
    }

    /// Whether a deadline ended the job, in the queue or while it ran.
    pub fn is_timeout(&self) -> bool {
        matches!(self.kind(), ErrorKind::QueueDeadline(_) | ErrorKind::RunDeadline(_))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "job {} `{}`: {}", self.0.job, self.0.name, self.0.kind)
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

/// What happened to a job that has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The function panicked. Its worker lives on.
    #[error("panicked{0}")]
    Panicked(Panic),
    /// Its handle was cancelled or its executor dropped it; in a pool, also a shutdown that ran out of patience.
    #[error("cancelled before it had a result")]
    Cancelled,
    /// It waited in the queue for longer than its limit and was removed unrun.
    #[error("still queued after its limit of {0:?}, so it was removed unrun; add workers or raise the limit")]
    QueueDeadline(Duration),
    /// It ran for longer than its limit. A process was killed; a thread was asked to stop and goes on until
    /// its function returns.
    #[error("still running after its limit of {0:?}; a process is killed for it, a thread is asked to stop")]
    RunDeadline(Duration),
    /// The queue was full and the pool rejects work then.
    #[error(
        "the queue is full ({capacity} jobs); retry later, or give the pool a larger queue or another policy"
    )]
    Full {
        /// How many jobs the queue holds.
        capacity: usize,
    },
    /// The queue was full and newer work took this job's place, as `OnFull::ShedOldest` demands.
    #[error("shed from a full queue to make room for newer work")]
    Shed,
    /// Another worker process of its pool crashed, and the pool is one that breaks then. Says how.
    #[error("its pool broke: {0}")]
    Broken(String),
    /// The executor no longer takes work.
    #[error("the executor is closed; it was shut down or dropped")]
    Closed,
    /// The pool belongs to another process: this one was forked from it.
    #[error(
        "the pool was made before fork() and its threads are in the parent; build a new pool in the child"
    )]
    Forked,
    /// The executor refused it for a reason of its own.
    #[error("rejected: {0}")]
    Rejected(Cow<'static, str>),
    /// The worker process that ran it died.
    #[error("{0}")]
    WorkerDied(WorkerDied),
    /// No thread or process could be started to run it.
    #[error("no worker could be started to run it: {0}")]
    CouldNotStart(Cow<'static, str>),
    /// The worker's own value (a connection, say) could not be opened.
    #[error("the worker's state could not be opened: {0}")]
    State(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Its arguments or its result could not be encoded for another process.
    #[error("could not encode {0}")]
    Encode(String),
    /// Its arguments or its result arrived but could not be decoded.
    #[error("could not decode {0}")]
    Decode(String),
}

/// A panic caught in a job.
pub struct Panic {
    pub(crate) message: String,
    pub(crate) place: Option<String>,
    pub(crate) backtrace: Option<String>,
    pub(crate) payload: Option<Payload>,
}

/// What `panic_any` was given. The mutex only lends `Sync`; the payload is taken by value.
pub(crate) type Payload = Mutex<Box<dyn Any + Send>>;

impl Panic {
    /// What the panic said.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Where it was raised, as `file:line:column`. Absent when the program replaced the panic hook after
    /// offloop's first job.
    pub fn place(&self) -> Option<&str> {
        self.place.as_deref()
    }

    /// The stack at that moment, when `RUST_BACKTRACE` or `RUST_LIB_BACKTRACE` asks for one.
    pub fn backtrace(&self) -> Option<&str> {
        self.backtrace.as_deref()
    }

    /// Panics here and now with the job's own payload, as if the job had been called in place.
    pub fn resume(self) -> ! {
        let payload = match self.payload {
            Some(payload) => payload.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner),
            None => Box::new(self.message),
        };
        std::panic::resume_unwind(payload)
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, " at {place}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl fmt::Debug for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Panic")
            .field("message", &self.message)
            .field("place", &self.place)
            .field("backtrace", &self.backtrace.is_some())
            .finish_non_exhaustive()
    }
}

/// How a worker process ended while it ran a job.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerDied {
    /// The process that died.
    pub pid: u32,
    /// How it ended.
    pub exit: Exit,
    /// The task it ran.
    pub task: String,
    /// The most memory that it ever had resident, in bytes; 0 if the system did not say.
    pub peak_memory: u64,
    /// Whether memory is to blame: it exceeded the pool's limit, an allocation failed under the pool's cap, or the
    /// system's out-of-memory killer came, as far as that can be told from outside.
    pub out_of_memory: bool,
    /// The pool's limit in bytes, if that is what it exceeded.
    pub memory_limit: Option<u64>,
    /// How many workers the job has cost, this one included: more than one if it was retried.
    pub workers_lost: u32,
    /// The last that it wrote to its standard error, as far as the pool keeps it.
    pub stderr: String,
}

impl fmt::Display for WorkerDied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its worker process {} {} while running `{}`", self.pid, self.exit, self.task)?;
        if self.peak_memory > 0 {
            write!(f, ", peak memory {} MiB", self.peak_memory >> 20)?;
        }
        match self.memory_limit {
            Some(limit) => write!(f, ", out of memory: it used more than its limit of {} MiB", limit >> 20)?,
            None if self.out_of_memory => f.write_str(", out of memory")?,
            None => {}
        }
        if self.workers_lost > 1 {
            write!(f, "; the job has cost {} workers", self.workers_lost)?;
        }
        if !self.stderr.is_empty() {
            write!(f, "; its last words:\n{}", self.stderr)?;
        }
        Ok(())
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this status.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// It broke the protocol of its link and was killed for it.
    Protocol,
    /// It is gone, but somebody else in this program collected its status.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with status {code}"),
            Self::Signal(signal) => match signal_name(*signal) {
                Some(name) => write!(f, "was ended by signal {signal} ({name})"),
                None => write!(f, "was ended by signal {signal}"),
            },
            Self::Protocol => f.write_str("wrote something else than answers on its link and was killed"),
            Self::Unknown => f.write_str("ended (its status was collected elsewhere)"),
        }
    }
}

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

/// Work that an executor did not take, and why.
///
/// Nothing has been run and nothing is lost: [`Rejected::into_work`] gives the work back.
pub struct Rejected<W> {
    work: W,
    kind: ErrorKind,
}

impl<W> Rejected<W> {
    /// Hands `work` back with the reason. Executors of your own use
    /// [`ErrorKind::Closed`], [`ErrorKind::Full`] or [`ErrorKind::Rejected`].
    pub fn new(work: W, kind: ErrorKind) -> Self {
        Self { work, kind }
    }

    /// Why it was not taken.
    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// The work itself, to run it elsewhere or later.
    pub fn into_work(self) -> W {
        self.work
    }

    pub(crate) fn into_parts(self) -> (W, ErrorKind) {
        (self.work, self.kind)
    }
}

// Whatever the work is, so that `?` takes a rejected closure too.
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
    /// A setting makes no sense; the text says which and what would.
    #[error("{0}")]
    Setting(Cow<'static, str>),
    /// This program has not called `offloop::init()`, so its copies could not act as workers.
    #[error(
        "a process pool starts this same program again, so `main` must begin with `offloop::init();` \
         (in tests: `offloop::init_tests!();` once in the test crate)"
    )]
    NotInitialised,
    /// The system refused to start a thread or to open what a pool needs.
    #[error("{what}: {source}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

/// As it is displayed: `unwrap` and a `main` that returns it show what to do about it.
impl fmt::Debug for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
