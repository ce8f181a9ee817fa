//! The watchdog's native half: who notices that a loop stands still, while the interpreter may be out of reach.
//!
//! The loop beats a [`Pulse`]; the engine's monitor, a thread that never asks for the interpreter, puts what it notices
//! into the [`Post`]. A thread of Python's takes it from there and reports. While that thread cannot get the
//! interpreter the monitor has the stalled thread write down its own stack ([`Stacks`]), and if that lasts, writes
//! to the standard error itself.

mod clocks;
mod interrupted;
mod stacks;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use offloop::watch::{Event, Guard, Monitor};
use pyo3::prelude::*;

pub(crate) use clocks::cpu_clocks;
pub(crate) use stacks::Stacks;

use crate::settings::seconds;

/// What a monitor has noticed.
#[pyclass(frozen, get_all, module = "offloop._offloop")]
pub(crate) struct Notice {
    /// Which pulse.
    key: u64,
    /// "stalled", "still" or "over".
    kind: &'static str,
    /// How late the beat is, or came.
    seconds: f64,
    /// For what part of the time since the last beat the loop's thread had a core.
    share: f64,
    /// What the system says the thread is at: 'R' if it runs or would.
    state: Option<char>,
    /// The stack of the loop's thread, if the interpreter could not be had.
    stack: Option<String>,
    /// The thread that seems to have the interpreter instead, and its stack.
    holder: Option<(i32, Option<String>)>,
}

impl Notice {
    /// Whether it is known what the loop's thread was at, or who kept the interpreter from it.
    fn is_explained(&self) -> bool {
        self.stack.is_some() || self.holder.is_some()
    }
}

/// Where the monitors leave what they notice, for the one thread that reports it.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct Post(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Something was put, taken or settled, or the post is closed.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    notices: VecDeque<Notice>,
    /// Since when the reporter has something to do and hasn't come back for more.
    busy: Option<Instant>,
    /// It was seen to have the interpreter since then.
    attached: bool,
    /// It calls what isn't ours, which may take any time. The text is what it is about to say there.
    outside: Option<String>,
    closed: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Post {
    #[new]
    fn new() -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() }))
    }

    /// The next notice; None when the post is closed. Blocks.
    fn next(&self, py: Python<'_>) -> Option<Notice> {
        let mut state = self.0.state();
        state.outside = None;
        if state.notices.is_empty() {
            state.busy = None;
            self.0.changed.notify_all();
            drop(state);
            py.detach(|| {
                let waits = |state: &mut State| state.notices.is_empty() && !state.closed;
                drop(self.0.changed.wait_while(self.0.state(), waits));
            });
            // Only now: somebody else may have had the interpreter for long.
            state = self.0.state();
        }
        let notice = state.notices.pop_front();
        state.busy = notice.is_some().then(Instant::now);
        state.attached = true;
        self.0.changed.notify_all();
        notice
    }

    /// From now until the next notice is asked for, this thread is in the hands of others, to whom it says `text`.
    fn outside(&self, text: String) {
        self.0.state().outside = Some(text);
    }

    /// Waits for all to be reported that was noticed, for so many seconds; says whether it was. Blocks.
    fn settle(&self, py: Python<'_>, timeout: f64) -> PyResult<bool> {
        let timeout = seconds("timeout", timeout)?;
        let waits = |state: &mut State| state.busy.is_some() && !state.closed;
        Ok(py.detach(|| {
            let waited = self.0.changed.wait_timeout_while(self.0.state(), timeout, waits);
            !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
        }))
    }

    /// What was noticed is still to be had; then there is no more.
    fn close(&self) {
        self.0.state().closed = true;
        self.0.changed.notify_all();
    }
}

/// A loop's sign of life, and the thread that listens to it.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct Pulse {
    engine: offloop::watch::Pulse,
    owner: Arc<Owner>,
    guard: Mutex<Option<Guard>>,
}

