//! Ended jobs on their way to whoever waits for them in the interpreter.
//!
//! A job ends on some thread that has nothing to do with Python. It leaves a letter in a mailbox and rings; the
//! mailbox's owner, an event loop or the completer's thread, delivers all the letters that have come at once. So
//! many results cost one wake-up, and no thread waits for the interpreter but the one that runs it anyway.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Wake, Waker};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use offloop::embed::{HandleExt as _, ItemStreamExt as _};
use offloop::{Handle, ItemStream, JobState};
use pyo3::prelude::*;
use rustix::event::{EventfdFlags, PollFd, PollFlags};

use crate::errors;
use crate::message::Reply;

/// For so long at most letters are delivered in one go; then the loop sees to its other work first.
const TURN: Duration = Duration::from_millis(1);

/// The ended jobs of one event loop. `fileno()` becomes readable when there are any; `deliver()` ends their futures.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct Mailbox(Arc<Letters>);

pub(crate) struct Letters {
    waiting: Mutex<Waiting>,
    /// Signalled when letters have been delivered.
    progress: Condvar,
    bell: OwnedFd,
}

#[derive(Default)]
struct Waiting {
    letters: VecDeque<Arc<dyn Letter>>,
    /// The bell was rung and nobody has looked yet.
    rung: bool,
    /// How many letters have come, and how many of them have been delivered.
    put: u64,
    delivered: u64,
    /// Somebody waits for the latter to grow.
    awaited: bool,
    /// The thread that delivers, if it does nothing else.
    server: Option<ThreadId>,
}

