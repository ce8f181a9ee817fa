//! A message with a job at a worker.

use std::time::Duration;

use super::{Revision, Settings, Stored, Written};
use crate::Ulid;
use crate::records::{End, Job, Outcome, State, pause_after};

/// The difference between the clocks of two machines that is put up with.
const CLOCKS: Duration = Duration::from_secs(60 * 60);

/// The terms of a job, and the facts about its message, on which a delivery decides.
#[allow(clippy::struct_excessive_bools, reason = "they are independent of each other")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Terms {
    /// The number of starts that are allowed after the first.
    pub retry: u32,
    /// The pause before the second start. The pause before the third is twice as long, and so on.
    pub backoff: Duration,
    /// True if the task's own failure leads to another start.
    pub on_failure: bool,
    /// True if two starts may never overlap.
    pub exclusive: bool,
    /// True if the job has no state yet, as far as can be told without reading. Then a claim is tried at once; if there is a
    /// state after all, the server refuses the claim.
    pub is_fresh: bool,
    /// True if this worker has the task, with the submitter's types.
    pub has_task: bool,
    /// True if the longest wait for the start has passed, by the server's clock.
    pub is_late: bool,
    /// True if the message may be a copy of an old one, by the time of submission that it names.
    pub is_replay: bool,
    /// True if the job is to be stopped when its submitter is lost.
    pub cancel_if_lost: bool,
    /// The age of the message by the server's clock.
    pub age: Duration,
}

impl Terms {
    /// Reads the terms of a job. `is_first` says that the server does not know of an earlier delivery of its message. `age`
    /// is that of the message, by the server's clock, and `since_issued` the time since its submission, by this machine's
    /// clock and the submitter's.
    pub fn new(
        job: &Job,
        has_task: bool,
        is_first: bool,
        age: Duration,
        since_issued: Duration,
        settings: &Settings,
    ) -> Self {
        let is_replay = since_issued > settings.remember + CLOCKS;
        Self {
            retry: job.retry,
            backoff: job.backoff(),
            on_failure: job.on_failure,
            exclusive: job.exclusive,
            // A copy with the dead letters comes before the job's end, so what leads to one is not decided unread.
            is_fresh: is_first && !job.keyed && has_task && age <= settings.remember && !is_replay,
            has_task,
            is_late: job.queue_timeout().is_some_and(|limit| age > limit),
            is_replay,
            cancel_if_lost: job.cancel_if_lost,
            age,
        }
    }
}

/// The machine of a message with a job that the server has delivered to a worker: claims the job and runs it, or leaves
/// it to the worker that runs it, or takes it over from one that is dead.
#[allow(clippy::struct_excessive_bools, reason = "they are independent of each other")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Delivery {
    me: Ulid,
    terms: Terms,
    known: Known,
    /// The number of the start that this machine has claimed, or tries to; 0 if it does not.
    attempt: u32,
    process: Process,
    stop: Option<Stop>,
    request: Option<Request>,
    /// True if the timer for another attempt at a request runs.
    pausing: bool,
    /// True if the claim is to be written anew.
    renewing: bool,
    /// True if one of the worker's slots is kept for the job.
    has_slot: bool,
    wants_slot: bool,
    watch: Option<Watch>,
    /// True if a copy lies with the dead letters.
    is_buried: bool,
    is_draining: bool,
    is_over: bool,
}

/// The stored state, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Known {
    /// It has to be read.
    Unread,
    /// It is this, or was a moment ago, or should be. A release is due after the rest of its delay.
    At { stored: Option<Stored>, due_in: Duration, confirmed: bool },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Process {
    None,
    Running,
    Ended(Verdict),
}

/// The reason why a job that runs is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stop {
    Cancel,
    Drain,
    /// The claim was not renewed in time, so another worker may take the job over.
    Fence,
    /// The job belongs to another worker, or has ended.
    Lost,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Request {
    Read,
    Write(State),
    Bury,
}

/// The watch over another worker's claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Watch {
    revision: Revision,
    finding: Finding,
}

