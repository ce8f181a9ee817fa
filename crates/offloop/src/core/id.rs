//! A job's identity and its state.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Identifies a job within this process. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(u64);

impl JobId {
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Returns the identity that the submitting process has given to a job, as its worker knows it.
    pub(crate) fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// Returns the identity as a number, for logs and for what is sent elsewhere.
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum JobState {
    /// It waits for room in a full queue, or for its [carrier](crate::remote::Carrier) to accept it.
    Waiting,
    /// It is in the queue.
    Queued,
    /// A worker runs it.
    Running,
    /// It has ended, with a result or an error, which its handle may have taken.
    Ended,
}
