//! The number of a pool's threads, their properties, and jobs that wait for a job of their own pool.

#![allow(missing_docs, reason = "a test crate has no users")]

mod common;

use std::io;
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use common::{Count, Gate, OnDrop, comes_back, end, eventually, occupy, single, sleeps, threads_named, tid};
use offloop::embed::{Growth, ThreadPoolBuilderExt};
use offloop::{Error, Handle, JobState, ThreadPool, prepare};

#[test]
fn slow_jobs_grow_the_pool_and_idle_threads_leave_down_to_the_minimum() {
    let pool = ThreadPool::builder()
        .name("elastic")
        .min_workers(2)
        .max_workers(200)
        .idle_timeout(Duration::from_millis(100))
        .build()
        .unwrap();
    assert_eq!(threads_named("elastic").len(), 0, "no thread starts before there is work");

    // The barrier opens only if all 200 jobs run at the same time; and once more when they have been counted.
    let barrier = Arc::new(Barrier::new(201));
    let jobs: Vec<_> = (0..200)
        .map(|_| {
            let barrier = Arc::clone(&barrier);
            pool.run(move || {
                barrier.wait();
                barrier.wait();
            })
        })
        .collect();
    barrier.wait();
    assert_eq!(pool.worker_count(), 200);
    assert_eq!(threads_named("elastic").len(), 200);
    barrier.wait();
    for job in jobs {
        end(job).unwrap();
    }

    eventually("the pool shrinks", || pool.worker_count() == 2);
    eventually("its threads are gone", || threads_named("elastic").len() == 2);
    end(pool.run(|| ())).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(threads_named("elastic").len(), 2, "the minimum stays");
}

#[test]
fn a_pool_can_be_resized_while_its_jobs_run_and_wait() {
    for growth in [Growth::OnDemand, Growth::Eager] {
        let pool = ThreadPool::builder()
            .name("resized")
            .idle_timeout(Duration::MAX)
            .max_workers(1)
            .min_workers(1)
            .growth(growth)
            .build()
            .unwrap();
        let (gate, running) = (Gate::new(), Count::new());
        let job = |gate: &Gate| {
            let (gate, running) = (gate.clone(), running.clone());
            move || {
                let now = running.add();
                gate.pass();
                running.sub();
                now
            }
        };
        let jobs: Vec<_> = (0..6).map(|_| pool.run(job(&gate))).collect();
        eventually("one runs", || running.get() == 1);
        pool.set_max_workers(4);
        eventually("four run", || running.get() == 4);
        pool.set_max_workers(2);
        gate.open();
        for job in jobs {
            assert!(end(job).unwrap() <= 4);
        }
        eventually("the surplus threads leave", || pool.worker_count() <= 2);

        let gate = Gate::new();
        let jobs: Vec<_> = (0..6).map(|_| pool.run(job(&gate))).collect();
        eventually("two run", || running.get() == 2);
        // Gives a third every opportunity to start.
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(running.get(), 2);
        // Idle threads leave at once, and one stays.
        gate.open();
        for job in jobs {
            assert!(end(job).unwrap() <= 2);
        }
        eventually("they rest", || {
            let threads = threads_named("resized");
            threads.len() == 2 && threads.iter().all(|tid| sleeps(*tid))
        });
        pool.set_max_workers(0);
        eventually("one is left", || pool.worker_count() <= 1);
        end(pool.run(|| ())).unwrap();
    }
}

#[test]
fn a_pool_never_has_more_threads_than_its_maximum() {
    let pool = ThreadPool::builder().name("capped").max_workers(3).build().unwrap();
    let (gate, running) = (Gate::new(), Count::new());
    let jobs: Vec<_> = (0..30)
        .map(|_| {
            let (gate, running) = (gate.clone(), running.clone());
            pool.run(move || {
                let now = running.add();
                gate.pass();
                running.sub();
                now
            })
        })
        .collect();
    eventually("three run", || running.get() == 3);
    // Gives a fourth every opportunity to start.
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!((running.get(), pool.worker_count(), threads_named("capped").len()), (3, 3, 3));
    gate.open();
    for job in jobs {
        assert!(end(job).unwrap() <= 3);
    }
}

