//! The thread that watches a tokio runtime, and the evidence by which it finds stalls.
//!
//! There are three kinds of evidence, each judged like the beats of any loop:
//!
//! - *The runtime answers.* A task answers when it is woken, and the watch's thread wakes it at each look. The task
//!   needs no timer, so runtimes without one can be watched. A current-thread runtime that does not answer is
//!   stalled.
//! - *A worker comes round.* In a multi-thread runtime the other workers answer for one that is stuck. But tokio
//!   counts how often a worker parks and for how long it was busy. If a worker is awake and neither number moves, it
//!   is in a task, or in the few tasks between two of its checks for events.
//! - *A watched poll ends.* For threads that are no workers: those in `block_on`.
//!
//! A thread's slot adds its id and the task that it polls.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor, RuntimeMetrics};

use super::report::Reporter;
use super::slot::{self, ThreadSlot, clock, slots};
use super::tracker::StallTracker;
use crate::base::stack;
use crate::base::starvation::own_run_delay;
use crate::watch::clock::{Nanos, duration, to_nanos};
use crate::watch::detector::{StallDetector, StallTiming};
use crate::watch::guard::{StopSignal, WatchGuard};
use crate::watch::pulse::{PAUSED, Reading};
use crate::watch::record;

/// The state that the responder, the builder and the watch's thread share.
pub(super) struct RuntimeState {
    /// The id of the watch in the slots. Never 0.
    pub(super) id: u64,
    /// When the responder answered last. Written by the responder.
    answered: AtomicU64,
    /// When it was woken last. Written by the watch's thread.
    asked: AtomicU64,
    /// Whether no answer is due, since nothing drives the runtime. Cleared by the next answer.
    is_paused: AtomicBool,
    /// Whether the runtime was shut down. Set once, when the responder is dropped.
    is_closed: AtomicBool,
}

impl RuntimeState {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            answered: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            is_paused: AtomicBool::new(true),
            is_closed: AtomicBool::new(false),
        }
    }

    /// Returns for how long an answer is overdue. Zero while paused.
    fn late_now(&self) -> Duration {
        let asked = self.asked.load(Ordering::Relaxed);
        let is_due = self.answered.load(Ordering::Acquire) < asked && !self.is_paused.load(Ordering::Acquire);
        if is_due { duration(clock().now().saturating_sub(asked)) } else { Duration::ZERO }
    }

    /// Suspends the watch until the next answer.
    pub(super) fn pause(&self) {
        self.is_paused.store(true, Ordering::Release);
    }
}

/// The task that answers when it is woken.
struct Responder {
    state: Arc<RuntimeState>,
    /// Sends the task's waker to the watch's thread.
    wakers: Sender<Waker>,
    /// The waker that was sent last.
    sent: Option<Waker>,
}

impl Future for Responder {
    type Output = ();

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.sent.as_ref().is_some_and(|sent| sent.will_wake(cx.waker())) {
            self.sent = Some(cx.waker().clone());
            if self.wakers.send(cx.waker().clone()).is_err() {
                return Poll::Ready(());
            }
        }
        if let Some(slot) = slot::current() {
            slot.register(self.state.id, tokio::runtime::worker_index());
        }
        self.state.answered.store(clock().now(), Ordering::Release);
        self.state.is_paused.store(false, Ordering::Release);
        Poll::Pending
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.state.is_closed.store(true, Ordering::Release);
    }
}

/// Starts to watch. The responder ends with the guard's thread or with the runtime.
pub(super) fn start(
    runtime: &Handle,
    state: &Arc<RuntimeState>,
    timing: StallTiming,
    reporter: Reporter,
) -> io::Result<WatchGuard> {
    let (sender, wakers) = channel();
    let workers = RuntimeWorkers::of(runtime, timing);
    // A report about a stuck worker has more details than one about the runtime, so it must come first.
    let interval = if workers.all.is_empty() { 0 } else { 2 * look_interval(timing) };
    let mut watcher = Watcher {
        state: Arc::clone(state),
        timing,
        wakers,
        waker: None,
        asked: 0,
        has_recorded: false,
        runtime: StallTracker::new(StallDetector::new(StallTiming { interval, ..timing })),
        workers,
        threads: PollingThreads::default(),
        reporter,
    };
    let responder = runtime.spawn(Responder { state: Arc::clone(state), wakers: sender, sent: None });
    let abort = responder.abort_handle();
    if watcher.reporter.wants_stacks {
        stack::prepare();
    }
    let late_now = {
        let state = Arc::clone(state);
        move || state.late_now()
    };
    let listed = record::list(&watcher.reporter.record, late_now);
    let guard = WatchGuard::spawn(move |stop| {
        watcher.run(stop);
        drop(listed);
        abort.abort();
    });
    if guard.is_err() {
        responder.abort();
    }
    guard
}

