//! Each job has a span within its submitter's. The span surrounds the job wherever it runs, and records its times and
//! its outcome.

#![cfg(feature = "tracing")]
#![allow(missing_docs, reason = "a test crate has no users")]

mod common;

use std::sync::{Arc, Mutex};

use common::{end, occupy, single, tid};
use offloop::{Executor, Inline, Job, Rejected, run_in_executor};
use tracing::field::{Field, Visit};
use tracing::span::{Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Registry;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// The thread of an event, and the spans around it.
type SeenEvent = (i32, Vec<&'static str>);

/// A layer that records for each event its thread and the spans around it, and for each span that it has closed.
#[derive(Clone, Default)]
struct Recorder {
    events: Arc<Mutex<Vec<SeenEvent>>>,
    closed: Arc<Mutex<Vec<&'static str>>>,
    /// The fields that spans have recorded since they were made.
    fields: Arc<Mutex<Vec<(&'static str, String)>>>,
}

impl Visit for Recorder {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.fields.lock().unwrap().push((field.name(), format!("{value:?}")));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recorder {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let scope = context.event_scope(event).into_iter().flatten();
        self.events.lock().unwrap().push((tid(), scope.map(|span| span.name()).collect()));
    }

    fn on_record(&self, _: &Id, record: &Record<'_>, _: Context<'_, S>) {
        record.record(&mut self.clone());
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        self.closed.lock().unwrap().push(context.span(&id).unwrap().name());
    }
}

/// Runs `f` while events and spans are recorded. The subscriber is global, since worker threads have none of their own.
fn recorded(f: impl FnOnce(&Recorder)) {
    static ONE: Mutex<()> = Mutex::new(());
    static RECORDER: std::sync::OnceLock<Recorder> = std::sync::OnceLock::new();
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let recorder = RECORDER.get_or_init(|| {
        let recorder = Recorder::default();
        tracing::subscriber::set_global_default(Registry::default().with(recorder.clone())).unwrap();
        recorder
    });
    recorder.events.lock().unwrap().clear();
    recorder.closed.lock().unwrap().clear();
    recorder.fields.lock().unwrap().clear();
    f(recorder);
}

fn emit() {
    tracing::info!("in the job");
}

#[test]
fn the_submitters_span_surrounds_a_job_in_another_thread() {
    recorded(|recorder| {
        let pool = single();
        let outer = tracing::info_span!("request");
        let inner = tracing::info_span!(parent: &outer, "query");
        let handle = inner.in_scope(|| pool.run(emit));
        end(handle).unwrap();
        let worker = end(pool.run(tid)).unwrap();
        assert_ne!(worker, tid());
        assert_eq!(*recorder.events.lock().unwrap(), [(worker, vec!["job", "query", "request"])]);
    });
}

#[test]
fn a_job_submitted_outside_of_spans_runs_outside_of_spans() {
    recorded(|recorder| {
        let pool = single();
        let _of_the_waiter = {
            let handle = pool.run(emit);
            let span = tracing::info_span!("waiter");
            span.in_scope(|| end(handle)).unwrap();
            span
        };
        assert_eq!(recorder.events.lock().unwrap()[0].1, ["job"]);
    });
}

#[test]
fn a_span_does_not_leak_into_the_next_job_even_after_a_panic() {
    recorded(|recorder| {
        let pool = single();
        let span = tracing::info_span!("first");
        assert!(end(span.in_scope(|| pool.run(|| panic!("inside")))).is_err());
        end(pool.run(emit)).unwrap();
        assert_eq!(recorder.events.lock().unwrap()[0].1, ["job"]);
    });
}

#[test]
fn a_span_surrounds_a_job_of_any_executor_and_a_job_of_a_job() {
    struct Threads;
    impl Executor for Threads {
        fn execute(&self, job: Job) -> Result<(), Rejected<Job>> {
            std::thread::spawn(move || job.run());
            Ok(())
        }
    }
    recorded(|recorder| {
        let span = tracing::info_span!("request");
        let handle = span.in_scope(|| run_in_executor(&Threads, || end(run_in_executor(&Inline, emit))));
        end(handle).unwrap().unwrap();
        assert_eq!(recorder.events.lock().unwrap()[0].1, ["job", "job", "request"]);
    });
}

#[test]
fn a_job_that_ended_keeps_no_span_open() {
    recorded(|recorder| {
        let pool = single();
        let (gate, busy) = occupy(&pool);
        let span = tracing::info_span!("short");
        let queued = span.in_scope(|| pool.run(emit));
        drop(span);
        // The span of a job of the test before may close only now, so those are not counted.
        let is_closed = || recorder.closed.lock().unwrap().contains(&"short");
        assert!(!is_closed(), "the queued job keeps it open");
        drop(queued);
        assert!(is_closed(), "the job's own span, which is within it, has closed as well");
        gate.open();
        end(busy).unwrap();
    });
}

#[test]
fn the_span_of_a_job_records_how_long_it_waited_and_ran_and_how_it_ended() {
    recorded(|recorder| {
        let pool = single();
        let (gate, busy) = occupy(&pool);
        let slow = pool.run(|| std::thread::sleep(std::time::Duration::from_millis(20)));
        std::thread::sleep(std::time::Duration::from_millis(20));
        gate.open();
        end(busy).unwrap();
        recorder.fields.lock().unwrap().clear();
        end(slow).unwrap();
        end(pool.run(|| panic!("on purpose"))).unwrap_err();
        let fields = recorder.fields.lock().unwrap();
        let all = |name: &str| -> Vec<String> {
            fields.iter().filter(|(field, _)| *field == name).map(|(_, value)| value.clone()).collect()
        };
        let micros = |name: &str| all(name)[0].parse::<u64>().unwrap();
        assert!(micros("queue_wait_us") >= 20_000 && micros("run_us") >= 20_000, "{fields:?}");
        assert_eq!(all("outcome").last().unwrap(), "\"panicked\"");
        assert!(all("outcome").contains(&"\"completed\"".to_owned()), "{fields:?}");
    });
}
