//! The shutdown of a pool and its report, and what happens when a pool is dropped without one.

#![allow(missing_docs, reason = "a test crate has no users")]

mod common;

use std::time::Duration;

use common::{Count, Gate, comes_back, end, eventually, occupy, single, threads_named};
use offloop::{ErrorKind, JobState, ThreadPool, job};

/// A drain limit within which everything happens.
const LONG: Duration = common::GIVE_UP;
/// A limit that passes before anything happens.
const SHORT: Duration = Duration::from_millis(20);
/// A limit that passes after all jobs that can stop have stopped.
const AMPLE: Duration = Duration::from_secs(2);

fn until_cancelled() {
    while !job::is_cancelled() {
        std::thread::sleep(Duration::from_micros(100));
    }
}

#[test]
fn a_shutdown_drains_what_was_accepted() {
    let pool = ThreadPool::builder().name("drained").max_workers(2).queue_capacity(4).build().unwrap();
    let ran = Count::new();
    let gate = Gate::new();
    let jobs: Vec<_> = (0..20)
        .map(|_| {
            let (ran, gate) = (ran.clone(), gate.clone());
            pool.run(move || {
                gate.pass();
                ran.add()
            })
        })
        .collect();
    let report = pool.shutdown(LONG);
    gate.open();
    let report = end(report).unwrap();
    assert_eq!((report.drained, report.cancelled, report.stuck.len()), (20, 0, 0), "{report:?}");
    assert_eq!(ran.get(), 20);
    assert!(jobs.into_iter().all(|job| end(job).is_ok()));
    assert_eq!(pool.worker_count(), 0);
    eventually("the threads are gone", || threads_named("drained").is_empty());
}

#[test]
fn the_shutdown_of_an_unused_or_idle_pool_ends_at_once() {
    let report = end(single().shutdown(Duration::MAX)).unwrap();
    assert_eq!((report.drained, report.cancelled), (0, 0));

    let pool = ThreadPool::builder().min_workers(2).build().unwrap();
    end(pool.run(|| ())).unwrap();
    let report = end(pool.shutdown(Duration::MAX)).unwrap();
    assert_eq!((report.drained, report.cancelled), (0, 0), "a job that had ended was counted");
}

#[test]
fn after_the_drain_limit_queued_jobs_are_cancelled_and_running_ones_are_asked_to_stop() {
    let pool = ThreadPool::builder().max_workers(1).queue_capacity(2).grace(LONG).build().unwrap();
    let running = pool.run(until_cancelled);
    eventually("it runs", || running.state() == JobState::Running);
    let (ran, dropped) = (Count::new(), Count::new());
    // Two of the four wait for room.
    let queued: Vec<_> = (0..4)
        .map(|_| {
            let (ran, guard) = (ran.clone(), dropped.on_drop());
            pool.run(move || {
                drop(guard);
                ran.add()
            })
        })
        .collect();
    assert_eq!((queued[1].state(), queued[2].state()), (JobState::Queued, JobState::Waiting));

    let report = end(pool.shutdown(SHORT)).unwrap();
    assert_eq!((report.drained, report.cancelled, report.stuck.len()), (0, 5, 0), "{report:?}");
    assert!(end(running).unwrap_err().is_cancelled());
    for mut job in queued {
        job.wait_accepted();
        assert!(end(job).unwrap_err().is_cancelled());
    }
    assert_eq!((ran.get(), dropped.get()), (0, 4));
}

#[test]
fn a_shutdown_reports_a_stuck_job_with_its_name_its_line_and_its_thread() {
    let pool = ThreadPool::builder().name("stuck").max_workers(2).grace(AMPLE).build().unwrap();
    let gate = Gate::new();
    let pass = gate.clone();
    let line = line!() + 1;
    let stubborn = pool.run(offloop::prepare(move || pass.pass()).name("stubborn"));
    eventually("it runs", || stubborn.state() == JobState::Running);
    let docile = pool.run(until_cancelled);
    eventually("it runs", || docile.state() == JobState::Running);
    let id = stubborn.id();

    let report = end(pool.shutdown(SHORT)).unwrap();
    assert_eq!((report.drained, report.cancelled, report.killed), (0, 1, 0), "{report:?}");
    let [stuck] = &report.stuck[..] else { panic!("{report:?}") };
    assert_eq!((stuck.job, stuck.name.as_str()), (id, "stubborn"));
    assert!(stuck.worker == "stuck-1" || stuck.worker == "stuck-2", "{report:?}");
    assert!(stuck.running_for >= SHORT);
    assert_eq!((stuck.submitted_at.file(), stuck.submitted_at.line()), (file!(), line));
    assert!(end(stubborn).unwrap_err().is_cancelled(), "its handle must not wait for it");
    gate.open();
    eventually("its thread leaves after all", || threads_named("stuck").is_empty());
}

