//! The pool's record of one worker: its phase, and the calls that it has.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::config::Config;
use super::item_queue::ItemQueue;
use super::output::WorkerPipes;
use super::remote::{Outbound, RemoteCall};
use crate::core::error::ErrorKind;
use crate::core::id::JobId;
use crate::processes::link::{Answer, CAPTURE, CONTEXT, Link, Malformed, SLOTS, STREAM, WHOLE, state};
use crate::processes::os::process::End;
use crate::wire::call::Encoded;
use crate::wire::decode::DecodePace;
use crate::wire::payload::Payload;

/// A worker that is at one call for this long gives back the calls behind it.
pub(super) const STALL: Duration = Duration::from_micros(500);

/// The shortest time between two looks at whether a job has begun with its function.
const LOOK: Duration = Duration::from_millis(1);

/// A worker whose calls are expected to take this long is given no more ahead of time.
const AHEAD: Duration = Duration::from_micros(200);

/// The phase of a worker's life.
///
/// ```text
/// Starting ──greeting──▶ Initialising ──answer──▶ Ready ──▶ Retiring
///     │                        │                    │           │
///     └────────────────────────┴──────▶ Leaving ◀───┴───────────┘   (each may die at any time)
/// ```
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WorkerPhase {
    /// Its greeting has not come.
    Starting,
    /// It runs the initializer, in slot 0.
    Initialising,
    /// It is given calls.
    Ready,
    /// It finishes the calls that it has, and is given no more. Another worker takes its place.
    Retiring,
    /// It is to end.
    Leaving(LeaveReason),
}

/// The reason why a worker is to end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LeaveReason {
    /// There is no more work for it.
    Idle,
    /// Its job was cancelled, or the job's run timeout has passed.
    JobAborted,
    /// It violated the protocol of its link.
    ProtocolError,
    /// It used more memory than it may: this many bytes.
    Memory(u64),
    /// The program ends this worker, whatever it runs.
    Stopped(End),
    /// It did not come up as it should.
    HandshakeFailed(String),
}

/// The state of a worker, as metrics count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WorkerState {
    /// It cannot take jobs yet.
    Starting,
    Idle,
    /// It has a job.
    Busy,
    /// It takes no more jobs.
    Leaving,
}

/// The last news of a worker's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contact {
    There,
    /// It has closed its socket, so it is dead or about to be.
    CutOff,
    /// It has ended, or was given up. What it has left is taken once more.
    Gone,
}

/// The pool's record of one worker. It is kept under the scheduler's lock, so any thread that holds the lock writes it.
#[derive(Debug)]
pub(super) struct WorkerRecord {
    /// The worker's process id. Never changes.
    pub(super) pid: u32,
    /// The pool's end of the worker's link. Never changes.
    pub(super) link: Arc<Link>,
    /// The pipes for what the worker prints. Never changes.
    pipes: Arc<WorkerPipes>,
    /// Changed by the supervisor when the worker comes up or retires; by any thread when the worker is to end.
    pub(super) phase: WorkerPhase,
    /// The calls in the worker's link, in the order in which it runs them. A call is added when it is offered, and
    /// removed when its answer is taken or when the worker has passed it as withdrawn.
    pub(super) calls: VecDeque<InFlight>,
    /// The number of the slot for the next call. Counts up with each call that is offered.
    next: u32,
    /// The time that all of `calls` are expected to take. Changes when a call is added, removed or withdrawn, and when
    /// the first one takes longer than expected.
    load: Duration,
    /// When the first of `calls` became the first. Set when a call is added to none, and when answers are taken.
    since: Instant,
    /// The number of the worker's newest call among all calls of the pool. Set when it is given one.
    pub(super) last_given: u64,
    /// Counts the jobs that it may still be given. Counts down with each call, and up with each that is withdrawn.
    left: u64,
    /// It uses more memory than it may, but not because of its job. Set once, by the supervisor or when an answer says so.
    pub(super) over_memory: bool,
    /// Changed by the supervisor.
    pub(super) contact: Contact,
    /// It leaves, and is killed without a grace period. Set once, by any thread.
    pub(super) is_urgent: bool,
    /// Woken when the worker is dead or was given up. Added to by those who wait for that.
    pub(super) at_end: Vec<Waker>,
    /// See `Config::load_timeout`. Never changes.
    load_timeout: Option<Duration>,
    /// When it will have reached the age at which it is replaced. Never changes.
    retires_at: Option<Instant>,
    /// When its process was started. Never changes.
    #[cfg(feature = "observe")]
    pub(super) started: Instant,
    /// Arguments of answered calls of which the worker still uses parts. Added to when an answer says so. Dropped with
    /// the record, when the worker is dead.
    kept: Vec<Payload>,
}

