//! Ended jobs on their way to the interpreter.
//!
//! A job ends on a thread of the engine, which does not wait for the interpreter. It appends a [`Completion`] to a
//! queue and notifies the queue's consumer through a descriptor. The consumer, an event loop or the results thread,
//! delivers all completions that have come. So many results cost one wake-up, and only the consumer needs the
//! interpreter. An event loop that takes the answers of workers delivers for the results thread what it waits for itself.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use offloop::embed::{self, OwnProcess};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use rustix::event::{EventfdFlags, PollFd, PollFlags};

use crate::interpreter::{Condvar, Mutex, attach, detach};

/// The time for which an event loop delivers without a pause. Then it can do its other work.
const DELIVERY_SLICE: Duration = Duration::from_millis(1);

/// The time for which [`flush`] waits.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// A job that has ended, or has sent something.
pub(crate) trait Completion: Send + Sync {
    /// Reports to the job's receiver. Does nothing if there is nothing new. Raises what the user's code raises in there.
    fn deliver(self: Arc<Self>, py: Python<'_>) -> PyResult<()>;

    /// Does the same on the thread of an event loop, in place of the results thread, if this is the loop that waits for
    /// the job and nothing holds it up. Returns whether it has, or has left the rest to the results thread.
    fn deliver_on_loop(self: Arc<Self>, _py: Python<'_>) -> PyResult<bool> {
        Ok(false)
    }
}

/// The completions for one consumer.
pub(crate) struct CompletionQueue {
    /// In a child made by `fork()` there is none: the lock may be held there forever, and the notifications are the
    /// parent's.
    state: OwnProcess<Mutex<QueueState>>,
    /// Notified when completions have been delivered and [`flush`](Self::flush) waits for that.
    delivered: Condvar,
    /// An eventfd, which is readable while `state.is_notified`.
    notifier: OwnedFd,
}

#[derive(Default)]
struct QueueState {
    completions: VecDeque<Arc<dyn Completion>>,
    /// The consumer was notified, or is about to look anyway. Set by producers, cleared by the consumer.
    is_notified: bool,
    /// The number of completions that were pushed. Increased by producers.
    pushed: u64,
    /// The number of completions that were delivered. Increased by who has delivered one.
    delivered: u64,
    /// The number of threads that wait in [`CompletionQueue::flush`]. Changed by these threads.
    flushing: usize,
}

impl CompletionQueue {
    fn new() -> PyResult<Arc<Self>> {
        let notifier = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let notifier = notifier.map_err(std::io::Error::from)?;
        let state = OwnProcess::new(Mutex::default());
        Ok(Arc::new(Self { state, delivered: Condvar::new(), notifier }))
    }

    fn state(&self) -> Option<MutexGuard<'_, QueueState>> {
        self.state.get().map(Mutex::lock)
    }

    /// Appends a completion and notifies the consumer. On any thread.
    pub(crate) fn push(&self, completion: Arc<dyn Completion>) {
        let Some(mut state) = self.state() else { return };
        state.completions.push_back(completion);
        state.pushed += 1;
        self.notify_once(state);
    }

    /// Calls `work` without notifying the consumer of the completions that it brings. The consumer itself calls this,
    /// and delivers them afterwards.
    pub(crate) fn without_notifying(&self, work: impl FnOnce()) {
        if let Some(mut state) = self.state() {
            state.is_notified = true;
        }
        work();
    }

    /// Notifies the consumer, unless it was notified and has not looked yet.
    fn notify_once(&self, mut state: MutexGuard<'_, QueueState>) {
        if !std::mem::replace(&mut state.is_notified, true) {
            drop(state);
            self.notify();
        }
    }

    fn notify(&self) {
        // Fails only if the counter is full, and then the descriptor is readable already.
        let _ = rustix::io::write(&self.notifier, &1u64.to_ne_bytes());
    }

