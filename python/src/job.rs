//! Submitted jobs: the handles that Python has, and how their ends and items reach the receivers.
//!
//! A receiver is a Python object that learns how a job ends: by `receiver._arrive(value)`, by
//! `receiver._raise(exception)` if the job itself has raised one, or by `receiver._fail(exception)` if it has no result
//! for a reason of the engine. The future that `run` returns, `JobFuture`, gets its value by `set_result`. If it reads the job's items as well, `receiver._wake()` reports that there are some. A
//! receiver that has the method `_accept()` also learns that a job which waited for room in the queue has got it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, Weak};
use std::task::{Wake, Waker};
use std::thread::{self, ThreadId};
use std::time::Duration;

use offloop::embed::HandleExt as _;
use offloop::{Handle, JobState};
use pyo3::exceptions::{PyException, PyMemoryError};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::callbacks::{Callbacks, callbacks_of};
use crate::completion_queue::{Completion, CompletionQueue};
use crate::errors::IntoException as _;
use crate::interpreter::{self, Mutex, detach};
use crate::once::{Once, intern};
use crate::receive::Receive;
use crate::sent_items::{LogsRecords, SentItems};
use crate::submission;

/// The time after which an end that could not be reported for lack of memory is reported again.
const MEMORY_PAUSE: Duration = Duration::from_millis(1);

/// A job, and the receiver that learns how it ends.
struct WatchedJob<T> {
    /// Taken when the end is reported, or when the job is cancelled from Python: then there is no report.
    pending: Mutex<Option<(Handle<T>, Py<PyAny>)>>,
    /// A result that cannot be reported yet, and its receiver: the job has log records which are not handled, or an event
    /// loop leaves the result to the results thread. Set and taken by who delivers, and taken when the job is cancelled
    /// from Python.
    held: Mutex<Option<(T, Py<PyAny>)>>,
    /// An end that is to be reported again, and its receiver. Set and taken by who delivers.
    unreported: Mutex<Option<(End, Py<PyAny>)>>,
    completions: Weak<CompletionQueue>,
    /// The thread that has submitted the job.
    submitter: ThreadId,
    /// The job waited for room in the queue, and its receiver has not learnt yet that this is over. Cleared once.
    awaits_room: AtomicBool,
    /// The items that the job sends before its result. `None` for a call on a thread, which sends none.
    sent: Option<SentItems>,
}

/// The result of a job that has ended, and the job's receiver.
type Ended<T> = (Result<T, offloop::Error>, Py<PyAny>);

/// The end of a job, as its receiver gets it.
struct End {
    kind: EndKind,
    outcome: Py<PyAny>,
    /// Memory was short, so there is to be a pause before the next attempt.
    needs_memory: bool,
}

/// The meaning of a job's end for its receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndKind {
    Value,
    /// The job has raised the exception.
    Raised,
    /// The job has no result, for this reason.
    Failed,
}

