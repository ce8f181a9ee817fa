//! When the system refuses threads, jobs end with the reason or are run by the threads that exist. No job is lost and
//! nothing hangs.
//!
//! Each case runs in a process of its own, as an unprivileged user. The user's limit of threads is lowered to 0 at the
//! right moment, so the system really refuses with `EAGAIN`.

#![cfg(target_os = "linux")]
#![allow(missing_docs, reason = "a test crate has no users")]

mod common;

use std::process::Command;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use common::{Count, Gate, end, eventually, occupy, single};
use offloop::{ErrorKind, Handle, JobState, ThreadPool, prepare};

/// Set in the environment of the process that runs the case.
const CHILD: &str = "OFFLOOP_TEST_WITHOUT_THREADS";
/// The time in seconds after which a child that hangs is ended.
const ALARM: u32 = 60;
/// A user without privileges, for whom the limit holds.
const NOBODY: libc::uid_t = 65_534;

/// Runs `case`, the body of the test called `name`, in a process of its own.
fn alone(name: &str, case: fn()) {
    if std::env::var_os(CHILD).is_some() {
        // SAFETY: neither takes a pointer. Both change this process only, which exists for this case alone.
        unsafe {
            libc::alarm(ALARM);
            assert!(libc::geteuid() != 0 || libc::setuid(NOBODY) == 0, "cannot become nobody");
        }
        return case();
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    assert!(child.status.success() && out.contains("1 passed"), "{}\n{out}\n{err}", child.status);
}

fn set_limit(limit: libc::rlim_t) {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limits` outlives both calls.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NPROC, &raw mut limits), 0);
        limits.rlim_cur = limit.min(limits.rlim_max);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NPROC, &raw const limits), 0);
    }
}

/// Makes the system refuse threads from now on.
fn forbid() {
    set_limit(0);
    let refused = std::thread::Builder::new().spawn(|| ());
    assert_eq!(refused.err().and_then(|error| error.raw_os_error()), Some(libc::EAGAIN));
}

/// Makes the system grant threads again.
fn allow() {
    set_limit(libc::RLIM_INFINITY);
    std::thread::spawn(|| ()).join().unwrap();
}

fn could_not_start<T>(result: Result<T, offloop::Error>) -> bool {
    match result.map_err(offloop::Error::into_kind) {
        Ok(_) => false,
        Err(ErrorKind::WorkerStart(_)) => true,
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn without_any_thread_each_job_ends_with_the_reason() {
    alone("without_any_thread_each_job_ends_with_the_reason", || {
        let pool = ThreadPool::builder().max_workers(4).queue_capacity(2).build().unwrap();
        let (ran, dropped) = (Count::new(), Count::new());
        forbid();
        let jobs: Vec<_> = (0..100)
            .map(|_| {
                let (ran, guard) = (ran.clone(), dropped.on_drop());
                pool.run(move || {
                    drop(guard);
                    ran.add()
                })
            })
            .collect();
        assert!(jobs.into_iter().map(end).all(could_not_start));
        assert_eq!((ran.get(), dropped.get()), (0, 100));
        assert_eq!((pool.worker_count(), pool.queued()), (0, 0));

        let error = end(pool.run(|| 7)).unwrap_err();
        assert!(error.to_string().contains("Resource temporarily unavailable"), "{error}");
        assert!(could_not_start(pool.map(0..3, |n| n).wait_next().unwrap()));
        allow();
        assert_eq!(end(pool.run(|| 7)).unwrap(), 7, "the pool did not recover");
    });
}

#[test]
fn submitters_that_race_without_any_thread_lose_no_job() {
    alone("submitters_that_race_without_any_thread_lose_no_job", || {
        let pool = ThreadPool::builder().max_workers(4).queue_capacity(3).build().unwrap();
        let (ready, go) = (Arc::new(Barrier::new(5)), Arc::new(Barrier::new(5)));
        let submitters: Vec<_> = (0..4)
            .map(|_| {
                let (pool, ready, go) = (pool.clone(), Arc::clone(&ready), Arc::clone(&go));
                std::thread::spawn(move || {
                    ready.wait();
                    go.wait();
                    let jobs: Vec<_> = (0..200).map(|_| pool.run(|| 7)).collect();
                    jobs.into_iter().map(end).all(could_not_start)
                })
            })
            .collect();
        ready.wait();
        forbid();
        go.wait();
        assert!(submitters.into_iter().all(|submitter| submitter.join().unwrap()));
        assert_eq!((pool.worker_count(), pool.queued()), (0, 0));
    });
}

#[test]
fn one_busy_thread_runs_all_that_is_queued_when_no_other_can_start() {
    alone("one_busy_thread_runs_all_that_is_queued_when_no_other_can_start", || {
        let pool = ThreadPool::builder().max_workers(8).queue_capacity(10).build().unwrap();
        let (gate, busy) = occupy(&pool);
        forbid();
        let jobs: Vec<_> = (0..100).map(|n| pool.run(move || n)).collect();
        assert_eq!(pool.queued(), 100);
        gate.open();
        end(busy).unwrap();
        for (n, job) in jobs.into_iter().enumerate() {
            assert_eq!(end(job).unwrap(), n);
        }
        assert_eq!(pool.worker_count(), 1);
    });
}

#[test]
fn one_idle_thread_runs_all_jobs_when_no_other_can_start() {
    alone("one_idle_thread_runs_all_jobs_when_no_other_can_start", || {
        let pool = ThreadPool::builder().max_workers(8).build().unwrap();
        end(pool.run(|| ())).unwrap();
        forbid();
        for _ in 0..20 {
            let jobs: Vec<_> = (0..50).map(|n| pool.run(move || n)).collect();
            assert!(jobs.into_iter().enumerate().all(|(n, job)| end(job).unwrap() == n));
        }
    });
}

#[test]
fn a_nested_wait_without_a_stand_in_ends_with_the_reason() {
    alone("a_nested_wait_without_a_stand_in_ends_with_the_reason", || {
        let pool = single();
        let inner = pool.clone();
        let outer = pool.run(move || {
            forbid();
            let waited = could_not_start(inner.run(|| 7).wait());
            let awaited = could_not_start(futures_lite::future::block_on(inner.run(|| 7)));
            allow();
            (waited, awaited, inner.run(|| 7).wait().unwrap())
        });
        assert_eq!(end(outer).unwrap(), (true, true, 7));
    });
}

#[test]
fn nested_waits_on_every_thread_without_stand_ins_all_end() {
    alone("nested_waits_on_every_thread_without_stand_ins_all_end", || {
        let pool = ThreadPool::builder().max_workers(3).build().unwrap();
        let (ready, go) = (Arc::new(Barrier::new(4)), Arc::new(Barrier::new(4)));
        let jobs: Vec<_> = (0..3)
            .map(|_| {
                let (inner, ready, go) = (pool.clone(), Arc::clone(&ready), Arc::clone(&go));
                pool.run(move || {
                    ready.wait();
                    go.wait();
                    // The last job that has not begun to wait may still run what the first one waits for.
                    let result = inner.run(|| 7).wait();
                    result.is_ok() || could_not_start(result)
                })
            })
            .collect();
        ready.wait();
        forbid();
        go.wait();
        assert!(jobs.into_iter().all(|job| end(job).unwrap()));
    });
}

#[test]
fn without_a_stand_in_a_nested_job_is_run_by_another_thread_that_comes_back() {
    alone("without_a_stand_in_a_nested_job_is_run_by_another_thread_that_comes_back", || {
        let pool = ThreadPool::builder().max_workers(2).build().unwrap();
        let (gate, busy) = occupy(&pool);
        let (inner, waits) = (pool.clone(), Gate::new());
        let begun = waits.clone();
        let outer = pool.run(move || {
            forbid();
            begun.open();
            inner.run(|| 7).wait()
        });
        waits.pass();
        eventually("the nested job is queued", || pool.queued() == 1);
        gate.open();
        end(busy).unwrap();
        assert_eq!(end(outer).unwrap().unwrap(), 7);
    });
}

#[test]
fn a_job_whose_timeout_cannot_be_kept_ends_unrun() {
    alone("a_job_whose_timeout_cannot_be_kept_ends_unrun", || {
        let pool = single();
        end(pool.run(|| ())).unwrap();
        // The pool has its thread. The timer's thread has not started yet.
        forbid();
        let far = Duration::from_secs(3600);
        let ran = Count::new();
        let work = || {
            let ran = ran.clone();
            move || ran.add()
        };
        assert!(could_not_start(end(pool.run(prepare(work()).queue_timeout(far)))));
        assert!(could_not_start(end(pool.run(prepare(work()).run_timeout(far)))));
        let (gate, _busy): (Gate, Handle<()>) = occupy(&pool);
        let queued = pool.run(work());
        assert_eq!(queued.state(), JobState::Queued);
        assert!(could_not_start(end(queued.timeout(far))));
        gate.open();
        end(pool.run(|| ())).unwrap();
        assert_eq!(ran.get(), 0, "a job ran without its timeout");
        allow();
        assert_eq!(end(pool.run(prepare(work()).run_timeout(far))).unwrap(), 1);
    });
}

#[test]
fn a_shutdown_needs_no_thread() {
    alone("a_shutdown_needs_no_thread", || {
        let pool = ThreadPool::builder().max_workers(1).grace(Duration::from_millis(10)).build().unwrap();
        let (gate, _busy) = occupy(&pool);
        let queued = pool.run(|| 7);
        forbid();
        let report = pool.shutdown(Duration::from_millis(10));
        assert_eq!(report.state(), JobState::Ended);
        let report = end(report).unwrap();
        assert_eq!((report.cancelled, report.stuck.len()), (1, 1), "{report:?}");
        assert!(end(queued).unwrap_err().is_cancelled());
        gate.open();
    });
}
