//! One worker as the desk sees it: its phase, and the calls that it has.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::core::id::JobId;
use crate::processes::link::{Answer, CAPTURE, CONTEXT, Link, Malformed, SLOTS, STREAM, state};
use crate::processes::pool::item_queue::ItemQueue;
use crate::processes::pool::output::Sink;
use crate::processes::pool::remote::{Outbound, RemoteCall};
use crate::wire::payload::Payload;
use crate::wire::task::Encoded;

/// ```text
/// Starting ──greeting──▶ Initialising ──answer──▶ Ready ──▶ Retiring
///     │                        │                    │           │
///     └────────────────────────┴──────▶ Leaving ◀───┴───────────┘   (each may die at any time)
/// ```
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its greeting has not come.
    Starting,
    /// It runs the initializer, in slot 0.
    Initialising,
    Ready,
    /// It finishes what it has; another one has taken its place.
    Retiring,
    /// It is to end.
    Leaving(Why),
}

/// Why a worker is to go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// There is no more work for it.
    Released,
    /// Its job was cancelled or is out of time.
    JobEnded,
    /// It does not speak the protocol.
    BrokeOff,
    /// It uses more memory than it may, in bytes.
    Memory(u64),
    /// It did not come up as it should.
    Refused(String),
}

/// After so much expected work a worker is not given more ahead of time.
const AHEAD: Duration = Duration::from_micros(200);

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) pid: u32,
    pub(crate) link: Arc<Link>,
    sink: Arc<Sink>,
    pub(crate) phase: Phase,
    /// What it has, in the order in which it runs.
    pub(crate) calls: VecDeque<Flight>,
    /// The slot whose turn is next.
    next: u32,
    /// How long its calls are expected to take all together.
    load: Duration,
    /// When the first of its calls became the first.
    since: Instant,
    /// The number of its newest call among all the pool's.
    pub(crate) last_given: u64,
    /// How many more jobs it may be given.
    left: u64,
    /// It uses more memory than it may, but not for its job.
    pub(crate) is_fat: bool,
    pub(crate) born: Instant,
    /// Arguments that it uses beyond their job.
    kept: Vec<Payload>,
}

/// A job and its call.
pub(crate) type Work = (Arc<dyn RemoteCall>, Outbound);

/// A call in a worker's link.
pub(crate) struct Flight {
    slot: u32,
    expected: Duration,
    /// `None` once it is withdrawn, until the worker has passed its slot.
    pub(crate) work: Option<Work>,
}

impl std::fmt::Debug for Flight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let job = self.work.as_ref().map(|(job, _)| job.header().id);
        f.debug_struct("Flight").field("slot", &self.slot).field("job", &job).finish_non_exhaustive()
    }
}

impl Flight {
    fn is(&self, id: JobId) -> bool {
        self.work.as_ref().is_some_and(|(job, _)| job.header().id == id)
    }
}

/// A job with the answer to it.
pub(crate) struct Finished {
    pub(crate) job: Arc<dyn RemoteCall>,
    /// Its kind, as far as its pace is concerned.
    pub(crate) kind: u8,
    /// `None` if the worker goes on using them.
    pub(crate) arguments: Option<Payload>,
    pub(crate) answer: Answer,
}

impl Member {
    pub(crate) fn new(pid: u32, link: Arc<Link>, sink: Arc<Sink>, max_jobs: Option<u64>) -> Self {
        let now = Instant::now();
        Self {
            pid,
            link,
            sink,
            phase: Phase::Starting,
            calls: VecDeque::new(),
            next: 0,
            load: Duration::ZERO,
            since: now,
            last_given: 0,
            left: max_jobs.unwrap_or(u64::MAX),
            is_fat: false,
            born: now,
            kept: Vec::new(),
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready | Phase::Retiring)
    }

    /// Whether what it says is still listened to.
    pub(crate) fn may_answer(&self) -> bool {
        self.is_ready()
            || matches!(self.phase, Phase::Leaving(Why::Released | Why::JobEnded | Why::Memory(_)))
    }

    pub(crate) fn is_leaving(&self) -> bool {
        matches!(self.phase, Phase::Leaving(_))
    }