/// The thread that beats.
#[derive(Default)]
struct Owner {
    ident: AtomicU64,
    tid: AtomicI32,
    /// Its CPU time at the last beat, in nanoseconds.
    cpu: AtomicU64,
    /// The time between the last two beats that were further apart than the threshold, in nanoseconds.
    silence: AtomicU64,
}

#[pymethods]
impl Pulse {
    /// Times in seconds. `grace`: for how long the reporter may take to get the interpreter before the loop's thread
    /// writes its own stack down; `mute`: after how long the monitor speaks itself.
    #[new]
    fn new(
        post: &Post,
        key: u64,
        threshold: f64,
        grace: f64,
        mute: f64,
        stacks: Option<&Stacks>,
    ) -> PyResult<Self> {
        let owner = Arc::<Owner>::default();
        let monitor = Monitor::new(seconds("threshold", threshold)?);
        let mut listener = Listener {
            post: Arc::clone(&post.0),
            owner: Arc::clone(&owner),
            stacks: stacks.map(|stacks| Arc::clone(&stacks.0)),
            key,
            grace: seconds("grace", grace)?,
            mute: seconds("mute", mute)?,
            has_spoken: false,
        };
        let (engine, guard) = monitor.start(move |event| listener.hear(event))?;
        Ok(Self { engine, owner, guard: Mutex::new(Some(guard)) })
    }

    /// The loop comes round, on this thread. Does not block.
    fn beat(&self) {
        let (ident, tid) = clocks::here();
        self.owner.ident.store(ident, Ordering::Relaxed);
        self.owner.tid.store(tid, Ordering::Relaxed);
        self.owner.cpu.store(nanos(clocks::cpu_here()), Ordering::Relaxed);
        if let Some(silence) = self.engine.age().filter(|age| *age > 4 * self.engine.interval()) {
            self.owner.silence.store(nanos(silence), Ordering::Relaxed);
        }
        self.engine.beat();
    }

    /// The loop rightly stands still until the next beat.
    fn pause(&self) {
        self.engine.pause();
    }

    /// How many seconds apart the beats should be.
    #[getter]
    fn interval(&self) -> f64 {
        self.engine.interval().as_secs_f64()
    }

    /// How many seconds ago the last beat was; None while paused.
    fn age(&self) -> Option<f64> {
        self.engine.age().map(|age| age.as_secs_f64())
    }

    /// How many seconds the last silence lasted that was longer than the threshold; 0 if there was none.
    fn silence(&self) -> f64 {
        Duration::from_nanos(self.owner.silence.load(Ordering::Relaxed)).as_secs_f64()
    }

    /// The thread that beats: as `threading` knows it, and as the system does.
    #[getter]
    fn thread(&self) -> (u64, i32) {
        (self.owner.ident.load(Ordering::Relaxed), self.owner.tid.load(Ordering::Relaxed))
    }

    /// Whether its thread computes while this one has the interpreter. Blocks for a millisecond, and keeps it.
    fn computes_detached(&self) -> bool {
        let tid = self.owner.tid.load(Ordering::Relaxed);
        let before = clocks::cpu(tid);
        std::thread::sleep(Duration::from_millis(1));
        matches!((before, clocks::cpu(tid)), (Some(before), Some(after)) if after > before + Duration::from_micros(200))
    }

    /// Ends the watch. Blocks while the monitor is at something.
    fn stop(&self, py: Python<'_>) {
        let guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner).take();
        py.detach(|| drop(guard));
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Owner {
    /// For what part of `time`, about the time since the last beat, it had a core.
    fn share(&self, time: Duration) -> f64 {
        let before = Duration::from_nanos(self.cpu.load(Ordering::Relaxed));
        let cpu = clocks::cpu(self.tid.load(Ordering::Relaxed)).unwrap_or_default().saturating_sub(before);
        (cpu.as_secs_f64() / time.as_secs_f64().max(1e-9)).min(1.0)
    }
}

/// What a monitor's thread does with what it notices.
struct Listener {
    post: Arc<Shared>,
    owner: Arc<Owner>,
    stacks: Option<Arc<stacks::Signal>>,
    key: u64,
    grace: Duration,
    mute: Duration,
    /// It has written about this stall to the standard error.
    has_spoken: bool,
}

impl Listener {
    fn hear(&mut self, event: Event) {
        match event {
            Event::Stalled { late } => {
                self.has_spoken = false;
                self.tell("stalled", late);
            }
            Event::Still { late } => self.tell("still", late),
            Event::Over { lasted } => self.put("over", lasted),
            _ => {}
        }
    }

