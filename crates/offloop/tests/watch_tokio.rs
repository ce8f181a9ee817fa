//! Promises of the watch of a tokio runtime: it reports which thread is stalled, where and why, and nothing else.

#![cfg(all(feature = "watch", feature = "tokio", target_os = "linux"))]
#![allow(missing_docs, reason = "a test crate has no users")]

mod common;

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use common::{GIVE_UP, Gate, comes_back, eventually, tid};
use offloop::watch::{Activity, RuntimeWatch, RuntimeWatchBuilder, Stall, StallPhase};
use tokio::runtime::{self, Runtime};

const THRESHOLD: Duration = Duration::from_millis(50);
/// Much longer than the threshold, so that it is noticed while it lasts.
const STALL: Duration = Duration::from_millis(400);

struct Watched {
    watch: RuntimeWatch,
    runtime: Runtime,
    stalls: Receiver<Stall>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Flavor {
    Current,
    Multi,
}

const BOTH: [Flavor; 2] = [Flavor::Current, Flavor::Multi];

fn watched(flavor: Flavor, threshold: Duration) -> Watched {
    let (send, stalls) = channel();
    let watch = RuntimeWatchBuilder::new().threshold(threshold).on_stall(move |stall| {
        let _ = send.send(stall.clone());
    });
    let runtime = match flavor {
        Flavor::Current => runtime::Builder::new_current_thread().enable_all().build(),
        Flavor::Multi => runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("loop-thread")
            .on_thread_park(watch.on_thread_park())
            .enable_all()
            .build(),
    };
    let runtime = runtime.unwrap();
    Watched { watch: watch.start(runtime.handle()).unwrap(), runtime, stalls }
}

impl Watched {
    fn next(&self, phase: StallPhase) -> Stall {
        loop {
            let stall = self.stalls.recv_timeout(GIVE_UP).expect("a stall is reported");
            if stall.phase == phase {
                return stall;
            }
        }
    }

    /// Runs `blocking` in a watched task. Returns the first report, the last report and the thread of the task.
    fn stall(&self, blocking: impl FnOnce() + Send + 'static) -> (Stall, Stall, i32) {
        let task = self.watch.task(async move {
            // The watch has had its first answer by now.
            tokio::time::sleep(THRESHOLD).await;
            blocking();
            tid()
        });
        let task = self.watch.runtime().spawn(task.named("the blocker"));
        let thread = self.runtime.block_on(async {
            let thread = task.await.unwrap();
            // The runtime answers again.
            tokio::time::sleep(2 * THRESHOLD).await;
            thread
        });
        self.watch.pause();
        (self.next(StallPhase::Began), self.next(StallPhase::Over), thread)
    }
}

/// Checks everything in the reports of a stall except for the thread's activity.
fn assert_right(flavor: Flavor, watched: &Watched, (began, over, thread): &(Stall, Stall, i32)) {
    for stall in [began, over] {
        let stalled = stall.thread.as_ref().expect("the thread is known");
        assert_eq!(stalled.id, *thread);
        match flavor {
            Flavor::Current => assert_eq!(stall.worker, None),
            Flavor::Multi => assert!(stalled.name == "loop-thread" && stall.worker.is_some(), "{stall:?}"),
        }
        let task = stall.task.expect("the task is known");
        assert_eq!((task.name, task.spawned_at.file()), (Some("the blocker"), file!()));
    }
    assert!(began.lasted >= THRESHOLD && began.lasted < over.lasted, "{began} {over}");
    // Without a core the thread did not stand still.
    assert!(over.lasted + over.starved >= STALL / 2, "{over}");
    assert!(watched.stalls.try_iter().next().is_none(), "one stall is reported once");
}

#[test]
fn a_sleep_is_reported_with_its_thread_and_task_as_waiting() {
    for flavor in BOTH {
        let watched = watched(flavor, THRESHOLD);
        let reports = watched.stall(|| std::thread::sleep(STALL));
        assert_right(flavor, &watched, &reports);
        assert_eq!(reports.0.activity, Some(Activity::Waits));
        assert!(reports.0.cpu.unwrap() < 0.5, "{}", reports.0);
        assert!(reports.0.to_string().contains("`offloop::run`"), "{}", reports.0);
    }
}

#[test]
fn a_blocking_read_of_a_socket_is_reported() {
    for flavor in BOTH {
        let watched = watched(flavor, THRESHOLD);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            std::thread::sleep(STALL + THRESHOLD);
            peer.write_all(b"!").unwrap();
        });
        let reports = watched.stall(move || assert_eq!(client.read(&mut [0]).unwrap(), 1));
        assert_right(flavor, &watched, &reports);
        assert_eq!(reports.0.activity, Some(Activity::Waits));
        server.join().unwrap();
    }
}

