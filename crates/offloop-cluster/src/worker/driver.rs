//! One delivered message: carries out what its [`Delivery`] decides.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use offloop::ErrorKind;
use offloop::remote::pack_error;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{Instrument, Span};

use super::agent::{Agent, Entry};
use super::items::Outbox;
use super::performer::{Kill, Ran, Run};
use super::slots::Slot;
use super::spans;
use crate::Ulid;
use crate::names::{Part, Place};
use crate::protocol::{
    Delivery, DeliveryAction as Action, DeliveryEvent as Event, DeliveryTimer as Timer, Stored, Verdict,
};
use crate::records::{Ask, End, Job, Outcome, RecordError, Report, State};
use crate::store::{BlobError, INLINE, Message, Reply};

/// The driver of one message. It lives until its machine is over.
struct Driver {
    agent: Arc<Agent>,
    message: Message,
    job: Arc<Job>,
    entry: Arc<Entry>,
    timers: BTreeMap<Timer, Instant>,
    kill: Arc<Kill>,
    /// The job was taken from a worker that was silent.
    watches: bool,
}

/// Drives a message, once its slot is free, until it is acknowledged, given back, or left to another worker.
///
/// A second delivery of a message that is driven already needs nothing: the server takes the answers to the first one for
/// answers to this one.
pub(super) async fn drive(agent: Arc<Agent>, message: Message, job: Job, queue: String, slot: Slot) {
    let job = Arc::new(job);
    let Some((entry, mut inbox)) = agent.enter(&job, queue) else { return agent.slots.decline(slot) };
    if !agent.slots.wait(slot).await {
        message.nak(Duration::ZERO).await;
        return agent.forget(&entry);
    }
    let terms = agent.terms(&job, &message);
    let mut machine = Delivery::new(agent.id(), terms);
    let mut driver =
        Driver { agent, message, job, entry, timers: BTreeMap::new(), kill: Arc::default(), watches: false };
    driver.run(&mut machine, &mut inbox).await;
    driver.agent.forget(&driver.entry);
    // A slot may have come at the last moment.
    inbox.close();
    while let Ok(event) = inbox.try_recv() {
        if event == Event::Slot {
            driver.agent.slots.give();
        }
    }
}

impl Driver {
    async fn run(&mut self, machine: &mut Delivery, inbox: &mut UnboundedReceiver<Event>) {
        let settings = self.agent.settings().clone();
        let mut event = Event::Begin;
        loop {
            let actions = machine.on(&settings, event);
            self.entry.set_held(machine.holds());
            for action in actions {
                if action == Action::Over {
                    return;
                }
                self.carry_out(action).await;
            }
            event = self.next(inbox).await;
        }
    }

    /// Waits for the next event.
    async fn next(&mut self, inbox: &mut UnboundedReceiver<Event>) -> Event {
        let due = self.timers.iter().min_by_key(|(_, due)| **due).map(|(timer, due)| (*timer, *due));
        let fired = async {
            match due {
                Some((_, due)) => sleep_until(due).await,
                None => pending().await,
            }
        };
        tokio::select! {
            Some(event) = inbox.recv() => event,
            () = fired => {
                let (timer, due) = due.expect("it has fired");
                self.timers.remove(&timer);
                if timer == Timer::Progress && due.elapsed() > self.agent.settings().progress {
                    self.agent.counts.late_renewals();
                }
                Event::Fired(timer)
            }
        }
    }

    async fn carry_out(&mut self, action: Action) {
        match action {
            Action::Read => self.request(read),
            Action::Write { expected, state } => {
                let part = match &state {
                    State::Claim { attempt, .. } => Some((spans::Part::Claim, *attempt)),
                    State::End(end) => Some((spans::Part::Report, end.attempt)),
                    State::Queued { .. } | State::Release { .. } => None,
                };
                let span = part
                    .map_or_else(Span::none, |(part, attempt)| self.agent.spans.of(part, &self.job, attempt));
                self.request(move |it| write(it, expected, state).instrument(span));
            }
            Action::Bury(outcome) => self.request(move |it| bury(it, outcome)),
            Action::Ask(worker) => {
                self.watches = true;
                self.ask(worker, Ask::Has { id: self.job.id }, true);
            }
            Action::AskSubmitter => self.ask(self.job.client, Ask::Has { id: self.job.id }, false),
            Action::Start { attempt } => {
                self.agent.counts.started(self.watches);
                let start = Start { attempt, kill: Arc::clone(&self.kill), request: self.context() };
                let (agent, events) = (Arc::clone(&self.agent), self.entry.events.clone());
                let span = self.agent.spans.of(spans::Part::Run, &self.job, attempt);
                tokio::spawn(async move {
                    let began = agent.slots.run();
                    let verdict = start.run().instrument(span).await;
                    agent.slots.ran(began);
                    // The machine waits for it in any case.
                    let _ = events.send(Event::Ended(verdict));
                });
            }
            Action::Kill { at_once } => self.kill.kill(at_once),
            Action::FreeSlot => self.agent.slots.give(),
            Action::WantSlot => self.agent.slots.want(self.entry.events.clone()),
            Action::Progress => self.message.progress().await,
            Action::Ack => self.message.ack().await,
            Action::Nak(delay) => {
                self.agent.counts.given_back();
                self.message.nak(delay).await;
            }
            Action::Arm(timer, after) => drop(self.timers.insert(timer, Instant::now() + after)),
            Action::Disarm(timer) => drop(self.timers.remove(&timer)),
            Action::Refused => self.agent.counts.refused(),
            Action::Over => {}
        }
    }

