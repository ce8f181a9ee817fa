//! A pool that was built before `fork()` returns errors in the child, and never hangs there.
//!
//! The child reports through its exit status. An alarm ends it if it hangs.

#![cfg(target_os = "linux")]
#![allow(missing_docs, reason = "a test crate has no users")]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Gate, end, eventually, occupy};
use offloop::{ErrorKind, Handle, JobState, ThreadPool, prepare};

/// The time in seconds after which a child that hangs is ended.
const ALARM: u32 = 20;

/// Runs `child` in a forked child. Returns the child's exit status, or the negated signal that ended it.
fn in_child(child: impl FnOnce()) -> i32 {
    // SAFETY: the child runs nothing but `child`, which is a test of what may be done there, and `_exit`.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: `alarm` and `_exit` may be called after `fork` in a program with threads.
            unsafe {
                libc::alarm(ALARM);
                let ok = catch_unwind(AssertUnwindSafe(child)).is_ok();
                libc::_exit(i32::from(!ok));
            }
        }
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        pid => {
            let mut status = 0;
            // SAFETY: `status` outlives the call, and `pid` is a child of this process that no other thread waits for.
            assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
            if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -libc::WTERMSIG(status) }
        }
    }
}

#[track_caller]
fn survives_fork(child: impl FnOnce()) {
    assert_eq!(in_child(child), 0, "-{} means that it hung", libc::SIGALRM);
}

fn is_forked<T>(result: Result<T, offloop::Error>) -> bool {
    matches!(result.map_err(offloop::Error::into_kind), Err(ErrorKind::Forked))
}

