//! Queued work: cancelling, timeouts, full queues, priorities, backpressure.

#![allow(missing_docs, reason = "a test crate has no users")]

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Count, Gate, comes_back, end, eventually, occupy, single};
use offloop::{ErrorKind, Handle, JobState, OnFull, ThreadPool, job, prepare};

/// A timeout that passes during a test.
const SOON: Duration = Duration::from_millis(10);

fn pool(capacity: usize, policy: OnFull) -> ThreadPool {
    ThreadPool::builder().max_workers(1).queue_capacity(capacity).on_full(policy).build().unwrap()
}

/// Counts the runs of a job and the drops of its closure.
struct Seen {
    ran: Count,
    dropped: Count,
}

impl Seen {
    fn new() -> Self {
        Self { ran: Count::new(), dropped: Count::new() }
    }

    fn work(&self) -> impl FnOnce() + Send + 'static {
        let (ran, guard) = (self.ran.clone(), self.dropped.on_drop());
        move || {
            ran.add();
            drop(guard);
        }
    }

    fn is_dropped_unrun(&self) -> bool {
        self.ran.get() == 0 && self.dropped.get() == 1
    }
}

/// Removes queued work in one way, and checks that it is gone at once, never runs and leaves its room to another job.
fn removal_is_certain(remove: impl FnOnce(Handle<()>, &Seen)) {
    let pool = pool(1, OnFull::Wait);
    let (gate, busy) = occupy(&pool);
    let seen = Seen::new();
    let queued = pool.run(seen.work());
    assert_eq!(queued.state(), JobState::Queued);
    let mut waiter = pool.run(|| 7);
    assert_eq!(waiter.state(), JobState::Waiting);

    remove(queued, &seen);
    assert!(seen.is_dropped_unrun(), "the closure outlived its removal");
    assert_eq!(waiter.state(), JobState::Queued, "its room was not given to the job that waits");
    assert_eq!(pool.queued(), 1);
    waiter.wait_accepted();

    gate.open();
    end(busy).unwrap();
    assert_eq!(end(waiter).unwrap(), 7);
    assert!(seen.is_dropped_unrun(), "it ran after its removal");
}

#[test]
fn dropping_a_handle_removes_queued_work_for_certain() {
    removal_is_certain(|handle, _| drop(handle));
}

#[test]
fn cancelling_removes_queued_work_for_certain() {
    removal_is_certain(|handle, _| {
        assert!(handle.cancel());
        assert!(!handle.cancel(), "it ended twice");
        assert!(end(handle).unwrap_err().is_cancelled());
    });
}

#[test]
fn a_queue_timeout_removes_queued_work_for_certain() {
    removal_is_certain(|handle, seen| {
        let error = end(handle.timeout(SOON)).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::QueueTimeout(SOON)), "{error:?}");
        eventually("the timer drops it", || seen.is_dropped_unrun());
    });
}

#[test]
fn work_that_waits_for_room_can_be_cancelled() {
    let pool = pool(1, OnFull::Wait);
    let (gate, _busy) = occupy(&pool);
    let queued = pool.run(|| 1);
    let seen = Seen::new();
    let waiting = pool.run(seen.work());
    assert_eq!((waiting.state(), pool.queued()), (JobState::Waiting, 2));
    drop(waiting);
    assert!(seen.is_dropped_unrun());
    assert_eq!(pool.queued(), 1);
    gate.open();
    assert_eq!(end(queued).unwrap(), 1);
}

#[test]
fn any_of_many_queued_jobs_can_be_removed_and_the_others_keep_their_order() {
    let pool = pool(100, OnFull::Wait);
    let (gate, _busy) = occupy(&pool);
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut handles: Vec<_> = (0..100)
        .map(|n| {
            let order = Arc::clone(&order);
            Some(pool.run(move || order.lock().unwrap().push(n)))
        })
        .collect();
    for n in (0..100).filter(|n| n % 3 != 0).rev() {
        handles[n] = None;
    }
    assert_eq!(pool.queued(), 34);
    gate.open();
    handles.into_iter().flatten().for_each(|handle| end(handle).unwrap());
    assert_eq!(*order.lock().unwrap(), (0..100).step_by(3).collect::<Vec<_>>());
}

