//! A watch on a tokio runtime: who is asked, and by what they are taken to stand still.
//!
//! Three kinds of evidence, each judged like the beats of any loop:
//!
//! - *The runtime answers.* A task does nothing but answer when it is woken, which the watch's thread does at each
//!   look. It needs no timer, so runtimes without one can be watched. A current-thread runtime that does not
//!   answer stands still.
//! - *A worker comes round.* In a multi-thread runtime the others answer for one that is stuck. But tokio counts
//!   how often a worker parks and for how long it was busy: if it is awake and neither moves, it is in a task, or
//!   in the few tasks between two of its looks at the outside world.
//! - *A watched poll ends.* For threads that are no workers: those in `block_on`.
//!
//! A thread's slot adds who it is and what it polls.

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
use super::slot::{self, Slot, clock, slots};
use super::stack;
use super::suspect::Suspect;
use crate::watch::guard::{Guard, Stop};
use crate::watch::judge::{Judge, Limits};
use crate::watch::pulse::{Nanos, PAUSED, Reading};

/// What the runtime's side and the watch's thread share.
pub(super) struct Shared {
    /// Names the watch in the slots.
    pub(super) id: u64,
    answered: AtomicU64,
    /// No answer is due: nothing drives the runtime.
    paused: AtomicBool,
    /// The runtime was shut down.
    closed: AtomicBool,
}

impl Shared {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            answered: AtomicU64::new(0),
            paused: AtomicBool::new(true),
            closed: AtomicBool::new(false),
        }
    }

    /// From now on no answer is due, until one comes.
    pub(super) fn pause(&self) {
        self.paused.store(true, Ordering::Release);
    }
}

/// The task that answers.
struct Answer {
    shared: Arc<Shared>,
    asker: Sender<Waker>,
    known: Option<Waker>,
}

impl Future for Answer {
    type Output = ();

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.known.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            self.known = Some(cx.waker().clone());
            if self.asker.send(cx.waker().clone()).is_err() {
                return Poll::Ready(());
            }
        }
        if let Some(slot) = slot::this() {
            slot.enrol(self.shared.id, tokio::runtime::worker_index());
        }
        self.shared.answered.store(clock().now(), Ordering::Release);
        self.shared.paused.store(false, Ordering::Release);
        Poll::Pending
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
    }
}

/// Starts to watch. The task ends with the guard's thread or with the runtime, whichever comes first.
pub(super) fn start(
    runtime: &Handle,
    shared: &Arc<Shared>,
    limits: Limits,
    reporter: Reporter,
) -> io::Result<Guard> {
    let (asker, wakers) = channel();
    let workers = Workers::of(runtime, limits);
    // Of a worker that stands still more is known, so it is to be found first.
    let patience = if workers.all.is_empty() { 0 } else { 2 * step(limits) };
    let mut watcher = Watcher {
        shared: Arc::clone(shared),
        limits,
        wakers,
        waker: None,
        asked: 0,
        runtime: Suspect::new(Judge::new(Limits { interval: patience, ..limits })),
        workers,
        threads: Threads::default(),
        reporter,
    };
    let answer = runtime.spawn(Answer { shared: Arc::clone(shared), asker, known: None });
    let abort = answer.abort_handle();
    if watcher.reporter.wants_stacks {
        stack::prepare();
    }
    let guard = Guard::spawn(move |stop| {
        watcher.run(stop);
        abort.abort();
    });
    if guard.is_err() {
        answer.abort();
    }
    guard
}

/// How often the thread looks: often enough to tell a stall well before it has lasted twice the threshold.
fn step(limits: Limits) -> Nanos {
    (limits.threshold / 4).max(1_000_000)
}

struct Watcher {
    shared: Arc<Shared>,
    limits: Limits,
    wakers: Receiver<Waker>,
    waker: Option<Waker>,
    /// When the answer that is due was asked for.
    asked: Nanos,
    runtime: Suspect,
    workers: Workers,
    threads: Threads,
    reporter: Reporter,
}

impl Watcher {
    fn run(&mut self, told: &Stop) {
        let step = step(self.limits);
        let mut due = clock().now() + step;
        while let Some(now) = told.sleep_until(due, clock()) {
            if self.shared.closed.load(Ordering::Acquire) {
                return;
            }
            // Whoever kept this thread from looking may have kept the others, too.
            if now - due > step {
                self.suspects().for_each(|suspect| suspect.overslept(now));
            }
            self.look(now);
            due = now + step;
        }
    }

    fn suspects(&mut self) -> impl Iterator<Item = &mut Suspect> {
        let workers = self.workers.all.iter_mut().map(|worker| &mut worker.suspect);
        let threads = self.threads.0.values_mut().map(|thread| &mut thread.suspect);
        workers.chain(threads).chain([&mut self.runtime])
    }

    fn look(&mut self, now: Nanos) {
        self.look_at_threads(now);
        self.workers.look(now, self.shared.id, &self.threads, &mut self.reporter);
        self.look_at_runtime(now);
        self.ask(now);
    }

