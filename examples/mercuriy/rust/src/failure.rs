//! The reasons why work has no result, whatever place it went to.

use std::time::Duration;

use offloop::{Error, ErrorKind};

use crate::systems::CallError;

/// The reason why work has no result.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The system or its function says so.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The work took longer than it may.
    #[error("not done within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// There is too much work.
    #[error("too much work waits already")]
    Overloaded,
    /// The service is being stopped.
    #[error("the service is stopping")]
    Stopping,
    /// The process that did the work has died.
    #[error("{0}")]
    WorkerDied(String),
    /// No machine can do the work now.
    #[error("{0}")]
    OutOfReach(String),
    /// The system has no async connector.
    #[error("the system has no async connector")]
    NoAsyncConnector,
    /// A fault of the service.
    #[error("{0}")]
    Internal(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error.into_kind() {
            ErrorKind::RunTimeout(limit) | ErrorKind::QueueTimeout(limit) => Self::Timeout(limit),
            ErrorKind::QueueFull { .. } | ErrorKind::Shed => Self::Overloaded,
            ErrorKind::Closed | ErrorKind::Cancelled => Self::Stopping,
            // The pools of connections open theirs with `Address::connect`.
            ErrorKind::WorkerState(error) => match error.downcast::<CallError>() {
                Ok(error) => Self::Call(*error),
                Err(error) => Self::Internal(error.to_string()),
            },
            kind @ (ErrorKind::WorkerDied(_) | ErrorKind::Lost { .. }) => Self::WorkerDied(kind.to_string()),
            kind @ (ErrorKind::Unreachable(_) | ErrorKind::NoSuchTask { .. }) => {
                Self::OutOfReach(kind.to_string())
            }
            kind => Self::Internal(kind.to_string()),
        }
    }
}
