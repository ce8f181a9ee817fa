//! The part of a job that is the same whatever it computes: identity, instructions, flags and counters.

use std::time::Duration;

use super::cancel::Hooks;
use super::error::{Error, ErrorKind};
use super::id::{JobId, JobState};
use super::options::Options;
use super::outcome::Outcome;
use super::span::JobSpan;
use crate::base::clock::Moment;
use crate::base::fork::Generation;
use crate::base::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// The place from which a job's end is expected within moments, if it is expected so soon. Decides how its caller waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Expected {
    No,
    FromThread,
    /// From a process that is awake.
    FromProcess,
    /// From a process that had to be woken. It may be about to run on the caller's core.
    FromSleeper,
}

/// The part of a job that all its holders share, whatever its type.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) id: JobId,
    pub(crate) options: Options,
    /// The process that submitted the job. In a forked child the job never ends.
    pub(crate) born: Generation,
    pub(crate) submitted: Moment,
    /// The job's place in the queue that holds it. Written by that queue.
    pub(crate) ticket: AtomicU64,
    /// Mirrors the cell's stage for reads without a lock. Written under the cell's lock.
    state: AtomicU8,
    /// The stop request, as the running job sees it. Set once, when the job ends without its function's result.
    cancelled: AtomicBool,
    /// The nanoseconds that the job was allowed to wait, if it has ended because it waited for longer; else 0. Set once,
    /// before its state says that it has ended.
    waited: AtomicU64,
    /// Set by the job itself when it counts as failed although its function returns.
    failed: AtomicBool,
    /// The job's function has returned or panicked. Set once, by its thread, before the job ends.
    returned: AtomicBool,
    /// The callbacks for the moment in which the running job is asked to stop.
    hooks: Hooks,
    /// An [`Expected`]. Written by the pool when it gives the job to a worker.
    expected: AtomicU8,
    /// Counts the worker processes that died while they held the job but had not begun with it. Written by the
    /// supervisor.
    losses: AtomicU32,
    /// Counts the worker processes that died while they ran the job. Written by the supervisor.
    deaths: AtomicU32,
    pub(crate) span: JobSpan,
}

impl Header {
    pub(crate) fn new(options: Options) -> Self {
        Self::with_id(JobId::next(), options, Moment::now())
    }

    /// Makes the header of a job of another process, for the worker that runs it.
    pub(crate) fn of_request(id: u64, options: Options, parent: Option<&str>) -> Self {
        // Only the submitting process knows when it was submitted.
        let header = Self::with_id(JobId::from_u64(id), options, Moment::default());
        if let Some(parent) = parent {
            header.span.record_parent(parent);
        }
        header
    }

    fn with_id(id: JobId, options: Options, submitted: Moment) -> Self {
        Self {
            span: JobSpan::new(id, &options.name),
            id,
            options,
            born: Generation::now(),
            submitted,
            ticket: AtomicU64::new(0),
            state: AtomicU8::new(JobState::Queued as u8),
            cancelled: AtomicBool::new(false),
            waited: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            returned: AtomicBool::new(false),
            hooks: Hooks::default(),
            expected: AtomicU8::new(Expected::No as u8),
            losses: AtomicU32::new(0),
            deaths: AtomicU32::new(0),
        }
    }

    /// Returns the job's callbacks. `None` in a forked child, whose parent calls them.
    pub(crate) fn hooks(&self) -> Option<&Hooks> {
        if self.born.is_past() { None } else { Some(&self.hooks) }
    }

    /// Makes the error of this job for the given reason.
    pub(crate) fn error(&self, kind: ErrorKind) -> Error {
        Error::new(self.id, self.options.name.clone(), self.options.extras().queue.clone(), kind)
    }

    pub(crate) fn state(&self) -> JobState {
        match self.state.load(Ordering::Acquire) {
            0 => JobState::Waiting,
            1 => JobState::Queued,
            2 => JobState::Running,
            _ => JobState::Ended,
        }
    }

    pub(crate) fn set_state(&self, state: JobState) {
        self.state.store(state as u8, Ordering::Release);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.state() == JobState::Ended
    }

    /// Records that the job ends because it has waited for longer than `limit`.
    pub(crate) fn note_late(&self, limit: Duration) {
        let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        self.waited.store(nanos.max(1), Ordering::Relaxed);
    }

    /// Returns the time that the job was allowed to wait, if it has ended because it waited for longer.
    pub(crate) fn late_after(&self) -> Option<Duration> {
        let waited = self.waited.load(Ordering::Relaxed);
        (self.has_ended() && waited > 0).then(|| Duration::from_nanos(waited))
    }

    /// Records that the job's end is expected within moments, or is not.
    pub(crate) fn expect(&self, expected: Expected) {
        self.expected.store(expected as u8, Ordering::Relaxed);
    }

    pub(crate) fn expected(&self) -> Expected {
        match self.expected.load(Ordering::Relaxed) {
            0 => Expected::No,
            1 => Expected::FromThread,
            2 => Expected::FromProcess,
            _ => Expected::FromSleeper,
        }
    }

    /// Counts a worker that died before it began with the job. Returns how many there were.
    pub(crate) fn count_loss(&self) -> u32 {
        self.losses.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Counts a worker that died while it ran the job. Returns how many there were.
    pub(crate) fn count_death(&self) -> u32 {
        self.deaths.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Returns the outcome of the job if it ends with `result`.
    pub(crate) fn outcome<R>(&self, result: &Result<R, ErrorKind>) -> Outcome {
        match result {
            Ok(_) if self.has_failed() => Outcome::Failed,
            Ok(_) => Outcome::Completed,
            Err(kind) => Outcome::of(kind),
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    pub(crate) fn mark_failed(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Records that the job's function has returned or panicked.
    pub(crate) fn mark_returned(&self) {
        self.returned.store(true, Ordering::Relaxed);
    }

    /// Returns whether the job's function has returned or panicked on a thread of this process.
    pub(crate) fn has_returned(&self) -> bool {
        self.returned.load(Ordering::Relaxed)
    }

    /// Asks the running job to stop.
    pub(crate) fn request_stop(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }
}
