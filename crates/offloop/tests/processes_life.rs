//! Promises about the life of a pool and of its workers: how long they may take to get ready, when they leave, how they are
//! ended at once.

#![cfg(all(feature = "process", target_os = "linux"))]

mod process_support;

use std::collections::HashSet;
use std::time::Duration;

use offloop::embed::{self, ProcessPoolBuilderExt, ProcessPoolExt};
use offloop::{ErrorKind, Handle, OnCrash, ProcessPool, ProcessPoolBuilder, Retry, WorkerExit, prepare};
use process_support::{
    Death, Gate, add, announce_and_sleep, clean_up_on_sigterm, die, eventually, is_gone, process_id,
};

offloop::init_tests!();

fn one_worker() -> ProcessPoolBuilder {
    ProcessPool::builder().max_workers(1)
}

fn sleeps(pool: &ProcessPool, gate: &Gate) -> Handle<()> {
    pool.run(announce_and_sleep.with(gate.path()))
}

#[offloop::task]
fn sleep_for(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

#[offloop::task]
fn hold(gate: &str) {
    note_arrival(gate);
    while std::path::Path::new(gate).exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn note_arrival(gate: &str) {
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new().append(true).open(gate).unwrap();
    writeln!(file, "{}", std::process::id()).unwrap();
}

/// Takes its time to load its function, and then to run it.
#[offloop::task]
fn load_and_run(load: u64, run: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(load));
    embed::begin_call();
    std::thread::sleep(Duration::from_millis(run));
    run
}

#[offloop::task]
fn leak(bytes: usize) -> u32 {
    std::mem::forget(std::hint::black_box(vec![1_u8; bytes]));
    std::process::id()
}

#[offloop::task]
fn use_for_a_while(bytes: usize) -> u32 {
    let memory = std::hint::black_box(vec![1_u8; bytes]);
    std::thread::sleep(Duration::from_millis(200));
    drop(memory);
    std::process::id()
}

#[test]
fn the_time_of_the_initializer_is_not_that_of_the_start() {
    let limit = Duration::from_secs(2);
    let pool = one_worker().start_timeout(limit).initializer(&sleep_for.with(3000)).build().unwrap();
    assert_eq!(pool.run(add.with(1, 2)).wait().unwrap(), 3);
    assert_eq!(pool.metrics().restarts.failed_start, 0);
}

#[test]
fn an_initializer_that_hangs_is_ended_once_and_the_error_names_the_limit() {
    let gate = Gate::new();
    let initializer = announce_and_sleep.with(gate.path());
    let limit = Duration::from_millis(300);
    let pool = one_worker().setup_timeout(limit).initializer(&initializer).build().unwrap();
    let error = pool.run(add.with(1, 2)).wait().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WorkerStart(_)), "{error}");
    assert!(error.to_string().contains("its initializer was still running"), "{error}");
    assert!(error.to_string().contains("setup_timeout of 300ms"), "{error}");
    assert_eq!(gate.arrivals(), 1, "it is not tried again while a job waits");
}

#[test]
fn a_run_timeout_begins_when_the_job_has_loaded_its_function() {
    let pool = one_worker().load_timeout(Duration::from_secs(60)).build().unwrap();
    let limited = |load, run| prepare(load_and_run.with(load, run)).run_timeout(Duration::from_secs(1));
    assert_eq!(pool.run(limited(2000, 1)).wait().unwrap(), 1);
    let error = pool.run(limited(0, 600_000)).wait().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::RunTimeout(limit) if limit.as_secs() == 1), "{error}");
}

#[test]
fn a_job_with_a_run_timeout_that_never_loads_its_function_ends_after_the_load_timeout() {
    let pool = one_worker().load_timeout(Duration::from_millis(300)).build().unwrap();
    let limited = prepare(load_and_run.with(600_000, 0)).run_timeout(Duration::from_millis(20));
    let error = pool.run(limited).wait().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::LoadTimeout(_)), "{error}");
    assert!(error.is_timeout() && error.to_string().contains("load_timeout of 300ms"), "{error}");
    // One without a run timeout may load for as long as it likes.
    assert_eq!(pool.run(load_and_run.with(1000, 5)).wait().unwrap(), 5);
}

#[test]
fn workers_without_a_job_leave_after_the_idle_timeout_and_come_back_on_demand() {
    let builder = ProcessPool::builder().min_workers(0).max_workers(3);
    let pool = builder.idle_timeout(Duration::from_millis(200)).build().unwrap();
    for _ in 0..2 {
        let gates = [Gate::new(), Gate::new(), Gate::new()];
        let jobs: Vec<_> = gates.iter().map(|gate| pool.run(hold.with(gate.path()))).collect();
        let pids: HashSet<_> = gates.iter().map(Gate::wait_for_pid).collect();
        assert_eq!(pids.len(), 3);
        gates.iter().for_each(Gate::open);
        for job in jobs {
            job.wait().unwrap();
        }
        eventually("all of them have left", || pids.iter().all(|pid| is_gone(*pid)));
        assert_eq!(pool.worker_pids(), [0; 0]);
    }
    let metrics = pool.metrics();
    assert_eq!((metrics.restarts.crashed, metrics.restarts.failed_start), (0, 0));
}

