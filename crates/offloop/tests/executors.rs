//! Executors that a program implements itself, and what the engine promises to them and to their callers.

#![allow(missing_docs, reason = "a test crate has no users")]

mod common;

use std::sync::{Arc, Mutex};

use common::{Count, end, occupy, single, tid};
use offloop::{
    ErrorKind, Executor, Inline, Job, JobState, Rejected, ThreadPool, job, prepare, run_in_executor,
};

/// An executor that keeps its jobs.
#[derive(Default, Clone)]
struct Keep(Arc<Mutex<Vec<Job>>>);

impl Executor for Keep {
    fn execute(&self, job: Job) -> Result<(), Rejected<Job>> {
        self.0.lock().unwrap().push(job);
        Ok(())
    }
}

impl Keep {
    fn take(&self) -> Job {
        self.0.lock().unwrap().pop().unwrap()
    }
}

/// An executor that takes nothing.
struct Refuse;

impl Executor for Refuse {
    fn execute(&self, job: Job) -> Result<(), Rejected<Job>> {
        Err(Rejected::new(job, ErrorKind::Rejected("not today".into())))
    }
}

/// An executor that forgets its jobs.
struct Forget;

impl Executor for Forget {
    fn execute(&self, job: Job) -> Result<(), Rejected<Job>> {
        drop(job);
        Ok(())
    }
}

#[test]
fn inline_runs_the_job_on_the_submitter_before_it_returns() {
    let handle = run_in_executor(&Inline, tid);
    assert_eq!(handle.state(), JobState::Ended);
    assert_eq!(handle.wait().unwrap(), tid());
    assert!(run_in_executor(&Inline, || panic!("inline")).wait().unwrap_err().is_panic());
}

#[test]
fn within_a_nested_job_the_inner_one_is_current_and_then_the_outer_one_again() {
    let outer = prepare(|| {
        let inner = run_in_executor(&Inline, prepare(job::name).name("inner")).wait().unwrap();
        (inner, job::name())
    });
    let (inner, after) = run_in_executor(&Inline, outer.name("outer")).wait().unwrap();
    assert_eq!((inner.as_deref(), after.as_deref()), (Some("inner"), Some("outer")));
}

#[test]
fn dropping_an_unrun_job_cancels_its_handle() {
    let dropped = Count::new();
    let guard = dropped.on_drop();
    let handle = run_in_executor(&Forget, move || drop(guard));
    assert_eq!((handle.state(), dropped.get()), (JobState::Ended, 1));
    assert!(end(handle).unwrap_err().is_cancelled());
}

#[test]
fn a_rejection_becomes_the_handles_error() {
    let dropped = Count::new();
    let guard = dropped.on_drop();
    let error = end(run_in_executor(&Refuse, move || drop(guard))).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Rejected(reason) if reason == "not today"), "{error:?}");
    assert_eq!(dropped.get(), 1);
}

#[test]
fn a_rejected_job_can_go_to_another_executor() {
    struct Fallback(ThreadPool);
    impl Executor for Fallback {
        fn execute(&self, job: Job) -> Result<(), Rejected<Job>> {
            Refuse.execute(job).or_else(|rejected| self.0.execute(rejected.into_work()))
        }
    }
    assert_ne!(end(run_in_executor(&Fallback(single()), tid)).unwrap(), tid());
}

#[test]
fn an_executor_may_be_borrowed_boxed_or_shared() {
    let borrowed: &dyn Executor = &Inline;
    assert_eq!(end(run_in_executor(borrowed, || 1)).unwrap(), 1);
    assert_eq!(end(run_in_executor(&borrowed, || 1)).unwrap(), 1);
    let boxed: Box<dyn Executor> = Box::new(single());
    assert_eq!(end(run_in_executor(&boxed, || 2)).unwrap(), 2);
    let shared: Arc<dyn Executor + Send + Sync> = Arc::new(Inline);
    assert_eq!(end(run_in_executor(&shared, || 3)).unwrap(), 3);
}

#[test]
fn a_kept_job_has_its_id_its_name_and_its_priority() {
    let keep = Keep::default();
    let handle = run_in_executor(&keep, prepare(|| 7).name("kept").priority(4));
    let job = keep.take();
    assert_eq!((job.id(), job.name(), job.priority()), (handle.id(), "kept", 4));
    assert!(!job.is_cancelled());
    job.run();
    assert_eq!(end(handle).unwrap(), 7);
}

#[test]
fn a_kept_job_that_was_cancelled_does_nothing_when_it_is_run() {
    let keep = Keep::default();
    let ran = Count::new();
    let run = ran.clone();
    let handle = run_in_executor(&keep, move || run.add());
    handle.cancel();
    let job = keep.take();
    assert!(job.is_cancelled());
    job.run();
    assert_eq!(ran.get(), 0);
    assert!(end(handle).unwrap_err().is_cancelled());
}

#[test]
fn a_hook_surrounds_the_run() {
    let keep = Keep::default();
    let order = Arc::new(Mutex::new(Vec::new()));
    let note = |what: &'static str| {
        let order = Arc::clone(&order);
        move || order.lock().unwrap().push(what)
    };
    let handle = run_in_executor(&keep, note("run"));
    let (before, after) = (note("before"), note("after"));
    let job = keep.take().around(move |run| {
        before();
        run();
        after();
    });
    assert_eq!(job.id(), handle.id());
    job.run();
    end(handle).unwrap();
    assert_eq!(*order.lock().unwrap(), ["before", "run", "after"]);
}