/// A job and its call.
pub(super) type Work = (Arc<dyn RemoteCall>, Outbound);

/// A call in a worker's link.
pub(super) struct InFlight {
    slot: u32,
    /// The time that the call is expected to take, as far as it counts in the worker's `load`.
    expected: Duration,
    /// `None` from when the call is withdrawn until the worker has passed its slot.
    pub(super) work: Option<Work>,
    /// When the worker began with the function, where jobs say so. Set by the supervisor, once.
    began: Option<Instant>,
    /// When the supervisor last found that the worker had not.
    looked_at: Option<Instant>,
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let job = self.work.as_ref().map(|(job, _)| job.header().id);
        f.debug_struct("InFlight").field("slot", &self.slot).field("job", &job).finish_non_exhaustive()
    }
}

impl InFlight {
    fn is(&self, id: JobId) -> bool {
        self.work.as_ref().is_some_and(|(job, _)| job.header().id == id)
    }
}

/// A job with its answer.
pub(super) struct Finished {
    pub(super) job: Arc<dyn RemoteCall>,
    /// The kind of the job, by which its duration is learned.
    pub(super) kind: u8,
    /// `None` if the worker still uses parts of them.
    pub(super) arguments: Option<Payload>,
    pub(super) answer: Answer,
    /// The time that results of its task take to be decoded.
    pub(super) pace: &'static DecodePace,
}

impl WorkerRecord {
    pub(super) fn new(pid: u32, link: Arc<Link>, pipes: Arc<WorkerPipes>, config: &Config) -> Self {
        let now = Instant::now();
        Self {
            pid,
            link,
            pipes,
            phase: WorkerPhase::Starting,
            calls: VecDeque::new(),
            next: 0,
            load: Duration::ZERO,
            since: now,
            last_given: 0,
            left: config.max_tasks_per_child.unwrap_or(u64::MAX),
            over_memory: false,
            contact: Contact::There,
            is_urgent: false,
            at_end: Vec::new(),
            load_timeout: config.load_timeout,
            retires_at: config.max_worker_age.and_then(|age| now.checked_add(age)),
            #[cfg(feature = "observe")]
            started: now,
            kept: Vec::new(),
        }
    }

    pub(super) fn state(&self) -> WorkerState {
        match self.phase {
            WorkerPhase::Starting | WorkerPhase::Initialising => WorkerState::Starting,
            WorkerPhase::Ready if self.calls.is_empty() => WorkerState::Idle,
            WorkerPhase::Ready => WorkerState::Busy,
            WorkerPhase::Retiring | WorkerPhase::Leaving(_) => WorkerState::Leaving,
        }
    }

    /// Returns whether the worker is up and not about to be ended.
    pub(super) fn is_up(&self) -> bool {
        matches!(self.phase, WorkerPhase::Ready | WorkerPhase::Retiring)
    }