    /// What the threads that poll for this watch are at. Those that are no workers are judged by that alone, and
    /// so is that of a current-thread runtime until it answers.
    fn look_at_threads(&mut self, now: Nanos) {
        let has_workers = !self.workers.all.is_empty();
        let answers = !has_workers && !self.shared.paused.load(Ordering::Acquire);
        let ours = || slots().filter(|slot| slot.works_for(self.shared.id));
        self.threads.0.retain(|known, thread| {
            let is_ours = ours().any(|slot| address(slot) == *known);
            if !is_ours {
                // It has ended, or works for another runtime now, so it does not stand still here.
                thread.suspect.look(now, Reading { last: PAUSED, back: 0 }, None, None, &mut self.reporter);
            }
            is_ours
        });
        for slot in ours() {
            let (version, is_polling) = slot.polls();
            let new = || Thread { version, since: now, suspect: Suspect::new(Judge::new(self.limits)) };
            let thread = self.threads.0.entry(address(slot)).or_insert_with(new);
            if thread.version != version {
                (thread.version, thread.since) = (version, now);
            }
            let is_judged = is_polling && !(slot.worker().is_some() && (answers || has_workers));
            let last = if is_judged { thread.since } else { PAUSED };
            thread.suspect.look(now, Reading { last, back: 0 }, Some(slot), None, &mut self.reporter);
        }
    }

    fn look_at_runtime(&mut self, now: Nanos) {
        let answered = self.shared.answered.load(Ordering::Acquire);
        let is_due = answered < self.asked && !self.shared.paused.load(Ordering::Acquire);
        let last = if is_due { self.asked } else { PAUSED };
        if self.workers.all.iter().any(|worker| worker.suspect.is_stalled()) && !self.runtime.is_stalled() {
            // That is the reason, and told already; when it is over, the runtime has its time to answer.
            self.runtime.overslept(now);
            return;
        }
        let slot = (self.workers.all.is_empty()).then(|| latest(self.shared.id, 0)).flatten();
        self.runtime.look(now, Reading { last, back: answered }, slot, None, &mut self.reporter);
    }

    /// Wakes the task if it has answered.
    fn ask(&mut self, now: Nanos) {
        self.waker = self.wakers.try_iter().last().or(self.waker.take());
        if self.shared.answered.load(Ordering::Acquire) >= self.asked {
            if let Some(waker) = &self.waker {
                self.asked = now;
                waker.wake_by_ref();
            }
        }
    }
}

/// The thread that was last seen as this worker.
fn latest(watch: u64, worker: usize) -> Option<&'static Slot> {
    slots()
        .filter(|slot| slot.works_for(watch) && slot.worker() == Some(worker))
        .max_by_key(|slot| slot.enrolled())
}

/// The threads that have polled for this watch, by their slots' addresses.
#[derive(Default)]
struct Threads(HashMap<usize, Thread>);

struct Thread {
    /// What changes with each poll, and the look at which it was first found like this.
    version: u64,
    since: Nanos,
    suspect: Suspect,
}

fn address(slot: &'static Slot) -> usize {
    std::ptr::from_ref(slot).addr()
}

impl Threads {
    /// Whether the thread has been in its poll since before that time.
    fn polls_since_before(&self, slot: &'static Slot, time: Nanos) -> bool {
        slot.place().is_some() && self.0.get(&address(slot)).is_some_and(|thread| thread.since <= time)
    }
}

/// The workers of a multi-thread runtime; none of a current-thread one, which answers for itself.
struct Workers {
    metrics: RuntimeMetrics,
    all: Vec<Worker>,
}

struct Worker {
    parks: u64,
    busy: Duration,
    /// When one of these was last seen to have moved, and the look before that.
    moved: Nanos,
    before: Nanos,
    looked: Nanos,
    suspect: Suspect,
}

impl Workers {
    fn of(runtime: &Handle, limits: Limits) -> Self {
        let metrics = runtime.metrics();
        let count = match runtime.runtime_flavor() {
            RuntimeFlavor::CurrentThread => 0,
            _ => metrics.num_workers(),
        };
        let new = |_| Worker {
            parks: 0,
            busy: Duration::ZERO,
            moved: 0,
            before: 0,
            looked: 0,
            suspect: Suspect::new(Judge::new(limits)),
        };
        Self { metrics, all: (0..count).map(new).collect() }
    }

    fn look(&mut self, now: Nanos, watch: u64, threads: &Threads, reporter: &mut Reporter) {
        for (index, worker) in self.all.iter_mut().enumerate() {
            let parks = self.metrics.worker_park_unpark_count(index);
            let busy = self.metrics.worker_total_busy_duration(index);
            let is_first = worker.looked == 0;
            if is_first || (parks, busy) != (worker.parks, worker.busy) {
                (worker.parks, worker.busy) = (parks, busy);
                (worker.before, worker.moved) = (worker.looked, now);
            }
            worker.looked = now;
            // With an odd count it is parked.
            let is_awake = parks % 2 == 0;
            let reading = Reading { last: if is_awake { worker.moved } else { PAUSED }, back: 0 };
            // A poll that began long before the worker last came round is not the worker's any more: its thread
            // has called `block_in_place`.
            let has_left = |slot| threads.polls_since_before(slot, worker.before);
            let slot = if is_awake { latest(watch, index).filter(|slot| !has_left(slot)) } else { None };
            worker.suspect.look(now, reading, slot, Some(index), reporter);
        }
    }
}
