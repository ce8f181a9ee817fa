//! The spans of what a worker does for a job, for `tracing`, within the trace of its submitter.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tracing::Span;
use tracing::field::Empty;

use crate::records::Job;
use crate::trace::Trace;

/// A hook that gives a span its parent, which is in another program.
pub(super) type Continue = Box<dyn Fn(&Span, &[u8]) + Send + Sync>;

/// A part of a worker's work for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Writing that the worker runs the job.
    Claim,
    /// Running it, with what comes before and after: getting large arguments, storing a large result.
    Run,
    /// Writing its end.
    Report,
}

/// Makes the spans of a worker.
#[derive(Default)]
pub(super) struct Spans(pub(super) Option<Continue>);

impl Spans {
    /// Returns the span of a part of the work for a job.
    pub(super) fn of(&self, part: Part, job: &Job, attempt: u32) -> Span {
        macro_rules! span {
            ($name:literal) => {
                tracing::info_span!(
                    target: "offloop", parent: None, $name,
                    job = %job.id, task = &*job.task, queue = &*job.queue, attempt, traceparent = Empty,
                )
            };
        }
        let span = match part {
            Part::Claim => span!("claim"),
            Part::Run => span!("run"),
            Part::Report => span!("report"),
        };
        if span.is_disabled() || job.carry.is_empty() {
            return span;
        }
        if let Some(trace) = Trace::of(&job.carry) {
            span.record("traceparent", trace.parent);
        }
        if let Some(hook) = &self.0 {
            // A job runs without its trace rather than not at all.
            let _ = catch_unwind(AssertUnwindSafe(|| hook(&span, &job.carry)));
        }
        span
    }
}
