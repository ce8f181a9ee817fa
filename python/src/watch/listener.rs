//! The reaction of the monitor's thread to a late or stalled loop, which never needs the interpreter.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use offloop::metrics::Activity;
use offloop::watch;

use super::clocks;
use super::event_queue::{Events, StallEvent};
use super::loop_thread::LoopThread;
use super::stacks::{StackFrame, StackReader, ThreadIds, ThreadKey, text_of};
use crate::interpreter::Mutex;

/// The number of times that a thread which waits for the interpreter begins to wait within the grace time, at least.
const WAITS: u64 = 2;

/// The times within the grace time at which it is seen which thread has the interpreter.
const HOLDER_LOOKS: u32 = 6;

/// The receiver of one monitor's events.
pub(super) struct Listener {
    events: Arc<Events>,
    thread: Arc<LoopThread>,
    stacks: Option<Arc<StackReader>>,
    places: Arc<Places>,
    key: u64,
    /// The number of the present stall, or of the last one.
    stall: u64,
    grace: Duration,
    mute: Duration,
    /// This stall was reported to the standard error. Reset by the next stall.
    has_reported: bool,
    /// The last look at the loop's thread while it was late.
    before: Option<Sample>,
}

/// The live view's record of the places, as far as the monitor knows them while nobody can have the interpreter.
#[derive(Default)]
pub(super) struct Places(Mutex<Option<watch::Pulse>>);

impl Places {
    /// Sets the pulse of the loop. Called once.
    pub(super) fn begin(&self, pulse: &watch::Pulse) {
        *self.0.lock() = Some(pulse.clone());
    }

    /// Counts a stall at the line where the loop is, until the reporting thread finds out which one to change.
    fn put(&self, stall: u64, stack: Option<&[StackFrame]>, activity: Activity, late: Duration) {
        let Some(frame) = stack.and_then(<[_]>::last) else { return };
        if let Some(pulse) = &*self.0.lock() {
            pulse.stalled_at(stall, frame.place().activity(activity), late);
        }
    }
}

/// One look at a thread.
struct Sample {
    at: Instant,
    /// The time without a core since the last beat.
    starved: Duration,
    stack: Option<Vec<StackFrame>>,
}

impl Listener {
    pub(super) fn new(
        events: Arc<Events>,
        thread: Arc<LoopThread>,
        stacks: Option<Arc<StackReader>>,
        places: Arc<Places>,
        key: u64,
        grace: Duration,
        mute: Duration,
    ) -> Self {
        Self { events, thread, stacks, places, key, stall: 0, grace, mute, has_reported: false, before: None }
    }

    pub(super) fn on_event(&mut self, event: watch::StallEvent) {
        match event {
            watch::StallEvent::Suspected => {
                let (_, used) = self.thread.since_beat();
                self.before = Some(self.look(used.starved));
            }
            watch::StallEvent::Began { late } => {
                self.has_reported = false;
                self.stall += 1;
                self.on_stall("stalled", late);
            }
            watch::StallEvent::Ongoing { late } => self.on_stall("still", late),
            watch::StallEvent::Over { lasted } => {
                self.put(StallEvent { seconds: lasted.as_secs_f64(), ..self.event("over") });
            }
            watch::StallEvent::Starved { late, starved } => self.put(StallEvent {
                seconds: late.as_secs_f64(),
                starved: starved.as_secs_f64(),
                ..self.event("starved")
            }),
            _ => {}
        }
    }

    fn look(&self, starved: Duration) -> Sample {
        Sample { at: Instant::now(), starved, stack: self.stack(self.thread.ident()) }
    }

    fn stack(&self, ident: u64) -> Option<Vec<StackFrame>> {
        self.stacks.as_ref().and_then(|stacks| stacks.take(ThreadKey::Ident(ident)))
    }

    /// Puts the event into the queue, with the stack of the loop's thread. If the reporting thread cannot get the
    /// interpreter to read it, finds out which thread has it.
    fn on_stall(&mut self, kind: &'static str, late: Duration) {
        let tid = self.thread.tid();
        let waits_before = clocks::waits(tid);
        let (activity, starved) = self.thread.activity();
        let sample = self.look(starved);
        let before = self.before.replace(Sample { stack: sample.stack.clone(), ..sample });
        // The time between the two looks in which the thread could run.
        let apart = before.as_ref().map_or(Duration::ZERO, |before| {
            (sample.at - before.at).saturating_sub(sample.starved.saturating_sub(before.starved))
        });
        let stack = sample.stack;
        self.put(StallEvent {
            seconds: late.as_secs_f64(),
            starved: starved.as_secs_f64(),
            activity: activity.as_str(),
            stack: stack.clone(),
            before: before.and_then(|before| before.stack),
            apart: apart.as_secs_f64(),
            ..self.event(kind)
        });
        let holder = self.holder_meanwhile();
        let reporter = self.events.reporter();
        if !reporter.has_attached {
            self.places.put(self.stall, stack.as_deref(), activity, late);
        }
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
        let is_other = |holder: &ThreadIds| holder.ident != self.thread.ident();
        let holder = holder.filter(|holder| is_other(holder) && waits_for_interpreter);
        let holder = holder.map(|holder| (holder, self.stack(holder.ident)));
        if is_mute {
            let holder = holder.as_ref().map(|(ids, stack)| (ids.tid, stack.as_deref()));
            write(&report(tid, late, stack.as_deref(), holder));
        }
        if let Some((ids, stack)) = holder {
            self.events.explain(self.key, &(ids.ident, stack));
        }
    }

    /// Waits until the reporting thread has the interpreter, for at most the grace time. Returns the thread that has
    /// had the interpreter for all of that time, if it was one.
    fn holder_meanwhile(&self) -> Option<ThreadIds> {
        let stacks = self.stacks.as_deref();
        let first = stacks.and_then(StackReader::holder);
        let mut has_kept = true;
        for _ in 0..HOLDER_LOOKS {
            if self.events.wait_for_reporter(self.grace / HOLDER_LOOKS) {
                return None;
            }
            has_kept &= stacks.and_then(StackReader::holder) == first;
        }
        first.filter(|_| has_kept)
    }

    fn event(&self, kind: &'static str) -> StallEvent {
        StallEvent {
            key: self.key,
            stall: self.stall,
            kind,
            seconds: 0.0,
            starved: 0.0,
            activity: "",
            stack: None,
            before: None,
            apart: 0.0,
            holder: None,
        }
    }

    fn put(&self, event: StallEvent) {
        self.events.put(event);
    }
}

/// Returns the report of a stall during which the interpreter could not be had.
fn report(
    tid: i32,
    late: Duration,
    own: Option<&[StackFrame]>,
    holder: Option<(i32, Option<&[StackFrame]>)>,
) -> String {
    let text = |stack: Option<&[StackFrame]>| {
        stack.map_or_else(|| "  (its stack could not be had)\n".to_owned(), text_of)
    };
    let mut report = format!(
        "offloop.watch: an event loop has stood still for {:.1} s. More cannot be said, because the \
         interpreter (GIL) cannot be had meanwhile. The loop's thread {tid}, most recent call first:\n{}",
        late.as_secs_f64(),
        text(own),
    );
    if let Some((tid, stack)) = holder {
        let _ = write!(report, "The interpreter is held by another thread, {tid}:\n{}", text(stack));
    }
    report
}

/// Writes to the standard error directly, since `sys.stderr` needs the interpreter.
fn write(text: &str) {
    // If it fails, there is no place left to report that to.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
