//! The beats of a loop, and the monitor thread that waits for them.

use std::sync::Arc;
use std::time::Duration;

use offloop::embed::thread;
use offloop::watch::{Monitor, StallPlace, WatchGuard};
use pyo3::prelude::*;

use super::event_queue::EventQueue;
use super::listener::{Listener, Places};
use super::loop_thread::{LoopThread, Measure};
use super::stacks::Stacks;
use crate::interpreter::{Mutex, detach};
use crate::settings::{self, seconds};

/// A loop's beats, and the monitor thread that waits for them.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct Pulse {
    engine: offloop::watch::Pulse,
    thread: Arc<LoopThread>,
    /// Ends the monitor thread when it is dropped. Taken by `stop`.
    guard: Mutex<Option<WatchGuard>>,
}

#[pymethods]
impl Pulse {
    /// Starts a monitor thread, whose events have this key. Times in seconds. The live view shows `name` and `kind`.
    ///
    /// `grace` is the time that the reporting thread gets for attaching to the interpreter, before it is looked which
    /// thread has it. After `mute`, the monitor writes the report itself.
    #[new]
    #[expect(clippy::too_many_arguments, reason = "each is a setting of the watch")]
    fn new(
        events: &EventQueue,
        key: u64,
        threshold: f64,
        grace: f64,
        mute: f64,
        stacks: Option<&Stacks>,
        name: String,
        kind: String,
    ) -> PyResult<Self> {
        let thread = Arc::<LoopThread>::default();
        let places = Arc::<Places>::default();
        let mut listener = Listener::new(
            Arc::clone(&events.0),
            Arc::clone(&thread),
            stacks.map(|stacks| Arc::clone(&stacks.0)),
            Arc::clone(&places),
            key,
            seconds("grace", grace)?,
            seconds("mute", mute)?,
        );
        let monitor = Monitor::new(seconds("threshold", threshold)?).name(name).kind(kind);
        let measure = Measure(Arc::clone(&thread));
        let (engine, guard) = monitor.start_measured(measure, move |event| listener.on_event(event))?;
        places.begin(&engine);
        Ok(Self { engine, thread, guard: Mutex::new(Some(guard)) })
    }

    /// Counts a stall at a place, for the live view, in place of what was counted for the same stall before. `stall` is the
    /// number of its events, `cause` the loop's activity, and `seconds` the time that it has taken so far. Does not block.
    #[expect(clippy::too_many_arguments, reason = "each is a part of the place")]
    fn stalled_at(
        &self,
        stall: u64,
        function: String,
        file: String,
        line: u32,
        cause: &str,
        advice: String,
        seconds: f64,
    ) -> PyResult<()> {
        let place = StallPlace::new(function).line(file, (line > 0).then_some(line)).advice(advice);
        let place = place.activity(settings::activity(cause)?);
        self.engine.stalled_at(stall, place, settings::seconds("seconds", seconds)?);
        Ok(())
    }

    /// Reports that the loop comes round, on this thread. Does not block.
    fn beat(&self) {
        self.thread.beat();
        if let Some(silence) = self.engine.age().filter(|age| *age > 4 * self.engine.interval()) {
            self.thread.set_silence(silence);
        }
        self.engine.beat();
    }

    /// Expects no beats until the next one: the loop does not run.
    fn pause(&self) {
        self.engine.pause();
    }

    /// The time between two beats, in seconds.
    #[getter]
    fn interval(&self) -> f64 {
        self.engine.interval().as_secs_f64()
    }

    /// Returns the seconds since the last beat; None while paused.
    fn age(&self) -> Option<f64> {
        self.engine.age().map(|age| age.as_secs_f64())
    }

    /// Returns the length of the last silence that was longer than the threshold, in seconds; 0 if there was none.
    fn silence(&self) -> f64 {
        self.thread.silence().as_secs_f64()
    }

    /// The id of the thread that beats, as `threading` has it.
    #[getter]
    fn thread(&self) -> u64 {
        self.thread.ident()
    }

    /// Returns whether the loop's thread computes while this one has the interpreter. Blocks for a millisecond, and
    /// does not release the interpreter.
    fn computes_detached(&self) -> bool {
        const BLOCKED: Duration = Duration::from_millis(1);
        const COMPUTES: Duration = Duration::from_micros(200);
        let tid = self.thread.tid();
        let before = thread::cpu_time(tid);
        std::thread::sleep(BLOCKED);
        matches!((before, thread::cpu_time(tid)), (Some(before), Some(after)) if after > before + COMPUTES)
    }

    /// Ends the monitor thread. Blocks while it handles an event.
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        let guard = self.guard.lock().take();
        detach(py, || drop(guard))
    }
}
