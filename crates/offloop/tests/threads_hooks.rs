//! The hooks for bindings: how threads are started, what surrounds their batches, and other ways to wait.

#![allow(missing_docs, reason = "a test crate has no users")]

mod common;

use std::cell::Cell;
use std::io;
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use common::{Count, Gate, comes_back, end, eventually, occupy};
use offloop::embed::{ThreadPoolBuilderExt, ThreadPoolExt, WorkerThread};
use offloop::{ErrorKind, ThreadPool, ThreadPoolBuilder};

/// The limit of a batch. Some jobs take longer.
const LIMIT: Duration = Duration::from_millis(1);

fn spawn(worker: WorkerThread) -> io::Result<()> {
    std::thread::Builder::new().name(format!("mine/{}", worker.name())).spawn(|| worker.run()).map(drop)
}

thread_local! {
    /// The number of batches that this thread is in: 0 or 1.
    static WITHIN: Cell<u32> = const { Cell::new(0) };
}

/// Returns a hook that counts the batches and records whether a thread is in one.
fn counting(batches: &Count) -> impl Fn(&mut dyn FnMut()) + Send + Sync + 'static + use<> {
    let batches = batches.clone();
    move |batch| {
        batches.add();
        WITHIN.set(WITHIN.get() + 1);
        batch();
        WITHIN.set(WITHIN.get() - 1);
    }
}

fn one() -> ThreadPoolBuilder {
    ThreadPool::builder().max_workers(1)
}

#[test]
fn threads_that_the_user_starts_serve_the_pool_and_leave_it() {
    let alive = Count::new();
    let counted = alive.clone();
    let pool = ThreadPool::builder()
        .name("hooked")
        .max_workers(3)
        .idle_timeout(Duration::from_millis(50))
        .spawn_handler(move |worker| {
            let counted = counted.clone();
            std::thread::Builder::new().name(format!("mine/{}", worker.name())).spawn(move || {
                counted.add();
                worker.run();
                counted.sub();
            })?;
            Ok(())
        })
        .build()
        .unwrap();
    let barrier = Arc::new(Barrier::new(3));
    let jobs: Vec<_> = (0..3)
        .map(|_| {
            let barrier = Arc::clone(&barrier);
            pool.run(move || {
                barrier.wait();
                std::thread::current().name().unwrap().to_owned()
            })
        })
        .collect();
    let mut names: Vec<_> = jobs.into_iter().map(|job| end(job).unwrap()).collect();
    names.sort();
    assert_eq!(names, ["mine/hooked-1", "mine/hooked-2", "mine/hooked-3"]);
    eventually("they leave", || alive.get() == 0 && pool.worker_count() == 0);
}

#[test]
fn a_thread_may_begin_after_the_handler_has_returned() {
    let (workers, started) = channel();
    let workers = Mutex::new(workers);
    let pool = one()
        .spawn_handler(move |worker| workers.lock().unwrap().send(worker).map_err(io::Error::other))
        .build()
        .unwrap();
    let job = pool.run(|| 7);
    let worker = started.recv().unwrap();
    std::thread::spawn(|| worker.run());
    assert_eq!(end(job).unwrap(), 7);
}

#[test]
fn a_thread_that_could_not_be_started_fails_the_jobs_that_waited_for_it() {
    type Handler = fn(WorkerThread) -> io::Result<()>;
    let refuse: Handler = |_worker| Err(io::Error::other("no more of them"));
    let lose: Handler = |_worker| Ok(());
    let panic: Handler = |_worker| panic!("in the handler");
    let lose_later: Handler = |worker| std::thread::Builder::new().spawn(|| drop(worker)).map(drop);
    for (handler, reason) in [
        (refuse, "no more of them"),
        (lose, "dropped unrun"),
        (panic, "in the handler"),
        (lose_later, "dropped unrun"),
    ] {
        let pool = one().spawn_handler(handler).build().unwrap();
        for _ in 0..2 {
            let error = end(pool.run(|| ())).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::WorkerStart(_)), "{error}");
            assert!(error.to_string().contains(reason), "{error}");
            eventually("it is not counted", || pool.worker_count() == 0);
        }
    }
}

#[test]
fn a_worker_that_is_run_after_its_handler_has_failed_does_nothing() {
    let (workers, kept) = channel();
    let workers = Mutex::new(workers);
    let pool = one()
        .spawn_handler(move |worker| {
            workers.lock().unwrap().send(worker).map_err(io::Error::other)?;
            Err(io::Error::other("changed its mind"))
        })
        .build()
        .unwrap();
    end(pool.run(|| ())).unwrap_err();
    let worker = kept.recv().unwrap();
    comes_back("the worker", || worker.run());
    assert_eq!(pool.worker_count(), 0);
}

#[test]
fn jobs_run_within_the_hook_and_several_share_one_batch() {
    let batches = Count::new();
    let pool = one().around_batch(LIMIT, counting(&batches)).build().unwrap();
    let (gate, first) = occupy(&pool);
    // While the first runs these queue up behind it.
    let jobs: Vec<_> = (0..100).map(|_| pool.run(|| WITHIN.get())).collect();
    assert_eq!(batches.get(), 1);
    gate.open();
    end(first).unwrap();
    for job in jobs {
        assert_eq!(end(job).unwrap(), 1);
    }
    assert!(batches.get() < 50, "{} batches for 100 short jobs", batches.get());
}