impl EndKind {
    /// Returns the name of the receiver's method.
    fn method(self, py: Python<'_>) -> &Bound<'_, PyString> {
        match self {
            Self::Value => intern!(py, "_arrive"),
            Self::Raised => intern!(py, "_raise"),
            Self::Failed => intern!(py, "_fail"),
        }
    }
}

impl End {
    /// Tells the receiver.
    fn tell(&self, receiver: &Bound<'_, PyAny>) -> PyResult<()> {
        static HAS_ENDED: Once<Py<PyAny>> = Once::new();
        let py = receiver.py();
        if self.kind != EndKind::Value || !submission::is_job_future(receiver)? {
            return interpreter::call_method(receiver, self.kind.method(py), &self.outcome).map(drop);
        }
        let told = interpreter::call_method(receiver, intern!(py, "set_result"), &self.outcome);
        let Err(error) = told else { return Ok(()) };
        let has_ended = error.matches(py, HAS_ENDED.attribute(py, "asyncio", "InvalidStateError")?)?;
        if has_ended { Ok(()) } else { Err(error) }
    }
}

impl<T: Receive> LogsRecords for WatchedJob<T> {
    fn record_handled(self: Arc<Self>) {
        if self.sent.as_ref().is_some_and(SentItems::record_handled) {
            self.wake();
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
        held: Mutex::new(None),
        unreported: Mutex::new(None),
        completions: Arc::downgrade(completions),
        submitter: thread::current().id(),
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
        has_news |= sent.on_item(&waker);
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
    fn report_items(self: &Arc<Self>, py: Python<'_>) {
        if let Err(error) = self.try_report_items(py) {
            error.write_unraisable(py, None);
        }
    }

    fn try_report_items(self: &Arc<Self>, py: Python<'_>) -> PyResult<()> {
        let Some(sent) = &self.sent else { return Ok(()) };
        // Before the items are read, so that one that comes meanwhile wakes this again.
        sent.on_item(&Waker::from(Arc::clone(self)));
        if !sent.is_read() {
            let job: Arc<dyn LogsRecords> = Arc::clone(self) as _;
            return sent.next(py, &job).map(drop);
        }
        let receiver = self.pending().as_ref().map(|(_, receiver)| receiver.clone_ref(py));
        match receiver {
            Some(receiver) => receiver.call_method0(py, intern!(py, "_wake")).map(drop),
            None => Ok(()),
        }
    }

    /// Reports the end to the receiver. If there is not enough memory for that, the job ends with this exception, as soon as
    /// there is enough for that. Raises what a signal's handler has raised in the receiver, which gets the end all the same.
    fn report(self: &Arc<Self>, py: Python<'_>, end: &End, receiver: Py<PyAny>) -> PyResult<()> {
        let Err(error) = end.tell(receiver.bind(py)) else { return Ok(()) };
        if error.is_instance_of::<PyMemoryError>(py) {
            let outcome = error.into_value(py).into_any();
            let end = End { kind: EndKind::Raised, outcome, needs_memory: true };
            if end.tell(receiver.bind(py)).is_err() {
                self.report_later(end, receiver);
            }
            return Ok(());
        }
        if error.is_instance_of::<PyException>(py) {
            return Err(error);
        }
        end.tell(receiver.bind(py)).and(Err(error))
    }

    /// Leaves the report to the next delivery.
    fn report_later(self: &Arc<Self>, end: End, receiver: Py<PyAny>) {
        *self.unreported.lock() = Some((end, receiver));
        Arc::clone(self).wake();
    }

    /// Returns whether the receiver reads the job's items.
    fn is_read(&self) -> bool {
        self.sent.as_ref().is_some_and(SentItems::is_read)
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
        match receiver.bind(py).getattr_opt(intern!(py, "_accept"))? {
            Some(accept) => accept.call0().map(drop),
            None => Ok(()),
        }
    }

    /// Returns whether this thread's event loop waits for the end, and nothing else is called by it.
    fn is_awaited_here(&self, py: Python<'_>) -> PyResult<bool> {
        let receiver = self.pending().as_ref().map(|(_, receiver)| receiver.clone_ref(py));
        match receiver {
            Some(receiver) => Ok(callbacks_of(receiver.bind(py))? == Callbacks::Asyncio),
            None => Ok(false),
        }
    }

    /// Takes the result if it can be reported, and the receiver that gets it. Reports the items first.
    ///
    /// A result for which log records or items have to be handled first is held. So is one that does not `fit` here, which
    /// the next delivery reports. If the job has not ended, registers for its end.
    fn take_result(self: &Arc<Self>, py: Python<'_>, fits: impl Fn(&T) -> bool) -> Option<Ended<T>> {
        self.report_items(py);
        let has_unhandled = || self.sent.as_ref().is_some_and(SentItems::has_unhandled);
        let held = if has_unhandled() { None } else { self.held.lock().take() };
        if let Some((value, receiver)) = held {
            return Some((Ok(value), receiver));
        }
        let (result, receiver) = self.take_end()?;
        // Records that came together with the end, after the look above.
        self.report_items(py);
        match result {
            Ok(value) if has_unhandled() => {
                // The last record that is handled wakes this again, and so does the reader of the last item.
                let reader = self.is_read().then(|| receiver.clone_ref(py));
                *self.held.lock() = Some((value, receiver));
                if let Some(Err(error)) = reader.map(|reader| reader.call_method0(py, intern!(py, "_wake"))) {
                    error.write_unraisable(py, None);
                }
                None
            }
            Ok(value) if !fits(&value) => {
                *self.held.lock() = Some((value, receiver));
                Arc::clone(self).wake();
                None
            }
            result => Some((result, receiver)),
        }
    }

    /// Takes the result, and the receiver that gets it. If the job has not ended, registers for its end.
    fn take_end(self: &Arc<Self>) -> Option<Ended<T>> {
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

    /// Makes of a result what the receiver gets.
    fn end_of(&self, py: Python<'_>, result: Result<T, offloop::Error>) -> End {
        let results = self.sent.as_ref().map(SentItems::results).unwrap_or_default();
        self.sent.iter().for_each(SentItems::forget_context);
        let (kind, outcome) = match result.map(|value| value.receive(py, results)) {
            Ok(Ok(value)) => (EndKind::Value, value),
            Ok(Err(exception)) => {
                let named = self.sent.as_ref().map_or(Ok(()), |sent| sent.name_culprit(py, &exception));
                let exception = named.map_or_else(|error| error, |()| exception);
                (EndKind::Raised, exception.into_value(py).into_any())
            }
            Err(error) => (EndKind::Failed, error.into_exception(py).into_value(py).into_any()),
        };
        End { kind, outcome, needs_memory: false }
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
    fn deliver(self: Arc<Self>, py: Python<'_>) -> PyResult<()> {
        let unreported = self.unreported.lock().take();
        if let Some((end, receiver)) = unreported {
            if end.needs_memory {
                let _ = detach(py, || thread::sleep(MEMORY_PAUSE));
            }
            return self.report(py, &end, receiver);
        }
        let Some((result, receiver)) = self.take_result(py, |_| true) else { return self.report_room(py) };
        let end = self.end_of(py, result);
        self.report(py, &end, receiver)
    }

    fn deliver_on_loop(self: Arc<Self>, py: Python<'_>) -> PyResult<bool> {
        // Without the interpreter's lock the results thread could be at the same job.
        let may_deliver = !cfg!(Py_GIL_DISABLED)
            && self.submitter == thread::current().id()
            && !self.is_read()
            && self.unreported.lock().is_none()
            && self.is_awaited_here(py).unwrap_or(false);
        if !may_deliver {
            return Ok(false);
        }
        let Some((result, receiver)) = self.take_result(py, |value| !value.is_large()) else {
            return Ok(true);
        };
        let mut end = self.end_of(py, result);
        // Functions may have been attached while the result was made.
        let ended = receiver.getattr(py, end.kind.method(py)).and_then(|method| {
            receiver.call_method1(py, intern!(py, "_end_for_loop"), (method, &end.outcome))?.is_truthy(py)
        });
        if !matches!(ended, Ok(true)) {
            end.needs_memory = ended.as_ref().is_err_and(|error| error.is_instance_of::<PyMemoryError>(py));
            self.report_later(end, receiver);
        }
        ended.map(|_| true)
    }
}

/// A watched job with a result of any type.
trait AnyJob: Send + Sync {
    fn cancel(&self, py: Python<'_>) -> PyResult<bool>;
    fn cancel_queued(self: Arc<Self>) -> bool;
    fn state(&self) -> JobState;
    fn is_forked(&self) -> bool;
    fn next_item(self: Arc<Self>, py: Python<'_>) -> PyResult<Option<Py<PyAny>>>;
}

impl<T: Receive> AnyJob for WatchedJob<T> {
    fn cancel(&self, py: Python<'_>) -> PyResult<bool> {
        let pending = self.pending().take();
        let held = self.held.lock().take();
        drop(held);
        self.sent.iter().for_each(SentItems::forget_context);
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

    fn next_item(self: Arc<Self>, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let Some(sent) = &self.sent else { return Ok(None) };
        // Before the items are read: all of them have come before the end.
        let has_ended = self.held.lock().is_some();
        let job: Arc<dyn LogsRecords> = Arc::clone(&self) as _;
        let next = sent.next(py, &job)?;
        if next.is_none() && has_ended && sent.set_drained() {
            Arc::clone(&self).wake();
        }
        Ok(next)
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
        Ok(Arc::clone(&self.0).next_item(py)?.map(|item| (item,)))
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