    /// Whether it may have another call behind those that it has; then, how long it is busy with them.
    pub(crate) fn room(&self) -> Option<Duration> {
        let has_room = self.calls.len() < SLOTS as usize && self.load < AHEAD;
        // Its last job is not given ahead of time: it would be taken back if it had to wait, and the worker, whose
        // replacement comes already, would leave with too few.
        let has_room = has_room && (self.left > 1 || (self.left == 1 && self.calls.is_empty()));
        (self.phase == Phase::Ready && has_room).then_some(self.load)
    }

    /// Whether it has had all the jobs that it may run.
    pub(crate) fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// Whether it goes, or would if it were looked at.
    pub(crate) fn is_done(&self) -> bool {
        self.is_leaving() || (self.is_spent() && self.calls.is_empty())
    }

    /// How long its calls are expected to take.
    pub(crate) fn load(&self) -> Duration {
        self.load
    }

    /// Has it run the initializer.
    pub(crate) fn initialise(&mut self, call: &Encoded) {
        self.phase = Phase::Initialising;
        self.link.offer(self.next, 0, call.task.index(), 0, &call.arguments);
        self.next += 1;
    }

    /// The answer of the initializer, if it has come.
    pub(crate) fn initialised(&self) -> Option<Result<Answer, Malformed>> {
        (self.link.state(0) == state::ANSWERED).then(|| self.link.take(0, 0))
    }

    /// Gives it a job; it has room. Says whether it must be woken for it.
    pub(crate) fn give(
        &mut self,
        job: Arc<dyn RemoteCall>,
        work: Outbound,
        expected: Option<Duration>,
    ) -> bool {
        if self.calls.is_empty() {
            self.since = Instant::now();
        }
        let capture = &job.header().options.capture;
        if let Some(captured) = capture {
            self.sink.begin(captured.clone());
        }
        // Nothing goes behind a job of which it is not known that it ends soon, or whose output would mingle.
        let expected = expected.filter(|_| capture.is_none()).unwrap_or(AHEAD);
        let call = &work.call;
        let flags = if capture.is_some() { CAPTURE } else { 0 }
            | if work.items.is_some() { STREAM } else { 0 }
            | if call.has_context { CONTEXT } else { 0 };
        self.load += expected;
        self.left -= 1;
        let slot = self.next;
        self.next = self.next.wrapping_add(1);
        self.link.offer(slot, job.header().id.as_u64(), call.task.index(), flags, &call.arguments);
        self.calls.push_back(Flight { slot, expected, work: Some((job, work)) });
        self.link.must_wake()
    }

    /// The job that it runs, and since when.
    pub(crate) fn running(&self) -> Option<(&Arc<dyn RemoteCall>, Instant)> {
        let (job, _) = self.calls.front()?.work.as_ref()?;
        Some((job, self.since))
    }

    /// When its job has had its time, if that has a limit.
    pub(crate) fn run_deadline(&self) -> Option<Instant> {
        let (job, since) = self.running().filter(|_| !self.is_leaving())?;
        since.checked_add(job.header().options.run_timeout?)
    }

    /// The link and the slot where a job is.
    pub(crate) fn find(&self, id: JobId) -> Option<(&Arc<Link>, u32)> {
        let flight = self.calls.iter().rev().find(|flight| flight.is(id))?;
        Some((&self.link, flight.slot))
    }

    /// Whether the worker has said something that nobody has taken notice of.
    pub(crate) fn has_news(&self) -> bool {
        match self.phase {
            Phase::Starting => self.link.greeting() != 0,
            Phase::Initialising => self.link.state(0) == state::ANSWERED,
            Phase::Ready | Phase::Retiring => {
                let state = self.calls.front().map(|flight| self.link.state(flight.slot));
                self.has_passed_withdrawn()
                    || state == Some(state::ANSWERED)
                    || (state == Some(state::ITEM) && self.items().is_some_and(|items| items.has_room()))
            }
            Phase::Leaving(_) => false,
        }
    }

    /// Whether the first of its calls is withdrawn, and passed by the worker.
    pub(crate) fn has_passed_withdrawn(&self) -> bool {
        let first = self.calls.front();
        first.is_some_and(|first| first.work.is_none() && self.link.state(first.slot) == state::EMPTY)
    }