#[test]
fn a_loop_that_computes_is_reported_as_computing() {
    for flavor in BOTH {
        let watched = watched(flavor, THRESHOLD);
        let reports = watched.stall(|| {
            let begun = Instant::now();
            while begun.elapsed() < STALL {
                black_box((0..1000).map(black_box).sum::<u64>());
            }
        });
        assert_right(flavor, &watched, &reports);
        assert_eq!(reports.0.activity, Some(Activity::Computes), "{}", reports.0);
        assert!(reports.0.advice().contains("run_cpu"));
    }
}

#[test]
fn the_origin_of_a_task_is_the_line_that_spawned_it() {
    let watched = watched(Flavor::Multi, THRESHOLD);
    let (task, line) = (watched.watch.spawn(async { std::thread::sleep(STALL) }), line!());
    watched.runtime.block_on(task).unwrap();
    let origin = watched.next(StallPhase::Began).task.expect("it is watched");
    assert_eq!((origin.name, origin.spawned_at.file(), origin.spawned_at.line()), (None, file!(), line));
}

#[test]
fn one_stuck_worker_is_reported_while_the_others_go_on() {
    let watched = watched(Flavor::Multi, THRESHOLD);
    // From then on their threads are known.
    let metrics = watched.runtime.metrics();
    eventually("both workers have parked", || {
        (0..2).all(|worker| metrics.worker_park_unpark_count(worker) > 0)
    });
    let gate = Gate::new();
    let pass = gate.clone();
    // It is not a watched task. The worker is known all the same.
    let stuck = watched.runtime.spawn(async move {
        pass.pass();
        tid()
    });
    let began = watched.next(StallPhase::Began);
    let ongoing = watched.next(StallPhase::Ongoing);
    assert!(ongoing.lasted > began.lasted && ongoing.seen == began.seen);
    let lively = watched.runtime.spawn(async { tid() });
    let lively = watched.runtime.block_on(lively).unwrap();
    gate.open();
    let stuck = watched.runtime.block_on(stuck).unwrap();
    assert_ne!(stuck, lively);
    assert_eq!(began.task, None);
    let thread = began.thread.expect("it has parked before");
    assert_eq!((thread.id, thread.name.as_str()), (stuck, "loop-thread"));
    assert!(watched.next(StallPhase::Over).lasted > ongoing.lasted);
}

#[test]
fn when_all_workers_are_stuck_each_is_reported() {
    let watched = watched(Flavor::Multi, THRESHOLD);
    let gate = Gate::new();
    let stuck: Vec<_> = ["one", "two"]
        .map(|name| {
            let pass = gate.clone();
            watched.runtime.spawn(watched.watch.task(async move { pass.pass() }).named(name))
        })
        .into();
    let (first, second) = (watched.next(StallPhase::Began), watched.next(StallPhase::Began));
    let mut names = [first, second].map(|stall| stall.task.unwrap().name.unwrap());
    names.sort_unstable();
    assert_eq!(names, ["one", "two"]);
    std::thread::sleep(4 * THRESHOLD);
    gate.open();
    watched.runtime.block_on(async { futures_join(stuck).await });
    std::thread::sleep(4 * THRESHOLD);
    let others = watched.stalls.try_iter().filter(|stall| stall.phase == StallPhase::Began).count();
    assert_eq!(others, 0, "that the runtime did not answer is not reported as well");
}

async fn futures_join<T>(tasks: Vec<tokio::task::JoinHandle<T>>) {
    for task in tasks {
        assert!(task.await.is_ok());
    }
}

#[test]
fn a_current_thread_runtime_is_reported_without_watched_tasks_too() {
    let watched = watched(Flavor::Current, THRESHOLD);
    watched.runtime.block_on(async {
        tokio::time::sleep(THRESHOLD).await;
        std::thread::sleep(STALL);
        tokio::time::sleep(THRESHOLD).await;
    });
    watched.watch.pause();
    let began = watched.next(StallPhase::Began);
    assert_eq!((began.thread.unwrap().id, began.task), (tid(), None));
}

#[test]
fn the_future_of_block_on_is_reported_on_a_multi_thread_runtime_too() {
    let watched = watched(Flavor::Multi, THRESHOLD);
    let ((), line) = (watched.watch.block_on(&watched.runtime, async { std::thread::sleep(STALL) }), line!());
    let began = watched.next(StallPhase::Began);
    assert_eq!((began.thread.unwrap().id, began.worker), (tid(), None));
    assert_eq!(began.task.unwrap().spawned_at.line(), line);
}