#[test]
fn the_numbers_of_a_report_add_up() {
    let pool = ThreadPool::builder().max_workers(3).grace(AMPLE).build().unwrap();
    let (first, never) = (Gate::new(), Gate::new());
    let (pass_first, pass_never) = (first.clone(), never.clone());
    let jobs = [
        pool.run(move || pass_first.pass()),
        pool.run(until_cancelled),
        pool.run(move || pass_never.pass()),
        pool.run(until_cancelled),
        pool.run(until_cancelled),
    ];
    eventually("three run", || jobs[..3].iter().all(|job| job.state() == JobState::Running));
    let report = pool.shutdown(AMPLE);
    // The first ends by itself, and the fourth takes its thread.
    first.open();
    let report = end(report).unwrap();
    assert_eq!((report.drained, report.cancelled, report.stuck.len()), (1, 3, 1), "{report:?}");
    never.open();
}

#[test]
fn a_job_whose_result_has_been_taken_is_never_reported_as_stuck() {
    for _ in 0..300 {
        let pool = ThreadPool::builder().max_workers(2).grace(Duration::ZERO).build().unwrap();
        for number in 0..5 {
            assert_eq!(pool.run(move || number).wait().unwrap(), number);
        }
        assert!(pool.run(|| panic!("this is its end, too")).wait().is_err());
        let report = pool.shutdown(Duration::ZERO).wait().unwrap();
        assert_eq!(report.stuck, []);
    }
}

#[test]
fn a_job_that_was_cancelled_but_runs_on_is_reported_as_stuck() {
    let pool = ThreadPool::builder().max_workers(1).grace(SHORT).build().unwrap();
    let (gate, busy) = occupy(&pool);
    busy.cancel();
    let report = end(pool.shutdown(SHORT)).unwrap();
    assert_eq!((report.drained, report.cancelled, report.stuck.len()), (0, 0, 1), "{report:?}");
    gate.open();
}

#[test]
fn a_closed_pool_refuses_work_at_once_and_returns_it() {
    let pool = single();
    let clone = pool.clone();
    end(pool.shutdown(LONG)).unwrap();
    let handle = clone.run(|| 7);
    assert_eq!(handle.state(), JobState::Ended);
    assert!(matches!(end(handle).unwrap_err().kind(), ErrorKind::Closed));
    let rejected = clone.try_run(|| 7).unwrap_err();
    assert!(matches!(rejected.kind(), ErrorKind::Closed));
    assert_eq!(rejected.into_work()(), 7);
}

#[test]
fn a_pool_that_is_still_draining_refuses_work() {
    let pool = single();
    let (gate, busy) = occupy(&pool);
    let report = pool.shutdown(LONG);
    assert!(matches!(end(pool.run(|| 7)).unwrap_err().kind(), ErrorKind::Closed));
    gate.open();
    end(busy).unwrap();
    assert_eq!(end(report).unwrap().drained, 1);
}

#[test]
fn dropping_the_last_clone_runs_what_was_accepted_and_lets_the_threads_go() {
    let pool = ThreadPool::builder().name("dropped").max_workers(1).queue_capacity(2).build().unwrap();
    let (gate, busy) = occupy(&pool);
    let ran = Count::new();
    for _ in 0..5 {
        let ran = ran.clone();
        pool.run(move || ran.add()).detach();
    }
    drop(pool.clone());
    let clone = pool.clone();
    drop(pool);
    let queued = end(clone.run(|| 7).timeout(SHORT));
    assert!(queued.unwrap_err().is_timeout(), "the drop of one clone closed the pool");
    drop(clone);
    gate.open();
    end(busy).unwrap();
    eventually("all have run", || ran.get() == 5);
    eventually("the threads leave", || threads_named("dropped").is_empty());
}