    /// Returns whether answers of the worker are still taken.
    pub(super) fn may_answer(&self) -> bool {
        use LeaveReason::{Idle, JobAborted, Memory, Stopped};
        self.is_up() || matches!(self.phase, WorkerPhase::Leaving(Idle | JobAborted | Memory(_) | Stopped(_)))
    }

    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.phase, WorkerPhase::Leaving(_))
    }

    /// Returns whether the worker has a job, begun or not. A withdrawn call is none.
    pub(super) fn has_jobs(&self) -> bool {
        self.calls.iter().any(|call| call.work.is_some())
    }

    /// Returns how long the worker is expected to be busy, if it may be given another call.
    pub(super) fn room(&self) -> Option<Duration> {
        let has_room = self.calls.len() < SLOTS as usize && self.load < AHEAD;
        // The last job is not given ahead of time. It would be withdrawn if it had to wait, and the worker, whose
        // replacement comes already, would leave with too few jobs.
        let has_room = has_room && (self.left > 1 || (self.left == 1 && self.calls.is_empty()));
        (self.phase == WorkerPhase::Ready && has_room && self.contact == Contact::There).then_some(self.load)
    }

    /// Returns whether the worker has been given all the jobs that it may run.
    pub(super) fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// Returns whether the worker leaves, or will as soon as the supervisor looks at it.
    pub(super) fn is_done(&self) -> bool {
        self.is_leaving() || (self.is_spent() && self.calls.is_empty())
    }

    /// Returns whether the worker is to be replaced.
    pub(super) fn is_worn(&self, now: Instant) -> bool {
        let is_old = self.retires_at.is_some_and(|time| now >= time);
        self.phase == WorkerPhase::Ready && (self.is_spent() || is_old || self.over_memory)
    }

    /// Returns when the worker will be too old.
    pub(super) fn retires_at(&self) -> Option<Instant> {
        self.retires_at
    }

    /// Returns the time that the worker's calls are expected to take.
    pub(super) fn load(&self) -> Duration {
        self.load
    }

    /// Gives the worker the initializer to run.
    pub(super) fn initialise(&mut self, call: &Encoded) {
        self.phase = WorkerPhase::Initialising;
        self.link.offer(self.next, 0, call.task.index(), 0, &call.arguments);
        self.next += 1;
    }

    /// Takes the answer to the initializer, if it has come.
    pub(super) fn initialised(&self) -> Option<Result<Answer, Malformed>> {
        (self.link.state(0) == state::ANSWERED).then(|| self.link.take(0, 0))
    }

    /// Gives the worker, which has room, a job. Returns whether the worker has to be woken for it.
    pub(super) fn give(
        &mut self,
        job: Arc<dyn RemoteCall>,
        work: Outbound,
        expected: Option<Duration>,
    ) -> bool {
        if self.calls.is_empty() {
            self.since = Instant::now();
        }
        let capture = &job.header().options.extras().capture;
        if let Some(captured) = capture {
            self.pipes.begin_capture(captured.clone());
        }
        // No call goes behind one that is not known to end soon, nor behind one whose output would mingle with its own.
        let expected = expected.filter(|_| capture.is_none()).unwrap_or(AHEAD);
        let call = &work.call;
        let flags = if capture.is_some() { CAPTURE } else { 0 }
            | if work.items.is_some() { STREAM } else { 0 }
            | if call.has_context { CONTEXT } else { 0 }
            | if call.is_whole { WHOLE } else { 0 };
        self.load += expected;
        self.left -= 1;
        let slot = self.next;
        self.next = self.next.wrapping_add(1);
        self.link.offer(slot, job.header().id.as_u64(), call.task.index(), flags, &call.arguments);
        self.calls.push_back(InFlight {
            slot,
            expected,
            work: Some((job, work)),
            began: None,
            looked_at: None,
        });
        self.link.must_wake()
    }

    /// Returns the job that the worker runs, and since when.
    pub(super) fn running(&self) -> Option<(&Arc<dyn RemoteCall>, Instant)> {
        let (job, _) = self.calls.front()?.work.as_ref()?;
        Some((job, self.since))
    }

    /// Returns since when the worker has had nothing to do, if that is so.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (self.phase == WorkerPhase::Ready && self.calls.is_empty()).then_some(self.since)
    }

    /// Makes the worker ready for calls.
    pub(super) fn be_ready(&mut self) {
        self.phase = WorkerPhase::Ready;
        self.since = Instant::now();
    }

    /// Returns the run timeout of the worker's job, if it has one, and since when the worker has the job.
    fn run_limit(&self) -> Option<(Duration, Instant, &InFlight)> {
        let (job, since) = self.running().filter(|_| !self.is_leaving())?;
        Some((job.header().options.extras().run_timeout?, since, self.calls.front()?))
    }

    /// Returns when the supervisor has to look at the run timeout of the worker's job, if it has one.
    pub(super) fn run_deadline(&self) -> Option<Instant> {
        let (limit, since, call) = self.run_limit()?;
        match (self.load_timeout, call.began) {
            (None, _) => since.checked_add(limit),
            (Some(_), Some(began)) => began.checked_add(limit),
            // Nobody tells the supervisor that the function begins. But it had not begun when that was last looked at, so
            // it is not out of time before this.
            (Some(load), None) => {
                let next = call.looked_at.unwrap_or(since).checked_add(limit.max(LOOK));
                next.into_iter().chain(since.checked_add(load)).min()
            }
        }
    }

    /// Returns the time that the worker's job may still run before its run timeout, if it has one.
    #[cfg(feature = "observe")]
    pub(super) fn time_left(&self, now: Instant) -> Option<Duration> {
        let (limit, since, call) = self.run_limit()?;
        match (self.load_timeout, call.began) {
            (None, _) => Some(limit.saturating_sub(now.saturating_duration_since(since))),
            (Some(_), Some(began)) => Some(limit.saturating_sub(now.saturating_duration_since(began))),
            // It has not begun, as far as the supervisor has seen.
            (Some(_), None) => Some(limit),
        }
    }

    /// Looks whether the worker has begun with the function of its job, if that matters.
    pub(super) fn look_at_beginning(&mut self, now: Instant) {
        if self.load_timeout.is_none() || self.run_limit().is_none_or(|(.., call)| call.began.is_some()) {
            return;
        }
        let since = self.since;
        if let Some(call) = self.calls.front_mut() {
            // Whatever the worker has written, the time that it may take is bounded.
            let began = self.link.began(call.slot);
            call.began =
                began.map(|began| now.checked_sub(began.elapsed()).map_or(since, |at| at.max(since)));
            call.looked_at = Some(now);
        }
    }

    /// Returns the worker's job and the error with which it ends, if it is out of time.
    pub(super) fn overdue(&self, now: Instant) -> Option<(&Arc<dyn RemoteCall>, ErrorKind)> {
        let (limit, since, call) = self.run_limit()?;
        let (begins, limit, kind) = match (self.load_timeout, call.began) {
            (Some(load), None) => (since, load, ErrorKind::LoadTimeout(load)),
            (_, began) => (began.unwrap_or(since), limit, ErrorKind::RunTimeout(limit)),
        };
        let (job, _) = self.running()?;
        begins.checked_add(limit).filter(|deadline| *deadline <= now).map(|_| (job, kind))
    }

    /// Returns the link and the slot of a job that this worker has.
    pub(super) fn find(&self, id: JobId) -> Option<(&Arc<Link>, u32)> {
        let call = self.calls.iter().rev().find(|call| call.is(id))?;
        Some((&self.link, call.slot))
    }

    /// Returns whether the worker has written something to its link that no thread of the pool has taken.
    pub(super) fn has_news(&self) -> bool {
        match self.phase {
            WorkerPhase::Starting => self.link.greeting() != 0,
            WorkerPhase::Initialising => self.link.state(0) == state::ANSWERED,
            WorkerPhase::Ready | WorkerPhase::Retiring => {
                let state = self.calls.front().map(|call| self.link.state(call.slot));
                self.has_passed_withdrawn()
                    || state == Some(state::ANSWERED)
                    || (state == Some(state::ITEM) && self.items().is_some_and(|items| items.has_room()))
            }
            WorkerPhase::Leaving(_) => false,
        }
    }

    /// Returns whether the first of the calls is withdrawn, and the worker has passed it.
    pub(super) fn has_passed_withdrawn(&self) -> bool {
        let first = self.calls.front();
        first.is_some_and(|first| first.work.is_none() && self.link.state(first.slot) == state::EMPTY)
    }

    /// Returns the queue for the items of the running job.
    fn items(&self) -> Option<&Arc<ItemQueue>> {
        let (_, work) = self.calls.front()?.work.as_ref()?;
        work.items.as_ref()
    }

    /// Takes the answers that have come, and items as far as their queues have room; of a worker that is gone, the last item
    /// without regard to that. Adds to `with_items` the queues whose readers have to be woken.
    pub(super) fn harvest(
        &mut self,
        finished: &mut Vec<Finished>,
        with_items: &mut Vec<Arc<ItemQueue>>,
    ) -> Result<(), Malformed> {
        let before = self.calls.len();
        while let Some(call) = self.calls.front() {
            match (&call.work, self.link.state(call.slot)) {
                (Some((job, _)), state::ANSWERED) => {
                    let answer = self.link.take(call.slot, job.header().id.as_u64())?;
                    let Some((job, Outbound { call: Encoded { task, kind, arguments, .. }, .. })) =
                        self.pop()
                    else {
                        continue;
                    };
                    let arguments = if answer.kept == 0 {
                        Some(arguments)
                    } else {
                        self.kept.push(arguments);
                        None
                    };
                    if job.header().options.extras().capture.is_some() {
                        self.pipes.end_capture();
                    }
                    finished.push(Finished { job, kind, arguments, answer, pace: &task.results });
                }
                (Some((job, _)), state::ITEM) => {
                    let id = job.header().id.as_u64();
                    let items = self.items().ok_or(Malformed::State(state::ITEM))?;
                    if !items.has_room() && self.contact != Contact::Gone {
                        break;
                    }
                    items.push(self.link.take_item(call.slot, id)?);
                    with_items.push(Arc::clone(items));
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
        let call = self.calls.pop_front()?;
        self.load = self.load.saturating_sub(call.expected);
        call.work
    }

    /// Withdraws the calls that the worker has not begun with. Returns their jobs, the last first.
    pub(super) fn recall(&mut self) -> Vec<Work> {
        let mut recalled = Vec::new();
        for call in self.calls.iter_mut().rev() {
            if call.work.is_some() && self.link.withdraw(call.slot) {
                self.load = self.load.saturating_sub(std::mem::take(&mut call.expected));
                self.left += 1;
                recalled.extend(call.work.take());
            }
        }
        recalled
    }

    /// Returns whether the worker has been at its first call for longer than [`STALL`] while others wait behind it.
    pub(super) fn is_stalled(&self, now: Instant) -> bool {
        self.has_followers() && now.saturating_duration_since(self.since) >= STALL
    }

    /// Returns when the worker will count as stalled.
    pub(super) fn stalls_at(&self) -> Option<Instant> {
        if self.has_followers() { self.since.checked_add(STALL) } else { None }
    }

    fn has_followers(&self) -> bool {
        self.calls.len() > 1 && self.calls.iter().skip(1).any(|call| call.work.is_some())
    }

    /// Raises the expected time of the first call, which takes longer than expected. The worker is given no call ahead
    /// of time until that one is done.
    pub(super) fn extend_estimate(&mut self) {
        if let Some(first) = self.calls.front_mut() {
            self.load += AHEAD;
            first.expected += AHEAD;
        }
    }

    /// Takes the record of a dead worker apart: its phase, the jobs that it had begun, and those that it had not begun,
    /// the last first.
    pub(super) fn into_unfinished(self) -> (WorkerPhase, Vec<Work>, Vec<Work>) {
        let is_untouched = |slot| matches!(self.link.state(slot), state::OFFERED | state::WITHDRAWN);
        let (mut begun, mut untouched) = (Vec::new(), Vec::new());
        for call in self.calls {
            if let Some(work) = call.work {
                if is_untouched(call.slot) { untouched.push(work) } else { begun.push(work) }
            }
        }
        // They go back to the front of the queue, so the last comes first.
        untouched.reverse();
        (self.phase, begun, untouched)
    }
}
