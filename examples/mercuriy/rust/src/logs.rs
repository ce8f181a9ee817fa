//! Logs: JSON lines on standard error, with the id of the request that they belong to, also from workers.

use std::error::Error;
use std::fmt::{Debug, Write as _};
use std::io::Write as _;
use std::time::SystemTime;

use offloop::job;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, EnteredSpan, Id};
use tracing::{Event, Span, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry, filter::LevelFilter};

use crate::traces::{self, Process};

/// Starts the logs of this process, and its traces, if they have somewhere to go: the URL of a collector. Later calls do
/// nothing.
pub fn start(otlp: Option<&str>, process: Process) -> Result<(), Box<dyn Error>> {
    let subscriber = Registry::default().with(JsonLines.with_filter(LevelFilter::INFO));
    #[cfg(feature = "otlp")]
    let subscriber = subscriber.with(otlp.map(|url| traces::layer(url, process)).transpose()?);
    #[cfg(not(feature = "otlp"))]
    if let Some(url) = otlp {
        let advice = "build it with `--features otlp`";
        return Err(format!("{process:?} cannot send traces to {url}: {advice}").into());
    }
    // An error means that there is a subscriber already.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

/// Returns the id of the request that this thread works for, or an empty text.
pub fn current_request() -> String {
    let request = Span::current().with_subscriber(|(id, dispatch)| {
        let span = dispatch.downcast_ref::<Registry>()?.span(id)?;
        request_of(span.scope())
    });
    request.flatten().unwrap_or_default()
}

/// Starts the logs of a worker process, and opens the span of the request. For the processes of procspawn.
pub fn enter_in_worker(request: &str) -> EnteredSpan {
    // They go to standard error, and traces nowhere, so nothing can be wrong.
    let _ = start(None, Process::Worker);
    tracing::info_span!("work", request).entered()
}

/// Starts the logs of a worker process of offloop. Each of its jobs runs in a span with the id of its request.
#[offloop::task]
pub fn start_in_worker(otlp: Option<String>) -> Result<(), String> {
    start(otlp.as_deref(), Process::Worker).map_err(|error| error.to_string())?;
    job::surround(|run_job| {
        let request = job::request().unwrap_or_default();
        let span = tracing::info_span!("work", request = &*request);
        traces::continue_from_bytes(&span, &job::carried().unwrap_or_default());
        span.in_scope(run_job);
    });
    Ok(())
}

/// Returns a time as RFC 3339 has it.
pub fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// The id of the request, in the extensions of its span.
struct Request(String);

fn request_of<'a, R: LookupSpan<'a>>(scope: tracing_subscriber::registry::Scope<'a, R>) -> Option<String> {
    let mut scope = scope;
    scope.find_map(|span| span.extensions().get::<Request>().map(|request| request.0.clone()))
}

/// Writes each event as one line.
struct JsonLines;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for JsonLines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields(Map::new());
        attributes.record(&mut fields);
        let request = fields.0.remove("request");
        if let (Some(Value::String(request)), Some(span)) = (request, context.span(id)) {
            span.extensions_mut().insert(Request(request));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let mut line = Map::new();
        line.insert("time".to_owned(), rfc3339(SystemTime::now()).into());
        line.insert("level".to_owned(), metadata.level().as_str().to_lowercase().into());
        line.insert("logger".to_owned(), metadata.target().into());
        if let Some(request) = context.event_scope(event).and_then(request_of) {
            line.insert("request".to_owned(), request.into());
        }
        let mut fields = Fields(line);
        event.record(&mut fields);
        // One call, so that lines of several threads do not mix. Where it fails, nobody reads.
        let _ = std::io::stderr().write_all(format!("{}\n", Value::Object(fields.0)).as_bytes());
    }
}

/// Collects the fields of a span or of an event.
struct Fields(Map<String, Value>);

impl Fields {
    fn insert(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = write!(text, "{value:?}");
        self.insert(field, text);
    }
}
