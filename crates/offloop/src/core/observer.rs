//! Where an executor records the ends of its jobs.

use super::header::Header;
use super::outcome::Outcome;

/// Records what becomes of an executor's jobs.
///
/// It is called before anybody else can see that a job has ended. It hears of the ends that the executor brings about.
/// Of a job that is aborted by somebody else, the executor hears as its [`Owner`](super::runnable::Owner) instead.
pub(crate) trait Observer {
    /// Records that the job's function has returned or panicked.
    fn returned(&self, _header: &Header) {}

    /// Records that the executor ends a job. Called under the job's lock.
    fn ended(&self, outcome: Outcome);
}

/// An observer that records nothing, for executors without metrics.
pub(crate) struct Unobserved;

impl Observer for Unobserved {
    fn ended(&self, _: Outcome) {}
}