#[test]
fn as_many_idle_workers_stay_as_the_pool_has_at_least() {
    let builder = ProcessPool::builder().min_workers(1).max_workers(2);
    let pool = builder.idle_timeout(Duration::from_millis(100)).build().unwrap();
    let gates = [Gate::new(), Gate::new()];
    let jobs: Vec<_> = gates.iter().map(|gate| pool.run(hold.with(gate.path()))).collect();
    for gate in &gates {
        assert!(gate.wait_for_pid() > 1);
    }
    gates.iter().for_each(Gate::open);
    for job in jobs {
        job.wait().unwrap();
    }
    eventually("one has left", || pool.worker_pids().len() == 1);
    let stays = pool.worker_pids();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(pool.worker_pids(), stays);
    assert_eq!(pool.run(process_id.with()).wait().unwrap(), stays[0]);
}

#[test]
fn an_idle_timeout_needs_a_pool_that_grows_again() {
    let error = one_worker().idle_timeout(Duration::from_secs(1)).build().unwrap_err();
    assert!(error.to_string().contains("set min_workers"), "{error}");
}

#[test]
fn a_pool_that_grows_on_demand_does_so_up_to_the_number_that_was_set_last() {
    let pool = ProcessPool::builder().min_workers(0).max_workers(1).build().unwrap();
    let gates = [Gate::new(), Gate::new(), Gate::new()];
    let jobs: Vec<_> = gates.iter().map(|gate| pool.run(hold.with(gate.path()))).collect();
    eventually("one runs", || gates.iter().map(Gate::arrivals).sum::<usize>() == 1);
    pool.set_max_workers(3);
    for gate in &gates {
        assert!(gate.wait_for_pid() > 1);
    }
    pool.set_max_workers(1);
    gates.iter().for_each(Gate::open);
    for job in jobs {
        job.wait().unwrap();
    }
    eventually("two have left", || pool.worker_pids().len() == 1);
}

#[test]
fn workers_can_be_started_before_there_are_jobs_and_leave_as_always() {
    let builder = ProcessPool::builder().min_workers(0).max_workers(2);
    let pool = builder.idle_timeout(Duration::from_millis(300)).build().unwrap();
    pool.prestart(5);
    assert_eq!(pool.target_workers(), 2);
    eventually("both are there", || pool.worker_pids().len() == 2);
    eventually("both have left", || pool.worker_pids().is_empty());
}

#[test]
fn killed_workers_end_their_jobs_and_the_pool_and_nothing_is_tried_again() {
    let gate = Gate::new();
    let pool = one_worker().build().unwrap();
    let retried = prepare(announce_and_sleep.with(gate.path())).retry(Retry::times(5));
    let (running, queued) = (pool.run(retried), pool.run(add.with(1, 1)));
    let pid = gate.wait_for_pid();
    pool.kill_workers();
    let ErrorKind::WorkerDied(died) = running.wait().unwrap_err().into_kind() else {
        panic!("another error")
    };
    assert_eq!((died.pid, died.exit), (pid, WorkerExit::Signal(libc::SIGKILL)));
    assert!(queued.wait().unwrap_err().is_cancelled());
    assert!(matches!(pool.run(add.with(1, 1)).wait().unwrap_err().kind(), ErrorKind::Closed));
    eventually("the pool is over", || pool.is_over());
    assert_eq!(gate.arrivals(), 1);
    assert_eq!(pool.worker_exits(), [(pid, WorkerExit::Signal(libc::SIGKILL))]);
}

#[test]
fn terminated_workers_can_clean_up_and_are_killed_if_they_do_not_end() {
    let gates = [Gate::new(), Gate::new()];
    let builder = ProcessPool::builder().max_workers(2);
    let pool = builder.grace(Duration::from_secs(600)).build().unwrap();
    let cleans = pool.run(clean_up_on_sigterm.with(gates[0].path()));
    gates[0].wait_for_pid();
    pool.terminate_workers();
    assert!(matches!(cleans.wait().unwrap_err().kind(), ErrorKind::WorkerDied(_)));
    assert_eq!(gates[0].arrivals(), 2);
    eventually("the pool is over", || pool.is_over());

    let pool = one_worker().grace(Duration::from_secs(600)).build().unwrap();
    let stubborn = pool.run(ignore_sigterm_and_sleep.with(gates[1].path()));
    gates[1].wait_for_pid();
    pool.terminate_workers();
    pool.kill_workers();
    let ErrorKind::WorkerDied(died) = stubborn.wait().unwrap_err().into_kind() else {
        panic!("another error")
    };
    assert_eq!(died.exit, WorkerExit::Signal(libc::SIGKILL), "a kill does not wait for the grace period");
}

