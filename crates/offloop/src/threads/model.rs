//! Models of the pool for a model checker, which tries many orders of its threads' steps. A lost wake-up shows as a
//! deadlock, because each model waits for everything that it began.
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test -p offloop --no-default-features --lib --release -- model`
//!
//! The checker has no clock, so any time limit may pass at any moment. Deadlines are left out, since the timer's thread
//! outlives an execution.

use std::sync::Arc;
use std::time::Duration;

use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::thread;

use super::{Growth, ThreadPool, ThreadPoolBuilder};
use crate::api::job;
use crate::base::sync::model::wait;
use crate::core::backlog::OnFull;
use crate::core::error::ErrorKind;
use crate::core::handle::Handle;
use crate::core::id::JobState;

/// The number of orders that are tried per model, with each of two strategies.
const RUNS: usize = 10_000;

fn check(model: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(model.clone(), RUNS);
    shuttle::check_pct(model, RUNS, 3);
}

/// Configures a pool whose idle threads stay until it is dropped.
fn pool(threads: usize) -> ThreadPoolBuilder {
    ThreadPool::builder().max_workers(threads).min_workers(threads)
}

#[derive(Clone, Default)]
struct Count(Arc<AtomicUsize>);

impl Count {
    fn add(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn sub(&self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Counts how often jobs run and are dropped, and how many of them run at once.
#[derive(Clone, Default)]
struct Seen {
    ran: Count,
    dropped: Count,
    running: Count,
}

struct Guard(Count);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.add();
    }
}

impl Seen {
    fn work(&self, most: usize) -> impl FnOnce() + Send + 'static {
        let (seen, guard) = (self.clone(), Guard(self.dropped.clone()));
        move || {
            seen.running.add();
            assert!(seen.running.get() <= most, "more than {most} jobs run at once");
            seen.ran.add();
            thread::yield_now();
            seen.running.sub();
            drop(guard);
        }
    }
}

/// Several submitters of one pool: each job runs exactly once, whichever thread is woken or started for it.
fn every_job_runs_once(threads: usize, growth: Growth) {
    check(move || {
        let pool = pool(threads).growth(growth).build().unwrap();
        let seen = Seen::default();
        let submitters: Vec<_> = (0..3)
            .map(|_| {
                let (pool, seen) = (pool.clone(), seen.clone());
                thread::spawn(move || {
                    let handles = [pool.run(seen.work(threads)), pool.run(seen.work(threads))];
                    for handle in handles {
                        wait(handle).unwrap();
                    }
                    wait(pool.run(seen.work(threads))).unwrap();
                })
            })
            .collect();
        for submitter in submitters {
            submitter.join().unwrap();
        }
        assert_eq!((seen.ran.get(), seen.dropped.get()), (9, 9));
        assert!(pool.worker_count() <= threads);
    });
}

#[test]
fn every_job_runs_once_on_one_thread() {
    every_job_runs_once(1, Growth::OnDemand);
}

#[test]
fn every_job_runs_once_on_two_threads() {
    every_job_runs_once(2, Growth::OnDemand);
}

#[test]
fn every_job_runs_once_on_three_threads() {
    every_job_runs_once(3, Growth::OnDemand);
}

#[test]
fn every_job_runs_once_on_two_threads_that_are_started_eagerly() {
    every_job_runs_once(2, Growth::Eager);
}

#[test]
fn jobs_that_wait_for_each_other_all_get_threads() {
    check(|| {
        let pool = pool(3).build().unwrap();
        let barrier = Arc::new(shuttle::sync::Barrier::new(3));
        let handles: Vec<_> = (0..3)
            .map(|_| {
                let barrier = Arc::clone(&barrier);
                pool.run(move || {
                    barrier.wait();
                })
            })
            .collect();
        for handle in handles {
            wait(handle).unwrap();
        }
    });
}

#[test]
fn jobs_submitted_after_the_last_handle_is_gone_are_still_run() {
    check(|| {
        let pool = pool(2).build().unwrap();
        let seen = Seen::default();
        for _ in 0..3 {
            pool.run(seen.work(2)).detach();
        }
        drop(pool);
        while seen.dropped.get() < 3 {
            thread::yield_now();
        }
        assert_eq!(seen.ran.get(), 3);
    });
}

#[test]
fn a_parked_thread_is_woken_for_each_job() {
    check(|| {
        let pool = pool(1).build().unwrap();
        for _ in 0..3 {
            wait(pool.run(|| ())).unwrap();
            // Gives the thread time to park.
            for _ in 0..20 {
                thread::yield_now();
            }
        }
    });
}

#[test]
fn idle_timeouts_lose_no_job() {
    for min_workers in [0, 1] {
        check(move || {
            let pool = ThreadPool::builder().max_workers(2).min_workers(min_workers).build().unwrap();
            let seen = Seen::default();
            let submitters: Vec<_> = (0..2)
                .map(|_| {
                    let (pool, seen) = (pool.clone(), seen.clone());
                    thread::spawn(move || (0..2).for_each(|_| wait(pool.run(seen.work(2))).unwrap()))
                })
                .collect();
            for submitter in submitters {
                submitter.join().unwrap();
            }
            assert_eq!((seen.ran.get(), seen.dropped.get()), (4, 4));
        });
    }
}

#[test]
fn a_pool_that_is_resized_loses_no_job_and_keeps_its_bound() {
    for (before, after) in [(1, 2), (2, 1)] {
        check(move || {
            let pool = pool(before).build().unwrap();
            let seen = Seen::default();
            let resizer = {
                let pool = pool.clone();
                thread::spawn(move || pool.set_max_workers(after))
            };
            let handles: Vec<_> = (0..3).map(|_| pool.run(seen.work(2))).collect();
            handles.into_iter().for_each(|handle| wait(handle).unwrap());
            resizer.join().unwrap();
            // From here on there are no more than `after`.
            let bounded: Vec<_> = (0..2).map(|_| pool.run(seen.work(after))).collect();
            bounded.into_iter().for_each(|handle| wait(handle).unwrap());
            assert_eq!((seen.ran.get(), seen.dropped.get()), (5, 5));
        });
    }
}

/// Returns whether the job ran. Fails if it ended otherwise than a job of a pool that is shut down may end.
fn ran_or_was_cancelled(handle: Handle<()>) -> bool {
    match wait(handle).map_err(crate::Error::into_kind) {
        Ok(()) => true,
        Err(ErrorKind::Closed | ErrorKind::Cancelled) => false,
        Err(other) => panic!("{other:?}"),
    }
}

fn submitters_against_shutdown(drain: Duration) {
    check(move || {
        let pool = pool(2).build().unwrap();
        let seen = Seen::default();
        let submitters: Vec<_> = (0..2)
            .map(|_| {
                let (pool, seen) = (pool.clone(), seen.clone());
                thread::spawn(move || {
                    let handles = [pool.run(seen.work(2)), pool.run(seen.work(2))];
                    handles.map(ran_or_was_cancelled).into_iter().filter(|ran| *ran).count()
                })
            })
            .collect();
        let report = wait(pool.shutdown(drain)).unwrap();
        let done: usize = submitters.into_iter().map(|submitter| submitter.join().unwrap()).sum();
        let stuck = report.stuck.len();
        assert!(seen.ran.get() >= done, "a job has a value and has not run");
        assert!(report.drained + report.cancelled + stuck <= 4, "{report:?}");
        if drain == Duration::MAX {
            assert_eq!(seen.ran.get(), done, "a job ran and has no value");
            assert_eq!((report.cancelled, stuck, pool.worker_count()), (0, 0, 0), "{report:?}");
        }
        while seen.dropped.get() < 4 {
            thread::yield_now();
        }
        while pool.worker_count() > 0 {
            thread::yield_now();
        }
    });
}

#[test]
fn a_draining_shutdown_runs_all_that_was_accepted() {
    submitters_against_shutdown(Duration::MAX);
}

#[test]
fn a_cancelling_shutdown_ends_every_job_once() {
    submitters_against_shutdown(Duration::ZERO);
}

#[test]
fn a_cancel_beside_start_and_finish_ends_the_job_once() {
    check(|| {
        let pool = pool(1).build().unwrap();
        let seen = Seen::default();
        let handle = Arc::new(pool.run(seen.work(1)));
        let after = pool.run(seen.work(1));
        let canceller = {
            let handle = Arc::clone(&handle);
            thread::spawn(move || handle.cancel())
        };
        let cancelled = handle.cancel() | canceller.join().unwrap();
        let handle = Arc::into_inner(handle).unwrap();
        let result = wait(handle);
        assert_eq!(result.is_err(), cancelled);
        wait(after).unwrap();
        assert_eq!(seen.dropped.get(), 2);
        assert!(cancelled || seen.ran.get() == 2);
    });
}

#[test]
fn a_cancelled_job_sees_the_stop_request() {
    check(|| {
        let pool = pool(1).build().unwrap();
        let handle = pool.run(|| {
            while job::check_cancelled().is_ok() {
                thread::yield_now();
            }
        });
        drop(handle);
        wait(pool.run(|| ())).unwrap();
    });
}

#[test]
fn a_cancel_callback_runs_at_most_once_and_never_after_its_guard_is_dropped() {
    check(|| {
        let pool = pool(1).build().unwrap();
        let (called, late) = (Count::default(), Count::default());
        let (calls, lates) = (called.clone(), late.clone());
        let handle = pool.run(move || {
            for forgotten in [false, true] {
                let count = calls.clone();
                let guard = job::on_cancel(move || {
                    thread::yield_now();
                    count.add();
                });
                thread::yield_now();
                if forgotten {
                    std::mem::forget(guard);
                } else {
                    drop(guard);
                    let before = calls.get();
                    thread::yield_now();
                    (before..calls.get()).for_each(|_| lates.add());
                }
            }
        });
        let cancelled = handle.cancel();
        wait(pool.shutdown(Duration::MAX)).unwrap();
        // The job's function has returned, not only its handle ended. So from now on nothing is called.
        let before = called.get();
        for _ in 0..5 {
            thread::yield_now();
        }
        assert_eq!((late.get(), called.get()), (0, before));
        assert!(before <= if cancelled { 2 } else { 0 });
    });
}

#[test]
fn a_callback_that_is_added_during_a_cancel_does_not_miss_it() {
    check(|| {
        let pool = pool(1).build().unwrap();
        let (called, ran) = (Count::default(), Count::default());
        let (calls, runs) = (called.clone(), ran.clone());
        let handle = pool.run(move || {
            runs.add();
            let count = calls.clone();
            let _guard = job::on_cancel(move || count.add());
            while calls.get() == 0 {
                thread::yield_now();
            }
        });
        drop(handle);
        wait(pool.run(|| ())).unwrap();
        assert_eq!(called.get(), ran.get());
    });
}

/// A pool of one thread whose job waits for another, while a third is submitted from outside.
fn nested(wait_for: fn(Handle<()>)) {
    check(move || {
        let pool = pool(1).build().unwrap();
        let seen = Seen::default();
        let (inner, inner_seen) = (pool.clone(), seen.clone());
        let outer = pool.run(move || {
            wait_for(inner.run(inner_seen.work(1)));
            // The wait is over: this job runs alone again, except for what the stand-in had begun.
            inner_seen.ran.get()
        });
        let outside = pool.run(seen.work(1));
        assert!(wait(outer).unwrap() >= 1);
        wait(outside).unwrap();
        assert_eq!((seen.ran.get(), seen.dropped.get()), (2, 2));
        while pool.worker_count() > 1 {
            thread::yield_now();
        }
        wait(pool.run(|| ())).unwrap();
    });
}

#[test]
fn a_nested_wait_does_not_deadlock_a_pool_of_one_thread() {
    nested(|handle| handle.wait().unwrap());
}

#[test]
fn a_nested_await_does_not_deadlock_a_pool_of_one_thread() {
    nested(|handle| wait(handle).unwrap());
}

#[test]
fn after_a_nested_wait_one_thread_runs_one_job_at_a_time() {
    check(|| {
        let pool = pool(1).build().unwrap();
        let inner = pool.clone();
        let running = Count::default();
        let alone = running.clone();
        let outer = pool.run(move || {
            wait(inner.run(|| ())).unwrap();
            alone.add();
            let beside = alone.clone();
            let next = inner.run(move || assert_eq!(beside.get(), 0, "two jobs run at once"));
            for _ in 0..5 {
                thread::yield_now();
            }
            alone.sub();
            next
        });
        wait(wait(outer).unwrap()).unwrap();
        wait(pool.run(|| ())).unwrap();
    });
}

#[test]
fn every_job_that_waits_for_room_is_admitted_once_although_others_are_cancelled() {
    check(|| {
        let pool = pool(1).queue_capacity(1).on_full(OnFull::Wait).build().unwrap();
        let seen = Seen::default();
        let submitters: Vec<_> = (0..2)
            .map(|_| {
                let (pool, seen) = (pool.clone(), seen.clone());
                thread::spawn(move || {
                    let cancelled = pool.run(seen.work(1));
                    let mut kept = pool.run(seen.work(1));
                    drop(cancelled);
                    wait(Box::pin(kept.accepted()));
                    assert_ne!(kept.state(), JobState::Waiting);
                    wait(kept).unwrap();
                })
            })
            .collect();
        for submitter in submitters {
            submitter.join().unwrap();
        }
        assert_eq!(seen.dropped.get(), 4);
        assert!((2..=4).contains(&seen.ran.get()));
        assert_eq!(pool.queued(), 0);
    });
}

#[test]
fn a_submitter_that_waits_for_room_is_woken_even_if_its_job_starts_at_once() {
    check(|| {
        let pool = pool(2).queue_capacity(1).build().unwrap();
        let others = [pool.run(thread::yield_now), pool.run(thread::yield_now)];
        // Runs until its submitter has seen that it was accepted.
        let (tell, told) = shuttle::sync::mpsc::channel();
        let mut last = pool.run(move || told.recv().unwrap());
        wait(Box::pin(last.accepted()));
        tell.send(()).unwrap();
        wait(last).unwrap();
        for other in others {
            wait(other).unwrap();
        }
    });
}

/// Configures a pool whose threads the user starts, with a hook around batches that other threads may delay.
fn hooked(threads: usize) -> ThreadPoolBuilder {
    let turn = Arc::new(Mutex::new(()));
    pool(threads)
        .spawn_handler(|worker| {
            thread::spawn(|| worker.run());
            Ok(())
        })
        .around_batch(Duration::ZERO, move |batch| {
            drop(turn.lock().unwrap());
            batch();
            drop(turn.lock().unwrap());
        })
}

#[test]
fn threads_that_are_started_in_advance_lose_no_job_in_batches() {
    check(|| {
        let pool = hooked(2).build().unwrap();
        let seen = Seen::default();
        let beside = pool.clone();
        let other = thread::spawn({
            let seen = seen.clone();
            move || {
                beside.prestart(2);
                wait(beside.run(seen.work(2))).unwrap();
            }
        });
        let first = pool.run(seen.work(2));
        pool.prestart(1);
        let second = pool.run(seen.work(2));
        drop(pool.run(seen.work(2)));
        for handle in [first, second] {
            wait(handle).unwrap();
        }
        other.join().unwrap();
        assert!((3..=4).contains(&seen.ran.get()));
    });
}

#[test]
fn nested_waits_in_batches_all_get_threads() {
    check(|| {
        let pool = hooked(1).build().unwrap();
        let inner = pool.clone();
        let outer = pool.run(move || {
            let beside = inner.clone();
            let handle = inner.run(|| ());
            inner.prestart(2);
            job::blocking(|| wait(handle)).unwrap();
            wait(beside.run(|| ())).unwrap();
        });
        wait(outer).unwrap();
        wait(pool.run(|| ())).unwrap();
    });
}

#[test]
fn a_closed_pool_with_batches_ends() {
    check(|| {
        let pool = hooked(2).build().unwrap();
        let seen = Seen::default();
        let handles = [pool.run(seen.work(2)), pool.run(seen.work(2))];
        pool.prestart(2);
        let shutdown = pool.shutdown(Duration::from_secs(60));
        for handle in handles {
            wait(handle).ok();
        }
        wait(shutdown).unwrap();
        assert_eq!((pool.worker_count(), seen.dropped.get()), (0, 2));
    });
}