/// A watch's finding about the other worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Finding {
    Nothing,
    /// It says that it runs the job.
    Runs,
    /// It was silent for a whole lease, or says that it does not run the job.
    IsDead,
}

/// A timer of a delivery. Each runs at most once at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Timer {
    /// The next renewal of the hold on the message.
    Progress,
    /// The next attempt at a request.
    Pause,
    /// The next question to the worker whose claim is watched.
    Ask,
    /// The end of the lease for which that worker has to be silent.
    Silence,
    /// The next rewriting of the claim.
    Renew,
    /// The time when a job that may not overlap is killed, unless its claim was rewritten.
    Fence,
    /// The next question to the submitter.
    AskSubmitter,
    /// The end of the lease for which the submitter has to be silent to be taken for lost.
    SubmitterSilence,
}

/// The end of a job's process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The task returned. This is its result.
    Returned(Vec<u8>),
    /// The task failed. This is the error.
    Failed(Vec<u8>),
    /// The process died before the task returned: it crashed or was killed. This is the error.
    Died(Vec<u8>),
}

/// An event for a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// The first event.
    Begin,
    /// The answer to [`Action::Read`]: what is stored, and its age by the server's clock. The outer `None` stands for no
    /// answer.
    Read(Option<Option<(Stored, Duration)>>),
    /// The answer to [`Action::Write`].
    Written(Written),
    /// The answer to [`Action::Bury`]: whether the copy is certain to be stored.
    Buried(bool),
    /// A worker has answered [`Action::Ask`]: whether it runs the job.
    Answered(bool),
    /// The submitter has answered [`Action::AskSubmitter`].
    SubmitterAnswered,
    /// The connection to the server was lost and is back. Meanwhile, nobody could be heard.
    Reconnected,
    /// One of the worker's slots is kept for the job, as [`Action::WantSlot`] has asked.
    Slot,
    /// The job's process has ended. No process of it is left.
    Ended(Verdict),
    /// The submitter wants the job to be cancelled.
    Cancel,
    /// The worker takes no more jobs.
    Drain,
    /// The time for jobs to end, while the worker drains, has passed.
    DrainOver,
    /// A timer has fired.
    Fired(Timer),
}

/// An action for the driver of a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// A request: reads the stored state.
    Read,
    /// A request: stores a state if the last revision is still the expected one.
    Write {
        /// The revision that is replaced.
        expected: Revision,
        /// The new state.
        state: State,
    },
    /// A request: stores a copy of the job with the dead letters, under the job's id.
    Bury(Outcome),
    /// Asks a worker whether it runs the job. An answer is an event; silence is none.
    Ask(Ulid),
    /// Asks the submitter whether it is there. An answer is an event; silence is none.
    AskSubmitter,
    /// Runs the job. Its end is an event.
    Start {
        /// The number of the start.
        attempt: u32,
    },
    /// Kills the job's process: after the usual grace, or at once.
    Kill {
        /// True if there is no time for it to end by itself.
        at_once: bool,
    },
    /// Gives the slot back that was kept for the job.
    FreeSlot,
    /// Asks for a slot. It is an event once there is one.
    WantSlot,
    /// Tells the server that the message is still held.
    Progress,
    /// Removes the message from the queue.
    Ack,
    /// Gives the message back, to be delivered again after this time.
    Nak(Duration),
    /// Starts a timer, or starts it anew.
    Arm(Timer, Duration),
    /// Stops a timer.
    Disarm(Timer),
    /// Counts an end that was refused because another worker had taken the job over.
    Refused,
    /// Drops the machine: nothing is left to do.
    Over,
}

impl Delivery {
    /// Makes the machine of a message that was delivered to the worker `me`, which keeps one of its slots for it.
    pub fn new(me: Ulid, terms: Terms) -> Self {
        let none = Known::At { stored: None, due_in: Duration::ZERO, confirmed: false };
        let known = if terms.is_fresh { none } else { Known::Unread };
        Self {
            me,
            terms,
            known,
            attempt: 0,
            process: Process::None,
            stop: None,
            request: None,
            pausing: false,
            renewing: false,
            has_slot: true,
            wants_slot: false,
            watch: None,
            is_buried: false,
            is_draining: false,
            is_over: false,
        }
    }

