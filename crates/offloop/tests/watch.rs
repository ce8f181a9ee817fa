//! Promises of the watch of any loop: stalls are reported while they last, and nothing else is.

#![cfg(feature = "watch")]
#![allow(missing_docs, reason = "a test crate has no users")]

mod common;

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{GIVE_UP, Gate, comes_back, eventually};
use offloop::watch::{Monitor, Pulse, StallEvent, WatchGuard};

const THRESHOLD: Duration = Duration::from_millis(20);

fn start(monitor: Monitor) -> (Pulse, WatchGuard, Receiver<StallEvent>) {
    let (send, receive) = channel();
    let (pulse, guard) = monitor
        .start(move |event| {
            let _ = send.send(event);
        })
        .unwrap();
    (pulse, guard, receive)
}

fn next(events: &Receiver<StallEvent>) -> StallEvent {
    events.recv_timeout(GIVE_UP).expect("an event comes")
}

#[test]
fn a_stall_is_reported_while_it_lasts_again_as_it_goes_on_and_when_it_is_over() {
    let (pulse, _guard, events) = start(Monitor::new(THRESHOLD).repeat(THRESHOLD, THRESHOLD));
    let begun = Instant::now();
    pulse.beat();
    // No beat comes before these have been reported.
    let StallEvent::Began { late: first } = next(&events) else { panic!("first the stall begins") };
    let StallEvent::Ongoing { late: second } = next(&events) else { panic!("then it goes on") };
    let StallEvent::Ongoing { late: third } = next(&events) else { panic!("and on") };
    assert!(THRESHOLD <= first && first < second && second < third && third <= begun.elapsed());
    pulse.beat();
    let after = begun.elapsed();
    let lasted = loop {
        match next(&events) {
            StallEvent::Over { lasted } => break lasted,
            event => assert!(matches!(event, StallEvent::Ongoing { .. }), "{event:?}"),
        }
    };
    assert!(third < lasted && lasted <= after, "{lasted:?}");
}

#[test]
fn a_loop_that_never_began_or_is_paused_is_not_stalled() {
    let (pulse, _guard, events) = start(Monitor::new(THRESHOLD));
    std::thread::sleep(4 * THRESHOLD);
    assert_eq!(pulse.age(), None);
    pulse.pause();
    std::thread::sleep(4 * THRESHOLD);
    assert!(events.try_recv().is_err());
    pulse.beat();
    assert!(matches!(next(&events), StallEvent::Began { .. }), "a beat after the pause begins anew");
    assert!(pulse.age().unwrap() >= THRESHOLD);
    pulse.pause();
    eventually("pausing ends the stall", || matches!(next(&events), StallEvent::Over { .. }));
    std::thread::sleep(4 * THRESHOLD);
    assert!(events.try_recv().is_err());
}

#[test]
fn a_loop_that_beats_in_time_is_not_reported() {
    // Generous: the machine may keep this very thread from beating.
    let (pulse, _guard, events) = start(Monitor::new(Duration::from_secs(2)));
    for _ in 0..300 {
        pulse.clone().beat();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(events.try_recv().is_err());
    assert_eq!(pulse.interval(), Duration::from_millis(500));
}

#[test]
fn a_panic_of_the_callback_is_survived() {
    let (send, events) = channel();
    let on_event = move |event| {
        let _ = send.send(event);
        panic!("from the callback");
    };
    let (pulse, guard) = Monitor::new(THRESHOLD).start(on_event).unwrap();
    pulse.beat();
    assert!(matches!(next(&events), StallEvent::Began { .. }));
    assert!(matches!(next(&events), StallEvent::Ongoing { .. }));
    comes_back("the drop", move || drop(guard));
}

#[test]
fn after_the_drop_no_callback_runs_and_what_it_held_is_dropped() {
    let count = common::Count::new();
    let (seen, dropped) = (count.clone(), common::Count::new());
    let held = dropped.on_drop();
    let on_event = move |_: StallEvent| {
        let _held = &held;
        seen.add();
    };
    let (pulse, guard) = Monitor::new(Duration::from_millis(1)).start(on_event).unwrap();
    pulse.beat();
    eventually("it is called", || count.get() > 0);
    comes_back("the drop", move || drop(guard));
    let (after, held) = (count.get(), dropped.get());
    assert_eq!(held, 1);
    pulse.beat();
    std::thread::sleep(4 * THRESHOLD);
    assert_eq!(count.get(), after);
}

#[test]
fn a_long_threshold_does_not_delay_the_drop() {
    let (pulse, guard, _events) = start(Monitor::new(Duration::MAX));
    pulse.beat();
    comes_back("the drop", move || drop(guard));
}

#[test]
fn the_guard_may_be_dropped_within_the_callback() {
    let (done, gate) = (channel(), Gate::new());
    let slot: Arc<Mutex<Option<WatchGuard>>> = Arc::default();
    let (inner, pass) = (Arc::clone(&slot), gate.clone());
    let on_event = move |event: StallEvent| {
        pass.pass();
        drop(inner.lock().unwrap().take());
        let _ = done.0.send(event);
    };
    let (pulse, guard) = Monitor::new(THRESHOLD).start(on_event).unwrap();
    *slot.lock().unwrap() = Some(guard);
    pulse.beat();
    gate.open();
    assert!(matches!(next(&done.1), StallEvent::Began { .. }));
    assert_eq!(done.1.recv_timeout(GIVE_UP).ok(), None, "it ended, and so did its callback");
}

#[cfg(target_os = "linux")]
#[test]
fn a_process_that_was_stopped_is_not_mistaken_for_a_stalled_loop() {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "in_a_process_that_is_stopped", "--nocapture"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    lines.find(|line| line.as_ref().unwrap().contains("beating")).unwrap().unwrap();
    for signal in [libc::SIGSTOP, libc::SIGCONT] {
        // SAFETY: the call takes two numbers. The child has not been waited for, so its id is still its own.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
        std::thread::sleep(Duration::from_secs(3));
    }
    drop(child.kill());
    child.wait().unwrap();
    let reported: Vec<_> = lines.map_while(Result::ok).filter(|line| line.contains("reported")).collect();
    assert_eq!(reported, Vec::<String>::new());
}

#[test]
#[ignore = "it is run by the test above"]
fn in_a_process_that_is_stopped() {
    let monitor = Monitor::new(Duration::from_secs(1));
    let (pulse, _guard) = monitor.start(|event| println!("reported {event:?}")).unwrap();
    pulse.beat();
    println!("beating");
    loop {
        std::thread::sleep(Duration::from_millis(10));
        pulse.beat();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn in_a_forked_child_nothing_hangs_and_a_new_watch_works() {
    let (pulse, guard, _events) = start(Monitor::new(THRESHOLD));
    pulse.beat();
    let mut held = Some(guard);
    // SAFETY: the child runs only the code below, and ends with `_exit`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: it may be called after `fork`.
        unsafe { libc::alarm(20) };
        pulse.beat();
        drop(held.take());
        let (pulse, guard, events) = start(Monitor::new(THRESHOLD));
        pulse.beat();
        let stalled = matches!(next(&events), StallEvent::Began { .. });
        drop(guard);
        // SAFETY: it may be called after `fork`.
        unsafe { libc::_exit(i32::from(!stalled)) };
    }
    let mut status = 0;
    // SAFETY: `status` outlives the call, and `pid` is a child of this process that nothing else waits for.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert_eq!(status, 0, "it failed or hung");
}
