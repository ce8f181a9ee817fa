//! Promises about the limits of workers, their age, their output, and repeated attempts.

#![cfg(all(feature = "process", target_os = "linux"))]

mod process_support;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use offloop::{BuildError, Captured, ErrorKind, ProcessPool, ProcessPoolBuilder, Retry, prepare};
use process_support::{
    Death, Gate, add, die, eventually, is_gone, kill, nap, note, pool, process_id, this_test_again,
};

offloop::init_tests!();

fn one_worker() -> ProcessPoolBuilder {
    ProcessPool::builder().max_workers(1)
}

#[offloop::task]
fn grow_by(mebibytes: usize) -> usize {
    let memory: Vec<Vec<u8>> = (0..mebibytes)
        .map(|_| {
            std::thread::sleep(Duration::from_millis(2));
            vec![1; 1 << 20]
        })
        .collect();
    std::thread::sleep(Duration::from_millis(200));
    memory.len()
}

#[offloop::task]
fn allocate_at_once(bytes: usize) -> usize {
    let memory = vec![1_u8; bytes];
    std::hint::black_box(&memory).len()
}

#[offloop::task]
fn leak(bytes: usize) -> u32 {
    std::mem::forget(std::hint::black_box(vec![1_u8; bytes]));
    std::process::id()
}

#[offloop::task]
fn environment() -> (i32, usize, u64, String, Vec<(String, String)>) {
    // SAFETY: both calls take plain numbers or a pointer to a live local variable.
    let (nice, files) = unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        (libc::getpriority(libc::PRIO_PROCESS, 0), limit.rlim_cur)
    };
    let cores = std::thread::available_parallelism().unwrap().get();
    let directory = std::env::current_dir().unwrap().display().to_string();
    (nice, cores, files, directory, std::env::vars().collect())
}

#[offloop::task]
fn print(text: &str, errors: &str) {
    print!("{text}");
    eprint!("{errors}");
}

#[offloop::task]
fn print_much(bytes: usize) {
    println!("{}", "o".repeat(bytes));
    eprintln!("{}", "e".repeat(bytes));
}

#[offloop::task]
fn run_echo(text: &str) {
    assert!(std::process::Command::new("echo").arg(text).status().unwrap().success());
}

#[offloop::task]
fn print_and_die(text: &str) {
    eprintln!("{text}");
    std::process::abort();
}

/// Dies until it has been called `calls` times.
#[offloop::task]
fn die_until(gate: &str, calls: usize) -> usize {
    process_support::note(gate, "called");
    let called = std::fs::read_to_string(gate).unwrap().lines().count();
    if called < calls {
        std::process::abort();
    }
    called
}

#[test]
fn a_job_that_uses_too_much_memory_is_ended_and_the_memory_is_reported() {
    let pool = one_worker().max_rss(64 << 20).build().unwrap();
    let error = pool.run(grow_by.with(400)).wait().unwrap_err();
    let ErrorKind::WorkerDied(died) = error.kind() else { panic!("{error}") };
    assert!(died.out_of_memory && died.max_rss == Some(64 << 20), "{died}");
    assert!(died.peak_memory > 64 << 20, "{died}");
    assert!(error.to_string().contains("more than its max_rss of 64 MiB"), "{error}");
    assert_eq!(pool.run(grow_by.with(8)).wait().unwrap(), 8);
}

#[test]
fn memory_is_measured_again_when_a_pool_that_was_idle_is_used() {
    // The pool then sleeps until the worker's age is up.
    let hour = Duration::from_secs(3600);
    let pool = one_worker().max_rss(64 << 20).max_worker_age(hour).build().unwrap();
    assert_eq!(pool.run(grow_by.with(8)).wait().unwrap(), 8);
    std::thread::sleep(Duration::from_millis(500));
    let error = pool.run(grow_by.with(400)).wait().unwrap_err();
    let ErrorKind::WorkerDied(died) = error.kind() else { panic!("{error}") };
    assert!(died.out_of_memory, "{died}");
}

#[test]
fn an_idle_worker_that_has_grown_too_much_is_replaced() {
    let pool = one_worker().max_rss(64 << 20).build().unwrap();
    // In small steps, so that no job runs long enough to be considered the cause.
    let first = pool.run(leak.with(1 << 20)).wait().unwrap();
    eventually("it is replaced", || pool.run(leak.with(1 << 20)).wait().unwrap() != first);
    eventually("it is gone", || is_gone(first));
}