    /// Returns whether this worker runs the job, or may be about to: its answer to others that ask.
    pub fn holds(&self) -> bool {
        !self.is_over && self.attempt > 0
    }

    /// Takes an event, and returns what is to be done.
    pub fn on(&mut self, settings: &Settings, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.is_over {
            return actions;
        }
        match event {
            Event::Begin => actions.push(Action::Arm(Timer::Progress, settings.progress)),
            Event::Read(answer) => {
                self.request = None;
                match answer {
                    Some(read) => {
                        let due_in = match &read {
                            Some((Stored { state: State::Release { delay, .. }, .. }, age)) => {
                                delay.saturating_sub(*age)
                            }
                            _ => Duration::ZERO,
                        };
                        let stored = read.map(|(stored, _)| stored);
                        self.known = Known::At { stored, due_in, confirmed: false };
                    }
                    None => self.pause(settings, &mut actions),
                }
            }
            Event::Written(written) => self.written(written, settings, &mut actions),
            Event::Buried(is_stored) => {
                self.request = None;
                self.is_buried |= is_stored;
                if !is_stored {
                    self.pause(settings, &mut actions);
                }
            }
            Event::Answered(runs) => self.found(if runs { Finding::Runs } else { Finding::IsDead }),
            Event::Reconnected => {
                if let Some(watch) = &mut self.watch {
                    watch.finding = Finding::Nothing;
                    actions.push(Action::Arm(Timer::Silence, settings.lease));
                }
                self.await_submitter(settings, &mut actions);
            }
            Event::SubmitterAnswered => self.await_submitter(settings, &mut actions),
            Event::Slot => {
                (self.has_slot, self.wants_slot) = (true, false);
                // Time has passed since the claim was found unchanged.
                self.known = Known::Unread;
            }
            Event::Ended(verdict) => {
                let timers = [Timer::Renew, Timer::Fence, Timer::AskSubmitter, Timer::SubmitterSilence];
                actions.extend(timers.map(Action::Disarm));
                self.free_slot(&mut actions);
                self.renewing = false;
                self.process = Process::Ended(verdict);
            }
            Event::Cancel => self.stop(Stop::Cancel, &mut actions),
            Event::Drain => self.is_draining = true,
            Event::DrainOver => {
                self.is_draining = true;
                self.stop(Stop::Drain, &mut actions);
            }
            Event::Fired(timer) => self.fired(timer, settings, &mut actions),
        }
        self.decide(settings, &mut actions);
        actions
    }

    fn written(&mut self, written: Written, settings: &Settings, actions: &mut Vec<Action>) {
        let Some(Request::Write(state)) = self.request.take() else { return };
        let Written::Stored(revision) = written else {
            self.known = Known::Unread;
            return;
        };
        if matches!(state, State::Claim { .. }) {
            self.renewing = false;
            if self.watch.take().is_some() {
                actions.extend([Action::Disarm(Timer::Ask), Action::Disarm(Timer::Silence)]);
            }
            if self.terms.exclusive {
                // The wait for the answer counts: another worker may have seen the claim when it was sent.
                let fence = settings.lease.saturating_sub(settings.margin + settings.answer);
                actions.push(Action::Arm(Timer::Fence, fence));
            }
            let renewal = if self.terms.exclusive { settings.lease / 3 } else { settings.remember / 4 };
            actions.push(Action::Arm(Timer::Renew, renewal));
        }
        let stored = Some(Stored { revision, state });
        self.known = Known::At { stored, due_in: Duration::ZERO, confirmed: true };
    }

    /// Notes what is found about the worker whose claim is watched, before the claim is read again.
    fn found(&mut self, finding: Finding) {
        if let Some(watch) = &mut self.watch {
            watch.finding = finding;
            if finding == Finding::IsDead {
                self.known = Known::Unread;
            }
        }
    }

