//! What a handle learns of its job: results, panics, names, states. And jobs that misbehave, which harm no other.

#![allow(missing_docs, reason = "a test crate has no users")]

mod common;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::task::{Context, Wake, Waker};
use std::thread::current;
use std::time::Duration;

use common::{Count, Gate, OnDrop, comes_back, end, eventually, occupy, single};
use offloop::embed::HandleExt;
use offloop::{ErrorKind, Executor, Job, JobState, Panic, Rejected, ThreadPool, job, prepare};

fn seven() -> u32 {
    7
}

fn this_thread() -> String {
    current().name().unwrap_or_default().to_owned()
}

fn panic_of<T: std::fmt::Debug>(result: Result<T, offloop::Error>) -> Panic {
    match result.unwrap_err().into_kind() {
        ErrorKind::Panicked(panic) => panic,
        other => panic!("it should have been a panic: {other:?}"),
    }
}

#[test]
fn a_result_reaches_its_handle_however_it_is_awaited() {
    let pool = single();
    assert_eq!(pool.run(seven).wait().unwrap(), 7);
    assert_eq!(futures_lite::future::block_on(pool.run(seven)).unwrap(), 7);
    assert_eq!(end(pool.run(seven)).unwrap(), 7);
    assert_eq!(end(offloop::run(seven)).unwrap(), 7);
    assert_eq!(end(offloop::run_cpu(seven)).unwrap(), 7);
    assert_eq!(end(offloop::run_in_executor(&pool, seven)).unwrap(), 7);
}

#[test]
fn a_wait_with_a_limit_gives_up_and_leaves_the_job_alone() {
    let pool = single();
    let (gate, mut handle) = occupy(&pool);
    assert!(handle.wait_timeout(Duration::from_millis(5)).is_none());
    assert_eq!(handle.state(), JobState::Running);
    gate.open();
    assert!(handle.wait_timeout(common::GIVE_UP).unwrap().is_ok());
}

#[test]
fn a_panics_location_is_its_own_or_missing_and_never_that_of_another_panic() {
    use std::panic::{catch_unwind, panic_any, resume_unwind};
    let pool = single();
    let located = |work: fn()| {
        let panic = panic_of(pool.run(work).wait());
        (
            panic.message().to_owned(),
            panic.location().map(|it| it.rsplit(':').nth(1).unwrap().parse().unwrap()),
        )
    };
    let none = |message: &str| (message.to_owned(), None::<u32>);
    let at = |message: &str, line| (message.to_owned(), Some(line));
    // One that an earlier job has handled, on the same thread.
    pool.run(|| drop(catch_unwind(|| panic!("handled by the first job")))).wait().unwrap();
    assert_eq!(
        located(|| {
            let thread = std::thread::spawn(|| panic!("from elsewhere"));
            thread.join().unwrap_or_else(|payload| resume_unwind(payload));
        }),
        none("from elsewhere")
    );
    assert_eq!(located(|| rayon::scope(|s| s.spawn(|_| panic!("in rayon")))), none("in rayon"));
    // One that the same job has handled.
    assert_eq!(
        located(|| {
            let _ = catch_unwind(|| panic!("handled"));
            resume_unwind(Box::new("resumed by itself"));
        }),
        none("resumed by itself")
    );
    assert_eq!(
        located(|| {
            let _ = catch_unwind(|| panic!("handled"));
            panic!("not handled");
        }),
        at("not handled", line!() - 2)
    );
    // One that is handled while the thread unwinds from the job's own.
    assert_eq!(
        located(|| {
            struct Tidy;
            impl Drop for Tidy {
                fn drop(&mut self) {
                    let _ = catch_unwind(|| panic!("while {}", "unwinding"));
                    let _ = catch_unwind(|| panic_any(2));
                }
            }
            let _tidy = Tidy;
            panic!("the {}", "first");
        }),
        at("the first", line!() - 2)
    );
    // Its own that the job has caught and resumed.
    assert_eq!(
        located(|| {
            let payload = catch_unwind(|| panic!("kept {}", 1)).unwrap_err();
            let _ = catch_unwind(|| panic!("another {}", 2));
            resume_unwind(payload);
        }),
        at("kept 1", line!() - 4)
    );
    assert_eq!(located(|| panic_any(42)), at("a value that is not a string", line!()));
}

#[test]
fn a_panic_reaches_its_handle_with_message_and_location() {
    let line = line!() + 1;
    let panic = panic_of(end(single().run(|| panic!("boom {}", seven()))));
    assert_eq!(panic.message(), "boom 7");
    let location = panic.location().unwrap();
    assert!(location.contains("threads_results.rs"), "{location}");
    assert!(location.contains(&format!(":{line}:")), "{location} is not line {line}");
}