#[test]
fn max_data_refuses_memory_and_the_error_says_so() {
    let pool = one_worker().max_data(256 << 20).build().unwrap();
    let error = pool.run(allocate_at_once.with(1 << 30)).wait().unwrap_err();
    let ErrorKind::WorkerDied(died) = error.kind() else { panic!("{error}") };
    assert!(died.out_of_memory && died.stderr.contains("memory allocation of"), "{died:?}");
    assert_eq!(pool.run(allocate_at_once.with(1 << 20)).wait().unwrap(), 1 << 20);
    // Shared memory is not included.
    let bytes = vec![1; 400 << 20];
    assert_eq!(pool.run(length.with(&bytes)).wait().unwrap(), bytes.len());
}

#[offloop::task]
fn length(bytes: &[u8]) -> usize {
    bytes.len()
}

#[test]
fn workers_are_recycled_by_jobs_without_losing_or_delaying_any() {
    let pool = ProcessPool::builder().max_workers(2).max_tasks_per_child(10).build().unwrap();
    let mut pids = HashSet::new();
    for round in 0..30 {
        let handles: Vec<_> = (0..20).map(|_| pool.run(process_id.with())).collect();
        pids.extend(handles.into_iter().map(|handle| handle.wait().unwrap()));
        if round % 5 == 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    assert!(pids.len() > 4, "{} workers for 600 jobs of 10 each", pids.len());
    let current = pool.worker_pids();
    eventually("the others are gone", || {
        pids.iter()
            .filter(|pid| !current.contains(pid) && !pool.worker_pids().contains(pid))
            .all(|pid| is_gone(*pid))
    });
    let report = pool.shutdown(Duration::from_secs(10)).wait().unwrap();
    assert_eq!((report.cancelled, report.killed), (0, 0));
}

#[test]
fn there_is_always_a_worker_while_one_is_replaced() {
    let pool = one_worker().max_tasks_per_child(1).build().unwrap();
    for i in 0..20 {
        let gate = Gate::new();
        let last = pool.run(process_support::announce_and_nap.with(gate.path()));
        let pid = gate.wait_for_pid();
        eventually("another is there while it runs its last job", || {
            pool.worker_pids().iter().any(|other| *other != pid)
        });
        assert_eq!(pool.run(nap.with(i)).wait().unwrap(), i);
        assert_eq!(last.wait().unwrap(), "finished");
    }
}

#[test]
fn workers_are_recycled_by_age_but_finish_what_they_have() {
    let pool = one_worker().max_worker_age(Duration::from_millis(300)).build().unwrap();
    let first = pool.run(process_id.with()).wait().unwrap();
    let gate = Gate::new();
    let long = pool.run(process_support::announce_and_nap.with(gate.path()));
    assert_eq!(gate.wait_for_pid(), first);
    assert_eq!(long.wait().unwrap(), "finished");
    eventually("the first is replaced", || is_gone(first));
    assert_ne!(pool.run(process_id.with()).wait().unwrap(), first);
}

#[test]
fn workers_live_in_the_environment_that_was_set() {
    let pool = one_worker()
        .nice(7)
        .cpu_affinity([0])
        .max_open_files(50)
        .current_dir("/")
        .env("OFFLOOP_TEST", "one")
        .env("OFFLOOP_OTHER", "two")
        .env_remove("OFFLOOP_OTHER")
        .build()
        .unwrap();
    let (nice, cores, files, directory, variables) = pool.run(environment.with()).wait().unwrap();
    let (own_nice, ..) = environment();
    assert_eq!((nice, cores, files, directory.as_str()), (own_nice + 7, 1, 50, "/"));
    assert!(variables.contains(&("OFFLOOP_TEST".into(), "one".into())));
    assert!(!variables.iter().any(|(name, _)| name == "OFFLOOP_OTHER"));

    let pool = one_worker().env_clear().env("A", "b").build().unwrap();
    let (nice, .., variables) = pool.run(environment.with()).wait().unwrap();
    assert_eq!(nice, own_nice + 5, "workers give way by default");
    assert_eq!(variables, [("A".to_owned(), "b".to_owned())]);
}

#[test]
fn invalid_limits_are_refused() {
    for (builder, word) in [
        (one_worker().cpu_affinity([]), "cpu_affinity"),
        (one_worker().cpu_affinity([5000]), "5000"),
        (one_worker().max_tasks_per_child(0), "max_tasks_per_child"),
    ] {
        let Err(BuildError::Setting(text)) = builder.build() else { panic!("{word} was accepted") };
        assert!(text.contains(word), "{text}");
    }
    let pool = one_worker().current_dir("/does/not/exist").build().unwrap();
    let error = pool.run(add.with(1, 1)).wait().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WorkerStart(_)), "{error}");
}