/// Threads that submit and cancel, so that a fork is likely to find the pool's locks held.
struct Traffic {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Traffic {
    fn on(pool: &ThreadPool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let submit = |n: u64| {
            let (pool, stop) = (pool.clone(), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let job = pool.run(prepare(|| ()).queue_timeout(Duration::from_millis(n)));
                    drop(pool.run(|| ()));
                    let _ = format!("{pool:?}");
                    drop(job);
                }
            })
        };
        let threads = (1..=2).map(submit).collect();
        Self { stop, threads }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

/// Calls every method of the pool, in a child.
fn try_everything(pool: &ThreadPool) {
    assert!(is_forked(pool.run(|| 7).wait()));
    let rejected = pool.try_run(|| 7).unwrap_err();
    assert!(matches!(rejected.kind(), ErrorKind::Forked));
    assert_eq!(rejected.into_work()(), 7, "the work is returned");
    assert!(is_forked(pool.map(0..3, |n| n).wait_next().unwrap()));
    assert!(is_forked(pool.run(prepare(|| 7).queue_timeout(Duration::from_secs(1))).wait()));
    assert_eq!((pool.worker_count(), pool.queued()), (0, 0), "the child has none of its threads and jobs");
    assert!(format!("{pool:?}").contains("ThreadPool"));
    assert!(is_forked(pool.shutdown(Duration::from_secs(1)).wait()));
    drop(pool.clone());
}

#[test]
fn a_pool_used_in_a_forked_child_fails_there_and_goes_on_in_the_parent() {
    let pool = ThreadPool::builder().max_workers(2).build().unwrap();
    assert_eq!(end(pool.run(|| 7)).unwrap(), 7);
    survives_fork(|| try_everything(&pool));
    assert_eq!(end(pool.run(|| 7)).unwrap(), 7);
    assert_eq!(end(pool.shutdown(common::GIVE_UP)).unwrap().stuck.len(), 0);
}

#[test]
fn a_fork_that_finds_the_pools_locks_held_makes_no_child_hang() {
    let pool = ThreadPool::builder().max_workers(1).queue_capacity(8).build().unwrap();
    let traffic = Traffic::on(&pool);
    for _ in 0..300 {
        survives_fork(|| {
            // Few calls, since this is about the pool's locks and not about those of the allocator.
            assert!(is_forked(pool.run(|| 7).wait()));
            assert_eq!((pool.worker_count(), pool.queued()), (0, 0));
            assert!(is_forked(pool.shutdown(Duration::from_secs(1)).wait()));
            let own = ThreadPool::builder().max_workers(1).build().unwrap();
            drop(own);
        });
    }
    drop(traffic);
    assert_eq!(end(pool.run(|| 7)).unwrap(), 7);
}

#[test]
fn a_handle_from_before_the_fork_fails_in_the_child() {
    let pool = ThreadPool::builder().max_workers(1).queue_capacity(1).build().unwrap();
    let (gate, mut running) = occupy(&pool);
    let queued = pool.run(|| 7);
    let mut waiting = pool.run(|| 7);
    survives_fork(|| {
        assert!(is_forked(running.wait_timeout(Duration::from_secs(1)).unwrap()));
        assert!(!queued.cancel(), "the child has nothing to cancel");
        waiting.wait_accepted();
        assert!(is_forked(futures_lite::future::block_on(&mut waiting)));
        drop(waiting.timeout(Duration::from_millis(1)));
    });
    gate.open();
    assert_eq!(end(queued).unwrap(), 7, "the parent's job was touched");
}

#[test]
fn dropping_handles_and_the_last_clone_in_the_child_touches_nothing() {
    let pool = ThreadPool::builder().max_workers(1).build().unwrap();
    let (gate, running) = occupy(&pool);
    let queued = pool.run(|| 7);
    // The child drops its copies. The parent's copies stay in place.
    let mut held = Some((pool, running, queued));
    let status = in_child(|| drop(held.take()));
    assert_eq!(status, 0);
    let (pool, running, queued) = held.expect("the parent's copy was taken");
    assert_eq!(running.state(), JobState::Running);
    gate.open();
    assert_eq!(end(queued).unwrap(), 7);
    assert_eq!(end(pool.run(|| 8)).unwrap(), 8);
}

#[test]
fn dropping_the_last_clone_in_the_child_while_the_parents_threads_are_busy_does_not_hang() {
    let mut held = Some(ThreadPool::builder().max_workers(2).queue_capacity(100_000).build().unwrap());
    for _ in 0..200 {
        for _ in 0..300 {
            held.as_ref().unwrap().run(|| ()).detach();
        }
        // The workers run these jobs now, and take the pool's lock for each.
        assert_eq!(in_child(|| drop(held.take())), 0);
    }
}

#[test]
fn a_pool_built_in_the_child_works_and_keeps_timeouts() {
    // The parent has a timer thread, which the fork does not copy.
    let pool = ThreadPool::builder().max_workers(1).build().unwrap();
    let far = Duration::from_secs(3600);
    assert_eq!(end(pool.run(prepare(|| 7).queue_timeout(far))).unwrap(), 7);
    survives_fork(|| {
        let pool = ThreadPool::builder().max_workers(1).build().unwrap();
        let gate = Gate::new();
        let pass = gate.clone();
        let busy: Handle<()> = pool.run(move || pass.pass());
        eventually("it runs", || busy.state() == JobState::Running);
        let late = pool.run(prepare(|| 7).queue_timeout(Duration::from_millis(5)));
        assert!(late.wait().unwrap_err().is_timeout());
        gate.open();
        busy.wait().unwrap();
        assert_eq!(pool.shutdown(far).wait().unwrap().stuck.len(), 0);
    });
}

#[test]
fn a_forked_child_has_default_lanes_of_its_own() {
    let inherited = offloop::io_lane();
    assert_eq!(end(offloop::run(|| 7)).unwrap(), 7);
    assert_eq!(end(offloop::run_cpu(|| 7)).unwrap(), 7);
    survives_fork(|| {
        assert!(is_forked(inherited.run(|| 7).wait()));
        assert_eq!(end(offloop::run(|| 8)).unwrap(), 8);
        assert_eq!(end(offloop::run_cpu(|| 9)).unwrap(), 9);
    });
    assert_eq!(end(offloop::run(|| 7)).unwrap(), 7);
}

#[test]
fn a_fork_while_other_threads_build_pools_makes_no_child_hang() {
    let stop = Arc::new(AtomicBool::new(false));
    let builders: Vec<_> = (0..2)
        .map(|_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let pool = ThreadPool::builder().name("of-the-parent").build().unwrap();
                    assert!(!offloop::metrics::all().is_empty());
                    drop(pool);
                }
            })
        })
        .collect();
    for _ in 0..300 {
        survives_fork(|| {
            let pool = ThreadPool::builder().name("of-the-child").build().unwrap();
            let names: Vec<_> = offloop::metrics::all().into_iter().map(|metrics| metrics.pool).collect();
            assert_eq!(names, ["of-the-child".into()], "the child lists pools of the parent");
            drop(pool);
        });
    }
    stop.store(true, Ordering::Relaxed);
    for builder in builders {
        builder.join().unwrap();
    }
}

#[test]
fn a_job_may_fork_and_its_thread_ends_in_the_child() {
    // With this idle timeout, a thread that rested in the child would not leave.
    let pool = ThreadPool::builder().max_workers(1).idle_timeout(Duration::from_secs(3600)).build().unwrap();
    let traffic = Traffic::on(&pool);
    let forked = end(pool.run(|| {
        // SAFETY: the child returns from the job at once.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: `alarm` may be called after `fork` in a program with threads.
            unsafe { libc::alarm(ALARM) };
        }
        pid
    }));
    let pid = forked.unwrap();
    let mut status = 0;
    // SAFETY: `status` outlives the call, and `pid` is a child of this process that no other thread waits for.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert!(libc::WIFEXITED(status), "ended by signal {}: it hung", libc::WTERMSIG(status));
    drop(traffic);
}
