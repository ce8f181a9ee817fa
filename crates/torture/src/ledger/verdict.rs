//! What a client saw of a job's end.

use std::fmt;
use std::time::Duration;

use offloop::{Error, ErrorKind, Exit, JobId};

use crate::payload;
use crate::tasks::{self, ORDERED_PANIC};

/// What a job's handle gave, or that nobody looked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Ok,
    /// A value came, but not the one that the job returns.
    WrongValue(String),
    /// The panic that was ordered.
    Panicked,
    Cancelled,
    QueueDeadline(Duration),
    RunDeadline(Duration),
    Full(usize),
    Shed,
    Closed,
    Died {
        pid: u32,
        exit: Exit,
    },
    CouldNotStart(String),
    /// An error that no job of this program can have.
    Strange(String),
    /// The handle was dropped.
    Dropped,
    /// The job was detached.
    Detached,
}

/// A job as its error and its value must know it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity<'a> {
    pub(crate) number: u64,
    /// `None` where no handle was given.
    pub(crate) id: Option<JobId>,
    pub(crate) name: Option<&'a str>,
    /// The lengths that an `echo` was sent and was to return.
    pub(crate) lengths: (usize, usize),
}

/// What jobs return.
pub(crate) trait Value: Send + 'static {
    /// Whether it is what this job returns; if not, what is wrong with it.
    fn check(&self, of: &Identity<'_>) -> Result<(), String>;
}

impl Value for u64 {
    fn check(&self, of: &Identity<'_>) -> Result<(), String> {
        let right = tasks::stamp(of.number);
        if *self == right { Ok(()) } else { Err(format!("{self:#x} came, and {right:#x} is right")) }
    }
}

impl Value for Vec<u8> {
    fn check(&self, of: &Identity<'_>) -> Result<(), String> {
        let (sent, wanted) = of.lengths;
        let Some((sum, bytes)) = self.split_first_chunk() else {
            return Err(format!("a result of {} bytes came", self.len()));
        };
        let mut argument = Vec::new();
        payload::append(&mut argument, tasks::argument_seed(of.number), sent);
        if u64::from_le_bytes(*sum) != payload::checksum(&argument) {
            return Err("the worker saw another argument".to_owned());
        }
        payload::check(bytes, tasks::result_seed(of.number), wanted)
    }
}

impl Verdict {
    pub(crate) fn of<T: Value>(result: Result<T, Error>, identity: &Identity<'_>) -> Self {
        match result {
            Ok(value) => value.check(identity).map_or_else(Self::WrongValue, |()| Self::Ok),
            Err(error) => Self::of_error(&error, identity),
        }
    }

    fn of_error(error: &Error, identity: &Identity<'_>) -> Self {
        if identity.id.is_some_and(|id| id != error.job()) {
            return Self::Strange(format!("the error of another job: {error}"));
        }
        if identity.name.is_some_and(|name| name != error.job_name()) {
            return Self::Strange(format!("the error names another job: {error}"));
        }
        if let ErrorKind::WorkerDied(died) = error.kind() {
            if died.task != error.job_name() {
                return Self::Strange(format!("a death during another task: {error}"));
            }
        }
        Self::of_kind(error.kind(), identity)
    }

    pub(crate) fn of_kind(kind: &ErrorKind, identity: &Identity<'_>) -> Self {
        match kind {
            ErrorKind::Panicked(panic) => {
                let is_ordered = panic.message() == format!("{ORDERED_PANIC}{}", identity.number);
                let has_place = panic.place().is_some_and(|place| place.contains("tasks.rs:"));
                if is_ordered && has_place {
                    Self::Panicked
                } else {
                    Self::Strange(format!("a panic that was not ordered: {panic}"))
                }
            }
            ErrorKind::Cancelled => Self::Cancelled,
            ErrorKind::QueueDeadline(limit) => Self::QueueDeadline(*limit),
            ErrorKind::RunDeadline(limit) => Self::RunDeadline(*limit),
            ErrorKind::Full { capacity } => Self::Full(*capacity),
            ErrorKind::Shed => Self::Shed,
            ErrorKind::Closed => Self::Closed,
            ErrorKind::WorkerDied(died) => Self::Died { pid: died.pid, exit: died.exit },
            ErrorKind::CouldNotStart(reason) => Self::CouldNotStart(reason.to_string()),
            other => Self::Strange(other.to_string()),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongValue(fault) => write!(f, "a wrong value: {fault}"),
            Self::Died { pid, exit } => write!(f, "worker {pid} {exit}"),
            Self::Strange(what) => f.write_str(what),
            other => write!(f, "{other:?}"),
        }
    }
}