#[test]
fn the_last_clone_may_be_dropped_by_a_job_of_the_pool() {
    let pool = ThreadPool::builder().name("own").max_workers(1).build().unwrap();
    let gate = Gate::new();
    let pass = gate.clone();
    let captured = pool.clone();
    let last = pool.run(move || {
        pass.pass();
        drop(captured);
    });
    drop(pool);
    gate.open();
    end(last).unwrap();
    eventually("the threads leave", || threads_named("own").is_empty());
}

#[test]
fn a_queued_job_may_hold_the_last_clone_and_be_cancelled() {
    let pool = single();
    let (gate, busy) = occupy(&pool);
    let captured = pool.clone();
    let queued = pool.run(move || drop(captured));
    drop(pool);
    comes_back("the cancellation", move || drop(queued));
    gate.open();
    end(busy).unwrap();
}

#[test]
fn a_job_may_shut_its_own_pool_down() {
    let pool = ThreadPool::builder().max_workers(1).grace(SHORT).build().unwrap();
    let inner = pool.clone();
    let handle = pool.run(move || end(inner.shutdown(SHORT)).map(|report| report.stuck.len()));
    // The job is asked to stop by the shutdown that it waits for, and is the one that the shutdown finds stuck.
    assert!(end(handle).unwrap_err().is_cancelled());
    eventually("its thread leaves", || pool.worker_count() == 0);
}

#[test]
fn a_job_may_start_the_shutdown_of_its_own_pool_and_return() {
    let pool = single();
    let inner = pool.clone();
    let report = end(pool.run(move || inner.shutdown(LONG))).unwrap();
    assert_eq!(end(report).unwrap().stuck.len(), 0);
}

#[test]
fn a_shutdown_goes_on_when_its_handle_is_dropped() {
    let pool = ThreadPool::builder().max_workers(1).grace(LONG).build().unwrap();
    let running = pool.run(until_cancelled);
    drop(pool.shutdown(Duration::ZERO));
    assert!(end(running).unwrap_err().is_cancelled());
}

#[test]
fn a_second_shutdown_reports_what_the_first_has_left() {
    let pool = ThreadPool::builder().max_workers(1).grace(SHORT).build().unwrap();
    let (gate, _busy) = occupy(&pool);
    let queued = pool.run(|| ());
    let first = end(pool.shutdown(SHORT)).unwrap();
    assert_eq!((first.cancelled, first.stuck.len()), (1, 1));
    let second = end(pool.shutdown(SHORT)).unwrap();
    assert_eq!((second.cancelled, second.stuck.len()), (0, 1));
    gate.open();
    let third = end(pool.shutdown(LONG)).unwrap();
    assert_eq!((third.cancelled, third.stuck.len()), (0, 0));
    assert!(end(queued).unwrap_err().is_cancelled());
}

#[test]
fn jobs_that_wait_for_room_are_drained_as_well() {
    let pool = ThreadPool::builder().max_workers(1).queue_capacity(1).build().unwrap();
    let (gate, busy) = occupy(&pool);
    let queued = pool.run(|| 1);
    let waiting = pool.run(|| 2);
    assert_eq!(waiting.state(), JobState::Waiting);
    let report = pool.shutdown(LONG);
    gate.open();
    end(busy).unwrap();
    assert_eq!((end(queued).unwrap(), end(waiting).unwrap()), (1, 2));
    assert_eq!(end(report).unwrap().drained, 3);
}

#[test]
fn a_shutdown_does_not_wait_for_the_destructor_of_a_result() {
    let pool = ThreadPool::builder().max_workers(1).grace(SHORT).build().unwrap();
    let (dropping, gate) = (Gate::new(), Gate::new());
    let (begun, pass) = (dropping.clone(), gate.clone());
    let slow_to_drop = common::OnDrop(move || {
        begun.open();
        pass.pass();
    });
    // The job ends only after its handle is detached. Otherwise this thread would drop the result.
    let detached = Gate::new();
    let go = detached.clone();
    let job = pool.run(move || {
        go.pass();
        slow_to_drop
    });
    job.detach();
    detached.open();
    dropping.pass();
    let closed = pool.clone();
    let report = comes_back("the shutdown", move || end(closed.shutdown(SHORT)).unwrap());
    assert_eq!((report.drained, report.cancelled), (0, 0), "{report:?}");
    let closed = pool.clone();
    comes_back("the pool", move || closed.queued());
    gate.open();
}
