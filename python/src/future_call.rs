//! A call for a `concurrent.futures.Future`, which the thread that runs the call ends itself.

use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};

use offloop::embed::HandleExt as _;
use offloop::{Error, ErrorKind, Handle, JobState};
use pyo3::prelude::*;

use crate::call::{Call, is_between_calls};
use crate::completion_queue::{Completion, CompletionQueue, results_thread};
use crate::deferred_result;
use crate::errors::IntoException as _;
use crate::interpreter::{Mutex, attach};
use crate::once::intern;

/// The work that the engine runs. If it is dropped unrun, the future is abandoned.
pub(crate) struct FutureCall {
    /// Taken when it runs.
    call: Option<Call>,
    future: Py<PyAny>,
    /// The call may end by its run limit. Its future then ends within the job, which knows whether that was the case.
    is_limited: bool,
}

impl FutureCall {
    pub(crate) fn new(call: Call, future: Py<PyAny>, is_limited: bool) -> Self {
        Self { call: Some(call), future, is_limited }
    }

    /// Makes the call and ends the future. While the interpreter exits, the future is left as it is.
    pub(crate) fn run(mut self) {
        let Some(call) = self.call.take() else { return };
        let _ = attach(|py| {
            let future = self.future.bind(py);
            if let Err(error) = Self::run_attached(py, future, call, self.is_limited) {
                error.write_unraisable(py, Some(future));
            }
            // Here, while the thread is attached.
            drop(self);
        });
    }

    fn run_attached(py: Python<'_>, future: &Bound<'_, PyAny>, call: Call, is_limited: bool) -> PyResult<()> {
        deferred_result::flush(py);
        if !future.call_method0(intern!(py, "set_running_or_notify_cancel"))?.is_truthy()? {
            return Ok(());
        }
        let is_outermost = is_between_calls();
        let (end, value) = match call.run(py) {
            Ok(value) => (intern!(py, "set_result"), value),
            Err(error) => (intern!(py, "set_exception"), error.into_value(py).into_any()),
        };
        let end = future.getattr(end)?;
        if is_outermost && !is_limited {
            deferred_result::defer(future, &end, value)
        } else {
            deferred_result::end_future(&end, value)
        }
    }
}

impl Drop for FutureCall {
    fn drop(&mut self) {
        let Some(call) = self.call.take() else { return };
        let _ = attach(|py| {
            drop(call);
            let future = self.future.bind(py);
            if let Err(error) = future.call_method0(intern!(py, "_abandon")) {
                error.write_unraisable(py, Some(future));
            }
        });
    }
}

/// A submitted call, as its future holds it.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct SubmittedCall {
    state: Mutex<State>,
    /// The process that has submitted the call.
    pid: u32,
}

/// How a submitted call stands, as far as its future must know.
enum State {
    /// The call has not ended, or nobody has asked for its error since.
    UnderWay(Handle<()>),
    /// The engine has ended the call for this reason.
    Refused(Arc<Error>),
    /// The call has run, or its future has cancelled it.
    Over,
}

impl SubmittedCall {
    pub(crate) fn new(handle: Handle<()>, pid: u32) -> Self {
        Self { state: Mutex::new(State::UnderWay(handle)), pid }
    }

    /// Registers `waker` for the call's end. Returns whether the call has ended.
    fn on_end(&self, waker: &Waker) -> bool {
        match &mut *self.state.lock() {
            State::UnderWay(handle) => handle.on_end(waker),
            State::Refused(_) | State::Over => true,
        }
    }

    fn has_ended(&self) -> bool {
        match &*self.state.lock() {
            State::UnderWay(handle) => handle.state() == JobState::Ended,
            State::Refused(_) | State::Over => true,
        }
    }

    /// Returns the reason for which the pool did not take the call, if it did not. A call whose time is over already was
    /// taken, and its future learns of it.
    pub(crate) fn refusal_error(&self, py: Python<'_>) -> Option<PyErr> {
        // The state is read without a lock.
        let error = if self.has_ended() { self.refusal()? } else { return None };
        let was_taken = matches!(error.kind(), ErrorKind::RunTimeout(_) | ErrorKind::QueueTimeout(_));
        (!was_taken).then(|| (&*error).into_exception(py))
    }

    /// Returns the reason for which the engine has ended the call, if it has.
    fn refusal(&self) -> Option<Arc<Error>> {
        let mut state = self.state.lock();
        if let State::UnderWay(handle) = &mut *state {
            // Not by the state, which is set a little later than the flag that a function may stop for.
            let ended = handle.try_result()?;
            *state = ended.err().map_or(State::Over, |error| State::Refused(Arc::new(error)));
        }
        match &*state {
            State::Refused(error) => Some(Arc::clone(error)),
            State::UnderWay(_) | State::Over => None,
        }
    }
}

#[pymethods]
impl SubmittedCall {
    /// Removes the call from the queue, if it is there.
    fn cancel_queued(&self) {
        let state = std::mem::replace(&mut *self.state.lock(), State::Over);
        if let State::UnderWay(handle) = state {
            handle.cancel_queued();
            handle.detach();
        }
    }

    /// Returns the reason for which the call ended without being run, or while it ran.
    pub(crate) fn error(&self, py: Python<'_>) -> Option<PyErr> {
        Some((&*self.refusal()?).into_exception(py))
    }

    /// Returns whether this is a child made by `fork()`, and the call is its parent's.
    fn is_forked(&self) -> bool {
        self.pid != std::process::id()
    }
}

impl Drop for SubmittedCall {
    fn drop(&mut self) {
        if let State::UnderWay(handle) = std::mem::replace(self.state.get_mut(), State::Over) {
            handle.detach();
        }
    }
}

/// A call with a limited run, whose future ends when the limit has passed.
struct LimitedCall {
    call: Py<SubmittedCall>,
    future: Py<PyAny>,
    completions: Weak<CompletionQueue>,
}

/// Calls `future._overrun(error)`, on the results thread, if the engine ends the call.
pub(crate) fn report_overrun(
    py: Python<'_>,
    call: &Py<SubmittedCall>,
    future: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let limited = Arc::new(LimitedCall {
        call: call.clone_ref(py),
        future: future.clone().unbind(),
        completions: Arc::downgrade(&results_thread()?),
    });
    limited.watch();
    Ok(())
}

impl LimitedCall {
    fn watch(self: &Arc<Self>) {
        let waker = Waker::from(Arc::clone(self));
        if self.call.get().on_end(&waker) {
            waker.wake();
        }
    }
}

impl Wake for LimitedCall {
    fn wake(self: Arc<Self>) {
        if let Some(completions) = self.completions.upgrade() {
            completions.push(self);
        }
    }
}

impl Completion for LimitedCall {
    fn deliver(self: Arc<Self>, py: Python<'_>) -> PyResult<()> {
        if let Some(error) = self.call.get().error(py) {
            self.future.call_method1(py, intern!(py, "_overrun"), (error,))?;
        } else if !self.call.get().has_ended() {
            // It was woken early.
            self.watch();
        }
        Ok(())
    }
}