#[test]
fn a_captured_job_s_output_is_its_own() {
    let pool = pool(2);
    let jobs: Vec<_> = (0..20)
        .map(|at| {
            let captured = Captured::new(1000);
            let (text, errors) = (format!("text {at}"), format!("errors {at}"));
            let handle = pool.run(prepare(print.with(&text, &errors)).capture(&captured));
            (captured, text, errors, handle)
        })
        .collect();
    for (captured, text, errors, handle) in jobs {
        handle.wait().unwrap();
        assert_eq!((captured.stdout(), captured.stderr()), (text.into_bytes(), errors.into_bytes()));
        assert!(!captured.is_truncated());
    }
}

#[test]
fn what_exceeds_the_limit_of_a_capture_is_dropped_and_reported() {
    let captured = Captured::new(100_000);
    let pool = pool(1);
    pool.run(prepare(print_much.with(3 << 20)).capture(&captured)).wait().unwrap();
    assert!(captured.is_truncated());
    assert_eq!((captured.stdout(), captured.stderr()), (vec![b'o'; 100_000], vec![b'e'; 100_000]));
}

#[test]
fn programs_that_a_captured_job_starts_are_captured_too() {
    let captured = Captured::new(1000);
    pool(1).run(prepare(run_echo.with("from afar")).capture(&captured)).wait().unwrap();
    assert_eq!(captured.stdout(), b"from afar\n");
}

#[test]
fn the_end_of_a_worker_s_standard_error_is_part_of_the_error() {
    let pool = pool(1);
    for capture in [false, true] {
        let call = prepare(print_and_die.with("it was the butler"));
        let captured = Captured::new(1000);
        let call = if capture { call.capture(&captured) } else { call };
        let error = pool.run(call).wait().unwrap_err();
        let ErrorKind::WorkerDied(died) = error.kind() else { panic!("{error}") };
        assert_eq!(died.stderr, "it was the butler");
        assert!(error.to_string().contains("it was the butler"), "{error}");
        assert_eq!(captured.stderr() == b"it was the butler\n", capture);
    }
}

#[test]
fn what_is_not_captured_is_passed_on() {
    for tail in ["0", "100"] {
        let output = this_test_again("passes_on", &[("OFFLOOP_TAIL", tail)]);
        assert!(output.contains("to standard output"), "{output}");
        // `this_test_again` reads standard output, to which this process sends its standard error.
        assert!(output.contains("to standard error"), "{output}");
    }
}

#[test]
#[ignore = "run by the test above"]
fn passes_on() {
    // SAFETY: both are open; from here on standard error goes to standard output.
    unsafe { libc::dup2(1, 2) };
    let tail = std::env::var("OFFLOOP_TAIL").unwrap().parse().unwrap();
    let pool = one_worker().stderr_tail(tail).build().unwrap();
    pool.run(print.with("to standard output\n", "to standard error\n")).wait().unwrap();
    pool.shutdown(Duration::from_secs(10)).wait().unwrap();
    eventually("all output is passed on", || {
        std::fs::read_dir("/proc/self/task").unwrap().all(|task| {
            let name = std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default();
            name.trim() != "offloop-output"
        })
    });
}

#[test]
fn a_job_is_retried_only_if_it_asks_for_that() {
    let pool = pool(1);
    let gate = Gate::new();
    let retry = Retry::times(3).backoff(Duration::from_millis(1));
    let called = pool.run(prepare(die_until.with(gate.path(), 3)).retry(retry)).wait().unwrap();
    assert_eq!((called, gate.arrivals()), (3, 3));
    let gate = Gate::new();
    let error = pool.run(die_until.with(gate.path(), 3)).wait().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WorkerDied(_)), "{error}");
    assert_eq!(gate.arrivals(), 1, "it was retried without asking for it");
}

#[test]
fn a_poison_task_is_given_up_with_a_count_of_its_victims_and_others_are_served() {
    let pool = pool(2);
    let retry = Retry::times(4).backoff(Duration::from_millis(5));
    let poison = pool.run(prepare(die.with(Death::Abort)).retry(retry));
    for i in 0..200 {
        assert_eq!(pool.run(add.with(i, 1)).wait().unwrap(), i + 1);
    }
    let error = poison.wait().unwrap_err();
    let ErrorKind::WorkerDied(died) = error.kind() else { panic!("{error}") };
    assert_eq!(died.workers_lost, 5);
    assert!(error.to_string().contains("5 workers have died with this job"), "{error}");
}

