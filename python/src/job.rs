//! Submitted jobs: the handles that Python has, and how their ends and items reach the receivers.
//!
//! A receiver is a Python object that learns how a job ends: by `receiver._arrive(value)` or
//! `receiver._fail(exception)`. If it reads the job's items as well, `receiver._wake()` reports that there are some. A
//! receiver that has the method `_accept()` also learns that a job which waited for room in the queue has got it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, Weak};
use std::task::{Wake, Waker};

use offloop::embed::{HandleExt as _, ItemStreamExt as _};
use offloop::{Handle, ItemStream, JobState};
use pyo3::prelude::*;

use crate::completion_queue::{Completion, CompletionQueue};
use crate::errors::IntoException as _;
use crate::interpreter::{Mutex, detach};
use crate::message::Reply;
use crate::once::intern;
use crate::receive::{Receive, Results};

/// A job, and the receiver that learns how it ends.
struct WatchedJob<T> {
    /// Taken when the end is reported, or when the job is cancelled from Python: then there is no report.
    pending: Mutex<Option<(Handle<T>, Py<PyAny>)>>,
    completions: Weak<CompletionQueue>,
    /// The job waited for room in the queue, and its receiver has not learnt yet that this is over. Cleared once.
    awaits_room: AtomicBool,
    /// The items that the job sends before its result. `None` for a call on a thread, which sends none.
    sent: Option<SentItems>,
}

/// The stream of log records, and of items for a receiver that reads them, which a job sends before its result.
pub(crate) struct SentItems {
    items: Mutex<ItemStream<Reply>>,
    /// The receiver reads items. Otherwise there are log records only.
    is_read: bool,
    results: Results,
    /// The job's name, if an answer that cannot be read breaks the pool, which then names its culprit.
    culprit: Option<String>,
}

impl SentItems {
    pub(crate) fn new(
        mut items: ItemStream<Reply>,
        is_read: bool,
        results: Results,
        culprit: Option<String>,
    ) -> Self {
        // A reply is some numbers, and blobs that stay where they are.
        items.decode_here();
        Self { items: Mutex::new(items), is_read, results, culprit }
    }

    /// Gives an exception that says that an answer could not be read, `_worker.replies.Unreadable`, the job's name.
    fn name_culprit(&self, py: Python<'_>, error: &PyErr) -> PyResult<()> {
        let name = intern!(py, "job_name");
        match &self.culprit {
            Some(culprit) if error.value(py).hasattr(name)? => error.value(py).setattr(name, culprit),
            _ => Ok(()),
        }
    }

    /// Returns the next item that has come. Passes log records on to the logging.
    fn next(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        loop {
            let next = self.items.lock().try_next();
            let Some(next) = next else { return Ok(None) };
            let next = next.map_err(|error| error.into_exception(py))?;
            if let Some(item) = next.or_log(py, self.results)? {
                return item.receive(py, self.results).map(Some);
            }
        }
    }
}

/// Reports the end of `handle`'s job to `receiver`, and the items that it sends before that, through `completions`.
pub(crate) fn watch<T: Receive>(
    handle: Handle<T>,
    receiver: Py<PyAny>,
    completions: &Arc<CompletionQueue>,
    sent: Option<SentItems>,
) -> Job {
    let awaits_room = handle.state() == JobState::Waiting;
    let watched = Arc::new(WatchedJob {
        pending: Mutex::new(None),
        completions: Arc::downgrade(completions),
        awaits_room: AtomicBool::new(awaits_room),
        sent,
    });
    let waker = Waker::from(Arc::clone(&watched));
    let mut pending = watched.pending();
    let (handle, _) = pending.insert((handle, receiver));
    let mut has_news = handle.on_end(&waker);
    // It may have got room before the waker was registered.
    has_news |= awaits_room && handle.state() != JobState::Waiting;
    drop(pending);
    if let Some(sent) = &watched.sent {
        has_news |= sent.items.lock().on_item(&waker);
    }
    if has_news {
        waker.wake();
    }
    Job(watched)
}