    /// Delivers the completions that have come: all of them, or as many as `limit` has time for.
    ///
    /// On an event loop, what is not an `Exception` is raised. It is of a signal's handler, and means the program.
    fn deliver(&self, py: Python<'_>, limit: Option<Duration>) -> PyResult<()> {
        if self.state.get().is_none() {
            return Ok(());
        }
        // Fails if the consumer was not notified through the descriptor, and then there is nothing to reset.
        let _ = rustix::io::read(&self.notifier, &mut [0; 8]);
        if let Some(mut state) = self.state() {
            state.is_notified = false;
        }
        let began = Instant::now();
        let mut raised = Ok(());
        loop {
            let next = self.state().and_then(|mut state| state.completions.pop_front());
            let Some(completion) = next else { return Ok(()) };
            let delivered = completion.deliver(py);
            self.count_delivered();
            match delivered {
                Err(error) if limit.is_none() || error.is_instance_of::<PyException>(py) => {
                    error.write_unraisable(py, None);
                }
                Err(error) => {
                    raised = Err(error);
                    break;
                }
                Ok(()) => {}
            }
            if limit.is_some_and(|limit| began.elapsed() >= limit) {
                break;
            }
        }
        if let Some(state) = self.state().filter(|state| !state.completions.is_empty()) {
            self.notify_once(state);
        }
        raised
    }

    /// Calls `work` on the thread of an event loop. If that brings a single completion, delivers it there, if that may be
    /// done, so that the results thread, which is the consumer, need not be woken for it.
    ///
    /// It does not deliver several: the delivery of one can run code of the user's, which may wait for another.
    fn deliver_on_loop(&self, py: Python<'_>, work: impl FnOnce()) -> PyResult<()> {
        let is_coming = self.state().is_none_or(|mut state| std::mem::replace(&mut state.is_notified, true));
        work();
        let Some(mut state) = self.state().filter(|_| !is_coming) else { return Ok(()) };
        let single = if state.completions.len() == 1 { state.completions.pop_front() } else { None };
        state.is_notified = false;
        if state.completions.is_empty() {
            drop(state);
        } else {
            self.notify_once(state);
        }
        let Some(completion) = single else { return Ok(()) };
        let delivered = Arc::clone(&completion).deliver_on_loop(py);
        match self.state().filter(|_| matches!(delivered, Ok(false))) {
            Some(mut state) => {
                state.completions.push_front(completion);
                self.notify_once(state);
            }
            None => self.count_delivered(),
        }
        delivered.map(drop)
    }

    fn count_delivered(&self) {
        let Some(mut state) = self.state() else { return };
        state.delivered += 1;
        if state.flushing > 0 {
            self.delivered.notify_all();
        }
    }

    /// Waits until the completions that have come are delivered. Must be called with the interpreter released.
    fn flush(&self) {
        if is_served_here(self) {
            return;
        }
        let Some(mut state) = self.state() else { return };
        let goal = state.pushed;
        state.flushing += 1;
        let is_late = |state: &mut QueueState| state.delivered < goal;
        let (mut state, _) = self.delivered.wait_timeout_while(state, FLUSH_TIMEOUT, is_late);
        state.flushing -= 1;
    }

    /// Delivers until `is_over`, as long as there is an interpreter.
    fn serve(self: Arc<Self>, is_over: &AtomicBool) {
        let wait = || {
            let mut notifier = [PollFd::from_borrowed_fd(self.notifier.as_fd(), PollFlags::IN)];
            // Fails if a signal interrupts it or memory is short. A needless delivery does no harm.
            let _ = rustix::event::poll(&mut notifier, None);
        };
        SERVED.set(Some(Arc::clone(&self)));
        // The interpreter is entered once and only released meanwhile. Otherwise it would need memory for this thread each
        // time, and could report nothing when there is none.
        let _ = attach(|py| {
            while detach(py, wait).is_ok() && !is_over.load(Ordering::Acquire) {
                let _ = self.deliver(py, None);
            }
        });
    }
}

thread_local! {
    /// The queue that this thread serves.
    static SERVED: RefCell<Option<Arc<CompletionQueue>>> = const { RefCell::new(None) };
}

fn is_served_here(queue: &CompletionQueue) -> bool {
    SERVED.with_borrow(|served| served.as_ref().is_some_and(|served| ptr::eq(Arc::as_ptr(served), queue)))
}

/// A thread that serves a queue in place of the thread that does, until this is dropped.
pub(crate) struct StandIn {
    queue: Arc<CompletionQueue>,
    is_over: Arc<AtomicBool>,
}