/// Starts a job that runs until it is asked to stop, then until the gate opens.
fn until_asked_to_stop(pool: &ThreadPool) -> (Handle<()>, Gate, Gate) {
    let (saw, gate) = (Gate::new(), Gate::new());
    let (seen, pass) = (saw.clone(), gate.clone());
    let handle = pool.run(move || {
        while !job::is_cancelled() {
            std::thread::yield_now();
        }
        assert!(job::check_cancelled().is_err());
        seen.open();
        pass.pass();
    });
    eventually("it runs", || handle.state() == JobState::Running);
    (handle, saw, gate)
}

#[test]
fn cancelling_running_work_asks_it_to_stop_and_ends_its_handle_at_once() {
    let pool = single();
    let (handle, saw, gate) = until_asked_to_stop(&pool);
    assert!(handle.cancel());
    // The function still runs: it waits for the gate.
    assert!(end(handle).unwrap_err().is_cancelled());
    saw.pass();
    gate.open();
}

#[test]
fn dropping_the_handle_of_running_work_asks_it_to_stop() {
    let pool = single();
    let (handle, saw, gate) = until_asked_to_stop(&pool);
    drop(handle);
    saw.pass();
    gate.open();
}

#[test]
fn a_run_timeout_asks_the_job_to_stop_and_ends_its_handle() {
    let (saw, gate) = (Gate::new(), Gate::new());
    let (seen, pass) = (saw.clone(), gate.clone());
    let work = move || {
        while !job::is_cancelled() {
            std::thread::yield_now();
        }
        seen.open();
        pass.pass();
    };
    let pool = single();
    let error = end(pool.run(prepare(work).run_timeout(SOON))).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::RunTimeout(SOON)), "{error:?}");
    saw.pass();
    gate.open();
}

#[test]
fn a_run_timeout_does_not_count_the_time_in_the_queue() {
    let pool = single();
    let (gate, _busy) = occupy(&pool);
    let handle = pool.run(prepare(|| ()).run_timeout(SOON));
    std::thread::sleep(SOON * 3);
    assert_eq!(handle.state(), JobState::Queued);
    gate.open();
}

#[test]
fn a_queue_timeout_does_not_count_the_time_of_running() {
    let pool = single();
    let gate = Gate::new();
    let pass = gate.clone();
    let limit = Duration::from_millis(500);
    let handle = pool.run(prepare(move || pass.pass()).queue_timeout(limit));
    eventually("it runs", || handle.state() == JobState::Running);
    std::thread::sleep(limit * 2);
    assert_eq!(handle.state(), JobState::Running);
    gate.open();
    end(handle).unwrap();
}

#[test]
fn a_queue_timeout_counts_the_wait_for_room() {
    let pool = pool(1, OnFull::Wait);
    let (gate, _busy) = occupy(&pool);
    let _queued = pool.run(|| 1);
    let seen = Seen::new();
    let mut waiting = pool.run(prepare(seen.work()).queue_timeout(SOON));
    waiting.wait_accepted();
    let error = end(waiting).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::QueueTimeout(SOON)), "{error:?}");
    eventually("the timer drops it", || seen.is_dropped_unrun());
    gate.open();
}

#[test]
fn a_handles_timeout_ends_its_job_in_the_queue_and_while_it_runs() {
    let pool = single();
    let (handle, saw, gate) = until_asked_to_stop(&pool);
    let queued = pool.run(|| ()).timeout(SOON);
    let error = end(queued).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::QueueTimeout(SOON)), "{error:?}");
    let error = end(handle.timeout(SOON)).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::RunTimeout(SOON)), "{error:?}");
    saw.pass();
    gate.open();
}

#[test]
fn a_timeout_beyond_the_range_of_the_clock_is_none() {
    let pool = single();
    let work = prepare(|| 7).queue_timeout(Duration::MAX).run_timeout(Duration::MAX);
    assert_eq!(end(pool.run(work).timeout(Duration::MAX)).unwrap(), 7);
}

#[test]
fn a_detached_job_runs() {
    let pool = single();
    let (gate, busy) = occupy(&pool);
    let done = Gate::new();
    let open = done.clone();
    pool.run(move || open.open()).detach();
    busy.detach();
    gate.open();
    done.pass();
}