    fn context(&self) -> Context {
        let record = self.message.record.clone();
        Context {
            agent: Arc::clone(&self.agent),
            job: Arc::clone(&self.job),
            entry: Arc::clone(&self.entry),
            record,
        }
    }

    /// Makes a request, whose answer is an event.
    fn request<F: Future<Output = Event> + Send + 'static>(&self, request: impl FnOnce(Context) -> F) {
        let (request, events) = (request(self.context()), self.entry.events.clone());
        tokio::spawn(async move {
            // The machine is not over while a request is under way.
            let _ = events.send(request.await);
        });
    }

    /// Asks a party. Silence is no event.
    fn ask(&self, party: Ulid, ask: Ask, is_worker: bool) {
        let (agent, events) = (Arc::clone(&self.agent), self.entry.events.clone());
        tokio::spawn(async move {
            if is_worker {
                agent.learn_name(party).await;
            }
            if let Reply::Answer(answer) = agent.store.ask(party, &ask, agent.settings().ask).await {
                let runs = rmp_serde::from_slice(&answer).unwrap_or(true);
                // The message may have been left meanwhile.
                let _ = events.send(if is_worker { Event::Answered(runs) } else { Event::SubmitterAnswered });
            }
        });
    }
}

/// The parts of a driver that its requests need.
struct Context {
    agent: Arc<Agent>,
    job: Arc<Job>,
    entry: Arc<Entry>,
    record: Bytes,
}

async fn read(Context { agent, job, .. }: Context) -> Event {
    let answer = agent.store.read(&Place::of(&job)).await;
    let Some(Some(stored)) = answer else { return Event::Read(answer.map(|_| None)) };
    let state = match State::decode(&stored.bytes) {
        Ok(state) => state,
        // Workers of that build know what it means.
        Err(RecordError::Newer { .. }) => return Event::Read(None),
        // It is no party's of this protocol. It counts as the claim of a worker that is not there.
        Err(_) => State::Claim { by: Ulid::default(), attempt: u32::MAX },
    };
    Event::Read(Some(Some((Stored { revision: stored.revision, state }, stored.age))))
}

async fn write(it: Context, expected: u64, state: State) -> Event {
    let outcome = match &state {
        State::End(end) => Some(end.outcome),
        _ => None,
    };
    let state = match state {
        State::End(end) => {
            let body = it.agent.describe(&it.job, &end).await.unwrap_or(end.body);
            State::End(Box::new(End { body, ..*end }))
        }
        state => state,
    };
    // A report that is too large for a record is in a blob by now.
    let mut record = state.encode().expect("a state has a size that is allowed");
    if outcome.is_some() {
        record = it.agent.seal(it.job.id, record);
    }
    let remember = it.agent.settings().remember;
    let ttl = if record.len() > SMALL { it.agent.result_ttl.min(remember) } else { remember };
    let began = Instant::now();
    let written = it.agent.store.write(&Place::of(&it.job), expected, record, ttl).await;
    if let crate::protocol::Written::Stored(_) = written {
        it.agent.counts.stored(began.elapsed(), outcome);
        if let Some(outcome) = outcome {
            it.agent.log(format!("job {} `{}` ended: {outcome:?}", it.job.id, it.job.task));
        }
    }
    Event::Written(written)
}

/// The largest end, in bytes, that is kept for as long as claims are. A larger one is kept for a shorter time.
const SMALL: usize = 1024;

async fn bury(it: Context, outcome: Outcome) -> Event {
    let (store, id) = (&it.agent.store, it.job.id);
    // The submitter deletes the arguments as soon as it learns of the end.
    let is_stored = match &it.job.blob {
        Some(blob) if !store.keep_arguments(id, blob).await => false,
        _ => store.bury(id, &it.entry.queue, it.record, outcome).await,
    };
    it.agent.counts.buried(is_stored);
    Event::Buried(is_stored)
}

/// One start of a job.
struct Start {
    attempt: u32,
    kill: Arc<Kill>,
    request: Context,
}

