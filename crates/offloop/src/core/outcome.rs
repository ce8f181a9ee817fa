//! The ways in which a job ends, as metrics and spans count them.

use super::error::ErrorKind;

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Outcome {
    /// Its function returned.
    Completed,
    /// It could not be started, or its arguments or its result could not be sent, or it declared itself
    /// [failed](crate::embed::mark_failed).
    Failed,
    /// Its function panicked.
    Panicked,
    /// Its handle was cancelled or dropped, or its pool was shut down.
    Cancelled,
    /// It waited in the queue for longer than its limit.
    QueueTimeout,
    /// It ran for longer than its limit.
    RunTimeout,
    /// The pool did not accept it: its queue was full, or it was closed.
    Rejected,
    /// It was removed from a full queue to make room for a newer job.
    Shed,
    /// Its worker process died.
    Crashed,
}

impl Outcome {
    /// Every outcome, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::Completed,
        Self::Failed,
        Self::Panicked,
        Self::Cancelled,
        Self::QueueTimeout,
        Self::RunTimeout,
        Self::Rejected,
        Self::Shed,
        Self::Crashed,
    ];

    /// Returns the outcome as a word for labels, in lower case with underscores.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Panicked => "panicked",
            Self::Cancelled => "cancelled",
            Self::QueueTimeout => "queue_timeout",
            Self::RunTimeout => "run_timeout",
            Self::Rejected => "rejected",
            Self::Shed => "shed",
            Self::Crashed => "crashed",
        }
    }

    /// Returns the outcome of a job that ends with `error`.
    pub(crate) fn of(error: &ErrorKind) -> Self {
        match error {
            ErrorKind::Panicked(_) => Self::Panicked,
            ErrorKind::Cancelled => Self::Cancelled,
            ErrorKind::QueueTimeout(_) => Self::QueueTimeout,
            ErrorKind::RunTimeout(_) | ErrorKind::LoadTimeout(_) => Self::RunTimeout,
            ErrorKind::QueueFull { .. } | ErrorKind::Closed | ErrorKind::Rejected(_) | ErrorKind::Forked => {
                Self::Rejected
            }
            ErrorKind::Shed => Self::Shed,
            ErrorKind::WorkerDied(_) | ErrorKind::Broken(_) | ErrorKind::Lost { .. } => Self::Crashed,
            _ => Self::Failed,
        }
    }
}
