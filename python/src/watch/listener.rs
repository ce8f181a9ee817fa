//! The reaction of the monitor's thread to a stalled loop, which never needs the interpreter.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use offloop::watch;

use super::clocks;
use super::event_queue::{Events, StallEvent};
use super::loop_thread::LoopThread;
use super::stacks::Signal;

/// The number of times that a thread which waits for the interpreter begins to wait within the grace time, at least.
const WAITS: u64 = 2;

/// The receiver of one monitor's events.
pub(super) struct Listener {
    events: Arc<Events>,
    thread: Arc<LoopThread>,
    stacks: Option<Arc<Signal>>,
    key: u64,
    grace: Duration,
    mute: Duration,
    /// This stall was reported to the standard error. Reset by the next stall.
    has_reported: bool,
}

impl Listener {
    pub(super) fn new(
        events: Arc<Events>,
        thread: Arc<LoopThread>,
        stacks: Option<Arc<Signal>>,
        key: u64,
        grace: Duration,
        mute: Duration,
    ) -> Self {
        Self { events, thread, stacks, key, grace, mute, has_reported: false }
    }

    pub(super) fn on_event(&mut self, event: watch::StallEvent) {
        match event {
            watch::StallEvent::Began { late } => {
                self.has_reported = false;
                self.on_stall("stalled", late);
            }
            watch::StallEvent::Ongoing { late } => self.on_stall("still", late),
            watch::StallEvent::Over { lasted } => self.put("over", lasted),
            _ => {}
        }
    }

    /// Puts the event into the queue. If the reporting thread cannot get the interpreter to read it, finds out what the
    /// loop's thread and the holder of the interpreter are doing.
    fn on_stall(&mut self, kind: &'static str, late: Duration) {
        let tid = self.thread.tid();
        let (clocks_before, waits_before) = (clocks::all(), clocks::waits(tid));
        self.put(kind, late);
        let reporter = self.events.wait_for_reporter(self.grace);
        let is_mute = reporter.busy >= self.mute && !self.has_reported;
        self.has_reported |= is_mute;
        match reporter.in_user_code {
            // The user's code takes its time, or cannot report anything while the loop stands still.
            Some(text) if is_mute => return write(&text),
            None if is_mute || !reporter.has_attached => {}
            _ => return,
        }
        // The reporting thread cannot get the interpreter.
        let waits_for_interpreter = clocks::waits(tid) >= waits_before + WAITS;
        let holder = if waits_for_interpreter { clocks::busiest(&clocks_before, tid) } else { None };
        let stack = |tid| self.stacks.as_ref().and_then(|stacks| stacks.take(tid));
        let (own, holder) = (stack(tid), holder.map(|tid| (tid, stack(tid))));
        if is_mute {
            write(&report(tid, late, own.as_deref(), holder.as_ref()));
        }
        self.events.explain(self.key, own.as_deref(), holder.as_ref());
    }

    fn put(&self, kind: &'static str, time: Duration) {
        self.events.put(StallEvent {
            key: self.key,
            kind,
            seconds: time.as_secs_f64(),
            activity: self.thread.activity(time).as_str(),
            stack: None,
            holder: None,
        });
    }
}

/// Returns the report of a stall during which the interpreter could not be had.
fn report(tid: i32, late: Duration, own: Option<&str>, holder: Option<&(i32, Option<String>)>) -> String {
    const UNKNOWN: &str = "  (its stack could not be had)\n";
    let mut text = format!(
        "offloop.watch: an event loop has stood still for {:.1} s. More cannot be said, because the \
         interpreter (GIL) cannot be had meanwhile. The loop's thread {tid}, most recent call first:\n{}",
        late.as_secs_f64(),
        own.unwrap_or(UNKNOWN),
    );
    if let Some((tid, stack)) = holder {
        let stack = stack.as_deref().unwrap_or(UNKNOWN);
        let _ = write!(text, "The interpreter seems to be held by another thread, {tid}:\n{stack}");
    }
    text
}

/// Writes to the standard error directly, since `sys.stderr` needs the interpreter.
fn write(text: &str) {
    // If it fails, there is no place left to report that to.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
