//! A job at its submitter.

use std::time::Duration;

use super::{Revision, Settings, Stored, Written};
use crate::Ulid;
use crate::records::{End, Outcome, State};

/// The longest pause between two attempts to publish, as a power of two of [`Settings::pause`].
const LONGEST_PAUSE: u8 = 5;

/// The machine of a job at its submitter: publishes it, stops it, and learns its end.
#[allow(clippy::struct_excessive_bools, reason = "they are independent of each other")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Submission {
    me: Ulid,
    /// True if the job's id is the hash of a key, so that others may submit the same job.
    keyed: bool,
    /// True if this submission decides about the job. With a key, that is the first one only.
    owns: bool,
    /// True if a full queue ends the job instead of making it wait.
    refuses_wait: bool,
    /// The last known state; `None` if there is none in the store, or nothing is known yet.
    known: Option<Stored>,
    /// True if the store has to be read before anything is decided.
    stale: bool,
    message: Message,
    /// True if an attempt to publish had no answer, so that the message may be in the queue.
    doubtful: bool,
    /// The number of attempts to publish that failed, up to [`LONGEST_PAUSE`].
    failures: u8,
    stop: Option<Stop>,
    request: Option<Request>,
    /// True if the timer for another attempt at a request runs.
    pausing: bool,
    /// True if a claimant is being asked to cancel, again and again.
    asking: bool,
    stage: Stage,
}

/// The job's message in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Message {
    Unpublished,
    At(Revision),
    /// Not in the queue any more, or to be left to the worker that takes it.
    Gone,
}

/// The reason why the submitter ends a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stop {
    Cancelled,
    QueueTimeout,
    QueueFull,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Request {
    Read,
    Write(Stage),
    Publish,
    Delete,
}

/// The stage of the job, as its submitter sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    Waiting,
    /// The end is known and was passed on. The message may still have to be deleted.
    Ended,
    /// Nothing is left to do.
    Over,
}

/// A timer of a submission. Each runs at most once at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Timer {
    /// The next attempt at a request.
    Pause,
    /// The next question to the worker that runs a cancelled job.
    Ask,
}

/// The answer to a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Publication {
    /// The message is in the queue, with this sequence number: now, or since an earlier attempt.
    Stored(Revision),
    /// It is not in the queue: the queue or the store is full.
    Full,
    /// There was no answer. The message may be in the queue, now or later.
    Unknown,
}

/// An event for a submission.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// The first event.
    Begin,
    /// The answer to [`Action::Publish`].
    Published(Publication),
    /// The answer to [`Action::Write`].
    Written(Written),
    /// The answer to [`Action::Read`]: what is stored; the outer `None` if there was no answer.
    Read(Option<Option<Stored>>),
    /// The answer to [`Action::Delete`]: whether the message is certain to be gone.
    Deleted(bool),
    /// The store has announced a state.
    Announced(Stored),
    /// An announcement may have been missed, since some time has passed.
    LookAgain,
    /// The connection was lost and is back: announcements may have been missed, and requests may succeed again.
    Reconnected,
    /// The submitter wants the job no more.
    Cancel,
    /// The job's longest wait has passed.
    QueueTimeout,
    /// A timer has fired.
    Fired(Timer),
}

/// An action for the driver of a submission.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// A request: publishes the job's message under the job's id, which makes the server drop a second copy.
    Publish,
    /// A request: stores a state if the last revision is still the expected one.
    Write {
        /// The revision that is replaced.
        expected: Revision,
        /// The new state.
        state: State,
    },
    /// A request: reads the stored state.
    Read,
    /// A request: deletes the message from the queue.
    Delete(Revision),
    /// Asks a worker to cancel the job, without waiting for an answer.
    AskToCancel(Ulid),
    /// Starts a timer, or starts it anew.
    Arm(Timer, Duration),
    /// Reports that the job is in the queue.
    Accepted,
    /// Reports that a worker has started the job, or has let go of it again (`None`).
    Running(Option<Ulid>),
    /// Reports the job's end, as it is in the store.
    Ended(Box<End>),
    /// Reports that the job is not in the queue, which was full, and never ran.
    QueueFull,
    /// Reports that this submission stops to watch a job that another one submitted with the same key.
    Detached,
    /// Drops the machine: nothing is left to do.
    Over,
}