#[test]
fn workers_that_are_terminated_as_they_start_leave_nothing_to_wait_for() {
    // At the first of these moments a worker does not lead its group yet.
    for pause in (0..20).map(|step| Duration::from_micros(50 * step)) {
        let pool = ProcessPool::builder().max_workers(2).grace(Duration::from_secs(600)).build().unwrap();
        let job = pool.run(add.with(1, 1));
        std::thread::sleep(pause);
        pool.terminate_workers();
        eventually("the pool is over", || pool.is_over());
        drop(job);
    }
}

#[offloop::task]
fn ignore_sigterm_and_sleep(gate: &str) {
    // SAFETY: ignoring a signal installs no handler.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
    note_arrival(gate);
    std::thread::sleep(Duration::from_secs(600));
}

#[test]
fn the_pool_remembers_how_workers_have_ended() {
    let pool = one_worker().build().unwrap();
    for (way, exit) in [
        (Death::WorkerExit(3), WorkerExit::Code(3)),
        (Death::Signal(libc::SIGUSR1), WorkerExit::Signal(libc::SIGUSR1)),
    ] {
        let error = pool.run(die.with(way)).wait().unwrap_err();
        let ErrorKind::WorkerDied(died) = error.into_kind() else { panic!("another error") };
        assert_eq!(pool.worker_exits().pop(), Some((died.pid, exit)));
    }
}

#[test]
fn a_worker_that_has_too_much_memory_after_a_job_is_replaced_and_no_job_is_interrupted() {
    const LIMIT: u64 = 48 << 20;
    let pool = one_worker().recycle_rss(LIMIT).build().unwrap();
    let first = pool.run(process_id.with()).wait().unwrap();
    let busy = pool.run(use_for_a_while.with(96 << 20)).wait().unwrap();
    assert_eq!(busy, first, "a job may use more while it runs");
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(pool.run(leak.with(96 << 20)).wait().unwrap(), first);
    eventually("the worker is replaced", || is_gone(first));
    assert_ne!(pool.run(process_id.with()).wait().unwrap(), first);
    let restarts = pool.metrics().restarts;
    assert_eq!((restarts.max_rss, restarts.crashed), (1, 0));
}

#[test]
fn a_crash_that_breaks_the_pool_names_the_job_that_crashed() {
    let gate = Gate::new();
    let builder = ProcessPool::builder().max_workers(2).on_crash(OnCrash::Break);
    let pool = builder.build().unwrap();
    let innocent = sleeps(&pool, &gate);
    gate.wait_for_pid();
    let culprit = pool.run(prepare(die.with(Death::WorkerExit(42))).name("the culprit"));
    let id = culprit.id();
    assert!(
        matches!(culprit.wait().unwrap_err().kind(), ErrorKind::WorkerDied(died) if died.task == "the culprit")
    );
    let error = innocent.wait().unwrap_err();
    let ErrorKind::Broken(why) = error.kind() else { panic!("{error}") };
    assert!(why.contains(&format!("exited with status 42 while it ran job {id} `the culprit`")), "{why}");
}

#[test]
fn a_worker_that_is_stopped_by_itself_is_replaced() {
    let gate = Gate::new();
    let pool = one_worker().build().unwrap();
    let running = sleeps(&pool, &gate);
    let pid = gate.wait_for_pid();
    pool.stop_worker(pid, true);
    let ErrorKind::WorkerDied(died) = running.wait().unwrap_err().into_kind() else {
        panic!("another error")
    };
    assert_eq!((died.pid, died.exit), (pid, WorkerExit::Signal(libc::SIGKILL)));
    assert_eq!(pool.run(add.with(1, 1)).wait().unwrap(), 2);
    // It is not there any more, so nothing happens.
    pool.stop_worker(pid, true);
    assert_eq!(pool.run(add.with(1, 1)).wait().unwrap(), 2);
}

#[test]
fn a_wait_for_the_end_of_a_closed_pool_cancels_nothing() {
    let gate = Gate::new();
    let pool = one_worker().build().unwrap();
    let running = pool.run(hold.with(gate.path()));
    let pid = gate.wait_for_pid();
    pool.close();
    assert!(!pool.wait_over(Duration::from_millis(50)));
    gate.open();
    running.wait().unwrap();
    assert!(pool.wait_over(Duration::from_secs(30)));
    assert!(is_gone(pid));
}
