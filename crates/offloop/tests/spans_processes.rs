//! The span of a job and the bytes that it carries reach the worker process.

#![cfg(all(feature = "process", feature = "tracing", target_os = "linux"))]

#[path = "process_support/mod.rs"]
mod support;

use std::sync::{Arc, Mutex};

use offloop::{ProcessPool, prepare};
use support::pool;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Registry;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

offloop::init_tests!();

/// The fields of the newest span, as text.
#[derive(Clone, Default)]
struct Fields(Arc<Mutex<Vec<String>>>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.lock().unwrap().push(format!("{}={value:?}", field.name()));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Fields {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        self.0.lock().unwrap().clear();
        attributes.record(&mut self.clone());
    }

    fn on_record(&self, _: &Id, record: &Record<'_>, _: Context<'_, S>) {
        record.record(&mut self.clone());
    }

    fn on_event(&self, _: &Event<'_>, context: Context<'_, S>) {
        let span = context.lookup_current().map_or("no span", |span| span.name());
        self.0.lock().unwrap().push(format!("event in {span}"));
    }
}

static RECORDED: std::sync::OnceLock<Fields> = std::sync::OnceLock::new();

#[offloop::task]
fn record_spans() {
    let fields = RECORDED.get_or_init(Fields::default).clone();
    tracing::subscriber::set_global_default(Registry::default().with(fields)).unwrap();
}

#[offloop::task]
fn recorded() -> (Vec<String>, u32) {
    tracing::info!("in the worker");
    (RECORDED.get().unwrap().0.lock().unwrap().clone(), std::process::id())
}

#[test]
fn a_job_runs_in_a_span_of_its_name_and_number_in_the_worker() {
    let pool = ProcessPool::builder().max_workers(1).initializer(&record_spans.with()).build().unwrap();
    // A span exists only if there is a subscriber, so this process has one too.
    let guard = tracing::subscriber::set_default(Registry::default());
    let request = tracing::info_span!("request");
    let handle = request.in_scope(|| pool.run(prepare(recorded.with()).name("the report")));
    let number = handle.id();
    let (fields, pid) = handle.wait().unwrap();
    drop(guard);
    assert_ne!(pid, std::process::id());
    let expected = [
        format!("job={number}"),
        "task=\"the report\"".to_owned(),
        "parent=\"request\"".to_owned(),
        "event in job".to_owned(),
    ];
    assert_eq!(fields, expected);
}

#[test]
fn a_job_has_its_number_and_name_in_the_worker_without_any_subscriber() {
    let pool = pool(1);
    let handle = pool.run(prepare(who_am_i.with()).name("somebody"));
    let number = handle.id().to_string();
    assert_eq!(handle.wait().unwrap(), (number, "somebody".to_owned(), None));
    assert_eq!(pool.run(who_am_i.with()).wait().unwrap().1, "spans_processes::who_am_i");
}

#[offloop::task]
fn who_am_i() -> (String, String, Option<Vec<u8>>) {
    let number = offloop::job::id().unwrap().to_string();
    (number, offloop::job::name().unwrap(), offloop::job::carried())
}

static AROUND: Mutex<Vec<String>> = Mutex::new(Vec::new());

#[offloop::task]
fn surround_jobs() {
    let is_first = offloop::job::surround(|run| {
        let carried = offloop::job::carried().unwrap_or_default();
        match carried.as_slice() {
            b"do not" => return,
            b"panic" => panic!("the hook"),
            _ => {}
        }
        AROUND.lock().unwrap().push(format!("before {}", String::from_utf8(carried).unwrap()));
        run();
    });
    assert!(is_first && !offloop::job::surround(|run| run()));
}

#[offloop::task]
fn around() -> Vec<String> {
    std::mem::take(&mut AROUND.lock().unwrap())
}

#[test]
fn the_bytes_that_a_job_carries_reach_the_hook_that_surrounds_it() {
    let pool = ProcessPool::builder()
        .max_workers(1)
        .initializer(&surround_jobs.with())
        .carry(|| Some(b"the pool's".to_vec()))
        .build()
        .unwrap();
    assert_eq!(pool.run(around.with()).wait().unwrap(), ["before the pool's"]);
    assert_eq!(pool.run(prepare(around.with()).carry(*b"its own")).wait().unwrap(), ["before its own"]);
    let error = pool.run(prepare(around.with()).carry(*b"do not")).wait().unwrap_err();
    assert!(error.to_string().contains("the hook that surrounds jobs did not call it"), "{error}");
    let error = pool.run(prepare(around.with()).carry(*b"panic")).wait().unwrap_err();
    assert!(
        error.to_string().contains("panicked: the hook") || error.to_string().contains("the hook"),
        "{error}"
    );
    assert_eq!(pool.run(around.with()).wait().unwrap(), ["before the pool's"]);
}

#[test]
fn a_job_on_threads_carries_bytes_too_and_large_arguments_stay_whole() {
    let threads = offloop::ThreadPool::builder().max_workers(1).build().unwrap();
    let carried = threads.run(prepare(offloop::job::carried).carry(*b"bytes")).wait().unwrap();
    assert_eq!(carried.as_deref(), Some(b"bytes".as_slice()));
    let pool = pool(1);
    let text = "y".repeat(3 << 20);
    let long = prepare(support::count_words.with(&text, b"", "z".into()))
        .name("x".repeat(5000))
        .carry(vec![7; 9000]);
    assert_eq!(pool.run(long).wait().unwrap(), (1, 0, 0));
}

#[test]
fn after_a_panic_of_the_carry_hook_the_job_runs_and_carries_nothing() {
    let pool = ProcessPool::builder().max_workers(1).carry(|| panic!("on purpose")).build().unwrap();
    assert_eq!(pool.run(who_am_i.with()).wait().unwrap().2, None);
}