impl Submission {
    /// Makes the machine of a new job of the client `me`.
    ///
    /// `keyed` is true if the job's id is the hash of a key: then a state is stored before the message, and of several
    /// submissions with the key the first one submits the job, and the others watch it. `refuses_wait` makes a full queue
    /// end the job.
    pub fn new(me: Ulid, keyed: bool, refuses_wait: bool) -> Self {
        Self {
            me,
            keyed,
            owns: !keyed,
            refuses_wait,
            known: None,
            stale: false,
            message: Message::Unpublished,
            doubtful: false,
            failures: 0,
            stop: None,
            request: None,
            pausing: false,
            asking: false,
            stage: Stage::Waiting,
        }
    }

    /// Makes the machine of a job that was submitted before, by this client or another one.
    pub fn attached(me: Ulid) -> Self {
        Self { message: Message::Gone, stale: true, ..Self::new(me, false, false) }
    }

    /// Takes an event, and returns what is to be done.
    pub fn on(&mut self, settings: &Settings, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.stage == Stage::Over {
            return actions;
        }
        match event {
            Event::Begin => {}
            Event::Announced(stored) => {
                // Announcements may be late.
                if self.known.as_ref().is_none_or(|known| known.revision < stored.revision) {
                    self.learn(Some(stored), &mut actions);
                }
            }
            Event::Read(answer) => {
                self.request = None;
                match answer {
                    Some(stored) => {
                        self.stale = false;
                        self.learn(stored, &mut actions);
                    }
                    None => self.pause(settings.pause, &mut actions),
                }
            }
            Event::Written(written) => {
                let request = self.request.take();
                match (written, request) {
                    (Written::Stored(revision), Some(Request::Write(stage))) => {
                        let written = Stored { revision, state: self.next_state(stage) };
                        self.learn(Some(written), &mut actions);
                    }
                    _ => self.stale = true,
                }
            }
            Event::Published(publication) => {
                self.request = None;
                self.published(publication, settings, &mut actions);
            }
            Event::Deleted(is_gone) => {
                self.request = None;
                if is_gone {
                    self.message = Message::Gone;
                } else {
                    self.pause(settings.pause, &mut actions);
                }
            }
            Event::LookAgain => self.stale |= self.stage == Stage::Waiting,
            Event::Reconnected => {
                self.stale |= self.stage == Stage::Waiting;
                (self.pausing, self.failures) = (false, 0);
            }
            Event::Cancel => self.stop(Stop::Cancelled),
            Event::QueueTimeout => self.stop(match self.state() {
                // It has been started meanwhile. Nobody waits for its result any more.
                Some(State::Claim { .. } | State::Release { .. }) => Stop::Cancelled,
                _ => Stop::QueueTimeout,
            }),
            Event::Fired(Timer::Pause) => self.pausing = false,
            Event::Fired(Timer::Ask) => self.asking = false,
        }
        self.decide(settings, &mut actions);
        actions
    }

    /// Returns whether another submission with the same key was the first.
    fn is_second(&self) -> bool {
        !self.owns && self.known.is_some()
    }

    fn state(&self) -> Option<&State> {
        self.known.as_ref().map(|stored| &stored.state)
    }

    fn stop(&mut self, reason: Stop) {
        if self.stage == Stage::Waiting {
            self.stop.get_or_insert(reason);
        }
    }

    fn pause(&mut self, pause: Duration, actions: &mut Vec<Action>) {
        self.pausing = true;
        actions.push(Action::Arm(Timer::Pause, pause));
    }

    /// Notes a state, and reports what it changes.
    fn learn(&mut self, stored: Option<Stored>, actions: &mut Vec<Action>) {
        let worker = |state: Option<&State>| match state {
            Some(State::Claim { by, .. }) => Some(*by),
            _ => None,
        };
        let before = worker(self.state());
        self.known = stored;
        self.owns |= matches!(self.state(), Some(State::Queued { by }) if *by == self.me);
        if let Some(State::End(end)) = self.state() {
            if self.stage == Stage::Waiting {
                let mine = end.by == self.me;
                actions.push(match self.stop {
                    Some(Stop::QueueFull) if mine => Action::QueueFull,
                    _ => Action::Ended(end.clone()),
                });
                // The worker that has ended it deletes the message.
                if !mine {
                    self.message = Message::Gone;
                }
                self.stage = Stage::Ended;
            }
        } else if worker(self.state()) != before {
            actions.push(Action::Running(worker(self.state())));
        }
    }

