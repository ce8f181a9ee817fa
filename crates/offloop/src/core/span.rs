//! The `tracing` span of a job, within its submitter's span. Empty without the feature.

use std::time::Duration;

use super::id::JobId;
use super::outcome::Outcome;

/// The span of a job. Its methods call foreign code, so no lock is held then.
#[derive(Debug)]
pub(crate) struct JobSpan {
    /// The job's span; or the submitter's, if no subscriber is interested in spans of jobs.
    #[cfg(feature = "tracing")]
    span: tracing::Span,
    #[cfg(feature = "tracing")]
    is_own: bool,
}

#[cfg(feature = "tracing")]
impl JobSpan {
    pub(crate) fn new(job: JobId, task: &str) -> Self {
        use tracing::field::Empty;
        let span = tracing::info_span!(
            target: "offloop",
            "job",
            job = %job,
            task,
            parent = Empty,
            queue_wait_us = Empty,
            run_us = Empty,
            outcome = Empty,
        );
        let is_own = !span.is_disabled();
        Self { span: if is_own { span } else { tracing::Span::current() }, is_own }
    }

    /// Calls `body` within the span.
    pub(crate) fn within<R>(&self, body: impl FnOnce() -> R) -> R {
        self.span.in_scope(body)
    }

    /// Records the name of the submitter's span, which is in another process.
    pub(crate) fn record_parent(&self, name: &str) {
        self.record("parent", name);
    }

    /// Records how long the job waited and ran.
    pub(crate) fn record_times(&self, waited: Duration, ran: Duration) {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.record("queue_wait_us", micros(waited));
        self.record("run_us", micros(ran));
    }

    /// Records how the job has ended.
    pub(crate) fn record_outcome(&self, outcome: Outcome) {
        self.record("outcome", outcome.as_str());
    }

    fn record(&self, field: &str, value: impl tracing::Value) {
        if self.is_own {
            self.span.record(field, value);
        }
    }
}

#[cfg(not(feature = "tracing"))]
#[allow(clippy::unused_self, reason = "the signatures are those with the feature")]
impl JobSpan {
    pub(crate) fn new(_: JobId, _: &str) -> Self {
        Self {}
    }

    pub(crate) fn within<R>(&self, body: impl FnOnce() -> R) -> R {
        body()
    }

    pub(crate) fn record_parent(&self, _: &str) {}

    pub(crate) fn record_times(&self, _: Duration, _: Duration) {}

    pub(crate) fn record_outcome(&self, _: Outcome) {}
}
