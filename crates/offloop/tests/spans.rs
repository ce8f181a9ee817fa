//! Each job has a span within its submitter's, which surrounds it wherever it runs and tells how it went.

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
type Noted = (i32, Vec<&'static str>);

/// Notes for each event its thread and the spans around it, and for each span when it closes.
#[derive(Clone, Default)]
struct Notes {
    events: Arc<Mutex<Vec<Noted>>>,
    closed: Arc<Mutex<Vec<&'static str>>>,
    /// What spans have recorded since they were made.
    recorded: Arc<Mutex<Vec<(&'static str, String)>>>,
}

impl Visit for Notes {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.recorded.lock().unwrap().push((field.name(), format!("{value:?}")));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Notes {
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

/// Runs `f` with the notes on; the subscriber is the process's, as worker threads have none of their own.
fn noted(f: impl FnOnce(&Notes)) {
    static ONE: Mutex<()> = Mutex::new(());
    static NOTES: std::sync::OnceLock<Notes> = std::sync::OnceLock::new();
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let notes = NOTES.get_or_init(|| {
        let notes = Notes::default();
        tracing::subscriber::set_global_default(Registry::default().with(notes.clone())).unwrap();
        notes
    });
    notes.events.lock().unwrap().clear();
    notes.closed.lock().unwrap().clear();
    notes.recorded.lock().unwrap().clear();
    f(notes);
}

fn emit() {
    tracing::info!("in the job");
}

#[test]
fn the_submitters_span_surrounds_a_job_in_another_thread() {
    noted(|notes| {
        let pool = single();
        let outer = tracing::info_span!("request");
        let inner = tracing::info_span!(parent: &outer, "query");
        let handle = inner.in_scope(|| pool.run(emit));
        end(handle).unwrap();
        let worker = end(pool.run(tid)).unwrap();
        assert_ne!(worker, tid());
        assert_eq!(*notes.events.lock().unwrap(), [(worker, vec!["job", "query", "request"])]);
    });
}

#[test]
fn a_job_submitted_outside_of_spans_runs_outside_of_spans() {
    noted(|notes| {
        let pool = single();
        let _of_the_waiter = {
            let handle = pool.run(emit);
            let span = tracing::info_span!("waiter");
            span.in_scope(|| end(handle)).unwrap();
            span
        };
        assert_eq!(notes.events.lock().unwrap()[0].1, ["job"]);
    });
}

#[test]
fn a_span_does_not_leak_into_the_next_job_even_after_a_panic() {
    noted(|notes| {
        let pool = single();
        let span = tracing::info_span!("first");
        assert!(end(span.in_scope(|| pool.run(|| panic!("inside")))).is_err());
        end(pool.run(emit)).unwrap();
        assert_eq!(notes.events.lock().unwrap()[0].1, ["job"]);
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
    noted(|notes| {
        let span = tracing::info_span!("request");
        let handle = span.in_scope(|| run_in_executor(&Threads, || end(run_in_executor(&Inline, emit))));
        end(handle).unwrap().unwrap();
        assert_eq!(notes.events.lock().unwrap()[0].1, ["job", "job", "request"]);
    });
}

#[test]
fn a_job_that_ended_keeps_no_span_open() {
    noted(|notes| {
        let pool = single();
        let (gate, busy) = occupy(&pool);
        let span = tracing::info_span!("short");
        let queued = span.in_scope(|| pool.run(emit));
        drop(span);
        assert!(notes.closed.lock().unwrap().is_empty(), "the queued job holds it");
        drop(queued);
        assert_eq!(*notes.closed.lock().unwrap(), ["job", "short"]);
        gate.open();
        end(busy).unwrap();
    });
}

#[test]
fn the_span_of_a_job_tells_how_long_it_waited_and_ran_and_how_it_ended() {
    noted(|notes| {
        let pool = single();
        let (gate, busy) = occupy(&pool);
        let slow = pool.run(|| std::thread::sleep(std::time::Duration::from_millis(20)));
        std::thread::sleep(std::time::Duration::from_millis(20));
        gate.open();
        end(busy).unwrap();
        notes.recorded.lock().unwrap().clear();
        end(slow).unwrap();
        end(pool.run(|| panic!("on purpose"))).unwrap_err();
        let recorded = notes.recorded.lock().unwrap();
        let all = |name: &str| -> Vec<String> {
            recorded.iter().filter(|(field, _)| *field == name).map(|(_, value)| value.clone()).collect()
        };
        let micros = |name: &str| all(name)[0].parse::<u64>().unwrap();
        assert!(micros("queue_wait_us") >= 20_000 && micros("run_us") >= 20_000, "{recorded:?}");
        assert_eq!(all("outcome").last().unwrap(), "\"panicked\"");
        assert!(all("outcome").contains(&"\"completed\"".to_owned()), "{recorded:?}");
    });
}