impl<T: Receive> WatchedJob<T> {
    fn pending(&self) -> MutexGuard<'_, Option<(Handle<T>, Py<PyAny>)>> {
        self.pending.lock()
    }

    /// Reports the items that the job has sent since the last report.
    fn report_items(self: &Arc<Self>, py: Python<'_>) -> PyResult<()> {
        let Some(sent) = &self.sent else { return Ok(()) };
        // Before the items are read, so that one that comes meanwhile wakes this again.
        sent.items.lock().on_item(&Waker::from(Arc::clone(self)));
        if !sent.is_read {
            return sent.next(py).map(drop);
        }
        let receiver = self.pending().as_ref().map(|(_, receiver)| receiver.clone_ref(py));
        match receiver {
            Some(receiver) => receiver.call_method0(py, "_wake").map(drop),
            None => Ok(()),
        }
    }

    /// Reports that the job has got room in the queue, if it waited for that.
    fn report_room(&self, py: Python<'_>) -> PyResult<()> {
        if !self.awaits_room.load(Ordering::Relaxed) {
            return Ok(());
        }
        let pending = self.pending();
        let has_room = pending.as_ref().filter(|(handle, _)| handle.state() != JobState::Waiting);
        let receiver = has_room.map(|(_, receiver)| receiver.clone_ref(py));
        drop(pending);
        let Some(receiver) = receiver else { return Ok(()) };
        self.awaits_room.store(false, Ordering::Relaxed);
        match receiver.bind(py).getattr_opt("_accept")? {
            Some(accept) => accept.call0().map(drop),
            None => Ok(()),
        }
    }

    /// Takes the result, and the receiver that gets it. If the job has not ended, registers for its end.
    fn take_result(self: &Arc<Self>) -> Option<(Result<T, offloop::Error>, Py<PyAny>)> {
        let mut pending = self.pending();
        let (handle, _) = pending.as_mut()?;
        let Some(result) = handle.try_result() else {
            let waker = Waker::from(Arc::clone(self));
            let has_ended = handle.on_end(&waker);
            drop(pending);
            if has_ended {
                waker.wake();
            }
            return None;
        };
        pending.take().map(|(_, receiver)| (result, receiver))
    }
}

impl<T: Receive> Wake for WatchedJob<T> {
    fn wake(self: Arc<Self>) {
        // If the event loop is gone, so are its futures.
        if let Some(completions) = self.completions.upgrade() {
            completions.push(self);
        }
    }
}

impl<T: Receive> Completion for WatchedJob<T> {
    fn deliver(self: Arc<Self>, py: Python<'_>) {
        if let Err(error) = self.report_items(py) {
            error.write_unraisable(py, None);
        }
        let Some((result, receiver)) = self.take_result() else {
            if let Err(error) = self.report_room(py) {
                error.write_unraisable(py, None);
            }
            return;
        };
        let results = self.sent.as_ref().map(|sent| sent.results).unwrap_or_default();
        let result =
            result.map_err(|error| error.into_exception(py)).and_then(|value| value.receive(py, results));
        let reported = match result {
            Ok(value) => receiver.call_method1(py, "_arrive", (value,)),
            Err(error) => {
                let named = self.sent.as_ref().map_or(Ok(()), |sent| sent.name_culprit(py, &error));
                named.and_then(|()| receiver.call_method1(py, "_fail", (error,)))
            }
        };
        if let Err(error) = reported {
            error.write_unraisable(py, Some(receiver.bind(py)));
        }
    }
}

/// A watched job with a result of any type.
trait AnyJob: Send + Sync {
    fn cancel(&self, py: Python<'_>) -> PyResult<bool>;
    fn cancel_queued(self: Arc<Self>) -> bool;
    fn state(&self) -> JobState;
    fn is_forked(&self) -> bool;
    fn next_item(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>>;
}

impl<T: Receive> AnyJob for WatchedJob<T> {
    fn cancel(&self, py: Python<'_>) -> PyResult<bool> {
        let pending = self.pending().take();
        match pending {
            Some((handle, _receiver)) => detach(py, || handle.cancel()),
            None => Ok(false),
        }
    }

    fn cancel_queued(self: Arc<Self>) -> bool {
        // The engine drops the call, which may run Python code, so the lock must not be held.
        let Some((handle, receiver)) = self.pending().take() else { return false };
        if handle.cancel_queued() {
            return true;
        }
        *self.pending() = Some((handle, receiver));
        // Its end may have come while there was no receiver to report it to.
        self.wake();
        false
    }

    fn state(&self) -> JobState {
        self.pending().as_ref().map_or(JobState::Ended, |(handle, _)| handle.state())
    }

    fn is_forked(&self) -> bool {
        self.pending().as_ref().is_some_and(|(handle, _)| handle.is_forked())
    }

    fn next_item(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.sent.as_ref().map_or(Ok(None), |sent| sent.next(py))
    }
}

/// A submitted job, as Python holds it.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct Job(Arc<dyn AnyJob>);

#[pymethods]
impl Job {
    /// Ends the job unless it has ended. Returns whether that ended it. Its receiver gets no report.
    fn cancel(&self, py: Python<'_>) -> PyResult<bool> {
        self.0.cancel(py)
    }

    /// Ends the job if no worker has it yet. Returns whether that ended it. Its receiver gets no report.
    fn cancel_queued(&self) -> bool {
        Arc::clone(&self.0).cancel_queued()
    }

    /// Returns whether this process is a fork of the one that has submitted the job, so that it never ends here.
    fn is_forked(&self) -> bool {
        self.0.is_forked()
    }

    /// Returns the next item that the job has sent, in a tuple; None if none has come. Does not block.
    fn next_item(&self, py: Python<'_>) -> PyResult<Option<(Py<PyAny>,)>> {
        Ok(self.0.next_item(py)?.map(|item| (item,)))
    }

    /// The job's state: "waiting" for room in the queue, "queued", "running" or "ended".
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