/// Returns the time between two looks. It is short enough to report a stall well before it has lasted twice the
/// threshold.
fn look_interval(timing: StallTiming) -> Nanos {
    (timing.threshold / 4).max(1_000_000)
}

/// The state of the watch's thread.
struct Watcher {
    state: Arc<RuntimeState>,
    timing: StallTiming,
    /// Receives the responder's wakers, the newest of which is `waker`.
    wakers: Receiver<Waker>,
    waker: Option<Waker>,
    /// When the responder was woken last.
    asked: Nanos,
    /// The lateness of the answer to that is recorded.
    has_recorded: bool,
    /// The stalls of the runtime as a whole: it does not answer.
    runtime: StallTracker,
    workers: RuntimeWorkers,
    threads: PollingThreads,
    reporter: Reporter,
}

impl Watcher {
    fn run(&mut self, stop: &StopSignal) {
        let interval = look_interval(self.timing);
        let mut due = clock().now() + interval;
        let mut kept = own_run_delay();
        while let Some(now) = stop.sleep_until(due, clock()) {
            if self.state.is_closed.load(Ordering::Acquire) {
                break;
            }
            let kept_before = std::mem::replace(&mut kept, own_run_delay());
            // What has kept this thread from running may have kept the others, too. If it was the want of a core, it is
            // measured for each of them.
            if (now - due).saturating_sub(to_nanos(kept.saturating_sub(kept_before))) > interval {
                self.trackers().for_each(|tracker| tracker.ignore_before(now));
            }
            self.look(now);
            self.reporter.summarize(false);
            due = now + interval;
        }
        self.reporter.summarize(true);
    }

    fn trackers(&mut self) -> impl Iterator<Item = &mut StallTracker> {
        let workers = self.workers.all.iter_mut().map(|worker| &mut worker.tracker);
        let threads = self.threads.0.values_mut().map(|thread| &mut thread.tracker);
        workers.chain(threads).chain([&mut self.runtime])
    }

    fn look(&mut self, now: Nanos) {
        // An answer after a pause is not late.
        self.has_recorded |= self.state.is_paused.load(Ordering::Acquire);
        self.look_at_threads(now);
        self.workers.look(now, self.state.id, &self.threads, &mut self.reporter);
        self.look_at_runtime(now);
        self.ask(now);
    }

    /// Looks at the threads that poll watched tasks of this runtime.
    ///
    /// Their polls are the only evidence about threads that are no workers, and about the thread of a current-thread
    /// runtime until it answers.
    fn look_at_threads(&mut self, now: Nanos) {
        let has_workers = !self.workers.all.is_empty();
        let answers = !has_workers && !self.state.is_paused.load(Ordering::Acquire);
        let ours = || slots().filter(|slot| slot.works_for(self.state.id));
        self.threads.0.retain(|known, thread| {
            let is_ours = ours().any(|slot| address(slot) == *known);
            if !is_ours {
                // The thread has ended or works for another runtime now, so it is not stalled here.
                thread.tracker.look(now, Reading { last: PAUSED, back: 0 }, None, None, &mut self.reporter);
            }
            is_ours
        });
        for slot in ours() {
            let (version, is_polling) = slot.polls();
            let new = || PollingThread {
                version,
                since: now,
                tracker: StallTracker::new(StallDetector::new(self.timing)),
            };
            let thread = self.threads.0.entry(address(slot)).or_insert_with(new);
            if thread.version != version {
                (thread.version, thread.since) = (version, now);
            }
            let is_judged = is_polling && !(slot.worker().is_some() && (answers || has_workers));
            let last = if is_judged { thread.since } else { PAUSED };
            thread.tracker.look(now, Reading { last, back: 0 }, Some(slot), None, &mut self.reporter);
        }
    }

