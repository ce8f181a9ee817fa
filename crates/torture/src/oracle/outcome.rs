//! The end of a job as its client saw it.

use std::time::Duration;

use offloop::{Error, ErrorKind, JobId, WorkerExit};

use crate::handles::Returned;
use crate::payload;
use crate::plan::Job;
use crate::tasks::PLANNED_PANIC;
use crate::values;

/// How a job ended, or that its client gave up its handle before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It returned the right value.
    Ok,
    WrongValue(String),
    /// It raised the planned panic.
    Panicked,
    Cancelled,
    QueueTimeout(Duration),
    RunTimeout(Duration),
    QueueFull(usize),
    Shed,
    Closed,
    Died {
        pid: u32,
        exit: WorkerExit,
    },
    NoWorker(String),
    /// Its result could not be encoded or decoded.
    Refused(String),
    /// An error that no job of this program can have.
    Unexpected(String),
    Dropped,
    Detached,
}

impl Outcome {
    /// Returns the outcome of a job from what its handle returned.
    pub(crate) fn of(result: Result<Returned, Error>, number: u64, job: &Job, id: JobId) -> Self {
        let check = match result {
            Ok(Returned::Bytes(bytes)) => Ok(payload::check_result(&bytes, number, job.result)),
            Ok(Returned::Value(value)) => Ok(values::check(&value, job.kind, number, job.variant)),
            Err(error) => Err(error),
        };
        let error = match check {
            Ok(check) => return check.map_or_else(Self::WrongValue, |()| Self::Ok),
            Err(error) => error,
        };
        if id != error.job() || job.name.as_ref().is_some_and(|name| name != error.job_name()) {
            return Self::Unexpected(format!("the error of another job: {error}"));
        }
        match error.kind() {
            ErrorKind::WorkerDied(died) if died.task != error.job_name() => {
                Self::Unexpected(format!("a death during another task: {error}"))
            }
            kind => Self::of_error(kind, number),
        }
    }

    pub(crate) fn of_error(kind: &ErrorKind, number: u64) -> Self {
        match kind {
            ErrorKind::Panicked(panic)
                if panic.message() == format!("{PLANNED_PANIC}{number}")
                    && panic.location().is_some_and(|place| place.contains("tasks.rs:")) =>
            {
                Self::Panicked
            }
            ErrorKind::Cancelled => Self::Cancelled,
            ErrorKind::QueueTimeout(limit) => Self::QueueTimeout(*limit),
            ErrorKind::RunTimeout(limit) => Self::RunTimeout(*limit),
            ErrorKind::QueueFull { capacity } => Self::QueueFull(*capacity),
            ErrorKind::Shed => Self::Shed,
            ErrorKind::Closed => Self::Closed,
            ErrorKind::WorkerDied(died) => Self::Died { pid: died.pid, exit: died.exit },
            ErrorKind::WorkerStart(reason) => Self::NoWorker(reason.to_string()),
            ErrorKind::Encode(reason) | ErrorKind::Decode(reason) => Self::Refused(reason.clone()),
            other => Self::Unexpected(other.to_string()),
        }
    }

    /// Returns the name of its variant, for the table.
    pub(super) fn label(&self) -> String {
        format!("{self:?}").split(|at: char| !at.is_alphabetic()).take(1).collect()
    }
}
