//! Promises of a process pool's metrics: each end is counted once, times come from the workers, restarts have reasons.

#![cfg(all(feature = "process", target_os = "linux"))]

#[path = "process_support/mod.rs"]
mod support;

use std::time::Duration;

use offloop::metrics::{self, Activity, Metrics, Outcome, PoolKind};
use offloop::{ProcessPool, Retry, prepare};
use rustix::time::{ClockId, clock_gettime};
use support::*;

offloop::init_tests!();

#[offloop::task]
fn fails_in_its_own_words() -> Result<(), String> {
    offloop::embed::mark_failed();
    Err("no".to_owned())
}

#[offloop::task]
fn sleeps(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

/// Uses a core for this long, which takes longer if there are not enough cores.
#[offloop::task]
fn burns(milliseconds: u64) {
    let on_core = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    let end = on_core() + Duration::from_millis(milliseconds);
    while on_core() < end {}
}

/// The outcomes that were seen, with their counts.
fn seen(metrics: &Metrics) -> Vec<(Outcome, u64)> {
    metrics.outcomes.iter().filter(|(_, count)| *count > 0).collect()
}

#[test]
fn a_job_is_counted_before_anybody_can_know_that_it_has_ended() {
    let pool = pool(1);
    for job in 1..=500 {
        pool.run(add.with(1, 2)).wait().unwrap();
        let metrics = pool.metrics();
        assert_eq!(metrics.outcomes[Outcome::Completed], job);
        assert_eq!((metrics.queue_wait.count(), metrics.run_time.count()), (job, job));
    }
}

#[test]
fn each_way_to_end_is_counted_as_what_it_was_and_once() {
    let pool = ProcessPool::builder().max_workers(1).grace(Duration::ZERO).build().unwrap();
    pool.run(add.with(1, 2)).wait().unwrap();
    pool.run(fails_in_its_own_words.with()).wait().unwrap().unwrap_err();
    pool.run(panics.with("on purpose".to_owned())).wait().unwrap_err();
    pool.run(give_awkward.with(true)).wait().unwrap_err();
    pool.run(give_awkward.with(false)).wait().unwrap_err();
    pool.run(take_awkward.with(Awkward::RefusesEncoding)).wait().unwrap_err();
    pool.run(die.with(Death::Abort)).wait().unwrap_err();

    let gate = Gate::new();
    let busy = pool.run(announce_and_sleep.with(gate.path()));
    gate.wait_for_pid();
    pool.run(prepare(add.with(1, 2)).queue_timeout(Duration::from_millis(1))).wait().unwrap_err();
    drop(pool.run(add.with(1, 2)));
    busy.cancel();
    pool.run(prepare(sleeps.with(600_000)).run_timeout(Duration::from_millis(500))).wait().unwrap_err();
    pool.shutdown(Duration::from_secs(30)).wait().unwrap();
    pool.run(add.with(1, 2)).wait().unwrap_err();

    let metrics = pool.metrics();
    assert_eq!(
        seen(&metrics),
        [
            (Outcome::Completed, 1),
            // Its own words, no result, one that cannot be read, no arguments.
            (Outcome::Failed, 4),
            (Outcome::Panicked, 1),
            (Outcome::Cancelled, 2),
            (Outcome::QueueTimeout, 1),
            (Outcome::RunTimeout, 1),
            (Outcome::Rejected, 1),
            (Outcome::Crashed, 1),
        ]
    );
    // All that began: eight, among them the ones that were killed and the one that died.
    assert_eq!(metrics.run_time.count(), 8);
    assert_eq!((metrics.restarts.crashed, metrics.restarts.job_ended), (1, 2));
    assert_eq!(metrics.restarts.total(), 3);
}

#[test]
fn attempts_after_the_first_are_counted_as_retries() {
    let pool = pool(1);
    let doomed = prepare(die.with(Death::Signal(libc::SIGKILL)));
    pool.run(doomed.retry(Retry::times(2).backoff(Duration::from_millis(1)))).wait().unwrap_err();
    let metrics = pool.metrics();
    assert_eq!((metrics.retried, metrics.outcomes[Outcome::Crashed], metrics.restarts.crashed), (2, 1, 3));
}

#[test]
fn a_worker_that_is_killed_while_it_is_idle_is_counted_as_crashed() {
    let pool = pool(1);
    for crashed in 1..=5 {
        pool.run(add.with(1, 2)).wait().unwrap();
        eventually("it is idle", || pool.metrics().workers.idle == 1);
        kill(pool.worker_pids()[0], libc::SIGKILL);
        eventually("it is counted", || pool.metrics().restarts.crashed == crashed);
    }
    assert_eq!(pool.metrics().restarts.total(), 5);
}

#[test]
fn replacing_a_worker_after_its_last_task_is_counted_under_that_reason() {
    let pool = ProcessPool::builder().max_workers(1).max_tasks_per_child(2).build().unwrap();
    for _ in 0..6 {
        pool.run(add.with(1, 2)).wait().unwrap();
    }
    eventually("three were replaced", || pool.metrics().restarts.max_tasks_per_child == 3);
    assert_eq!(pool.metrics().restarts.total(), 3);
}

#[test]
fn times_are_measured_where_the_job_runs() {
    let pool = pool(1);
    pool.run(process_id.with()).wait().unwrap();
    let gate = Gate::new();
    let busy = pool.run(announce_and_sleep.with(gate.path()));
    gate.wait_for_pid();
    let jobs: Vec<_> = (0..3).map(|_| pool.run(sleeps.with(40))).collect();
    // None begins before all are there: the third waits for two others.
    busy.cancel();
    for job in jobs {
        job.wait().unwrap();
    }
    let Metrics { run_time, queue_wait, .. } = pool.metrics();
    assert!(run_time.sum() >= Duration::from_millis(120), "{:?}", run_time.sum());
    assert!(queue_wait.sum() >= Duration::from_millis(120), "{:?}", queue_wait.sum());
    assert!(run_time.quantile(0.0).unwrap() < Duration::from_millis(30), "the first took no time");
}

#[test]
fn the_states_of_workers_queue_and_arena_are_reported() {
    let pool = ProcessPool::builder().name("states").max_workers(2).build().unwrap();
    let gate = Gate::new();
    let busy: Vec<_> = (0..2).map(|_| pool.run(announce_and_sleep.with(gate.path()))).collect();
    eventually("both are at it", || gate.arrivals() == 2);
    let before = pool.metrics().arena.map_or(0, |arena| arena.used);
    let queued = pool.run(reversed.with(&vec![7; 4 << 20]));
    let metrics = pool.metrics();
    assert_eq!((&*metrics.pool, metrics.kind), ("states", PoolKind::Processes));
    assert_eq!((metrics.workers.busy, metrics.workers.idle), (2, 0));
    assert_eq!((metrics.running, metrics.queued), (2, 1));
    assert!(metrics.arena.unwrap().used >= before + (4 << 20), "{:?}", metrics.arena);
    drop(busy);
    assert_eq!(queued.wait().unwrap().len(), 4 << 20);
    eventually("they are idle", || pool.metrics().workers.idle == 2);
    let page = metrics::prometheus(&metrics::all());
    assert!(page.contains("offloop_workers{pool=\"states\",kind=\"processes\",state=\"idle\"} 2"), "{page}");
    assert!(page.contains(
        "offloop_worker_restarts_total{pool=\"states\",kind=\"processes\",reason=\"job_ended\"} 2"
    ));
}

#[test]
fn there_is_advice_about_a_task_that_only_waits() {
    let reported = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = std::sync::Arc::clone(&reported);
    let pool = ProcessPool::builder()
        .max_workers(1)
        .on_advice(move |advice| sink.lock().unwrap().push((advice.task.clone(), advice.activity)))
        .build()
        .unwrap();
    // On a busy machine the first jobs may not be measured: it is not known what they waited for.
    for _ in 0..10 {
        pool.run(prepare(sleeps.with(210)).name("a query")).wait().unwrap();
        pool.run(add.with(1, 2)).wait().unwrap();
        if !reported.lock().unwrap().is_empty() {
            break;
        }
    }
    assert_eq!(*reported.lock().unwrap(), [("a query".to_owned(), Activity::Waits)]);
    assert!(pool.metrics().advice[0].jobs >= 5);
}

#[test]
fn a_task_that_computes_where_cores_are_scarce_is_not_mistaken_for_one_that_waits() {
    let core = rustix::thread::sched_getaffinity(None).unwrap();
    let core = (0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| core.is_set(*cpu)).unwrap();
    let pool = ProcessPool::builder().max_workers(16).cpu_affinity([core]).build().unwrap();
    let gate = Gate::new();
    let naps: Vec<_> = (0..16).map(|_| pool.run(announce_and_nap.with(gate.path()))).collect();
    eventually("all workers are up", || gate.arrivals() == 16);
    for job in naps {
        job.wait().unwrap();
    }
    let jobs: Vec<_> = (0..32).map(|_| pool.run(burns.with(40))).collect();
    for job in jobs {
        job.wait().unwrap();
    }
    let Metrics { advice, run_time, .. } = pool.metrics();
    assert!(run_time.sum() > 3 * Duration::from_millis(32 * 40), "not so scarce: {run_time:?}");
    assert!(advice.iter().all(|advice| !advice.task.ends_with("burns")), "{advice:?}");
}