    fn look_at_runtime(&mut self, now: Nanos) {
        let answered = self.state.answered.load(Ordering::Acquire);
        let is_due = answered < self.asked && !self.state.is_paused.load(Ordering::Acquire);
        let last = if is_due { self.asked } else { PAUSED };
        if self.workers.all.iter().any(|worker| worker.tracker.is_stalled()) && !self.runtime.is_stalled() {
            // The stuck worker is the reason, and is reported already. After it the runtime has its whole time to
            // answer.
            self.runtime.ignore_before(now);
            return;
        }
        let slot = (self.workers.all.is_empty()).then(|| latest(self.state.id, 0)).flatten();
        self.runtime.look(now, Reading { last, back: answered }, slot, None, &mut self.reporter);
    }

    /// Wakes the responder, if it has answered since it was woken last.
    fn ask(&mut self, now: Nanos) {
        self.waker = self.wakers.try_iter().last().or(self.waker.take());
        let answered = self.state.answered.load(Ordering::Acquire);
        if answered >= self.asked {
            if self.asked > 0 && !self.has_recorded {
                self.has_recorded = true;
                self.reporter.record.lateness.record(duration(answered - self.asked));
            }
            if let Some(waker) = &self.waker {
                self.asked = now;
                self.has_recorded = false;
                self.state.asked.store(now, Ordering::Relaxed);
                waker.wake_by_ref();
            }
        }
    }
}

/// Returns the slot of the thread that was last registered as this worker.
fn latest(watch: u64, worker: usize) -> Option<&'static ThreadSlot> {
    slots()
        .filter(|slot| slot.works_for(watch) && slot.worker() == Some(worker))
        .max_by_key(|slot| slot.registered_at())
}

/// The threads that have polled watched tasks of this runtime, by the addresses of their slots.
#[derive(Default)]
struct PollingThreads(HashMap<usize, PollingThread>);

struct PollingThread {
    /// The number that changes with each poll, and the first look that has found its current value.
    version: u64,
    since: Nanos,
    tracker: StallTracker,
}

fn address(slot: &'static ThreadSlot) -> usize {
    std::ptr::from_ref(slot).addr()
}

impl PollingThreads {
    /// Returns whether the thread has been in its current poll since before `time`.
    fn polls_since_before(&self, slot: &'static ThreadSlot, time: Nanos) -> bool {
        slot.task().is_some() && self.0.get(&address(slot)).is_some_and(|thread| thread.since <= time)
    }
}

/// The workers of a multi-thread runtime. A current-thread runtime, which answers for itself, has none here.
struct RuntimeWorkers {
    metrics: RuntimeMetrics,
    all: Vec<RuntimeWorker>,
}

/// A worker as the last look has found it.
struct RuntimeWorker {
    /// How often it has parked and unparked.
    parks: u64,
    /// The time that it was busy.
    busy: Duration,
    /// The look that has found one of these numbers changed last, and the look before that.
    moved: Nanos,
    before: Nanos,
    /// The last look. 0 before the first one.
    looked: Nanos,
    tracker: StallTracker,
}

impl RuntimeWorkers {
    fn of(runtime: &Handle, timing: StallTiming) -> Self {
        let metrics = runtime.metrics();
        let count = match runtime.runtime_flavor() {
            RuntimeFlavor::CurrentThread => 0,
            _ => metrics.num_workers(),
        };
        let new = |_| RuntimeWorker {
            parks: 0,
            busy: Duration::ZERO,
            moved: 0,
            before: 0,
            looked: 0,
            tracker: StallTracker::new(StallDetector::new(timing)),
        };
        Self { metrics, all: (0..count).map(new).collect() }
    }

    fn look(&mut self, now: Nanos, watch: u64, threads: &PollingThreads, reporter: &mut Reporter) {
        for (index, worker) in self.all.iter_mut().enumerate() {
            let parks = self.metrics.worker_park_unpark_count(index);
            let busy = self.metrics.worker_total_busy_duration(index);
            let is_first = worker.looked == 0;
            if is_first || (parks, busy) != (worker.parks, worker.busy) {
                (worker.parks, worker.busy) = (parks, busy);
                (worker.before, worker.moved) = (worker.looked, now);
            }
            worker.looked = now;
            // While it is parked the count is odd.
            let is_awake = parks % 2 == 0;
            let reading = Reading { last: if is_awake { worker.moved } else { PAUSED }, back: 0 };
            // A poll that began before the worker last moved is no longer the worker's: its thread has called
            // `block_in_place`, and another thread is this worker now.
            let has_left = |slot| threads.polls_since_before(slot, worker.before);
            let slot = if is_awake { latest(watch, index).filter(|slot| !has_left(slot)) } else { None };
            worker.tracker.look(now, reading, slot, Some(index), reporter);
        }
    }
}