#[test]
fn a_resumed_panic_has_the_payload_of_the_job() {
    struct Payload(u32);
    let panic = panic_of(end(single().run(|| std::panic::panic_any(Payload(7)))));
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| panic.resume())).unwrap_err();
    assert_eq!(caught.downcast::<Payload>().unwrap().0, 7);
}

#[test]
fn a_panic_that_the_job_catches_itself_is_no_error() {
    let outcome = end(single().run(|| std::panic::catch_unwind(|| panic!("inner")).is_err()));
    assert!(outcome.unwrap());
}

#[test]
fn errors_name_the_job_by_its_function_unless_it_has_a_name() {
    let pool = single();
    let (gate, _busy) = occupy(&pool);

    let unnamed = pool.run(seven);
    assert!(unnamed.name().ends_with("threads_results::seven"), "{}", unnamed.name());
    unnamed.cancel();
    let id = unnamed.id();
    let error = end(unnamed).unwrap_err();
    assert_eq!(error.job(), id);
    assert!(error.job_name().ends_with("threads_results::seven"));

    let named = pool.run(prepare(seven).name("lucky"));
    named.cancel();
    let error = end(named).unwrap_err();
    assert_eq!(error.job_name(), "lucky");
    assert!(error.to_string().contains("`lucky`"), "{error}");
    gate.open();
}

#[test]
fn a_running_job_knows_its_id_and_its_name() {
    let handle =
        single().run(prepare(|| (job::id(), job::name(), job::check_cancelled())).name("self-aware"));
    let id = handle.id();
    assert_eq!(end(handle).unwrap(), (Some(id), Some("self-aware".to_owned()), Ok(())));
    assert_eq!((job::id(), job::name(), job::is_cancelled()), (None, None, false));
}

#[test]
fn a_job_goes_through_its_states_in_order() {
    let pool = ThreadPool::builder().max_workers(1).queue_capacity(1).build().unwrap();
    let (first_gate, first) = occupy(&pool);
    let gate = Gate::new();
    let pass = gate.clone();
    let second = pool.run(move || pass.pass());
    assert_eq!(second.state(), JobState::Queued);
    let third = pool.run(seven);
    assert_eq!(third.state(), JobState::Waiting);

    first_gate.open();
    eventually("the second runs", || second.state() == JobState::Running);
    end(first).unwrap();
    eventually("the third is admitted", || third.state() == JobState::Queued);
    gate.open();
    eventually("the third ends", || third.state() == JobState::Ended);
    assert_eq!(end(third).unwrap(), 7);
}

/// Runs jobs that misbehave, and checks that the pool's one thread is still the same.
fn worker_survives(misbehave: impl FnOnce(&ThreadPool)) {
    let pool = single();
    let before = end(pool.run(common::tid)).unwrap();
    misbehave(&pool);
    assert_eq!(end(pool.run(common::tid)).unwrap(), before, "the worker died and was replaced");
}

/// Runs `work` once its handle is gone, so that the worker drops its result.
fn detach<T: Send + 'static>(pool: &ThreadPool, work: impl FnOnce() -> T + Send + 'static) {
    let detached = Gate::new();
    let pass = detached.clone();
    let job = move || {
        pass.pass();
        work()
    };
    pool.run(job).detach();
    detached.open();
}

#[test]
fn a_panic_does_not_cost_its_worker() {
    worker_survives(|pool| drop(panic_of(end(pool.run(|| panic!("one"))))));
}

#[test]
fn a_captured_value_whose_destructor_panics_does_not_cost_its_worker() {
    worker_survives(|pool| {
        let bomb = OnDrop(|| panic!("captured"));
        let panic = panic_of(end(pool.run(move || drop(bomb))));
        assert_eq!(panic.message(), "captured");
    });
}

#[test]
fn a_result_that_nobody_takes_and_whose_destructor_panics_does_not_cost_its_worker() {
    worker_survives(|pool| {
        let gone = Gate::new();
        let dropped = gone.clone();
        let bomb = OnDrop(move || {
            dropped.open();
            panic!("result");
        });
        detach(pool, move || bomb);
        gone.pass();
    });
}

#[test]
fn the_result_of_a_job_cancelled_while_it_ran_is_dropped_quietly() {
    worker_survives(|pool| {
        let (gate, gone) = (Gate::new(), Gate::new());
        let (pass, dropped) = (gate.clone(), gone.clone());
        let handle = pool.run(move || {
            pass.pass();
            OnDrop(move || {
                dropped.open();
                panic!("result");
            })
        });
        eventually("it runs", || handle.state() == JobState::Running);
        drop(handle);
        gate.open();
        gone.pass();
    });
}

