//! The family of traits through which executors, queues and pools see a job whose type they do not know.
//!
//! [`AnyJob`] is the base. [`Runnable`] adds what the thread that runs it needs. The handle's view, `Completion<T>`, is
//! in `cell`; the process pool adds `RemoteCall`.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::error::ErrorKind;
use super::header::Header;
use super::id::JobState;
use super::observer::Observer;
use super::outcome::Outcome;
use super::spin::SpinOutcome;

/// The pool that has accepted a job. It is told when somebody else ends the job.
pub(crate) trait Owner: Send + Sync {
    /// Counts the end of a job that is being aborted. Called under the job's lock, before anybody can see the end: who
    /// has seen it finds it counted.
    fn count(&self, outcome: Outcome);

    /// Removes a job that was aborted while it was queued or waiting for room.
    fn withdraw(&self, header: &Header);

    /// Stops a job that was aborted while it ran, if that is possible.
    fn interrupt(&self, header: &Header);

    /// Waits for the job's end on behalf of a caller: spins for at most `spinning`, then sleeps for at most `sleeping`.
    fn spin_for_end(&self, _header: &Header, _spinning: Duration, _sleeping: Duration) -> SpinOutcome {
        SpinOutcome::InVain
    }
}

/// Which jobs an [`abort`](AnyJob::abort) ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AbortIf {
    /// Those that no worker has begun with.
    Pending,
    /// Those that have not ended.
    Live,
}

/// Proof that a job had ended before its executor could start or queue it.
///
/// Somebody aborted it while no pool owned it, so no pool has counted it. The outcome is handed out once, to the first
/// executor that meets the job, which counts it. It is `None` where a pool has counted the end already.
///
/// A job that is aborted while an executor runs it that does not own it has no such proof: `finish` counts its end.
#[derive(Debug)]
pub(crate) struct EndedEarly {
    pub(crate) uncounted: Option<Outcome>,
}

impl EndedEarly {
    /// Counts the end with `observer`, unless it has been counted.
    pub(crate) fn count(self, observer: &dyn Observer) {
        if let Some(outcome) = self.uncounted {
            observer.ended(outcome);
        }
    }
}

/// A job of any type. Implemented by every cell.
pub(crate) trait AnyJob: Send + Sync {
    /// Returns the part of the job that is the same for all types.
    fn header(&self) -> &Header;

    /// Makes `owner` the pool that owns the job, which is in `state` from now on.
    ///
    /// From here on a job that is aborted withdraws itself from its owner.
    fn attach(&self, owner: Weak<dyn Owner>, state: JobState) -> Result<(), EndedEarly>;

    /// Moves a job that waited for room in the queue into state `Queued`, and wakes its handle.
    fn admit(&self);

    /// Ends the job with an error on behalf of its executor, which records it with `observer`. Returns whether it did;
    /// the job may have ended already.
    fn fail(&self, kind: ErrorKind, observer: &dyn Observer) -> bool;

    /// Ends the job with an error on behalf of anybody but its executor. Its owner is told. Returns whether it did.
    fn abort(&self, kind: ErrorKind, condition: AbortIf) -> bool;
}

/// A job that can be run in this process.
pub(crate) trait Runnable: AnyJob {
    /// Runs the job on this thread and ends it. Does nothing if it has ended.
    fn run(self: Arc<Self>, observer: &dyn Observer);
}
