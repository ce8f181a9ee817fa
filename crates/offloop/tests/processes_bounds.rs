//! A process pool runs at most `max_workers` jobs at once, and starts jobs of one priority in their order, whatever
//! happens to its workers.

#![cfg(all(feature = "process", target_os = "linux"))]

mod process_support;

use std::io::Write;
use std::time::Duration;

use offloop::{Handle, ProcessPool, Retry, prepare};
use process_support::Gate;
use proptest::prelude::*;

offloop::init_tests!();

/// Runs for the given time, and records in the file when it begins and ends.
#[offloop::task]
fn logged(path: &str, number: usize, micros: u64, crashes: bool) -> usize {
    let mut log = std::fs::OpenOptions::new().append(true).open(path).unwrap();
    log.write_all(format!("begin {number}\n").as_bytes()).unwrap();
    std::thread::sleep(Duration::from_micros(micros));
    log.write_all(format!("end {number}\n").as_bytes()).unwrap();
    if crashes {
        std::process::abort();
    }
    number
}

/// The jobs' own record of their beginnings and ends.
///
/// A job runs before its first line and after its last, so it runs at least as long as the record says.
struct Record {
    /// The largest number of jobs that ran at once.
    most_at_once: usize,
    /// The jobs in the order in which they began.
    order: Vec<usize>,
}

fn record(log: &Gate) -> Record {
    let (mut at_once, mut most_at_once, mut order) = (0_usize, 0, Vec::new());
    for line in std::fs::read_to_string(log.path()).unwrap().lines() {
        match line.split_once(' ').unwrap() {
            ("begin", number) => {
                at_once += 1;
                most_at_once = most_at_once.max(at_once);
                order.push(number.parse().unwrap());
            }
            _ => at_once -= 1,
        }
    }
    Record { most_at_once, order }
}

#[test]
fn a_worker_that_runs_its_last_job_counts_among_the_workers() {
    for (workers, tasks) in [(1, 1), (1, 3), (2, 1), (2, 2)] {
        let log = Gate::new();
        let pool = ProcessPool::builder().max_workers(workers).max_tasks_per_child(tasks).build().unwrap();
        let handles: Vec<_> =
            (0..12).map(|number| pool.run(logged.with(log.path(), number, 20_000, false))).collect();
        for (number, handle) in handles.into_iter().enumerate() {
            assert_eq!(handle.wait().unwrap(), number);
        }
        let record = record(&log);
        assert!(
            record.most_at_once <= workers,
            "{} jobs at once with {workers} workers",
            record.most_at_once
        );
        if workers == 1 {
            assert!(record.order.is_sorted(), "{:?}", record.order);
        }
    }
}

#[test]
fn a_worker_that_is_too_old_counts_among_the_workers_until_its_job_has_ended() {
    let log = Gate::new();
    let age = Duration::from_millis(30);
    let pool = ProcessPool::builder().max_workers(1).max_worker_age(age).build().unwrap();
    let handles: Vec<_> =
        (0..8).map(|number| pool.run(logged.with(log.path(), number, 40_000, false))).collect();
    for handle in handles {
        handle.wait().unwrap();
    }
    let record = record(&log);
    assert_eq!(record.most_at_once, 1);
    assert!(record.order.is_sorted(), "{:?}", record.order);
}

/// Something that happens to a pool while it runs jobs.
#[derive(Debug, Clone)]
enum Step {
    Run { micros: u64, crashes: bool },
    Resize(usize),
    Pause(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (0..3000_u64, prop::bool::weighted(0.1)).prop_map(|(micros, crashes)| Step::Run { micros, crashes }),
        1 => (1..=3_usize).prop_map(Step::Resize),
        1 => (0..5_u64).prop_map(Step::Pause),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn no_more_jobs_run_at_once_than_the_pool_has_workers(
        steps in steps(),
        workers in 1..=3_usize,
        tasks in prop::option::of(1..4_u64),
        ages in any::<bool>(),
        retries in any::<bool>(),
    ) {
        let log = Gate::new();
        let mut builder = ProcessPool::builder().max_workers(workers);
        if let Some(tasks) = tasks {
            builder = builder.max_tasks_per_child(tasks);
        }
        if ages {
            builder = builder.max_worker_age(Duration::from_millis(10));
        }
        let pool = builder.build().unwrap();
        let mut largest = workers;
        let mut handles: Vec<(Handle<usize>, bool)> = Vec::new();
        for step in steps {
            match step {
                Step::Run { micros, crashes } => {
                    let call = prepare(logged.with(log.path(), handles.len(), micros, crashes));
                    let retry = Retry::times(1).backoff(Duration::from_millis(1));
                    let call = if retries { call.retry(retry) } else { call };
                    handles.push((pool.run(call), crashes));
                }
                Step::Resize(workers) => {
                    largest = largest.max(workers);
                    pool.resize(workers);
                }
                Step::Pause(millis) => std::thread::sleep(Duration::from_millis(millis)),
            }
        }
        let count = handles.len();
        let mut attempts = 0;
        for (handle, crashes) in handles {
            attempts += if crashes && retries { 2 } else { 1 };
            prop_assert_eq!(handle.wait().is_ok(), !crashes);
        }
        let record = record(&log);
        prop_assert!(record.most_at_once <= largest, "{} jobs at once with {largest} workers", record.most_at_once);
        prop_assert_eq!(record.order.len(), attempts, "of {} jobs", count);
    }
}