impl Start {
    /// Runs the job. Returns when no process of it is left and its report is stored.
    async fn run(self) -> Verdict {
        let Context { agent, job, entry, record } = &self.request;
        if let Err(kind) = agent.admit(job, record, &entry.queue) {
            return Verdict::Failed(self.report(Ran::new(Err(kind))).await);
        }
        agent.log(format!("job {} `{}` starts, attempt {}", job.id, job.task, self.attempt));
        let arguments = tokio::select! {
            arguments = self.arguments() => arguments,
            () = self.kill.asked() => Err(ErrorKind::Cancelled),
        };
        let mut outbox = None;
        let mut ran = match arguments {
            Ok(arguments) => {
                outbox = Outbox::new(&agent.store, &agent.seals, job, self.attempt).map(Arc::new);
                entry.set_outbox(outbox.clone());
                self.perform(arguments, outbox.clone()).await
            }
            Err(kind) => Ran::new(Err(kind)),
        };
        let has_died = matches!(
            ran.result,
            Err(ErrorKind::WorkerDied(_)
                | ErrorKind::Broken(_)
                | ErrorKind::Cancelled
                | ErrorKind::Closed
                | ErrorKind::Unreachable(_))
        );
        // An error, too, comes after the items before it.
        if let Some(outbox) = outbox {
            let is_whole = tokio::select! {
                is_whole = outbox.finish() => is_whole,
                () = self.kill.asked() => true,
            };
            if !is_whole && ran.result.is_ok() {
                let silence = agent.settings().lease;
                let reason = format!(
                    "the reader of its items was silent for {silence:?}, so some were dropped; it has run"
                );
                ran.result = Err(ErrorKind::Unreachable(reason.into()));
            }
        }
        // An exception of a binding's task is a result like any other, unless failures lead to another start.
        let has_returned = ran.result.as_ref().is_ok_and(|answer| !(job.on_failure && answer.has_failed));
        let body = tokio::select! {
            biased;
            body = self.report(ran) => body,
            // What it has reported is of no use any more.
            () = self.kill.asked() => return Verdict::Died(Vec::new()),
        };
        match (has_returned, has_died) {
            (true, _) => Verdict::Returned(body),
            (false, true) => Verdict::Died(body),
            (false, false) => Verdict::Failed(body),
        }
    }

    /// Gets the arguments, however long the server is out of reach.
    async fn arguments(&self) -> Result<Vec<u8>, ErrorKind> {
        let Context { agent, job, .. } = &self.request;
        let Some(blob) = &job.blob else { return Ok(job.arguments.clone()) };
        loop {
            match agent.store.get_blob(job.id, Part::Arguments, blob).await {
                Ok(arguments) => return Ok(arguments),
                Err(BlobError::Unreachable) => sleep(agent.settings().pause).await,
                Err(error) => {
                    return Err(ErrorKind::Decode(format!("the arguments of `{}`: {error}", job.task)));
                }
            }
        }
    }

    async fn perform(&self, arguments: Vec<u8>, outbox: Option<Arc<Outbox>>) -> Ran {
        let Context { agent, job, .. } = &self.request;
        let (end, ended) = oneshot::channel();
        let run = Run::new(job.id, self.attempt, outbox, end);
        match agent.performer.perform(job, arguments, run) {
            Ok(running) => self.kill.set(Some(running)),
            Err(kind) => return Ran::new(Err(kind)),
        }
        let ran = ended.await.expect("a run ends when it is dropped, too");
        self.kill.set(None);
        ran
    }

    /// Returns the body of the end. A large one is stored by itself, however long that takes.
    async fn report(&self, ran: Ran) -> Vec<u8> {
        let Context { agent, job, .. } = &self.request;
        let mut report = Report::default();
        match ran.result {
            Ok(answer) => (report.answer, report.has_failed) = (answer.bytes, answer.has_failed),
            Err(kind) => report.error = pack_error(&kind),
        }
        (report.stdout, report.stderr, report.is_truncated) = (ran.stdout, ran.stderr, ran.is_truncated);
        let body = encode(&report);
        if body.len() <= INLINE {
            return body;
        }
        let bytes = Bytes::from(body);
        loop {
            let part = Part::Result(self.attempt);
            if let Some(blob) = agent.store.put_blob(job.id, part, bytes.clone(), agent.result_ttl).await {
                return encode(&Report { blob: Some(blob), ..Report::default() });
            }
            sleep(agent.settings().pause).await;
        }
    }
}

/// Encodes a report, which has texts, bytes and numbers only.
pub(super) fn encode(report: &Report) -> Vec<u8> {
    report.encode().expect("a report can be encoded")
}

/// Gives back a message whose record cannot be read, or puts it with the dead letters.
pub(super) async fn refuse(agent: Arc<Agent>, message: Message, is_newer: bool, queue: String) {
    let id: Option<Ulid> = message.header(crate::names::MESSAGE_ID).and_then(|id| id.parse().ok());
    let id = if let Some(id) = id { id } else { Ulid::new() };
    // A worker of a newer build may read it.
    if is_newer && message.age() < agent.settings().rollout {
        return message.nak(agent.settings().pause).await;
    }
    let is_buried = agent.store.bury(id, &queue, message.record.clone(), Outcome::NoSuchTask).await;
    agent.counts.buried(is_buried);
    if is_buried {
        message.ack().await;
    } else {
        message.nak(agent.settings().pause.max(Duration::from_secs(1))).await;
    }
}