#[test]
fn a_pool_that_grows_eagerly_starts_a_thread_with_each_job_up_to_its_maximum() {
    for (growth, counts) in [(Growth::OnDemand, [1, 1, 1, 1]), (Growth::Eager, [1, 2, 3, 3])] {
        let (workers, started) = channel();
        let workers = Mutex::new(workers);
        let pool = ThreadPool::builder()
            .max_workers(3)
            .growth(growth)
            .spawn_handler(move |worker| workers.lock().unwrap().send(worker).map_err(io::Error::other))
            .build()
            .unwrap();
        // No thread runs yet, so none can take a job.
        let submit = |count| {
            let job = pool.run(|| ());
            assert_eq!(pool.worker_count(), count, "{growth:?}");
            job
        };
        let jobs = counts.map(submit);
        let threads = std::thread::spawn(move || {
            started.into_iter().map(|worker| std::thread::spawn(|| worker.run())).collect::<Vec<_>>()
        });
        for job in jobs {
            end(job).unwrap();
        }
        drop(pool);
        comes_back("the threads", || {
            for thread in threads.join().unwrap() {
                thread.join().unwrap();
            }
        });
    }
}

#[test]
fn a_pool_that_grows_eagerly_starts_no_thread_for_a_job_that_an_idle_one_can_take() {
    let pool = ThreadPool::builder()
        .max_workers(100)
        .idle_timeout(Duration::from_secs(3600))
        .growth(Growth::Eager)
        .build()
        .unwrap();
    let barrier = Arc::new(Barrier::new(3));
    let submit = || {
        let barrier = Arc::clone(&barrier);
        pool.run(move || {
            barrier.wait();
            tid()
        })
    };
    let threads: Vec<i32> = [submit(), submit(), submit()].into_iter().map(|job| end(job).unwrap()).collect();
    for _ in 0..20 {
        // A thread may sleep for a moment on its way to rest, too.
        let mut calm = 0;
        eventually("all rest", || {
            calm = if threads.iter().all(|thread| sleeps(*thread)) { calm + 1 } else { 0 };
            calm == 5
        });
        for job in [submit(), submit(), submit()] {
            assert!(threads.contains(&end(job).unwrap()));
        }
        assert_eq!(pool.worker_count(), 3);
    }
}

#[test]
fn a_pool_that_grows_eagerly_keeps_priorities_limits_and_nested_waits() {
    let pool = ThreadPool::builder().max_workers(1).growth(Growth::Eager).build().unwrap();
    assert_eq!(end(nest(&pool, 5, Handle::wait)).unwrap(), 5);
    let (gate, busy) = occupy(&pool);
    let order = Arc::new(Mutex::new(Vec::new()));
    let submit = |priority| {
        let order = Arc::clone(&order);
        pool.run(prepare(move || order.lock().unwrap().push(priority)).priority(priority))
    };
    let jobs = [submit(0), submit(-1), submit(1)];
    assert_eq!(pool.queued(), 3);
    let late = pool.run(prepare(|| ()).queue_timeout(Duration::from_millis(5)));
    assert!(end(late).unwrap_err().is_timeout());
    gate.open();
    end(busy).unwrap();
    for job in jobs {
        end(job).unwrap();
    }
    assert_eq!(*order.lock().unwrap(), [1, 0, -1]);
}

#[test]
fn the_most_recently_idle_thread_is_reused_so_that_the_others_can_leave() {
    let pool = ThreadPool::builder().max_workers(4).build().unwrap();
    let barrier = Arc::new(Barrier::new(4));
    let jobs: Vec<_> = (0..4)
        .map(|_| {
            let barrier = Arc::clone(&barrier);
            pool.run(move || {
                barrier.wait();
                tid()
            })
        })
        .collect();
    let threads: Vec<i32> = jobs.into_iter().map(|job| end(job).unwrap()).collect();
    let rest = || eventually("all rest", || threads.iter().all(|thread| sleeps(*thread)));
    rest();
    let last = end(pool.run(tid)).unwrap();
    for _ in 0..50 {
        rest();
        assert_eq!(end(pool.run(tid)).unwrap(), last);
    }
}

#[test]
fn threads_have_the_name_and_the_stack_that_they_were_given() {
    fn dig(depth: usize) -> usize {
        let page = std::hint::black_box([depth; 512]);
        if depth == 0 { page[0] } else { page[1] + dig(depth - 1) - depth }
    }
    let pool = ThreadPool::builder().name("deep").max_workers(1).stack_size(64 << 20).build().unwrap();
    // At least 4 KiB a call: 8 MiB, far beyond the default stack.
    assert_eq!(end(pool.run(|| dig(2 * 1024))).unwrap(), 0);
    assert_eq!(
        end(pool.run(|| std::thread::current().name().map(str::to_owned))).unwrap().unwrap(),
        "deep-1"
    );
    assert_eq!(threads_named("deep").len(), 1);
}