    fn published(&mut self, publication: Publication, settings: &Settings, actions: &mut Vec<Action>) {
        match publication {
            Publication::Stored(message) => {
                self.message = Message::At(message);
                if self.stage == Stage::Waiting {
                    actions.push(Action::Accepted);
                }
            }
            // It was published again to learn its number, and is gone.
            Publication::Full if self.stage == Stage::Ended => self.message = Message::Gone,
            Publication::Full if self.refuses_wait => self.stop(Stop::QueueFull),
            Publication::Full | Publication::Unknown => {
                self.doubtful |= publication == Publication::Unknown;
                self.pause(settings.pause * (1 << self.failures), actions);
                self.failures = (self.failures + 1).min(LONGEST_PAUSE);
            }
        }
    }

    /// Returns the state that a write stores.
    fn next_state(&self, stage: Stage) -> State {
        let by = self.me;
        if stage == Stage::Waiting {
            return State::Queued { by };
        }
        let attempt = match self.state() {
            Some(State::Release { attempt, .. }) => *attempt,
            _ => 0,
        };
        let outcome = match self.stop {
            Some(Stop::QueueTimeout) => Outcome::QueueTimeout,
            _ => Outcome::Cancelled,
        };
        State::End(Box::new(End { by, attempt, outcome, body: Vec::new() }))
    }

    /// Makes the next request, if none is under way and one is due.
    fn decide(&mut self, settings: &Settings, actions: &mut Vec<Action>) {
        if self.request.is_some() || self.stage == Stage::Over {
            return;
        }
        if self.stage == Stage::Ended {
            return self.clear_up(actions);
        }
        if self.stale {
            if !self.pausing {
                self.ask(Request::Read, actions);
            }
            return;
        }
        if let Some(reason) = self.stop {
            return self.decide_to_stop(reason, settings, actions);
        }
        match self.state() {
            None if self.keyed => self.ask(Request::Write(Stage::Waiting), actions),
            None | Some(State::Queued { .. }) if self.message == Message::Unpublished && !self.pausing => {
                // The second with a key publishes, too: the first may have died before it could. The server drops the
                // copy, or else the claim makes one of them run.
                self.ask(Request::Publish, actions);
            }
            _ => {}
        }
    }

    fn decide_to_stop(&mut self, reason: Stop, settings: &Settings, actions: &mut Vec<Action>) {
        if self.is_second() {
            // The first one decides about the job.
            actions.extend([Action::Detached, Action::Over]);
            self.stage = Stage::Over;
            return;
        }
        match self.state() {
            Some(State::Claim { by, .. }) => {
                if !self.asking {
                    actions.push(Action::AskToCancel(*by));
                    self.asking = true;
                    actions.push(Action::Arm(Timer::Ask, settings.ask));
                }
            }
            // Nothing is in the queue for certain, so nothing has to be stored.
            None if reason == Stop::QueueFull && !self.doubtful => {
                actions.extend([Action::QueueFull, Action::Over]);
                self.stage = Stage::Over;
            }
            _ => self.ask(Request::Write(Stage::Ended), actions),
        }
    }

    /// Deletes the message of a job that was ended by this submitter.
    fn clear_up(&mut self, actions: &mut Vec<Action>) {
        match self.message {
            Message::Gone => {}
            Message::Unpublished if !self.doubtful => {}
            _ if self.pausing => return,
            // Publishing it again is how one learns its number.
            Message::Unpublished => return self.ask(Request::Publish, actions),
            Message::At(_) => return self.ask(Request::Delete, actions),
        }
        actions.push(Action::Over);
        self.stage = Stage::Over;
    }

    fn ask(&mut self, request: Request, actions: &mut Vec<Action>) {
        self.request = Some(request);
        actions.push(match request {
            Request::Read => Action::Read,
            Request::Publish => Action::Publish,
            Request::Write(stage) => Action::Write {
                expected: self.known.as_ref().map_or(0, |stored| stored.revision),
                state: self.next_state(stage),
            },
            Request::Delete => {
                let Message::At(message) = self.message else {
                    unreachable!("only a published message is deleted")
                };
                Action::Delete(message)
            }
        });
    }
}
