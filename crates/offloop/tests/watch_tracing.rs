//! The reports of a watch reach the program's subscriber, with fields, and do not flood it.

#![cfg(all(feature = "watch", feature = "tokio", feature = "tracing", target_os = "linux"))]
#![allow(missing_docs, reason = "a test crate has no users")]

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use offloop::watch::RuntimeWatchBuilder;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Registry;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

type Fields = HashMap<&'static str, String>;

/// A layer that records the fields of the watch's events.
#[derive(Clone, Default)]
struct Recorded(Arc<Mutex<Vec<Fields>>>);

struct Visitor(Fields);

impl Visit for Visitor {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl<S: Subscriber> Layer<S> for Recorded {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == "offloop::watch" {
            assert_eq!(*event.metadata().level(), Level::WARN);
            let mut visitor = Visitor(Fields::new());
            event.record(&mut visitor);
            self.0.lock().unwrap().push(visitor.0);
        }
    }
}

#[test]
fn a_place_has_one_line_with_its_fields_and_then_a_summary() {
    let recorded = Recorded::default();
    tracing::subscriber::set_global_default(Registry::default().with(recorded.clone())).unwrap();
    let threshold = Duration::from_millis(30);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let watch = RuntimeWatchBuilder::new().threshold(threshold).repeat(Duration::MAX, Duration::MAX);
    let watch = watch.start(runtime.handle()).unwrap();
    watch.block_on(&runtime, async {
        for _ in 0..6 {
            watch.task(async { std::thread::sleep(8 * threshold) }).named("sleeper").await;
            tokio::time::sleep(4 * threshold).await;
        }
    });
    drop(watch);
    let events = recorded.0.lock().unwrap();
    let field = |event: &Fields, name| event.get(name).cloned().unwrap_or_default();
    let of_the_task: Vec<_> = events.iter().filter(|event| field(event, "task") == "\"sleeper\"").collect();
    let [first, summary] = of_the_task[..] else { panic!("{events:?}") };
    assert_eq!((field(first, "phase"), field(first, "seen")), ("Began".to_owned(), "1".to_owned()));
    assert_eq!((field(summary, "phase"), field(summary, "count")), (String::new(), "5".to_owned()));
    assert!(
        field(summary, "message").starts_with("5 stalls here have ended since the last line"),
        "{summary:?}"
    );
    assert!(field(summary, "longest_ms").parse::<u64>().unwrap() >= 30);
    assert_eq!(field(first, "activity"), "\"waits\"");
    assert!(field(first, "spawned_at").starts_with(file!()), "{first:?}");
    assert!(field(first, "message").contains("offloop::run"), "{first:?}");
    assert!(field(first, "lasted_ms").parse::<u64>().unwrap() >= 30);
}