    fn tell(&mut self, kind: &'static str, late: Duration) {
        let tid = self.owner.tid.load(Ordering::Relaxed);
        let (before, waits_before) = (clocks::all(), clocks::waits(tid));
        self.put(kind, late);
        let state = self.post.state();
        let waits = |state: &mut State| !state.attached && !state.closed;
        let waited = self.post.changed.wait_timeout_while(state, self.grace, waits);
        let (state, wait) = waited.unwrap_or_else(PoisonError::into_inner);
        let busy = state.busy.map_or(Duration::ZERO, |since| since.elapsed());
        let said = state.outside.clone();
        drop(state);
        let speaks = busy >= self.mute && !self.has_spoken;
        self.has_spoken |= speaks;
        match said {
            // Whoever is told takes his time, or cannot be told while the loop stands still.
            Some(text) if speaks => return write(&text),
            None if speaks || wait.timed_out() => {}
            _ => return,
        }
        // The interpreter is out of reach.
        let waits_for_it = clocks::waits(tid) >= waits_before + 2;
        let holder = if waits_for_it { clocks::busiest(&before, tid) } else { None };
        let stack = |tid| self.stacks.as_ref().and_then(|stacks| stacks.take(tid));
        let (own, holder) = (stack(tid), holder.map(|tid| (tid, stack(tid))));
        if speaks {
            self.speak(late, own.as_deref(), holder.as_ref());
        }
        // All that is unread is about this one stall. What was found first of the loop is the cause; whoever has the
        // interpreter may show later, on a machine with much to do.
        for notice in self.post.state().notices.iter_mut().filter(|notice| notice.key == self.key) {
            if notice.stack.is_none() {
                notice.stack.clone_from(&own);
            }
            if notice.holder.is_none() {
                notice.holder.clone_from(&holder);
            }
        }
    }

    fn put(&self, kind: &'static str, time: Duration) {
        let tid = self.owner.tid.load(Ordering::Relaxed);
        let (share, at) = (self.owner.share(time), clocks::state(tid));
        let mut state = self.post.state();
        if state.busy.is_none() {
            state.busy = Some(Instant::now());
            state.attached = false;
        }
        // What is still unread is enough: a reporter that is late must not find thousands.
        if kind != "still"
            || !state.notices.iter().any(|notice| notice.key == self.key && notice.is_explained())
        {
            state.notices.push_back(Notice {
                key: self.key,
                kind,
                seconds: time.as_secs_f64(),
                share,
                state: at,
                stack: None,
                holder: None,
            });
        }
        drop(state);
        self.post.changed.notify_all();
    }

    fn speak(&self, late: Duration, own: Option<&str>, holder: Option<&(i32, Option<String>)>) {
        let tid = self.owner.tid.load(Ordering::Relaxed);
        let unknown = "  (its stack could not be had)\n";
        let mut text = format!(
            "offloop.watch: an event loop has stood still for {:.1} s. Nothing in this process can say more, as the \
             interpreter (GIL) cannot be had meanwhile. The loop's thread {tid}, most recent call first:\n{}",
            late.as_secs_f64(),
            own.unwrap_or(unknown),
        );
        if let Some((tid, stack)) = holder {
            text.push_str("The interpreter seems to be held by another thread, ");
            text.push_str(&tid.to_string());
            text.push_str(":\n");
            text.push_str(stack.as_deref().unwrap_or(unknown));
        }
        write(&text);
    }
}

/// To the standard error, past the interpreter's own, which needs it.
fn write(text: &str) {
    use std::io::Write as _;
    // There is nobody to tell if it fails.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