#[test]
fn a_job_with_a_hook_runs_in_a_pool_and_can_be_cancelled_there() {
    struct Hooked(ThreadPool, Count);
    impl Executor for Hooked {
        fn execute(&self, job: Job) -> Result<(), Rejected<Job>> {
            let calls = self.1.clone();
            self.0.execute(job.around(move |run| {
                calls.add();
                run();
            }))
        }
    }
    let executor = Hooked(single(), Count::new());
    assert_eq!(end(run_in_executor(&executor, || 7)).unwrap(), 7);
    let (gate, _busy) = occupy(&executor.0);
    let queued = run_in_executor(&executor, || 7);
    assert_eq!(executor.0.queued(), 1);
    drop(queued);
    assert_eq!(executor.0.queued(), 0);
    gate.open();
    end(executor.0.run(|| ())).unwrap();
    assert_eq!(executor.1.get(), 1, "the hook of a cancelled job was called");
}

#[test]
fn a_hook_that_does_not_call_the_run_cancels_the_job() {
    let keep = Keep::default();
    let handle = run_in_executor(&keep, || 7);
    keep.take().around(|_| ()).run();
    assert!(end(handle).unwrap_err().is_cancelled());
}

#[test]
fn a_hook_that_panics_before_the_run_ends_the_job_with_its_panic() {
    let keep = Keep::default();
    let handle = run_in_executor(&keep, || 7);
    keep.take().around(|_| panic!("a hook")).run();
    assert!(end(handle).unwrap_err().is_panic());
}

#[test]
fn a_hook_that_panics_after_the_run_does_not_change_the_result() {
    let keep = Keep::default();
    let handle = run_in_executor(&keep, || 7);
    let hooked = keep.take().around(|run| {
        run();
        panic!("a hook");
    });
    hooked.run();
    assert_eq!(end(handle).unwrap(), 7);
}

#[test]
fn a_hook_that_calls_the_run_twice_runs_the_job_once() {
    let keep = Keep::default();
    let ran = Count::new();
    let run = ran.clone();
    let handle = run_in_executor(&keep, move || run.add());
    keep.take()
        .around(|run| {
            run();
            run();
        })
        .run();
    assert_eq!((end(handle).unwrap(), ran.get()), (1, 1));
}

#[test]
fn a_hook_of_a_cancelled_job_is_not_called() {
    let keep = Keep::default();
    let handle = run_in_executor(&keep, || 7);
    let called = Count::new();
    let call = called.clone();
    let job = keep.take().around(move |run| {
        call.add();
        run();
    });
    drop(handle);
    job.run();
    assert_eq!(called.get(), 0);
}

#[test]
fn dropping_a_job_with_a_hook_cancels_its_handle() {
    let keep = Keep::default();
    let handle = run_in_executor(&keep, || 7);
    drop(keep.take().around(|run| run()));
    assert!(end(handle).unwrap_err().is_cancelled());
}

#[test]
fn an_executor_that_panics_cancels_the_job() {
    struct Panics;
    impl Executor for Panics {
        fn execute(&self, _: Job) -> Result<(), Rejected<Job>> {
            panic!("an executor");
        }
    }
    let dropped = Count::new();
    let guard = dropped.on_drop();
    let submit = std::panic::AssertUnwindSafe(|| run_in_executor(&Panics, move || drop(guard)));
    assert!(std::panic::catch_unwind(submit).is_err());
    assert_eq!(dropped.get(), 1);
}

#[test]
fn a_job_whose_executor_refuses_it_after_running_it_has_its_result() {
    struct Liar;
    impl Executor for Liar {
        fn execute(&self, job: Job) -> Result<(), Rejected<Job>> {
            job.run();
            let other = Keep::default();
            run_in_executor(&other, || ()).detach();
            Err(Rejected::new(other.take(), ErrorKind::Closed))
        }
    }
    assert_eq!(end(run_in_executor(&Liar, || 7)).unwrap(), 7);
}

/// Compiles if the types can be used across `catch_unwind`.
#[test]
fn pools_handles_and_errors_can_be_used_across_catch_unwind() {
    fn check<T: std::panic::UnwindSafe + std::panic::RefUnwindSafe>() {}
    check::<offloop::Handle<std::cell::Cell<u32>>>();
    check::<offloop::ThreadPool>();
    check::<offloop::StatePool<std::cell::Cell<u32>>>();
    check::<offloop::Job>();
    check::<offloop::Error>();
    check::<offloop::BuildError>();
    check::<offloop::Panic>();
    check::<offloop::Captured>();
    check::<offloop::ShutdownReport>();
    #[cfg(feature = "watch")]
    check::<offloop::watch::WatchGuard>();
    #[cfg(all(feature = "process", target_os = "linux"))]
    {
        check::<offloop::ProcessPool>();
        check::<offloop::ItemStream<std::cell::Cell<u32>>>();
        check::<offloop::Blob>();
        check::<offloop::BlobMut>();
        check::<offloop::PrivateBlob>();
    }
}