    /// Where the items of the job go that it runs.
    fn items(&self) -> Option<&Arc<ItemQueue>> {
        let (_, work) = self.calls.front()?.work.as_ref()?;
        work.items.as_ref()
    }

    /// Takes the answers that have come, and items as far as there is room; notes whom to tell of those.
    pub(crate) fn harvest(
        &mut self,
        finished: &mut Vec<Finished>,
        told: &mut Vec<Arc<ItemQueue>>,
    ) -> Result<(), Malformed> {
        let before = self.calls.len();
        while let Some(flight) = self.calls.front() {
            match (&flight.work, self.link.state(flight.slot)) {
                (Some((job, _)), state::ANSWERED) => {
                    let answer = self.link.take(flight.slot, job.header().id.as_u64())?;
                    let Some((job, Outbound { call: Encoded { kind, arguments, .. }, .. })) = self.pop()
                    else {
                        continue;
                    };
                    let arguments = if answer.kept == 0 {
                        Some(arguments)
                    } else {
                        self.kept.push(arguments);
                        None
                    };
                    if job.header().options.capture.is_some() {
                        self.sink.end();
                    }
                    finished.push(Finished { job, kind, arguments, answer });
                }
                (Some((job, _)), state::ITEM) => {
                    let id = job.header().id.as_u64();
                    let items = self.items().ok_or(Malformed::State(state::ITEM))?;
                    if !items.has_room() {
                        break;
                    }
                    items.push(self.link.take_item(flight.slot, id)?);
                    told.push(Arc::clone(items));
                }
                (None, state::EMPTY) => drop(self.pop()),
                (_, state::OFFERED | state::CLAIMED) | (None, state::WITHDRAWN) => break,
                (_, state) => return Err(Malformed::State(state)),
            }
        }
        if self.calls.len() != before {
            self.since = Instant::now();
        }
        Ok(())
    }

    fn pop(&mut self) -> Option<Work> {
        let flight = self.calls.pop_front()?;
        self.load = self.load.saturating_sub(flight.expected);
        flight.work
    }

    /// Takes back what it has not begun with, the last first.
    pub(crate) fn recall(&mut self) -> Vec<Work> {
        let mut recalled = Vec::new();
        for flight in self.calls.iter_mut().rev() {
            if flight.work.is_some() && self.link.withdraw(flight.slot) {
                self.load = self.load.saturating_sub(std::mem::take(&mut flight.expected));
                self.left += 1;
                recalled.extend(flight.work.take());
            }
        }
        recalled
    }

    /// Whether it has been at its first call for longer than `limit` while others wait behind it.
    pub(crate) fn is_stalled(&self, limit: Duration, now: Instant) -> bool {
        self.has_followers() && now.saturating_duration_since(self.since) >= limit
    }

    /// When it will count as stalled.
    pub(crate) fn stalls_at(&self, limit: Duration) -> Option<Instant> {
        if self.has_followers() { self.since.checked_add(limit) } else { None }
    }

    fn has_followers(&self) -> bool {
        self.calls.len() > 1 && self.calls.iter().skip(1).any(|flight| flight.work.is_some())
    }

    /// Its first call takes longer than was expected: nothing is given to it ahead of time until it is done.
    pub(crate) fn expect_more(&mut self) {
        if let Some(first) = self.calls.front_mut() {
            self.load += AHEAD;
            first.expected += AHEAD;
        }
    }

    /// What it leaves behind when it is dead: its phase, the jobs that it had begun, and those that it had not.
    pub(crate) fn into_estate(self) -> (Phase, Vec<Work>, Vec<Work>) {
        let is_untouched = |slot| matches!(self.link.state(slot), state::OFFERED | state::WITHDRAWN);
        let (mut begun, mut untouched) = (Vec::new(), Vec::new());
        for flight in self.calls {
            if let Some(work) = flight.work {
                if is_untouched(flight.slot) { untouched.push(work) } else { begun.push(work) }
            }
        }
        // The last first, as they go back to the front of a queue.
        untouched.reverse();
        (self.phase, begun, untouched)
    }
}