#[test]
fn the_policy_reject_ends_the_job_with_an_error_that_has_the_capacity() {
    let pool = pool(1, OnFull::Reject);
    let (gate, _busy) = occupy(&pool);
    let queued = pool.run(|| 1);
    let seen = Seen::new();
    let error = end(pool.run(seen.work())).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::QueueFull { capacity: 1 }), "{error:?}");
    assert!(seen.is_dropped_unrun());
    gate.open();
    assert_eq!(end(queued).unwrap(), 1);
}

#[test]
fn the_policy_caller_runs_runs_the_job_on_the_submitting_thread() {
    let pool = pool(1, OnFull::CallerRuns);
    let (gate, _busy) = occupy(&pool);
    let queued = pool.run(common::tid);
    let overflow = pool.run(common::tid);
    assert_eq!(overflow.state(), JobState::Ended);
    assert_eq!(end(overflow).unwrap(), common::tid());
    gate.open();
    assert_ne!(end(queued).unwrap(), common::tid());
}

#[test]
fn the_policy_shed_oldest_ends_the_oldest_job_of_the_lowest_priority() {
    let pool = pool(3, OnFull::ShedOldest);
    let (gate, _busy) = occupy(&pool);
    let seen = Seen::new();
    let high = pool.run(prepare(|| "high").priority(1));
    let oldest_low = pool.run(prepare(seen.work()).priority(-1));
    let low = pool.run(prepare(|| "low").priority(-1));

    let new = pool.run(prepare(|| "new").priority(-1));
    assert!(matches!(end(oldest_low).unwrap_err().kind(), ErrorKind::Shed));
    assert!(seen.is_dropped_unrun());

    let error = end(pool.run(prepare(|| "lower").priority(-2))).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::QueueFull { capacity: 3 }), "{error:?}");

    let newest = pool.run(|| "newest");
    assert!(matches!(end(low).unwrap_err().kind(), ErrorKind::Shed));
    gate.open();
    assert_eq!([end(high), end(new), end(newest)].map(Result::unwrap), ["high", "new", "newest"]);
}

#[test]
fn try_run_returns_the_work_whatever_the_policy() {
    for policy in [OnFull::Wait, OnFull::Reject, OnFull::CallerRuns, OnFull::ShedOldest] {
        let pool = pool(1, policy);
        let (gate, _busy) = occupy(&pool);
        let queued = pool.try_run(|| 1).unwrap_or_else(|_| panic!("there is room for one"));
        let seen = Seen::new();
        let rejected = pool.try_run(seen.work()).expect_err("there is no room for two");
        assert!(matches!(rejected.kind(), ErrorKind::QueueFull { capacity: 1 }), "{policy:?}: {rejected}");
        assert_eq!((seen.ran.get(), seen.dropped.get()), (0, 0), "{policy:?}: the work was used");
        rejected.into_work()();
        assert_eq!((seen.ran.get(), seen.dropped.get()), (1, 1), "{policy:?}");
        gate.open();
        assert_eq!(end(queued).unwrap(), 1, "{policy:?}");
    }
}

#[test]
fn try_run_returns_prepared_work_with_its_options() {
    let pool = pool(1, OnFull::Wait);
    let (gate, busy) = occupy(&pool);
    let _queued = pool.run(|| 1);
    let rejected = pool.try_run(prepare(|| 7).name("again").priority(3)).unwrap_err();
    gate.open();
    end(busy).unwrap();
    let handle = pool.run(rejected.into_work());
    assert_eq!(handle.name(), "again");
    assert_eq!(end(handle).unwrap(), 7);
}

#[test]
fn higher_priorities_run_first_and_equal_ones_in_order() {
    let pool = single();
    let (gate, _busy) = occupy(&pool);
    let order = Arc::new(Mutex::new(Vec::new()));
    let handles: Vec<_> = [0, 5, -3, 0, i8::MAX, 5, i8::MIN, -3, 0]
        .into_iter()
        .enumerate()
        .map(|(n, priority)| {
            let order = Arc::clone(&order);
            pool.run(prepare(move || order.lock().unwrap().push((priority, n))).priority(priority))
        })
        .collect();
    gate.open();
    for handle in handles {
        end(handle).unwrap();
    }
    let expected = [(i8::MAX, 4), (5, 1), (5, 5), (0, 0), (0, 3), (0, 8), (-3, 2), (-3, 7), (i8::MIN, 6)];
    assert_eq!(*order.lock().unwrap(), expected);
}