#[test]
fn the_start_hook_runs_once_on_each_thread_before_its_first_job() {
    thread_local! {
        static CALLED: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
    }
    let pool = ThreadPool::builder()
        .max_workers(2)
        .on_worker_start(|| CALLED.set(CALLED.get() + 1))
        .build()
        .unwrap();
    let barrier = Arc::new(Barrier::new(2));
    for _ in 0..2 {
        let jobs: Vec<_> = (0..2)
            .map(|_| {
                let barrier = Arc::clone(&barrier);
                pool.run(move || {
                    barrier.wait();
                    CALLED.get()
                })
            })
            .collect();
        assert!(jobs.into_iter().all(|job| end(job).unwrap() == 1));
    }
}

#[test]
fn a_start_hook_that_panics_costs_no_thread_and_no_job() {
    let pool = ThreadPool::builder()
        .name("hooked")
        .max_workers(1)
        .on_worker_start(|| panic!("a hook"))
        .build()
        .unwrap();
    let first = end(pool.run(tid)).unwrap();
    assert_eq!(end(pool.run(tid)).unwrap(), first);
    assert_eq!(pool.worker_count(), 1);
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let builder = ThreadPool::builder;
    assert!(builder().max_workers(0).build().is_err());
    assert!(builder().max_workers(2).min_workers(3).build().is_err());
    assert!(builder().queue_capacity(0).build().is_err());
    assert!(builder().name("a\0b").build().is_err());
}

/// Submits a job that waits for a job that waits for a job, and so on, `depth` deep, all in one pool.
fn nest(pool: &ThreadPool, depth: u32, wait: fn(Handle<u32>) -> Result<u32, Error>) -> Handle<u32> {
    let inner = pool.clone();
    pool.run(move || if depth == 0 { 0 } else { 1 + wait(nest(&inner, depth - 1, wait)).unwrap() })
}

/// Runs nested jobs on one thread, and checks that no thread beyond that one stays.
fn nested_waits_complete(depth: u32, wait: fn(Handle<u32>) -> Result<u32, Error>) {
    let pool = ThreadPool::builder().max_workers(1).idle_timeout(Duration::from_secs(3600)).build().unwrap();
    assert_eq!(end(nest(&pool, depth, wait)).unwrap(), depth);
    eventually("the stand-ins leave", || pool.worker_count() == 1);
    assert_eq!(end(pool.run(|| 7)).unwrap(), 7);
}

#[test]
fn a_job_may_wait_for_a_job_of_its_own_pool() {
    nested_waits_complete(1, Handle::wait);
    nested_waits_complete(5, Handle::wait);
}

#[test]
fn a_job_may_await_a_job_of_its_own_pool() {
    nested_waits_complete(1, futures_lite::future::block_on);
    nested_waits_complete(5, futures_lite::future::block_on);
}

#[test]
fn a_job_may_wait_in_slices_for_a_job_of_its_own_pool() {
    nested_waits_complete(5, |mut handle| {
        loop {
            if let Some(result) = handle.wait_timeout(Duration::from_millis(1)) {
                return result;
            }
        }
    });
}

#[test]
fn many_jobs_at_once_may_wait_for_jobs_of_their_own_pool() {
    let pool = ThreadPool::builder().max_workers(1).idle_timeout(Duration::from_secs(3600)).build().unwrap();
    let jobs: Vec<_> = (0..50).map(|_| nest(&pool, 3, Handle::wait)).collect();
    assert!(jobs.into_iter().all(|job| end(job).unwrap() == 3));
    eventually("the stand-ins leave", || pool.worker_count() == 1);
}

#[test]
fn a_job_may_wait_for_room_in_its_own_pool() {
    let pool = ThreadPool::builder().max_workers(1).queue_capacity(1).build().unwrap();
    let inner = pool.clone();
    let outer = pool.run(move || {
        for n in 0..10 {
            let mut handle = inner.run(move || n);
            handle.wait_accepted();
            handle.detach();
        }
    });
    end(outer).unwrap();
}