#[test]
fn a_thread_without_work_is_outside_of_the_hook() {
    let (batches, left) = (Count::new(), Count::new());
    let (entered, leaving) = (batches.clone(), left.clone());
    let pool = one()
        .around_batch(LIMIT, move |batch| {
            entered.add();
            batch();
            leaving.add();
        })
        .build()
        .unwrap();
    for _ in 0..20 {
        end(pool.run(|| ())).unwrap();
        eventually("the batch ends", || left.get() == batches.get());
    }
    assert_eq!(batches.get(), 20);
}

#[test]
fn a_long_queue_does_not_keep_a_thread_in_one_batch() {
    let batches = Count::new();
    let pool = one().around_batch(LIMIT, counting(&batches)).build().unwrap();
    let (gate, first) = occupy(&pool);
    let jobs: Vec<_> = (0..5).map(|_| pool.run(|| std::thread::sleep(Duration::from_millis(2)))).collect();
    gate.open();
    end(first).unwrap();
    for job in jobs {
        end(job).unwrap();
    }
    assert!(batches.get() >= 5, "each of the jobs outlasts a batch, yet there were {}", batches.get());
}

#[test]
fn while_the_hook_waits_its_job_can_be_cancelled_and_no_other_thread_is_woken() {
    let (gate, entered) = (Gate::new(), Count::new());
    let (pass, counted) = (gate.clone(), entered.clone());
    let pool = ThreadPool::builder()
        .max_workers(4)
        .around_batch(LIMIT, move |batch| {
            counted.add();
            pass.pass();
            batch();
        })
        .build()
        .unwrap();
    let mut jobs: Vec<_> = (0..10).map(|n| pool.run(move || n)).collect();
    eventually("a thread comes", || entered.get() == 1);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!((entered.get(), pool.worker_count(), pool.queued()), (1, 1, 10));
    let cancelled = jobs.remove(0);
    assert!(cancelled.cancel());
    gate.open();
    for (job, n) in jobs.into_iter().zip(1..) {
        assert_eq!(end(job).unwrap(), n);
    }
    end(cancelled).unwrap_err();
}

#[test]
fn a_hook_that_does_not_call_the_batch_costs_one_job_each_time() {
    for panics in [false, true] {
        let calls = Count::new();
        let counted = calls.clone();
        let pool = one()
            .around_batch(LIMIT, move |batch| {
                if counted.add() > 2 {
                    return batch();
                }
                assert!(!panics, "in the hook");
            })
            .build()
            .unwrap();
        for _ in 0..2 {
            assert!(end(pool.run(|| ())).unwrap_err().is_cancelled());
        }
        assert_eq!(end(pool.run(|| 7)).unwrap(), 7);
    }
}

#[test]
fn a_job_that_blocks_by_other_means_than_a_handle_has_a_stand_in() {
    for pool in [one(), one().spawn_handler(spawn).around_batch(LIMIT, |batch| batch())] {
        let pool = pool.build().unwrap();
        let inner = pool.clone();
        let outer = pool.run(move || {
            let (send, receive) = channel();
            inner.run(move || send.send(7).unwrap()).detach();
            offloop::job::blocking(|| receive.recv_timeout(common::GIVE_UP).unwrap())
        });
        assert_eq!(end(outer).unwrap(), 7);
        eventually("the stand-in has left", || pool.worker_count() <= 1);
    }
}

#[test]
fn blocking_elsewhere_is_a_plain_call() {
    assert_eq!(offloop::job::blocking(|| 7), 7);
}

#[test]
fn threads_can_be_started_before_there_is_work() {
    let pool = ThreadPool::builder().max_workers(3).spawn_handler(spawn).build().unwrap();
    for (wanted, there) in [(1, 1), (0, 1), (2, 2), (9, 3)] {
        pool.prestart(wanted);
        assert_eq!(pool.worker_count(), there);
    }
    let barrier = Arc::new(Barrier::new(3));
    let jobs: Vec<_> = (0..3)
        .map(|_| {
            let barrier = Arc::clone(&barrier);
            pool.run(move || {
                barrier.wait();
            })
        })
        .collect();
    for job in jobs {
        end(job).unwrap();
    }
    assert_eq!(pool.worker_count(), 3);
    pool.close();
    pool.prestart(9);
    eventually("they leave", || pool.worker_count() == 0);
}

#[test]
fn a_system_that_refuses_threads_is_asked_once() {
    let asked = Count::new();
    let counted = asked.clone();
    let pool = ThreadPool::builder()
        .max_workers(3)
        .spawn_handler(move |_worker| {
            counted.add();
            Err(io::Error::other("no more of them"))
        })
        .build()
        .unwrap();
    comes_back("the start of threads", {
        let pool = pool.clone();
        move || pool.prestart(3)
    });
    assert_eq!((asked.get(), pool.worker_count()), (1, 0));
}

#[test]
fn a_closed_pool_runs_what_it_has_accepted_and_accepts_no_more() {
    let pool = one().build().unwrap();
    let (gate, first) = occupy(&pool);
    let queued = pool.run(|| 7);
    pool.close();
    assert!(matches!(end(pool.run(|| ())).unwrap_err().kind(), ErrorKind::Closed));
    gate.open();
    end(first).unwrap();
    assert_eq!(end(queued).unwrap(), 7);
    eventually("its thread leaves", || pool.worker_count() == 0);
}

#[test]
fn the_queue_can_be_cancelled_while_running_jobs_go_on() {
    let pool = one().queue_capacity(2).build().unwrap();
    let (gate, first) = occupy(&pool);
    let queued: Vec<_> = (0..5).map(|_| pool.run(|| ())).collect();
    assert_eq!(pool.cancel_queued(), 5);
    for job in queued {
        assert!(end(job).unwrap_err().is_cancelled());
    }
    gate.open();
    end(first).unwrap();
    assert_eq!(end(pool.run(|| 7)).unwrap(), 7);
}