    fn fired(&mut self, timer: Timer, settings: &Settings, actions: &mut Vec<Action>) {
        match timer {
            Timer::Progress => actions.extend([Action::Progress, Action::Arm(timer, settings.progress)]),
            Timer::Pause => self.pausing = false,
            Timer::Ask => self.ask_claimant(settings, actions),
            Timer::Silence => self.found(Finding::IsDead),
            Timer::Renew => self.renewing = true,
            Timer::Fence => self.stop(Stop::Fence, actions),
            Timer::AskSubmitter => {
                actions.extend([Action::AskSubmitter, Action::Arm(timer, settings.ask)]);
            }
            Timer::SubmitterSilence => self.stop(Stop::Cancel, actions),
        }
    }

    fn stop(&mut self, reason: Stop, actions: &mut Vec<Action>) {
        let at_once = matches!(reason, Stop::Fence | Stop::Lost);
        if self.process == Process::Running && (self.stop.is_none() || at_once && self.stop != Some(reason)) {
            actions.push(Action::Kill { at_once });
        }
        // A job that was to be cancelled must not be started again because it is killed for another reason too.
        if self.stop != Some(Stop::Cancel) {
            self.stop = Some(reason);
        }
    }

    fn pause(&mut self, settings: &Settings, actions: &mut Vec<Action>) {
        self.pausing = true;
        actions.push(Action::Arm(Timer::Pause, settings.pause));
    }

    /// Asks the worker whose claim is watched, if one is.
    fn ask_claimant(&self, settings: &Settings, actions: &mut Vec<Action>) {
        if self.watch.is_some() {
            if let Known::At { stored: Some(Stored { state: State::Claim { by, .. }, .. }), .. } = &self.known
            {
                actions.push(Action::Ask(*by));
            }
            actions.push(Action::Arm(Timer::Ask, settings.ask));
        }
    }

    /// Does what the known state requires, if no request is under way.
    fn decide(&mut self, settings: &Settings, actions: &mut Vec<Action>) {
        if self.request.is_some() || self.pausing || self.is_over {
            return;
        }
        let Known::At { stored, due_in, confirmed } = self.known.clone() else {
            self.request = Some(Request::Read);
            return actions.push(Action::Read);
        };
        match (&self.process, stored.map(|stored| (stored.revision, stored.state))) {
            (Process::None, stored) => self.decide_to_start(stored, due_in, confirmed, settings, actions),
            (Process::Running, stored) => match stored {
                // The store has forgotten a claim that was not renewed for long.
                None => self.write(self.claim(), actions),
                Some((_, state)) if !self.is_my_claim(&state) => {
                    if self.stop != Some(Stop::Lost) {
                        self.stop(Stop::Lost, actions);
                    }
                }
                Some(_) if self.renewing => self.write(self.claim(), actions),
                Some(_) => {}
            },
            (Process::Ended(verdict), stored) => {
                let verdict = verdict.clone();
                match stored {
                    Some((_, state)) if !self.is_my_claim(&state) => self.conclude(&state, actions),
                    _ => self.decide_the_end(verdict, actions),
                }
            }
        }
    }

    fn claim(&self) -> State {
        State::Claim { by: self.me, attempt: self.attempt }
    }

    fn is_my_claim(&self, state: &State) -> bool {
        self.attempt > 0 && *state == self.claim()
    }