#[test]
fn after_a_nested_wait_a_pool_of_one_thread_runs_one_job_at_a_time_again() {
    let pool = single();
    for _ in 0..20 {
        let inner = pool.clone();
        let (running, overlapped) = (Count::new(), Count::new());
        let (seen, overlap) = (running.clone(), overlapped.clone());
        let outer = pool.run(move || {
            inner.run(|| ()).wait().unwrap();
            running.add();
            let next = inner.run(move || {
                if seen.get() > 0 {
                    overlap.add();
                }
            });
            // The stand-in has every opportunity to take the next job, which it must not.
            std::thread::sleep(Duration::from_millis(2));
            running.sub();
            next
        });
        end(end(outer).unwrap()).unwrap();
        assert_eq!(overlapped.get(), 0, "two jobs ran at once in a pool of one thread");
    }
}

#[test]
fn a_stand_in_leaves_though_the_job_that_it_stood_in_for_runs_on() {
    let pool = ThreadPool::builder().max_workers(1).idle_timeout(Duration::from_secs(3600)).build().unwrap();
    for _ in 0..20 {
        let (waited, gate) = (Gate::new(), Gate::new());
        let (inner, done, pass) = (pool.clone(), waited.clone(), gate.clone());
        let outer = pool.run(move || {
            inner.run(|| ()).wait().unwrap();
            done.open();
            pass.pass();
        });
        waited.pass();
        eventually("the stand-in leaves", || pool.worker_count() == 1);
        gate.open();
        end(outer).unwrap();
    }
}

#[test]
fn a_job_that_waits_for_many_handles_has_one_stand_in() {
    let pool = single();
    let inner = pool.clone();
    let (running, overlapped) = (Count::new(), Count::new());
    let overlap = overlapped.clone();
    let outer = pool.run(move || {
        let job = || {
            let (running, overlap) = (running.clone(), overlap.clone());
            inner.run(move || {
                if running.add() > 1 {
                    overlap.add();
                }
                std::thread::sleep(Duration::from_millis(5));
                running.sub();
            })
        };
        let all = futures_lite::future::zip(futures_lite::future::zip(job(), job()), job());
        futures_lite::future::block_on(all)
    });
    let ((first, second), third) = end(outer).unwrap();
    assert!(first.is_ok() && second.is_ok() && third.is_ok());
    assert_eq!(overlapped.get(), 0, "more than one thread stood in for one");
}

#[test]
fn a_handle_that_outlives_the_job_that_polled_it_keeps_no_stand_in() {
    let pool = ThreadPool::builder().max_workers(1).idle_timeout(Duration::from_secs(3600)).build().unwrap();
    let other = single();
    let gate = Gate::new();
    let pass = gate.clone();
    let slow = end(pool.run(move || {
        let mut slow = other.run(move || pass.pass());
        assert!(futures_lite::future::block_on(futures_lite::future::poll_once(&mut slow)).is_none());
        slow
    }))
    .unwrap();

    // With a stand-in too many these two would run at once.
    let release = Gate::new();
    let pass = release.clone();
    let first = pool.run(move || pass.pass());
    eventually("the first runs", || first.state() == JobState::Running);
    let second = pool.run(|| ());
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!((second.state(), pool.worker_count()), (JobState::Queued, 1));
    release.open();
    end(second).unwrap();
    gate.open();
    end(slow).unwrap();
}

#[test]
fn pools_that_wait_for_each_other_do_not_deadlock() {
    let (one, two) = (single(), single());
    let handle = {
        let (inner_one, inner_two) = (one.clone(), two.clone());
        one.run(move || inner_two.run(move || inner_one.run(|| 7).wait().unwrap()).wait().unwrap())
    };
    assert_eq!(end(handle).unwrap(), 7);
    drop(two);
}

#[test]
fn the_destructor_of_an_unwanted_result_may_wait_for_its_own_pool_of_one_thread() {
    let pool = single();
    let (done, gate) = (Count::new(), Gate::new());
    let result = {
        let (pool, done, gate) = (pool.clone(), done.clone(), gate.clone());
        OnDrop(move || {
            // The thread is about to be free. The job that is queued next must not be stuck behind this wait.
            let next = pool.run(|| 7);
            gate.pass();
            assert_eq!(end(next).unwrap(), 7);
            done.add();
        })
    };
    // If the job ended before this, the result would be dropped by `detach`.
    let detached = Gate::new();
    let go = detached.clone();
    let handle = pool.run(move || {
        go.pass();
        result
    });
    handle.detach();
    detached.open();
    let later = pool.run(|| 8);
    gate.open();
    assert_eq!(end(later).unwrap(), 8);
    eventually("the destructor ends", || done.get() == 1);
}