#[test]
fn a_payload_whose_destructor_panics_does_not_cost_its_worker() {
    worker_survives(|pool| {
        let gone = Gate::new();
        let dropped = gone.clone();
        let bomb = OnDrop(move || {
            dropped.open();
            panic!("payload");
        });
        detach(pool, move || std::panic::panic_any(bomb));
        gone.pass();
    });
}

#[test]
fn queued_work_whose_destructor_panics_can_be_cancelled() {
    let pool = single();
    let (gate, _busy) = occupy(&pool);
    let bomb = OnDrop(|| panic!("queued"));
    let handle = pool.run(move || drop(bomb));
    assert!(handle.cancel());
    assert!(end(handle).unwrap_err().is_cancelled());
    gate.open();
    assert_eq!(end(pool.run(seven)).unwrap(), 7);
}

struct PanickingWaker(Gate);

impl Wake for PanickingWaker {
    fn wake(self: Arc<Self>) {
        self.0.open();
        panic!("a waker");
    }
}

/// Polls `handle`, which is pending, with a waker that panics.
fn poll_with_bomb<F: Future + Unpin>(handle: &mut F) -> Gate {
    let woken = Gate::new();
    let waker = Waker::from(Arc::new(PanickingWaker(woken.clone())));
    assert!(Pin::new(handle).poll(&mut Context::from_waker(&waker)).is_pending());
    woken
}

#[test]
fn a_waker_that_panics_does_not_cost_the_worker_that_wakes_it() {
    worker_survives(|pool| {
        let (gate, mut handle) = occupy(pool);
        let woken = poll_with_bomb(&mut handle);
        gate.open();
        woken.pass();
        assert!(end(handle).is_ok());
    });
}

#[test]
fn a_waker_that_panics_on_admission_does_not_cost_the_worker_that_admits() {
    let pool = ThreadPool::builder().max_workers(1).queue_capacity(1).build().unwrap();
    let before = end(pool.run(common::tid)).unwrap();
    let (gate, _busy) = occupy(&pool);
    let queued = pool.run(seven);
    let mut waiting = pool.run(common::tid);
    let woken = poll_with_bomb(&mut Box::pin(waiting.accepted()));
    gate.open();
    woken.pass();
    assert_eq!(end(queued).unwrap(), 7);
    assert_eq!(end(waiting).unwrap(), before, "the worker died and was replaced");
}

#[test]
fn after_a_waker_has_panicked_timeouts_still_work() {
    let pool = single();
    let (gate, mut busy) = occupy(&pool);
    let mut queued = pool.run(prepare(seven).queue_timeout(Duration::from_millis(1)));
    if queued.state() != JobState::Ended {
        let mut queued = std::pin::pin!(&mut queued);
        let waker = Waker::from(Arc::new(PanickingWaker(Gate::new())));
        let _ = queued.as_mut().poll(&mut Context::from_waker(&waker));
    }
    eventually("the first timeout passes", || queued.state() == JobState::Ended);
    let queued = pool.run(prepare(seven).queue_timeout(Duration::from_millis(1)));
    assert!(end(queued).unwrap_err().is_timeout());
    gate.open();
    assert!(busy.wait_timeout(common::GIVE_UP).unwrap().is_ok());
}

/// An executor that keeps its jobs.
#[derive(Default, Clone)]
struct Keep(Arc<Mutex<Vec<Job>>>);

impl Executor for Keep {
    fn execute(&self, job: Job) -> Result<(), Rejected<Job>> {
        self.0.lock().unwrap().push(job);
        Ok(())
    }
}

/// A waker whose last clone drops what it holds, as the last waker of a task may drop the task.
struct TaskWaker {
    _task: OnDrop<Box<dyn FnMut() + Send + Sync>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn a_replaced_waker_is_dropped_when_no_lock_is_held() {
    let keep = Keep::default();
    let ran = Count::new();
    let mut handle = offloop::run_in_executor(&keep, {
        let ran = ran.clone();
        move || ran.add()
    });
    let old = {
        let keep = keep.clone();
        let run_it = move || {
            let job = keep.0.lock().unwrap().pop();
            job.into_iter().for_each(Job::run);
        };
        Waker::from(Arc::new(TaskWaker { _task: OnDrop(Box::new(run_it)) }))
    };
    assert!(Pin::new(&mut handle).poll(&mut Context::from_waker(&old)).is_pending());
    drop(old);
    comes_back("a poll that replaces a waker", move || {
        let _ = Pin::new(&mut handle).poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(end(handle).unwrap(), 1);
    });
    assert_eq!(ran.get(), 1);
}

#[test]
#[should_panic(expected = "after it had given its result")]
fn polling_a_handle_after_its_result_panics() {
    let mut handle = single().run(seven);
    assert!(handle.wait_timeout(common::GIVE_UP).unwrap().is_ok());
    let _ = handle.wait_timeout(common::GIVE_UP);
}

#[test]
fn threads_are_named_after_their_pool() {
    let pool = ThreadPool::builder().name("christened").max_workers(1).build().unwrap();
    assert_eq!(end(pool.run(this_thread)).unwrap(), "christened-1");
}

/// A waker that counts how often it is woken.
struct Bell(Count);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.add();
    }
}

