//! Models of a job that is carried elsewhere, for a model checker, which tries many orders of the threads' steps: its
//! carrier ends it while its handle is cancelled, its limit passes, or its executor gives up.
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test -p offloop --no-default-features --features process --lib --release -- model`
//!
//! The checker has no clock. A limit that passes is an abort of a job that has not begun, as the timer's thread makes it.

use std::sync::Arc;

use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::thread;

use super::*;
use crate::base::sync::model::wait;
use crate::core::error::Error;
use crate::core::signature::Signature;
use crate::remote::ender::Answer;
use crate::wire::task::Task;
use crate::wire::task_fn::TaskFn;

/// The number of orders that are tried per model, with each of two strategies.
const RUNS: usize = 10_000;

fn check(model: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(model.clone(), RUNS);
    shuttle::check_pct(model, RUNS, 3);
}

/// A task that only gives the jobs their type: nothing calls it.
struct Nothing;

impl TaskFn for Nothing {
    type Arguments<'call> = ();
    type Output = u8;

    fn task() -> &'static Task {
        static TASK: Task = Task::of::<Nothing>("model", "fn() -> u8", (file!(), 1, 1));
        &TASK
    }

    fn apply((): ()) -> u8 {
        0
    }
}

/// A carrier that keeps the enders for the model, and checks when it is told of an end.
#[derive(Clone, Default)]
struct Kept(Arc<KeptState>);

#[derive(Default)]
struct KeptState {
    ender: Mutex<Option<Ender>>,
    /// `carry` has returned.
    has_call: AtomicUsize,
    cancelled: AtomicUsize,
}

impl Kept {
    fn take(&self) -> Option<Ender> {
        self.0.ender.lock().unwrap().take()
    }

    fn cancelled(&self) -> usize {
        self.0.cancelled.load(Ordering::SeqCst)
    }
}

impl Carrier for Kept {
    fn carry(&self, _: Outbound, ender: Ender) -> Result<(), Rejected<Ender>> {
        thread::yield_now();
        *self.0.ender.lock().unwrap() = Some(ender);
        self.0.has_call.store(1, Ordering::SeqCst);
        Ok(())
    }

    fn cancel(&self, _: JobId) {
        assert_eq!(self.0.has_call.load(Ordering::SeqCst), 1, "it was told before it had the call");
        assert_eq!(self.0.cancelled.fetch_add(1, Ordering::SeqCst), 0, "it was told twice");
        drop(self.take());
    }
}

fn submit(remote: &Remote<Kept>) -> Handle<u8> {
    let job: Arc<Cell<Away, u8>> = Cell::new(Away, Options::new());
    let outbound =
        Outbound::new(job.header().id, "model", Signature::from_u64(1), Vec::new(), Instructions::default());
    let away = Arc::clone(&job) as Arc<dyn AwayJob>;
    let ender = |hub| Ender::new(Arc::clone(&away), hub, Nothing::task(), None);
    remote.0.execute(&away, outbound, ender).unwrap();
    Handle::new(job)
}

fn open() -> (Remote<Kept>, Kept) {
    let carrier = Kept::default();
    (Remote::new("model", carrier.clone()), carrier)
}

fn end(handle: Handle<u8>) -> Result<u8, Error> {
    wait(handle)
}

/// The job has ended once: it is counted once, and nothing is left of it.
fn settled(remote: &Remote<Kept>) {
    assert_eq!(remote.metrics().outcomes.total(), 1);
    assert!(remote.0.lock().unwrap().live.is_empty(), "the job is still there");
}

const SEVEN: [u8; 1] = [7];

#[test]
fn an_answer_and_a_cancelled_handle_make_one_end() {
    check(|| {
        let (remote, carrier) = open();
        let handle = submit(&remote);
        let ender = carrier.take().unwrap();
        let answers = thread::spawn(move || {
            if ender.start() {
                ender.end(Ok(Answer::new(SEVEN.to_vec())));
            }
        });
        let cancelled = handle.cancel();
        answers.join().unwrap();
        match end(handle) {
            Ok(value) => assert!(!cancelled && value == 7),
            Err(error) => assert!(cancelled && error.is_cancelled()),
        }
        // A carrier that has used up its ender meanwhile needs not be told.
        assert!(carrier.cancelled() <= usize::from(cancelled));
        settled(&remote);
    });
}

#[test]
fn an_ender_that_is_dropped_ends_the_job_that_somebody_waits_for() {
    check(|| {
        let (remote, carrier) = open();
        let handle = submit(&remote);
        let ender = carrier.take().unwrap();
        let drops = thread::spawn(move || drop(ender));
        assert!(matches!(end(handle).unwrap_err().kind(), ErrorKind::Unreachable(_)));
        drops.join().unwrap();
        settled(&remote);
    });
}

/// A limit on the waiting passes while the job begins: it has either ended unrun, or runs.
#[test]
fn a_job_whose_limit_passes_while_it_begins_does_not_run() {
    check(|| {
        let (remote, carrier) = open();
        let handle = submit(&remote);
        let ender = carrier.take().unwrap();
        let begins = thread::spawn(move || {
            ender.accept();
            let begins = ender.start();
            if begins {
                ender.end(Ok(Answer::new(SEVEN.to_vec())));
            }
            begins
        });
        let has_passed = handle.cancel_queued();
        let has_begun = begins.join().unwrap();
        assert_ne!(has_passed, has_begun);
        assert_eq!(end(handle).is_ok(), has_begun);
        settled(&remote);
    });
}

/// Of a drop, an answer, a cancelled handle and a limit, all at once, one makes the end.
#[test]
fn all_ends_at_once_make_one() {
    check(|| {
        let (remote, carrier) = open();
        let handle = Arc::new(submit(&remote));
        let ender = carrier.take().unwrap();
        let others = [true, false].map(|is_limit| {
            let handle = Arc::clone(&handle);
            thread::spawn(move || if is_limit { handle.cancel_queued() } else { handle.cancel() })
        });
        let has_begun = ender.start();
        let releases = ender.release();
        assert!(has_begun || !releases, "it had ended");
        drop(ender);
        let aborted = others.into_iter().map(|it| it.join().unwrap());
        let aborted = aborted.filter(|aborted| *aborted).count();
        assert!(aborted <= 1);
        let handle = Arc::into_inner(handle).expect("the threads have ended");
        let error = end(handle).unwrap_err();
        assert_eq!(error.is_cancelled(), aborted == 1);
        assert!(carrier.cancelled() <= aborted);
        settled(&remote);
    });
}

/// The executor gives up its jobs while the carrier is being given one. The carrier checks that it has the call when it is
/// told.
#[test]
fn a_job_that_is_given_up_while_it_leaves_is_taken_back_once() {
    check(|| {
        let (remote, carrier) = open();
        let other = remote.clone();
        let gives_up = thread::spawn(move || other.cancel_queued());
        let handle = submit(&remote);
        let cancelled = gives_up.join().unwrap();
        assert_eq!(carrier.cancelled(), cancelled);
        if let Some(ender) = carrier.take() {
            assert_eq!(cancelled, 0);
            ender.end(Ok(Answer::new(SEVEN.to_vec())));
        }
        assert_eq!(end(handle).is_ok(), cancelled == 0);
        settled(&remote);
    });
}

#[test]
fn a_caller_that_waits_for_room_is_woken_by_room_or_by_the_end() {
    check(|| {
        let (remote, carrier) = open();
        let mut handle = submit(&remote);
        let ender = carrier.take().unwrap();
        let accepts = thread::spawn(move || ender.accept());
        wait(std::pin::pin!(handle.accepted()));
        assert_ne!(handle.state(), JobState::Waiting);
        accepts.join().unwrap();
        assert!(end(handle).is_err());
        settled(&remote);
    });
}

/// The executor is dropped while a job is under way: the job ends, and the carrier is dropped.
#[test]
fn a_job_outlives_its_executor_and_then_lets_go_of_the_carrier() {
    check(|| {
        let (remote, carrier) = open();
        let handle = submit(&remote);
        let ender = carrier.take().unwrap();
        let drops = thread::spawn(move || drop(remote));
        ender.end(Ok(Answer::new(SEVEN.to_vec())));
        assert_eq!(end(handle).unwrap(), 7);
        drops.join().unwrap();
        assert_eq!(Arc::strong_count(&carrier.0), 1, "the carrier is still there");
    });
}