#[test]
fn the_innermost_watched_future_is_the_one_named() {
    for flavor in BOTH {
        let watched = watched(flavor, THRESHOLD);
        let part = watched.watch.task(async { std::thread::sleep(STALL) }).named("part");
        watched.watch.block_on(&watched.runtime, async {
            tokio::time::sleep(THRESHOLD).await;
            part.await;
        });
        assert_eq!(watched.next(StallPhase::Began).task.unwrap().name, Some("part"));
    }
}

#[test]
fn a_runtime_that_is_fine_is_not_reported() {
    for flavor in BOTH {
        // Generous: on a busy machine a loop may be late without a fault of its own.
        let watched = watched(flavor, Duration::from_secs(1));
        watched.watch.block_on(&watched.runtime, async {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(1500) {
                watched.watch.spawn(tokio::task::yield_now()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        std::thread::sleep(Duration::from_millis(2500));
        let reports: Vec<_> = watched.stalls.try_iter().collect();
        assert!(reports.is_empty(), "idle, and between two calls of `block_on`: {reports:?}");
    }
}

#[test]
fn idle_workers_are_no_stall() {
    let (send, stalls) = channel();
    // There are more workers than the watch wakes.
    let runtime = runtime::Builder::new_multi_thread().worker_threads(16).build().unwrap();
    let watch = RuntimeWatchBuilder::new().threshold(Duration::from_millis(500)).on_stall(move |stall| {
        let _ = send.send(stall.clone());
    });
    let _watch = watch.start(runtime.handle()).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let reports: Vec<_> = stalls.try_iter().collect();
    assert!(reports.is_empty(), "{reports:?}");
}

#[test]
fn block_in_place_is_no_stall() {
    let watched = watched(Flavor::Multi, Duration::from_millis(500));
    let task = watched.watch.spawn(async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        tokio::task::block_in_place(|| std::thread::sleep(Duration::from_secs(2)));
    });
    watched.runtime.block_on(task).unwrap();
    let reports: Vec<_> = watched.stalls.try_iter().collect();
    assert!(reports.is_empty(), "{reports:?}");
}

#[test]
fn after_the_runtime_was_shut_down_nothing_is_reported() {
    for flavor in BOTH {
        let Watched { watch, runtime, stalls } = watched(flavor, THRESHOLD);
        watch.block_on(&runtime, async { tokio::time::sleep(THRESHOLD).await });
        comes_back("the runtime's end", move || drop(runtime));
        let before = stalls.try_iter().count();
        std::thread::sleep(6 * THRESHOLD);
        assert_eq!(stalls.try_iter().count(), 0, "{before} before");
        eventually("the callback is dropped with the watch's thread", || {
            matches!(stalls.try_recv(), Err(TryRecvError::Disconnected))
        });
        drop(watch);
    }
}

#[test]
fn after_the_watch_was_dropped_nothing_is_reported_and_its_task_is_gone() {
    for flavor in BOTH {
        let Watched { watch, runtime, stalls } = watched(flavor, THRESHOLD);
        watch.block_on(&runtime, async { tokio::time::sleep(THRESHOLD).await });
        let clone = watch.clone();
        drop(watch);
        assert_eq!(runtime.metrics().num_alive_tasks(), 1, "a clone still watches");
        comes_back("the drop", move || drop(clone));
        stalls.try_iter().for_each(drop);
        runtime.block_on(async {
            std::thread::sleep(STALL);
            tokio::time::sleep(THRESHOLD).await;
        });
        eventually("the task is aborted", || runtime.metrics().num_alive_tasks() == 0);
        assert!(stalls.try_recv().is_err());
    }
}

#[test]
fn a_panic_of_the_callback_is_survived_and_stalls_of_one_place_are_counted() {
    let (send, stalls) = channel();
    let watch = RuntimeWatchBuilder::new().threshold(THRESHOLD).on_stall(move |stall| {
        let _ = send.send(stall.clone());
        // Not by `panic!`: to print where that was takes the watch's thread longer than a stall on a busy machine.
        std::panic::resume_unwind(Box::new("from the callback"));
    });
    let runtime = runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let watch = watch.start(runtime.handle()).unwrap();
    let mut seen = Vec::new();
    watch.block_on(&runtime, async {
        for name in ["often", "often", "once", "often"] {
            watch.task(async { std::thread::sleep(STALL) }).named(name).await;
            let late = Instant::now() + GIVE_UP;
            let mut is_over = false;
            while !is_over {
                assert!(Instant::now() < late, "the end of a stall is reported: {seen:?}");
                tokio::time::sleep(THRESHOLD).await;
                for stall in stalls.try_iter() {
                    is_over |= stall.phase == StallPhase::Over;
                    if stall.phase == StallPhase::Began {
                        seen.push((stall.task.unwrap().name.unwrap(), stall.seen));
                    }
                }
            }
        }
    });
    assert_eq!(seen, [("often", 1), ("often", 2), ("once", 1), ("often", 3)]);
}

#[test]
fn a_runtime_without_timers_can_be_watched() {
    let (send, stalls) = channel();
    let watch = RuntimeWatchBuilder::new().threshold(THRESHOLD).on_stall(move |stall| {
        let _ = send.send(stall.clone());
    });
    let runtime = runtime::Builder::new_current_thread().build().unwrap();
    let watch = watch.start(runtime.handle()).unwrap();
    watch.block_on(&runtime, async {
        tokio::task::yield_now().await;
        std::thread::sleep(STALL);
    });
    assert_eq!(stalls.recv_timeout(GIVE_UP).unwrap().phase, StallPhase::Began);
}

#[cfg(all(feature = "watch-stacks", target_arch = "x86_64"))]
mod stacks {
    use super::*;

    #[inline(never)]
    fn sleeps_in_here() {
        std::thread::sleep(STALL);
        black_box(());
    }

    #[inline(never)]
    fn computes_in_here() {
        let begun = Instant::now();
        while begun.elapsed() < STALL {
            black_box((0..1000).map(black_box).sum::<u64>());
        }
    }

    #[inline(never)]
    fn reads_in_here(mut client: &TcpStream) -> std::io::Result<usize> {
        black_box(client.read(&mut [0]))
    }

    fn with_stacks() -> Watched {
        let (send, stalls) = channel();
        let watch = RuntimeWatchBuilder::new().threshold(THRESHOLD).stacks(true).on_stall(move |stall| {
            let _ = send.send(stall.clone());
        });
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("loop-thread")
            .on_thread_park(watch.on_thread_park())
            .enable_all()
            .build()
            .unwrap();
        Watched { watch: watch.start(runtime.handle()).unwrap(), runtime, stalls }
    }

    fn position(stall: &Stall, function: &str) -> usize {
        let calls = |name: &String| name.contains(function);
        let found = stall.stack.iter().position(|frame| frame.function.as_ref().is_some_and(calls));
        found.unwrap_or_else(|| panic!("no {function} in {stall:#}"))
    }

    #[test]
    fn the_stack_names_the_blocking_call_down_to_the_threads_start() {
        let functions = [(sleeps_in_here as fn(), "sleeps_in_here"), (computes_in_here, "computes_in_here")];
        for (function, name) in functions {
            let watched = with_stacks();
            let (began, _, _) = watched.stall(function);
            let at = position(&began, name);
            let frame = &began.stack[at];
            assert!(frame.file.as_ref().unwrap().ends_with("watch_tokio.rs") && frame.line.is_some());
            assert!(position(&began, "tokio::runtime::scheduler") > at, "{began:#}");
            assert!(position(&began, "start_thread") > at || began.stack.len() > 30, "{began:#}");
            assert!(format!("{began:#}").contains(name));
        }
    }

    #[test]
    fn a_read_goes_on_after_its_stack_was_taken_and_one_with_a_timeout_is_not_interrupted() {
        for timeout in [None, Some(GIVE_UP)] {
            let watched = with_stacks();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            client.set_read_timeout(timeout).unwrap();
            let server = std::thread::spawn(move || {
                let (mut peer, _) = listener.accept().unwrap();
                std::thread::sleep(STALL + THRESHOLD);
                peer.write_all(b"!").unwrap();
            });
            let (began, _, _) = watched.stall(move || assert_eq!(reads_in_here(&client).unwrap(), 1));
            match timeout {
                None => assert!(position(&began, "reads_in_here") > 0),
                Some(_) => assert!(began.stack.is_empty(), "{began:#}"),
            }
            server.join().unwrap();
        }
    }

    #[test]
    fn a_thread_that_blocks_the_signal_is_reported_without_its_stack() {
        let watched = with_stacks();
        let (began, _, _) = watched.stall(|| {
            // SAFETY: the sets are plain data that outlive the calls, which change the mask of this thread only.
            unsafe {
                let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
                libc::sigfillset(&raw mut all);
                libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, &raw mut before);
                std::thread::sleep(STALL);
                libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
            }
        });
        assert!(began.stack.is_empty(), "{began:#}");
        let (began, _, _) = watched.stall(sleeps_in_here);
        position(&began, "sleeps_in_here");
    }
}
