//! Jobs on the threads of rayon and tokio.

#![cfg(all(feature = "rayon", feature = "tokio"))]
#![allow(missing_docs, reason = "a test crate has no users")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Count, Gate, end, eventually};
use offloop::adapters::{Rayon, TokioBlocking};
use offloop::{ErrorKind, Executor, JobState, job, prepare, run_in_executor};

fn rayon_pool(threads: usize) -> Rayon {
    Rayon::pool(Arc::new(rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()))
}

fn runtime(blocking_threads: usize) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(blocking_threads)
        .thread_name("blocking")
        .enable_time()
        .build()
        .unwrap()
}

/// Checks what every executor promises, on an executor of one thread.
fn keeps_the_promises(executor: &dyn Executor) {
    assert_eq!(end(run_in_executor(executor, || 7)).unwrap(), 7);
    let error = end(run_in_executor(executor, || panic!("boom"))).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Panicked(panic) if panic.message() == "boom"), "{error:?}");

    let gate = Gate::new();
    let pass = gate.clone();
    let running = run_in_executor(executor, move || {
        pass.pass();
        job::is_cancelled()
    });
    eventually("it runs", || running.state() == JobState::Running);

    let (ran, dropped) = (Count::new(), Count::new());
    let work = || {
        let (ran, guard) = (ran.clone(), dropped.on_drop());
        move || {
            drop(guard);
            ran.add()
        }
    };
    drop(run_in_executor(executor, work()));
    assert_eq!(dropped.get(), 1, "queued work outlived its handle");
    let late = run_in_executor(executor, prepare(work()).queue_timeout(Duration::from_millis(1)));
    assert!(end(late).unwrap_err().is_timeout());

    assert!(running.cancel());
    assert!(end(running).unwrap_err().is_cancelled());
    gate.open();
    assert_eq!(end(run_in_executor(executor, || 8)).unwrap(), 8);
    assert_eq!(ran.get(), 0);
}

#[test]
fn rayon_keeps_the_promises_of_executors() {
    keeps_the_promises(&rayon_pool(1));
}

#[test]
fn tokio_keeps_the_promises_of_executors() {
    let runtime = runtime(1);
    keeps_the_promises(&TokioBlocking::new(runtime.handle().clone()));
}

#[test]
fn jobs_run_on_the_given_pool() {
    assert_eq!(end(run_in_executor(&rayon_pool(3), rayon::current_num_threads)).unwrap(), 3);
    let is_rayons = || rayon::current_thread_index().is_some();
    assert!(end(run_in_executor(&Rayon::global(), is_rayons)).unwrap());
    assert!(end(run_in_executor(&Rayon::default(), is_rayons)).unwrap());

    let runtime = runtime(2);
    let name = || std::thread::current().name().map(str::to_owned);
    let here = runtime.block_on(async { TokioBlocking::current() });
    assert_eq!(end(run_in_executor(&here, name)).unwrap().as_deref(), Some("blocking"));
}

#[test]
fn jobs_can_be_awaited_in_a_runtime() {
    let runtime = runtime(1);
    let tokio = TokioBlocking::new(runtime.handle().clone());
    let sum = runtime.block_on(async {
        let one = run_in_executor(&tokio, || 1);
        let two = run_in_executor(&rayon_pool(1), || 2);
        let limited =
            tokio::time::timeout(common::GIVE_UP, async { one.await.unwrap() + two.await.unwrap() });
        limited.await.unwrap()
    });
    assert_eq!(sum, 3);
}

#[test]
fn after_the_shutdown_of_a_runtime_jobs_are_cancelled_and_no_wait_hangs() {
    let runtime = runtime(1);
    let tokio = TokioBlocking::new(runtime.handle().clone());
    let gate = Gate::new();
    let pass = gate.clone();
    let running = run_in_executor(&tokio, move || {
        pass.pass();
        7
    });
    eventually("it runs", || running.state() == JobState::Running);
    let dropped = Count::new();
    let guard = dropped.on_drop();
    let queued = run_in_executor(&tokio, move || drop(guard));

    runtime.shutdown_background();
    gate.open();
    assert_eq!(end(running).unwrap(), 7, "a running job lost its result");
    // Tokio may run it or not, but the wait does not take forever.
    let result = end(queued);
    assert!(result.is_ok() || result.unwrap_err().is_cancelled());
    eventually("the work is dropped", || dropped.get() == 1);
    assert!(end(run_in_executor(&tokio, || 7)).unwrap_err().is_cancelled());
}
