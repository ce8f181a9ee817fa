//! The `tracing` span of a job, within its submitter's; nothing without the feature.

use std::time::Duration;

use crate::core::job::JobId;
use crate::metrics::Outcome;

/// The span of a job. Its methods call foreign code, so no lock is held then.
#[derive(Debug)]
pub(crate) struct JobSpan {
    /// If nobody wants spans of jobs, it is that of the submitter.
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

    /// Calls `body` within it.
    pub(crate) fn within<R>(&self, body: impl FnOnce() -> R) -> R {
        self.span.in_scope(body)
    }

    /// Has it tell the name of the span in the process that has submitted the job.
    #[cfg(feature = "process")]
    pub(crate) fn tell_parent(&self, name: &str) {
        self.record("parent", name);
    }

    /// Has it tell how long the job waited and ran.
    pub(crate) fn tell_times(&self, waited: Duration, ran: Duration) {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.record("queue_wait_us", micros(waited));
        self.record("run_us", micros(ran));
    }

    /// Has it tell how the job has ended.
    pub(crate) fn tell_end(&self, outcome: Outcome) {
        self.record("outcome", outcome.as_str());
    }

    fn record(&self, field: &str, value: impl tracing::Value) {
        if self.is_own {
            self.span.record(field, value);
        }
    }
}

#[cfg(not(feature = "tracing"))]
#[allow(clippy::unused_self, reason = "as those with the feature")]
impl JobSpan {
    pub(crate) fn new(_: JobId, _: &str) -> Self {
        Self {}
    }

    pub(crate) fn within<R>(&self, body: impl FnOnce() -> R) -> R {
        body()
    }

    #[cfg(feature = "process")]
    pub(crate) fn tell_parent(&self, _: &str) {}

    pub(crate) fn tell_times(&self, _: Duration, _: Duration) {}

    pub(crate) fn tell_end(&self, _: Outcome) {}
}
