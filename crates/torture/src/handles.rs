//! The handles of jobs, whatever type the jobs return.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use offloop::{Error, Handle, JobId, JobState};

use crate::values::Value;

/// What a job returned.
#[derive(Debug)]
pub(crate) enum Returned {
    Bytes(Vec<u8>),
    Value(Value),
}

/// The handle of a job.
pub(crate) enum JobHandle {
    Bytes(Handle<Vec<u8>>),
    Value(Handle<Value>),
}

/// Evaluates `$body` with the handle, whatever its type is.
macro_rules! with {
    ($self:expr, $handle:ident => $body:expr) => {
        match $self {
            JobHandle::Bytes($handle) => $body,
            JobHandle::Value($handle) => $body,
        }
    };
}

impl JobHandle {
    pub(crate) fn id(&self) -> JobId {
        with!(self, handle => handle.id())
    }

    pub(crate) fn state(&self) -> JobState {
        with!(self, handle => handle.state())
    }

    pub(crate) fn cancel(&self) -> bool {
        with!(self, handle => handle.cancel())
    }

    pub(crate) fn timeout(self, limit: Duration) -> Self {
        match self {
            Self::Bytes(handle) => Self::Bytes(handle.timeout(limit)),
            Self::Value(handle) => Self::Value(handle.timeout(limit)),
        }
    }

    pub(crate) fn detach(self) {
        with!(self, handle => handle.detach());
    }

    pub(crate) fn wait_accepted(&mut self) {
        with!(self, handle => handle.wait_accepted());
    }

    pub(crate) fn wait(self) -> Result<Returned, Error> {
        match self {
            Self::Bytes(handle) => handle.wait().map(Returned::Bytes),
            Self::Value(handle) => handle.wait().map(Returned::Value),
        }
    }

    pub(crate) fn wait_timeout(&mut self, limit: Duration) -> Option<Result<Returned, Error>> {
        match self {
            Self::Bytes(handle) => Some(handle.wait_timeout(limit)?.map(Returned::Bytes)),
            Self::Value(handle) => Some(handle.wait_timeout(limit)?.map(Returned::Value)),
        }
    }
}

impl Future for JobHandle {
    type Output = Result<Returned, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Bytes(handle) => Pin::new(handle).poll(cx).map(|result| result.map(Returned::Bytes)),
            Self::Value(handle) => Pin::new(handle).poll(cx).map(|result| result.map(Returned::Value)),
        }
    }
}