    fn decide_to_start(
        &mut self,
        stored: Option<(Revision, State)>,
        due_in: Duration,
        confirmed: bool,
        settings: &Settings,
        actions: &mut Vec<Action>,
    ) {
        match stored {
            // Its message is still here, so nobody has seen to its end.
            Some((_, State::End(end))) if end.outcome == Outcome::Forgotten => {
                self.end_unrun(Outcome::Expired, true, 0, actions);
            }
            Some((_, State::End(_))) => self.finish(Action::Ack, actions),
            Some((_, state)) if self.is_my_claim(&state) => self.start(confirmed, settings, actions),
            Some((revision, State::Claim { by, attempt })) => {
                self.attempt = 0;
                self.decide_to_take_over(revision, by, attempt, settings, actions);
            }
            Some((_, State::Release { .. })) if due_in > Duration::ZERO => self.give_back(due_in, actions),
            _ if self.is_draining => self.give_back(Duration::ZERO, actions),
            None if self.terms.age > settings.remember || self.terms.is_replay => {
                self.end_unrun(Outcome::Expired, true, 0, actions);
            }
            None | Some((_, State::Queued { .. })) if self.terms.is_late => {
                self.end_unrun(Outcome::QueueTimeout, false, 0, actions);
            }
            state => {
                let before = match state {
                    Some((_, State::Release { attempt, .. })) => attempt,
                    _ => 0,
                };
                if !self.terms.has_task {
                    if self.terms.age < settings.rollout {
                        self.give_back(settings.pause, actions);
                    } else {
                        self.end_unrun(Outcome::NoSuchTask, true, before, actions);
                    }
                } else if self.has_slot {
                    self.attempt = before.saturating_add(1);
                    self.write(self.claim(), actions);
                } else {
                    self.want_slot(actions);
                }
            }
        }
    }

    /// Starts the job whose claim is stored, unless it was cancelled or the worker drains meanwhile.
    fn start(&mut self, confirmed: bool, settings: &Settings, actions: &mut Vec<Action>) {
        if self.stop == Some(Stop::Cancel) {
            self.process = Process::Ended(Verdict::Died(Vec::new()));
            self.decide_the_end(Verdict::Died(Vec::new()), actions);
        } else if self.is_draining {
            // It was not started, so the start does not count.
            let attempt = self.attempt - 1;
            self.write(State::Release { by: self.me, attempt, delay: Duration::ZERO }, actions);
        } else if self.terms.exclusive && !confirmed {
            // It was found by reading. Nobody knows when it was stored, so it may be too old to run a job on.
            self.write(self.claim(), actions);
        } else {
            self.process = Process::Running;
            actions.push(Action::Start { attempt: self.attempt });
            if self.terms.cancel_if_lost {
                actions.push(Action::Arm(Timer::AskSubmitter, settings.ask));
                self.await_submitter(settings, actions);
            }
        }
    }

    /// Watches the claim of another worker, and takes the job over once that is dead.
    fn decide_to_take_over(
        &mut self,
        revision: Revision,
        by: Ulid,
        attempt: u32,
        settings: &Settings,
        actions: &mut Vec<Action>,
    ) {
        if self.is_draining {
            return self.give_back(Duration::ZERO, actions);
        }
        match self.watch.filter(|watch| watch.revision == revision).map(|watch| watch.finding) {
            None => {
                self.watch = Some(Watch { revision, finding: Finding::Nothing });
                self.free_slot(actions);
                actions.extend([
                    Action::Ask(by),
                    Action::Arm(Timer::Ask, settings.ask),
                    Action::Arm(Timer::Silence, settings.lease),
                ]);
            }
            Some(Finding::Nothing) => {}
            Some(Finding::Runs) => self.give_back(settings.busy, actions),
            Some(Finding::IsDead) if attempt > self.terms.retry => self.end_lost(by, attempt, actions),
            Some(Finding::IsDead) if self.has_slot => {
                self.attempt = attempt.saturating_add(1);
                self.write(self.claim(), actions);
            }
            Some(Finding::IsDead) => self.want_slot(actions),
        }
    }

    /// Waits a whole lease for a sign of the submitter, if its loss would stop the job.
    fn await_submitter(&self, settings: &Settings, actions: &mut Vec<Action>) {
        if self.terms.cancel_if_lost && self.process == Process::Running {
            actions.push(Action::Arm(Timer::SubmitterSilence, settings.lease));
        }
    }

    fn want_slot(&mut self, actions: &mut Vec<Action>) {
        if !self.wants_slot {
            self.wants_slot = true;
            actions.push(Action::WantSlot);
        }
    }

    /// Ends a job whose worker is dead and that has no start left.
    fn end_lost(&mut self, worker: Ulid, attempt: u32, actions: &mut Vec<Action>) {
        let body = worker.to_bits().to_be_bytes().to_vec();
        self.end(Outcome::Lost, true, attempt, body, actions);
    }