/// A job that has ended, or is about to.
pub(crate) trait Letter: Send + Sync {
    /// Tells the receiver how the job ended. Does nothing the second time.
    fn deliver(self: Arc<Self>, py: Python<'_>);
    /// Ends the job and forgets the receiver; says whether that ended it.
    fn cancel(&self, py: Python<'_>) -> bool;
    /// Ends the job if no worker has it yet, and forgets the receiver; says whether that ended it.
    fn cancel_queued(&self, py: Python<'_>) -> bool;
    fn state(&self) -> JobState;
    fn is_forked(&self) -> bool;
    /// The next item that the job has sent, if it has come and is not for the log.
    fn next_item(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>>;
}

#[pymethods]
impl Mailbox {
    #[new]
    fn new() -> PyResult<Self> {
        Ok(Self(Letters::new()?))
    }

    /// The descriptor that becomes readable when jobs have ended.
    fn fileno(&self) -> i32 {
        self.0.bell.as_raw_fd()
    }

    /// Ends the futures of the jobs that have ended. Does not block.
    pub(crate) fn deliver(&self, py: Python<'_>) {
        self.0.deliver(py, Some(TURN));
    }
}

impl Mailbox {
    pub(crate) fn letters(&self) -> &Arc<Letters> {
        &self.0
    }
}

impl Letters {
    fn new() -> PyResult<Arc<Self>> {
        let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let bell = bell.map_err(std::io::Error::from)?;
        Ok(Arc::new(Self { waiting: Mutex::default(), progress: Condvar::new(), bell }))
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, letter: Arc<dyn Letter>) {
        let mut waiting = self.waiting();
        waiting.letters.push_back(letter);
        waiting.put += 1;
        if !std::mem::replace(&mut waiting.rung, true) {
            drop(waiting);
            self.ring();
        }
    }

    /// While `work` brings letters nobody is told of them; they are to be delivered after it.
    pub(crate) fn gather(&self, work: impl FnOnce()) {
        self.waiting().rung = true;
        work();
    }

    fn ring(&self) {
        // Fails only when the counter is full, and then it is readable.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    fn deliver(&self, py: Python<'_>, turn: Option<Duration>) {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        self.waiting().rung = false;
        let began = Instant::now();
        loop {
            let Some(letter) = self.waiting().letters.pop_front() else { return };
            letter.deliver(py);
            let mut waiting = self.waiting();
            waiting.delivered += 1;
            if waiting.awaited {
                self.progress.notify_all();
            }
            drop(waiting);
            if turn.is_some_and(|turn| began.elapsed() >= turn) {
                break;
            }
        }
        let mut waiting = self.waiting();
        if !waiting.letters.is_empty() && !std::mem::replace(&mut waiting.rung, true) {
            drop(waiting);
            self.ring();
        }
    }
}

/// The mailbox of those who wait without a loop, emptied by a thread of its own.
pub(crate) fn completer() -> PyResult<Arc<Letters>> {
    static COMPLETER: Mutex<Option<(u32, Arc<Letters>)>> = Mutex::new(None);
    let mut completer = COMPLETER.lock().unwrap_or_else(PoisonError::into_inner);
    let pid = std::process::id();
    if let Some((owner, letters)) = &*completer {
        // A child made by fork() has the mailbox, but not its thread.
        if *owner == pid {
            return Ok(Arc::clone(letters));
        }
    }
    let letters = Letters::new()?;
    let ours = Arc::clone(&letters);
    thread::Builder::new().name("offloop-results".into()).spawn(move || ours.serve())?;
    *completer = Some((pid, Arc::clone(&letters)));
    Ok(letters)
}

impl Letters {
    /// Waits until the letters that have come are delivered. Not to be called with the interpreter attached.
    pub(crate) fn settle(&self, deadline: Instant) {
        let mut waiting = self.waiting();
        let goal = waiting.put;
        while waiting.delivered < goal && waiting.server != Some(thread::current().id()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            waiting.awaited = true;
            let woken = self.progress.wait_timeout(waiting, left);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        waiting.awaited = false;
    }

    /// Delivers for as long as there is an interpreter.
    fn serve(&self) {
        self.waiting().server = Some(thread::current().id());
        loop {
            let mut bell = [PollFd::from_borrowed_fd(self.bell.as_fd(), PollFlags::IN)];
            // An interruption or a want of memory: look again.
            let _ = rustix::event::poll(&mut bell, None);
            if Python::try_attach(|py| self.deliver(py, None)).is_none() {
                return;
            }
        }
    }
}

/// What becomes of a result in the interpreter: it, or an exception, for the receiver.
pub(crate) trait Receive: Send + Sized + 'static {
    fn receive(self, py: Python<'_>) -> PyResult<Py<PyAny>>;
}

/// A job whose end is told to `receiver`: by `receiver._arrive(value)` or `receiver._fail(exception)`.
struct Watched<T> {
    waiting: Mutex<Option<(Handle<T>, Py<PyAny>)>>,
    letters: Weak<Letters>,
    /// What it sends before its result, if it can.
    sent: Option<Sent>,
}

/// What a job sends before its result: log records, and items for a receiver that asks for them.
pub(crate) struct Sent {
    pub(crate) items: Mutex<ItemStream<Reply>>,
    /// The receiver asks for items, and is told by `receiver._wake()` when there are any.
    pub(crate) is_read: bool,
}

impl<T: Receive> Watched<T> {
    fn waiting(&self) -> MutexGuard<'_, Option<(Handle<T>, Py<PyAny>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Receive> Wake for Watched<T> {
    fn wake(self: Arc<Self>) {
        // A loop that is gone has taken its futures with it.
        if let Some(letters) = self.letters.upgrade() {
            letters.put(self);
        }
    }
}

impl<T: Receive> Letter for Watched<T> {
    fn deliver(self: Arc<Self>, py: Python<'_>) {
        self.tell_of_items(py);
        let mut waiting = self.waiting();
        let Some((handle, _)) = waiting.as_mut() else { return };
        let Some(result) = handle.try_result() else {
            // It was woken for another reason.
            let has_ended = handle.on_end(&Waker::from(Arc::clone(&self)));
            drop(waiting);
            return if has_ended {
                self.wake();
            };
        };
        let receiver = waiting.take().map(|(_, receiver)| receiver);
        drop(waiting);
        let Some(receiver) = receiver else { return };
        let outcome = match result {
            Ok(result) => result.receive(py),
            Err(error) => Err(errors::to_python(py, &error)),
        };
        let told = match outcome {
            Ok(value) => receiver.call_method1(py, "_arrive", (value,)),
            Err(error) => receiver.call_method1(py, "_fail", (error,)),
        };
        if let Err(error) = told {
            error.write_unraisable(py, Some(receiver.bind(py)));
        }
    }

    fn cancel(&self, py: Python<'_>) -> bool {
        let waiting = self.waiting().take();
        waiting.is_some_and(|(handle, _)| py.detach(|| handle.cancel()))
    }

    fn cancel_queued(&self, _: Python<'_>) -> bool {
        let mut waiting = self.waiting();
        let ended = waiting.as_ref().is_some_and(|(handle, _)| handle.cancel_queued());
        let told = if ended { waiting.take() } else { None };
        drop(waiting);
        told.is_some()
    }

    fn next_item(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let Some(sent) = &self.sent else { return Ok(None) };
        loop {
            let next = sent.items.lock().unwrap_or_else(PoisonError::into_inner).try_next();
            let Some(next) = next else { return Ok(None) };
            let next = next.map_err(|error| errors::to_python(py, &error))?;
            if let Some(item) = next.or_log(py)? {
                return item.receive(py).map(Some);
            }
        }
    }

    fn is_forked(&self) -> bool {
        self.waiting().as_ref().is_some_and(|(handle, _)| handle.is_forked())
    }

    fn state(&self) -> JobState {
        let waiting = self.waiting();
        waiting.as_ref().map_or(JobState::Ended, |(handle, _)| handle.state())
    }
}

impl<T: Receive> Watched<T> {
    /// Sees to what the job has sent since the last time.
    fn tell_of_items(self: &Arc<Self>, py: Python<'_>) {
        let Some(sent) = &self.sent else { return };
        // Before anybody looks: what comes later wakes us again.
        let waker = Waker::from(Arc::clone(self));
        sent.items.lock().unwrap_or_else(PoisonError::into_inner).on_item(&waker);
        let receiver = self.waiting().as_ref().map(|(_, receiver)| receiver.clone_ref(py));
        let told = if !sent.is_read {
            // All that there is for the log.
            self.next_item(py).map(|_| ())
        } else if let Some(receiver) = &receiver {
            receiver.call_method0(py, "_wake").map(|_| ())
        } else {
            Ok(())
        };
        if let Err(error) = told {
            error.write_unraisable(py, None);
        }
    }
}

/// Has `receiver` told of the end of `handle`'s job, and of what it sends before that.
pub(crate) fn watch<T: Receive>(
    handle: Handle<T>,
    receiver: Py<PyAny>,
    letters: &Arc<Letters>,
    sent: Option<Sent>,
) -> Job {
    let watched = Arc::new(Watched { waiting: Mutex::new(None), letters: Arc::downgrade(letters), sent });
    let waker = Waker::from(Arc::clone(&watched));
    let mut waiting = watched.waiting();
    let (handle, _) = waiting.insert((handle, receiver));
    let mut has_ended = handle.on_end(&waker);
    drop(waiting);
    if let Some(sent) = &watched.sent {
        has_ended |= sent.items.lock().unwrap_or_else(PoisonError::into_inner).on_item(&waker);
    }
    if has_ended {
        waker.wake();
    }
    Job(watched)
}

/// A job that was submitted: its handle in the interpreter.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct Job(Arc<dyn Letter>);

#[pymethods]
impl Job {
    /// Ends the job, unless it has ended; says whether it did. Its receiver is not told.
    fn cancel(&self, py: Python<'_>) -> bool {
        self.0.cancel(py)
    }

    /// Ends the job if no worker has begun with it; says whether it did. Its receiver is not told.
    fn cancel_queued(&self, py: Python<'_>) -> bool {
        self.0.cancel_queued(py)
    }

    /// Whether this process is a fork of the one that has submitted it, where it will never end.
    fn is_forked(&self) -> bool {
        self.0.is_forked()
    }

    /// The next item that the job has sent, in a tuple, if it has come. Does not block.
    fn next_item(&self, py: Python<'_>) -> PyResult<Option<(Py<PyAny>,)>> {
        Ok(self.0.next_item(py)?.map(|item| (item,)))
    }

    /// "waiting" for room in the queue, "queued", "running" or "ended".
    #[getter]
    fn state(&self) -> &'static str {
        match self.0.state() {
            JobState::Waiting => "waiting",
            JobState::Queued => "queued",
            JobState::Running => "running",
            JobState::Ended => "ended",
        }
    }
}