fn bell() -> (Count, Waker) {
    let count = Count::new();
    (count.clone(), Waker::from(Arc::new(Bell(count))))
}

#[test]
fn the_end_wakes_the_last_registered_waker_once() {
    let pool = single();
    let (gate, mut handle) = occupy(&pool);
    let (first, first_waker) = bell();
    let (last, last_waker) = bell();
    assert!(!handle.on_end(&first_waker));
    assert!(!handle.on_end(&last_waker) && !handle.on_end(&last_waker));
    assert!(handle.try_result().is_none());
    gate.open();
    eventually("the waker is woken", || last.get() == 1);
    let (late, late_waker) = bell();
    assert!(handle.on_end(&late_waker), "it has ended");
    handle.try_result().expect("there is a result").unwrap();
    pool.run(seven).wait().unwrap();
    assert_eq!((first.get(), last.get(), late.get()), (0, 1, 0));
}

#[test]
fn every_way_to_end_wakes_the_registered_waker() {
    let pool = single();
    let (gate, _running) = occupy(&pool);
    for way in 0..4 {
        let mut handle = if way == 1 {
            pool.run(prepare(seven).queue_timeout(Duration::from_millis(50)))
        } else {
            pool.run(seven)
        };
        let (count, waker) = bell();
        if handle.on_end(&waker) {
            // The timeout passed before this thread came here.
            assert_eq!(way, 1);
            continue;
        }
        match way {
            0 => assert!(handle.cancel()),
            2 => assert!(handle.cancel_queued()),
            3 => assert_eq!(pool.cancel_queued(), 1),
            _ => {}
        }
        eventually("the waker is woken", || count.get() == 1);
        assert!(handle.try_result().expect("there is a result").is_err());
    }
    gate.open();
}

#[test]
fn a_waker_may_be_woken_before_the_end_and_is_registered_again() {
    let pool = ThreadPool::builder().max_workers(1).queue_capacity(1).build().unwrap();
    let (gate, _running) = occupy(&pool);
    let next = Gate::new();
    let pass = next.clone();
    let queued = pool.run(move || pass.pass());
    let mut waiting = pool.run(seven);
    assert_eq!(waiting.state(), JobState::Waiting);
    let (count, waker) = bell();
    assert!(!waiting.on_end(&waker));
    gate.open();
    eventually("there is room for it", || waiting.state() == JobState::Queued);
    eventually("the waker is woken for that", || count.get() == 1);
    assert!(waiting.try_result().is_none());
    assert!(!waiting.on_end(&waker));
    next.open();
    eventually("the waker is woken for the end", || count.get() == 2);
    assert_eq!(waiting.try_result().expect("there is a result").unwrap(), 7);
    end(queued).unwrap();
}

#[test]
fn a_result_is_returned_once() {
    let pool = single();
    let mut handle = pool.run(seven);
    eventually("it has ended", || handle.state() == JobState::Ended);
    assert_eq!(handle.try_result().unwrap().unwrap(), 7);
    assert_eq!(handle.state(), JobState::Ended);
    assert!(!handle.cancel() && !handle.cancel_queued());
    let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| handle.try_result().is_some()));
    assert!(again.is_err(), "a second result was returned");
}

#[test]
fn cancel_queued_never_stops_a_running_job() {
    let pool = single();
    let gate = Gate::new();
    let pass = gate.clone();
    let running = pool.run(move || {
        pass.pass();
        job::is_cancelled()
    });
    eventually("the job starts", || running.state() == JobState::Running);
    let ran = Count::new();
    let count = ran.clone();
    let queued = pool.run(move || count.add());
    assert!(queued.cancel_queued() && !queued.cancel_queued());
    assert!(!running.cancel_queued());
    assert_eq!(running.state(), JobState::Running);
    gate.open();
    assert!(!end(running).unwrap(), "it was asked to stop");
    assert!(end(queued).unwrap_err().is_cancelled());
    pool.run(seven).wait().unwrap();
    assert_eq!(ran.get(), 0);
}