    fn end_unrun(&mut self, outcome: Outcome, is_dead: bool, attempt: u32, actions: &mut Vec<Action>) {
        self.end(outcome, is_dead, attempt, Vec::new(), actions);
    }

    /// Writes the end. One of a job that is dead comes after the copy with the dead letters, so that none is missing
    /// there. If the end is refused then, there is one copy too many.
    fn end(
        &mut self,
        outcome: Outcome,
        is_dead: bool,
        attempt: u32,
        body: Vec<u8>,
        actions: &mut Vec<Action>,
    ) {
        if is_dead && !self.is_buried {
            self.request = Some(Request::Bury);
            actions.push(Action::Bury(outcome));
            return;
        }
        self.write(State::End(Box::new(End { by: self.me, attempt, outcome, body })), actions);
    }

    /// Ends or releases the job whose process has ended.
    fn decide_the_end(&mut self, verdict: Verdict, actions: &mut Vec<Action>) {
        let has_start = self.attempt <= self.terms.retry;
        let attempt = self.attempt;
        let release = |delay| State::Release { by: self.me, attempt, delay };
        match (verdict, self.stop) {
            (Verdict::Returned(body), _) => self.end(Outcome::Returned, false, attempt, body, actions),
            (Verdict::Died(body), Some(Stop::Cancel)) => {
                self.end(Outcome::Cancelled, false, attempt, body, actions);
            }
            (Verdict::Died(_), Some(_)) if has_start => self.write(release(Duration::ZERO), actions),
            (Verdict::Died(_), Some(_)) => self.end_lost(self.me, attempt, actions),
            (Verdict::Died(_), None) if has_start => {
                self.write(release(pause_after(self.terms.backoff, attempt)), actions);
            }
            (Verdict::Failed(_), None) if has_start && self.terms.on_failure => {
                self.write(release(pause_after(self.terms.backoff, attempt)), actions);
            }
            (Verdict::Died(body), None) => self.end(Outcome::Failed, true, attempt, body, actions),
            (Verdict::Failed(body), _) => {
                self.end(Outcome::Failed, self.terms.on_failure, attempt, body, actions);
            }
        }
    }

    /// Lets go of the message of a job that has ended here, by a state that is not its claim any more.
    fn conclude(&mut self, state: &State, actions: &mut Vec<Action>) {
        let (by, attempt) = match state {
            State::Queued { by } => (*by, 0),
            State::Claim { by, attempt } | State::Release { by, attempt, .. } => (*by, *attempt),
            State::End(end) => (end.by, end.attempt),
        };
        let is_mine = (by, attempt) == (self.me, self.attempt);
        if !is_mine {
            actions.push(Action::Refused);
        }
        match state {
            State::End(_) => self.finish(Action::Ack, actions),
            State::Release { delay, .. } if is_mine => self.give_back(*delay, actions),
            // The message is held by the worker that has taken the job over. The server would take an answer for its.
            _ => self.leave(actions),
        }
    }

    fn write(&mut self, state: State, actions: &mut Vec<Action>) {
        let expected = match &self.known {
            Known::At { stored: Some(stored), .. } => stored.revision,
            _ => 0,
        };
        self.request = Some(Request::Write(state.clone()));
        actions.push(Action::Write { expected, state });
    }

    fn give_back(&mut self, delay: Duration, actions: &mut Vec<Action>) {
        self.finish(Action::Nak(delay), actions);
    }

    fn finish(&mut self, last: Action, actions: &mut Vec<Action>) {
        actions.push(last);
        self.leave(actions);
    }

    fn free_slot(&mut self, actions: &mut Vec<Action>) {
        if std::mem::take(&mut self.has_slot) {
            actions.push(Action::FreeSlot);
        }
    }

    fn leave(&mut self, actions: &mut Vec<Action>) {
        self.free_slot(actions);
        actions.push(Action::Over);
        self.is_over = true;
    }
}