#[test]
fn a_job_between_two_attempts_can_be_cancelled_and_shut_down() {
    let retry = Retry::times(4).backoff(Duration::from_secs(600));
    for by_shutdown in [false, true] {
        let gate = Gate::new();
        let pool = pool(1);
        let job = pool.run(prepare(die_until.with(gate.path(), 9)).retry(retry));
        eventually("it waits for its second attempt", || gate.arrivals() == 1 && pool.queued() == 1);
        if by_shutdown {
            let report = pool.shutdown(Duration::from_millis(1)).wait().unwrap();
            assert_eq!((report.cancelled, report.killed), (1, 0));
        } else {
            assert!(job.cancel());
            assert_eq!(pool.queued(), 0);
        }
        assert!(job.wait().unwrap_err().is_cancelled());
    }
}

#[test]
fn jobs_that_were_given_ahead_of_time_survive_their_worker() {
    let pool = pool(2);
    let gate = Gate::new();
    // Short jobs, so that the next are given to workers ahead of time.
    for i in 0..100 {
        pool.run(add.with(i, 0)).wait().unwrap();
    }
    for _ in 0..20 {
        let handles: Vec<_> = (0..500).map(|i| pool.run(add.with(i, 1))).collect();
        if let Some(pid) = pool.worker_pids().first() {
            kill(*pid, libc::SIGKILL);
        }
        let mut lost = 0;
        for (i, handle) in (0..).zip(handles) {
            match handle.wait() {
                Ok(sum) => assert_eq!(sum, i + 1),
                Err(error) => {
                    assert!(matches!(error.kind(), ErrorKind::WorkerDied(_)), "{error}");
                    lost += 1;
                }
            }
        }
        assert!(lost <= 1, "{lost} jobs went with one worker");
    }
    drop(gate);
}

#[test]
fn a_cancelled_job_that_was_given_ahead_of_time_never_runs_and_costs_no_worker() {
    let pool = pool(1);
    let gate = Gate::new();
    for i in 0..100 {
        pool.run(note.with(gate.path(), &format!("before {i}"))).wait().unwrap();
    }
    let worker = pool.worker_pids()[0];
    kill(worker, libc::SIGSTOP);
    let handles: Vec<_> = (0..20).map(|i| pool.run(note.with(gate.path(), &format!("after {i}")))).collect();
    let (cancelled, kept): (Vec<_>, Vec<_>) = handles.into_iter().enumerate().partition(|(i, _)| i % 2 == 1);
    drop(cancelled);
    kill(worker, libc::SIGCONT);
    for (_, handle) in kept {
        handle.wait().unwrap();
    }
    assert_eq!(pool.worker_pids(), [worker], "a worker was killed for a job that had not begun");
    let after: Vec<String> = gate.lines().split_off(100);
    let expected: Vec<String> = (0..20).step_by(2).map(|i| format!("after {i}")).collect();
    assert_eq!(after, expected);
}

#[offloop::task]
fn pid_after(micros: u64) -> u32 {
    std::thread::sleep(Duration::from_micros(micros));
    std::process::id()
}

/// Runs jobs that take `micros` microseconds. Checks that each worker has run `exactly` this number of them, except the
/// workers that have jobs left.
#[track_caller]
fn check_counts(exactly: usize, micros: impl Iterator<Item = u64>) {
    let pool = ProcessPool::builder().max_workers(2).max_tasks_per_child(exactly as u64).build().unwrap();
    let mut counts = HashMap::new();
    let handles: Vec<_> = micros.map(|micros| pool.run(pid_after.with(micros))).collect();
    for handle in handles {
        *counts.entry(handle.wait().unwrap()).or_insert(0) += 1;
    }
    let going = pool.worker_pids();
    let is_right =
        |(pid, count): (&u32, &usize)| *count == exactly || (*count < exactly && going.contains(pid));
    assert!(counts.iter().all(is_right), "of {exactly} each: {counts:?}");
}

#[test]
fn a_worker_runs_exactly_as_many_short_jobs_as_it_may() {
    check_counts(7, std::iter::repeat_n(0, 700));
}

#[test]
fn a_worker_runs_exactly_as_many_long_jobs_as_it_may() {
    check_counts(3, std::iter::repeat_n(2000, 100));
}

#[test]
fn a_worker_runs_exactly_as_many_jobs_as_it_may_although_some_are_withdrawn() {
    // Short jobs, so that the next are given ahead of time; then one that stalls those.
    check_counts(5, (0..700).map(|i| if i % 9 == 8 { 3000 } else { 0 }));
    check_counts(1, (0..100).map(|i| if i % 9 == 8 { 3000 } else { 0 }));
}

#[test]
fn jobs_that_fail_count_as_jobs() {
    let pool = one_worker().max_tasks_per_child(2).build().unwrap();
    let first = pool.run(process_id.with()).wait().unwrap();
    pool.run(process_support::panics.with(String::new())).wait().unwrap_err();
    assert_ne!(pool.run(process_id.with()).wait().unwrap(), first);
    eventually("it has left", || is_gone(first));
}