/// Starts a thread that delivers in place of this one, if it is the results thread. It is about to wait in what a delivery
/// has called, perhaps for another result.
///
/// The log thread gets none: its records are handled one after the other. There is none without the interpreter's lock
/// either, where two threads could be at the same job, and none if no thread can be started.
pub(crate) fn stand_in() -> Option<StandIn> {
    let queue = SERVED.with_borrow(Clone::clone)?;
    let is_results = RESULTS.running().is_some_and(|results| Arc::ptr_eq(&results, &queue));
    if cfg!(Py_GIL_DISABLED) || !is_results {
        return None;
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let (served, until) = (Arc::clone(&queue), Arc::clone(&is_over));
    embed::start_thread("offloop-standin", move || served.serve(&until)).ok()?;
    // For the completions that this thread was notified of.
    queue.notify();
    Some(StandIn { queue, is_over })
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        // If another thread takes this notification, the thread ends at the next one.
        self.queue.notify();
    }
}

/// A queue that a thread of its own delivers.
struct ServedQueue {
    /// The thread's name.
    name: &'static str,
    /// The queue, and the process that has its thread.
    queue: Mutex<Option<(u32, Arc<CompletionQueue>)>>,
}

impl ServedQueue {
    const fn new(name: &'static str) -> Self {
        Self { name, queue: Mutex::new(None) }
    }

    /// Returns the queue, if its thread runs in this process.
    fn running(&self) -> Option<Arc<CompletionQueue>> {
        // A child made by fork() has the queue but not the thread.
        let queue = self.queue.lock();
        queue.as_ref().filter(|(owner, _)| *owner == std::process::id()).map(|(_, queue)| Arc::clone(queue))
    }

    /// Returns the queue. The first call starts its thread.
    fn start(&self) -> PyResult<Arc<CompletionQueue>> {
        if let Some(queue) = self.running() {
            return Ok(queue);
        }
        let mut queue = self.queue.lock();
        let pid = std::process::id();
        if let Some((_, queue)) = queue.as_ref().filter(|(owner, _)| *owner == pid) {
            return Ok(Arc::clone(queue));
        }
        let new = CompletionQueue::new()?;
        let served = Arc::clone(&new);
        embed::start_thread(self.name, move || served.serve(&AtomicBool::new(false)))?;
        let old = queue.replace((pid, Arc::clone(&new)));
        drop(queue);
        drop(old);
        Ok(new)
    }
}

static RESULTS: ServedQueue = ServedQueue::new("offloop-results");
static LOGS: ServedQueue = ServedQueue::new("offloop-logs");

/// Returns the queue for receivers without an event loop.
pub(crate) fn results_thread() -> PyResult<Arc<CompletionQueue>> {
    RESULTS.start()
}

/// Calls `work` on the thread of an event loop, and delivers there those of the completions for the results thread that
/// may be delivered there.
pub(crate) fn deliver_results_on_loop(py: Python<'_>, work: impl FnOnce()) -> PyResult<()> {
    if let Some(results) = RESULTS.running() {
        return results.deliver_on_loop(py, work);
    }
    work();
    Ok(())
}

/// Returns the queue for log records of workers. Their handlers may take long, so no other thread waits for them.
pub(crate) fn log_thread() -> PyResult<Arc<CompletionQueue>> {
    LOGS.start()
}

/// Waits until the results thread has reported the end of all jobs that have ended, and the log thread has handled the
/// records that have come, for about a second.
#[pyfunction]
pub(crate) fn flush(py: Python<'_>) -> PyResult<()> {
    let results = results_thread()?;
    detach(py, || results.flush())?;
    if let Some(logs) = LOGS.running() {
        // The results of jobs that have logged come after their records.
        detach(py, || logs.flush())?;
        detach(py, || results.flush())?;
    }
    Ok(())
}

/// The completions for one event loop. `fileno()` is readable when there are some; then the loop calls `deliver()`.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct Mailbox(Arc<CompletionQueue>);

#[pymethods]
impl Mailbox {
    #[new]
    fn new() -> PyResult<Self> {
        Ok(Self(CompletionQueue::new()?))
    }

    /// Returns the descriptor that becomes readable when jobs have ended.
    fn fileno(&self) -> i32 {
        self.0.notifier.as_raw_fd()
    }

    /// Ends the futures of the jobs that have ended. Does not block.
    pub(crate) fn deliver(&self, py: Python<'_>) -> PyResult<()> {
        self.0.deliver(py, Some(DELIVERY_SLICE))
    }
}

impl Mailbox {
    pub(crate) fn completions(&self) -> &Arc<CompletionQueue> {
        &self.0
    }
}