#[test]
fn a_higher_priority_overtakes_jobs_that_were_queued_before_it() {
    let pool = single();
    let order = Arc::new(Mutex::new(Vec::new()));
    let note = |name| {
        let order = Arc::clone(&order);
        move || order.lock().unwrap().push(name)
    };
    let (first, busy) = occupy(&pool);
    let second = Gate::new();
    let pass = second.clone();
    let waits = pool.run(move || pass.pass());
    let queued = pool.run(note("ordinary"));
    first.open();
    end(busy).unwrap();
    // The thread has taken the second job now, and has seen the queued one.
    eventually("the second job starts", || waits.state() == JobState::Running);
    let late = pool.run(prepare(note("urgent")).priority(1));
    second.open();
    end(waits).unwrap();
    end(queued).unwrap();
    end(late).unwrap();
    assert_eq!(*order.lock().unwrap(), ["urgent", "ordinary"]);
}

#[test]
fn jobs_that_wait_for_room_are_admitted_by_priority_then_in_order() {
    let pool = pool(1, OnFull::Wait);
    let (gate, _busy) = occupy(&pool);
    let order = Arc::new(Mutex::new(Vec::new()));
    let submit = |n: u32, priority| {
        let order = Arc::clone(&order);
        pool.run(prepare(move || order.lock().unwrap().push(n)).priority(priority))
    };
    let handles = [submit(0, 0), submit(1, 0), submit(2, 1), submit(3, 0)];
    assert_eq!(pool.queued(), 4);
    gate.open();
    for handle in handles {
        end(handle).unwrap();
    }
    assert_eq!(*order.lock().unwrap(), [0, 2, 1, 3]);
}

#[test]
fn accepted_makes_a_submitter_wait_until_there_is_room() {
    let pool = pool(1, OnFull::Wait);
    let (gate, _busy) = occupy(&pool);
    let mut queued = pool.run(|| 1);
    queued.wait_accepted();
    let mut waiting = pool.run(|| 2);
    let mut accepted = Box::pin(waiting.accepted());
    let mut accept = || futures_lite::future::block_on(futures_lite::future::poll_once(&mut accepted));
    assert_eq!(accept(), None);
    drop(queued);
    assert_eq!(accept(), Some(()));
    drop(accepted);
    gate.open();
    assert_eq!(end(waiting).unwrap(), 2);
}

#[test]
fn accepted_wakes_its_waiter_on_admission_and_on_the_end() {
    for cancel in [false, true] {
        let pool = pool(1, OnFull::Wait);
        let (gate, _busy) = occupy(&pool);
        let hold = Gate::new();
        let pass = hold.clone();
        let _queued = pool.run(move || pass.pass());
        let mut waiting = pool.run(|| 2);
        let cancelled = if cancel { waiting.cancel() } else { false };
        let waiter = std::thread::spawn(move || {
            waiting.wait_accepted();
            waiting
        });
        if !cancel {
            gate.open();
        }
        let waiting = comes_back("the submitter", || waiter.join().unwrap());
        assert_eq!(waiting.state() == JobState::Ended, cancelled);
        gate.open();
        hold.open();
        assert_eq!(end(waiting).is_err(), cancelled);
    }
}

#[test]
fn backpressure_bounds_the_queue_and_loses_no_job() {
    let pool = ThreadPool::builder().max_workers(2).queue_capacity(3).build().unwrap();
    let ran = Count::new();
    for _ in 0..500 {
        let ran = ran.clone();
        let mut handle = pool.run(move || {
            ran.add();
        });
        handle.wait_accepted();
        assert!(pool.queued() <= 3, "more was accepted than fits");
        handle.detach();
    }
    eventually("all have run", || ran.get() == 500);
}

#[test]
fn a_long_queue_with_cancelled_jobs_at_both_ends_stays_usable() {
    let pool = pool(10, OnFull::Reject);
    let (gate, _busy) = occupy(&pool);
    let first = pool.run(|| 1);
    for _ in 0..10_000 {
        drop(pool.run(|| 2));
    }
    let last = pool.run(|| 3);
    assert_eq!(pool.queued(), 2);
    gate.open();
    assert_eq!((end(first).unwrap(), end(last).unwrap()), (1, 3));
}
