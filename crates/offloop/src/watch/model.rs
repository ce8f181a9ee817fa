//! Models of a watch. Its clock may jump by any time under the model checker. Events come in order, and dropping the guard
//! always ends the watch.

use std::sync::Arc;
use std::time::Duration;

use shuttle::sync::Mutex;
use shuttle::thread;

use super::detector::StallEvent;
use super::guard::WatchGuard;
use super::monitor::Monitor;

/// The number of schedules that are tried for each model and scheduler.
const RUNS: usize = 5_000;

fn check(model: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(model.clone(), RUNS);
    shuttle::check_pct(model, RUNS, 3);
}

/// Checks that each stall has one begin, then reports that grow, then one end, which is no shorter.
fn assert_in_order(events: &[StallEvent]) {
    let mut late = None;
    for event in events {
        late = match (late, *event) {
            (None, StallEvent::Began { late }) => Some(late),
            (Some(before), StallEvent::Ongoing { late }) if late > before => Some(late),
            (Some(before), StallEvent::Over { lasted }) if lasted >= before => None,
            _ => panic!("{events:?}"),
        };
    }
}

#[test]
fn events_come_in_order_and_none_after_the_drop() {
    check(|| {
        let events: Arc<Mutex<Vec<StallEvent>>> = Arc::default();
        let seen = Arc::clone(&events);
        let monitor = Monitor::new(Duration::from_millis(2));
        let (pulse, guard) = monitor.start(move |event| seen.lock().unwrap().push(event)).unwrap();
        let beats = thread::spawn(move || {
            for _ in 0..3 {
                pulse.beat();
            }
            pulse.pause();
            pulse.beat();
        });
        thread::yield_now();
        drop(guard);
        let count = events.lock().unwrap().len();
        beats.join().unwrap();
        let events = events.lock().unwrap();
        assert_eq!(events.len(), count);
        assert_in_order(&events);
    });
}

#[test]
fn the_guard_may_be_dropped_in_the_callback_while_another_thread_does_so() {
    check(|| {
        let slot: Arc<Mutex<Option<WatchGuard>>> = Arc::default();
        let inner = Arc::clone(&slot);
        let on_event = move |_| {
            let guard = inner.lock().unwrap().take();
            drop(guard);
        };
        let (pulse, guard) = Monitor::new(Duration::from_millis(2)).start(on_event).unwrap();
        *slot.lock().unwrap() = Some(guard);
        pulse.beat();
        let guard = slot.lock().unwrap().take();
        drop(guard);
    });
}
