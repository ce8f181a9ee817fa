//! Tests of the library with a process pool, through its public functions.

use std::process::{Command, Stdio};
use std::sync::LazyLock;

use offloop::{ErrorKind, ProcessPool, WorkerExit};
use offloop_example_testing::{count, count_keys};

offloop::init_tests!();

/// A pool for the tests that need no pool of their own. `cargo test` builds it once; nextest builds it for each test,
/// because it starts a process for each.
static SHARED: LazyLock<ProcessPool> = LazyLock::new(|| pool(2));

fn pool(workers: usize) -> ProcessPool {
    ProcessPool::builder().max_workers(workers).build().unwrap()
}

#[offloop::task]
fn process_id() -> u32 {
    std::process::id()
}

#[offloop::task]
fn abort() {
    std::process::abort();
}

#[test]
fn keys_are_counted_at_any_depth() {
    let counts = count(&SHARED, r#"{"a": {"a": {"a": [{"a": null}]}}}"#).wait().unwrap().unwrap();
    assert_eq!(counts["a"], 4);
}

#[test]
fn each_of_many_documents_gets_its_own_answer() {
    let documents: Vec<_> = (1..=50).map(|n| format!("[{}]", vec![r#"{"key": 0}"#; n].join(","))).collect();
    let handles: Vec<_> = documents.iter().map(|json| count(&SHARED, json)).collect();
    for (n, handle) in (1..).zip(handles) {
        assert_eq!(handle.wait().unwrap().unwrap()["key"], n);
    }
}

#[test]
fn the_task_of_the_library_can_also_be_called_directly() {
    assert_eq!(count_keys("[]").unwrap().len(), 0);
    assert_eq!(SHARED.run(count_keys.with("[]")).wait().unwrap().unwrap().len(), 0);
}

#[tokio::test]
async fn two_documents_can_be_awaited_together() {
    let (first, second) = tokio::join!(count(&SHARED, r#"{"a": 1}"#), count(&SHARED, r#"{"b": 2}"#));
    assert_eq!(first.unwrap().unwrap()["a"], 1);
    assert_eq!(second.unwrap().unwrap()["b"], 1);
}

#[test]
fn a_crash_fails_one_job_and_the_pool_continues() {
    let pool = pool(1);
    let before = pool.run(process_id.with()).wait().unwrap();

    let error = pool.run(abort.with()).wait().unwrap_err();
    let ErrorKind::WorkerDied(died) = error.kind() else { panic!("{error}") };
    let sigabrt = 6;
    assert_eq!((died.pid, died.exit), (before, WorkerExit::Signal(sigabrt)));

    assert_eq!(count(&pool, r#"{"a": 1}"#).wait().unwrap().unwrap()["a"], 1);
    assert_ne!(pool.run(process_id.with()).wait().unwrap(), before);
}

/// Workers write to the output of the process that started them, so the output of a harness in a worker would appear
/// there.
#[test]
fn no_worker_runs_the_test_harness() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "starts_two_workers", "--ignored", "--nocapture"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(printed.matches("test result:").count(), 1, "{printed}");
    assert_eq!(printed.matches("running ").count(), 1, "{printed}");
    assert_eq!(printed.matches("from a worker").count(), 1, "{printed}");
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
}

#[offloop::task]
fn print() {
    println!("from a worker");
}

#[test]
#[ignore = "the test above runs it in a process of its own"]
fn starts_two_workers() {
    let pool = pool(1);
    let error = pool.run(abort.with()).wait().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WorkerDied(_)), "{error}");
    pool.run(print.with()).wait().unwrap();
}
