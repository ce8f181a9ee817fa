//! The events that monitors have noticed, on their way to the thread that reports them.

use std::collections::VecDeque;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use super::stacks::StackFrame;
use crate::interpreter::{Condvar, Mutex, detach};
use crate::settings::seconds;

/// An event that a monitor has noticed about a loop.
#[pyclass(frozen, get_all, module = "offloop._offloop")]
pub(crate) struct StallEvent {
    /// The key of the loop's pulse.
    pub(super) key: u64,
    /// The number of the stall, another one for each of the loop.
    pub(super) stall: u64,
    /// "stalled", "still", "over" or "starved".
    pub(super) kind: &'static str,
    /// The seconds by which the beat is late, or came late. Those without a core are not counted, except in "starved".
    pub(super) seconds: f64,
    /// The seconds since the last beat in which the loop's thread could have run but had no core.
    pub(super) starved: f64,
    /// The activity of the loop's thread since the last beat: "computes" or "waits".
    pub(super) activity: &'static str,
    /// The stack of the loop's thread, if it could be read.
    pub(super) stack: Option<Vec<StackFrame>>,
    /// The stack at the look before, if there was one.
    pub(super) before: Option<Vec<StackFrame>>,
    /// The seconds between these two looks, without those in which the thread had no core.
    pub(super) apart: f64,
    /// The id, in `threading`, of the thread that has the interpreter instead, and its stack.
    pub(super) holder: Option<(u64, Option<Vec<StackFrame>>)>,
}

/// The queue of the monitors' events, for the one thread that reports them.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct EventQueue(pub(super) Arc<Events>);

/// The queue, as the monitors and the reporting thread share it.
#[derive(Default)]
pub(super) struct Events {
    state: Mutex<EventsState>,
    /// Notified when an event was put or taken, when all are handled, and when the queue is closed.
    changed: Condvar,
}

#[derive(Default)]
struct EventsState {
    queue: VecDeque<StallEvent>,
    /// The time since which the reporting thread has something to do. Set by the monitor that puts the first event and
    /// whenever an event is taken; `None` when the thread asks for the next one and there is none.
    busy_since: Option<Instant>,
    /// The reporting thread has had the interpreter since then.
    has_attached: bool,
    /// Set while the reporting thread runs the user's code, which may take any time: the text that it reports there.
    in_user_code: Option<String>,
    is_closed: bool,
}

/// The situation of the reporting thread.
pub(super) struct ReporterState {
    /// The thread has had the interpreter since it has something to do.
    pub(super) has_attached: bool,
    /// The time for which it has had something to do.
    pub(super) busy: Duration,
    /// The text that it reports by the user's code, if it runs that.
    pub(super) in_user_code: Option<String>,
}

impl Events {
    fn state(&self) -> MutexGuard<'_, EventsState> {
        self.state.lock()
    }

    /// Appends an event. One that only repeats that the loop stands still takes the place of the last such one of the
    /// same loop, if that is unread: a reporting thread that is late must not find thousands of them.
    pub(super) fn put(&self, event: StallEvent) {
        let mut state = self.state();
        if state.busy_since.is_none() {
            state.busy_since = Some(Instant::now());
            state.has_attached = false;
        }
        match state.queue.iter_mut().rev().find(|unread| unread.key == event.key) {
            Some(last) if event.kind == "still" && last.kind == "still" => {
                *last = StallEvent { holder: last.holder.take(), ..event };
            }
            _ => state.queue.push_back(event),
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until the reporting thread has the interpreter, for at most `grace`. Returns whether it has.
    pub(super) fn wait_for_reporter(&self, grace: Duration) -> bool {
        let waits = |state: &mut EventsState| !state.has_attached && !state.is_closed;
        self.changed.wait_timeout_while(self.state(), grace, waits).1
    }

    /// Returns what the reporting thread does.
    pub(super) fn reporter(&self) -> ReporterState {
        let state = self.state();
        let busy = state.busy_since.map_or(Duration::ZERO, |since| since.elapsed());
        ReporterState { has_attached: state.has_attached, busy, in_user_code: state.in_user_code.clone() }
    }

    /// Adds the thread that has the interpreter to the unread events of one loop, all of which are about the same stall.
    pub(super) fn explain(&self, key: u64, holder: &(u64, Option<Vec<StackFrame>>)) {
        for event in self.state().queue.iter_mut().filter(|event| event.key == key) {
            if event.holder.is_none() {
                event.holder = Some(holder.clone());
            }
        }
    }
}

#[pymethods]
impl EventQueue {
    #[new]
    fn new() -> Self {
        Self(Arc::default())
    }

    /// Returns the next event, and whether there may be more; no event when the queue is closed, or after `timeout`
    /// seconds. Blocks.
    fn next(&self, py: Python<'_>, timeout: f64) -> PyResult<(Option<StallEvent>, bool)> {
        let timeout = seconds("timeout", timeout)?;
        let events = &self.0;
        let mut state = events.state();
        state.in_user_code = None;
        if state.queue.is_empty() {
            state.busy_since = None;
            events.changed.notify_all();
            drop(state);
            detach(py, || {
                let waits = |state: &mut EventsState| state.queue.is_empty() && !state.is_closed;
                drop(events.changed.wait_timeout_while(events.state(), timeout, waits).0);
            })?;
            // The event is taken only now: another thread may have had the interpreter for long.
            state = events.state();
        }
        let event = state.queue.pop_front();
        state.busy_since = event.is_some().then(Instant::now);
        state.has_attached = true;
        let goes_on = event.is_some() || !state.is_closed;
        events.changed.notify_all();
        Ok((event, goes_on))
    }

    /// Marks that this thread runs the user's code until it asks for the next event. If that code does not return, a
    /// monitor writes `text` to standard error.
    fn outside(&self, text: String) {
        self.0.state().in_user_code = Some(text);
    }

    /// Waits until all events so far are handled, for at most `timeout` seconds. Returns whether they are. Blocks.
    fn flush(&self, py: Python<'_>, timeout: f64) -> PyResult<bool> {
        let timeout = seconds("timeout", timeout)?;
        let events = &self.0;
        let waits = |state: &mut EventsState| state.busy_since.is_some() && !state.is_closed;
        detach(py, || events.changed.wait_timeout_while(events.state(), timeout, waits).1)
    }

    /// Takes no more events. Those in the queue are still returned by `next`.
    fn close(&self) {
        self.0.state().is_closed = true;
        self.0.changed.notify_all();
    }
}
