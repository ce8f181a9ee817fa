//! Both machines together, against a model of the server and of the network, in many orders of events.
//!
//! There is one job, one submitter and two workers. The model's server has the job's subject, with compare-and-set, and
//! a queue that delivers the message again at any time: when a lease has passed, or after a restart. As `JetStream`, it
//! takes an answer to an old delivery for one to the present. Requests and answers are separate steps, so that anything
//! may happen between them. A *fault* is a request or an answer that is lost, late or doubled. Workers die with the jobs
//! that they run.
//!
//! Without `exclusive` there is no time: each timer that runs may fire at any moment. With it the workers' timers count
//! ticks of one clock, since the promise is about time.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::Duration;

use stateright::{Checker, HasDiscoveries, Model, Path, Property};

use super::{
    Delivery, DeliveryAction, DeliveryEvent, DeliveryTimer, Publication, Revision, Settings, Stored,
    Submission, SubmissionAction, SubmissionEvent, SubmissionTimer, Terms, Verdict, Written,
};
use crate::Ulid;
use crate::records::{Outcome, State};

const CLIENT: Ulid = Ulid::from_bits(100);
const OTHER_CLIENT: Ulid = Ulid::from_bits(101);

/// The events that may happen in a model, and how often.
#[allow(clippy::struct_excessive_bools, reason = "they are independent of each other")]
#[derive(Clone, Debug)]
struct Scene {
    retry: u32,
    exclusive: bool,
    faults: u8,
    deaths: u8,
    /// The number of processes that crash.
    crashes: u8,
    cancels: bool,
    drains: bool,
    keyed: bool,
    /// True if the submitter takes announcements and looks again, before all is quiet.
    watches: bool,
    /// True if the server drops a second copy of the message.
    dedupes: bool,
    capacity: u8,
    workers: u8,
    /// True if the server compares the revision before it stores a state.
    compares: bool,
    /// The lease as the worker believes it to be that takes a job over.
    taker_lease: u64,
    /// The number of records after which a path is not followed.
    records: Revision,
}

impl Scene {
    const fn new() -> Self {
        Self {
            retry: 0,
            exclusive: false,
            faults: 1,
            deaths: 0,
            crashes: 0,
            cancels: false,
            drains: false,
            keyed: false,
            watches: false,
            dedupes: true,
            capacity: 2,
            workers: 2,
            compares: true,
            taker_lease: 6,
            records: 12,
        }
    }

    /// One tick is a second.
    fn settings(&self, worker: usize) -> Settings {
        Settings {
            lease: Duration::from_secs(if worker == 0 { 6 } else { self.taker_lease }),
            answer: Duration::from_secs(1),
            margin: Duration::from_secs(1),
            pause: Duration::from_secs(1),
            ask: Duration::from_secs(2),
            ..Settings::default()
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    store: Option<Stored>,
    /// The last revision of the store, and the last number of a message.
    last: Revision,
    last_message: Revision,
    /// The messages in the queue, and whether they are held.
    queue: BTreeMap<Revision, bool>,
    /// Writes that arrive late.
    late: Vec<(Revision, State)>,
    /// Answers to deliveries under way: whether the message is removed.
    answers: Vec<(Revision, bool)>,
    workers: Vec<Worker>,
    client: Client,
    faults: u8,
    deaths: u8,
    crashes: u8,
    buried: bool,
    starts: u32,
    broken: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Worker {
    id: Ulid,
    is_alive: bool,
    drains: bool,
    delivery: Option<(Revision, Delivery)>,
    request: Option<Request<DeliveryEvent>>,
    timers: BTreeMap<DeliveryTimer, u64>,
    question: Question,
    process: Process,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Process {
    None,
    Runs,
    Dies { at_once: bool },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Question {
    None,
    Sent(Ulid),
    Answered(bool),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Client {
    submission: Option<Submission>,
    request: Option<Request<SubmissionEvent>>,
    timers: BTreeMap<SubmissionTimer, u64>,
    announced: Option<Stored>,
    question: Option<Ulid>,
    was_stopped: bool,
    was_told: bool,
}

/// A request under way, with the ticks until the sender stops to wait.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Request<E> {
    call: Call,
    answer: Option<E>,
    patience: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Call {
    Read,
    Write(Revision, State),
    Publish,
    Delete(Revision),
    Bury,
}

/// The network's effect on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Network {
    Carries,
    LosesRequest,
    LosesAnswer,
    Delays,
    Doubles,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Tick,
    ClientRequest(Network),
    ClientAnswer,
    ClientFired(SubmissionTimer),
    Announce,
    LookAgain,
    Cancel,
    QueueTimeout,
    CancelQuestion,
    Deliver(Revision, usize),
    Redeliver(Revision),
    Request(usize, Network),
    Answer(usize),
    Fired(usize, DeliveryTimer),
    Question(usize),
    QuestionAnswer(usize),
    ProcessEnds(usize, Ending),
    Die(usize),
    Drain(usize),
    DrainOver(usize),
    Spawn(usize),
    LateWrite,
    Acknowledge { lost: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Ending {
    Returns,
    Crashes,
    Killed,
}

impl World {
    fn write(&mut self, scene: &Scene, expected: Revision, state: State) -> Written {
        let revision = self.store.as_ref().map_or(0, |stored| stored.revision);
        if scene.compares && revision != expected {
            return Written::Refused;
        }
        if let Some(Stored { state: State::End(_), .. }) = &self.store {
            self.broken = Some("a job ends once");
        }
        if let State::End(end) = &state {
            let is_dead = matches!(end.outcome, Outcome::Lost | Outcome::Expired | Outcome::NoSuchTask);
            if is_dead && !self.buried {
                self.broken = Some("a dead job lies with the dead letters");
            }
            if end.by == CLIENT && end.attempt == 0 && self.starts > 0 {
                self.broken = Some("a job that was cancelled before it ran does not run");
            }
        }
        self.last += 1;
        let stored = Stored { revision: self.last, state };
        self.client.announced = Some(stored.clone());
        self.store = Some(stored);
        Written::Stored(self.last)
    }

    fn publish(&mut self, scene: &Scene) -> Publication {
        if scene.dedupes && self.last_message > 0 {
            return Publication::Stored(self.last_message);
        }
        if self.queue.len() >= scene.capacity.into() {
            return Publication::Full;
        }
        self.last_message += 1;
        self.queue.insert(self.last_message, false);
        Publication::Stored(self.last_message)
    }

    fn client(&mut self, scene: &Scene, event: SubmissionEvent) {
        let Some(submission) = &mut self.client.submission else { return };
        let actions = submission.on(&scene.settings(0), event);
        let answer = 1;
        for action in actions {
            let call = match action {
                SubmissionAction::Publish => Call::Publish,
                SubmissionAction::Write { expected, state } => Call::Write(expected, state),
                SubmissionAction::Read => Call::Read,
                SubmissionAction::Delete(message) => Call::Delete(message),
                SubmissionAction::AskToCancel(worker) => {
                    self.client.question = Some(worker);
                    continue;
                }
                SubmissionAction::Arm(timer, after) => {
                    self.client.timers.insert(timer, after.as_secs());
                    continue;
                }
                SubmissionAction::Accepted | SubmissionAction::Running(_) => continue,
                SubmissionAction::Ended(end) => {
                    let stored = self.store.as_ref().map(|stored| &stored.state);
                    if self.client.was_told || stored != Some(&State::End(end)) {
                        self.broken = Some("the submitter learns the stored end, once");
                    }
                    self.client.was_told = true;
                    continue;
                }
                SubmissionAction::QueueFull => {
                    if self.client.was_told || self.starts > 0 {
                        self.broken = Some("a job that found no room does not run");
                    }
                    self.client.was_told = true;
                    continue;
                }
                SubmissionAction::Detached => {
                    self.client.was_told = true;
                    continue;
                }
                SubmissionAction::Over => {
                    self.client.submission = None;
                    self.client.timers.clear();
                    self.client.question = None;
                    return;
                }
            };
            assert!(self.client.request.is_none(), "one request at a time");
            self.client.request = Some(Request { call, answer: None, patience: answer });
        }
    }

    fn worker(&mut self, scene: &Scene, at: usize, event: DeliveryEvent) {
        let settings = scene.settings(at);
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let worker = &mut self.workers[at];
            let Some((message, delivery)) = &mut worker.delivery else { return };
            let message = *message;
            for action in delivery.on(&settings, event) {
                let call = match action {
                    DeliveryAction::Read => Call::Read,
                    DeliveryAction::Write { expected, state } => Call::Write(expected, state),
                    DeliveryAction::Bury(_) => Call::Bury,
                    DeliveryAction::Ask(id) => {
                        worker.question = Question::Sent(id);
                        continue;
                    }
                    DeliveryAction::Start { attempt } => {
                        assert_eq!(worker.process, Process::None);
                        worker.process = Process::Runs;
                        self.starts += 1;
                        if attempt > 1 + scene.retry || self.starts > 1 + scene.retry {
                            self.broken = Some("starts are bounded");
                        }
                        if let Some(Stored { state: State::End(end), .. }) = &self.store {
                            if end.by == CLIENT {
                                self.broken = Some("a job that was cancelled before it ran does not run");
                            }
                        }
                        continue;
                    }
                    DeliveryAction::Kill { at_once } => {
                        assert_ne!(worker.process, Process::None);
                        worker.process = Process::Dies { at_once };
                        continue;
                    }
                    DeliveryAction::WantSlot => {
                        events.push(DeliveryEvent::Slot);
                        continue;
                    }
                    DeliveryAction::Ack => {
                        self.answers.push((message, true));
                        continue;
                    }
                    DeliveryAction::Nak(_) => {
                        self.answers.push((message, false));
                        continue;
                    }
                    // The queue delivers at any time, so that nothing depends on progress.
                    DeliveryAction::Arm(DeliveryTimer::Progress, _)
                    | DeliveryAction::FreeSlot
                    | DeliveryAction::Progress
                    | DeliveryAction::Refused => continue,
                    DeliveryAction::Arm(timer, after) => {
                        if scene.exclusive || timer != DeliveryTimer::Renew {
                            worker.timers.insert(timer, if scene.exclusive { after.as_secs() } else { 0 });
                        }
                        continue;
                    }
                    DeliveryAction::Disarm(timer) => {
                        worker.timers.remove(&timer);
                        continue;
                    }
                    DeliveryAction::Over => {
                        assert_eq!(worker.process, Process::None, "a delivery outlives its process");
                        worker.delivery = None;
                        worker.timers.clear();
                        worker.question = Question::None;
                        break;
                    }
                };
                assert!(worker.request.is_none(), "one request at a time");
                worker.request = Some(Request { call, answer: None, patience: 1 });
            }
        }
        let running = self.workers.iter().filter(|worker| worker.process != Process::None).count();
        if scene.exclusive && running > 1 {
            self.broken = Some("an exclusive job does not run twice at once");
        }
    }

    /// Carries out a call at the server, and returns the answers that a worker and a client would get.
    fn serve(&mut self, scene: &Scene, call: &Call) -> (DeliveryEvent, SubmissionEvent) {
        match call {
            Call::Read => {
                let stored = self.store.clone();
                let aged = stored.clone().map(|stored| (stored, Duration::MAX));
                (DeliveryEvent::Read(Some(aged)), SubmissionEvent::Read(Some(stored)))
            }
            Call::Write(expected, state) => {
                let written = self.write(scene, *expected, state.clone());
                (DeliveryEvent::Written(written), SubmissionEvent::Written(written))
            }
            Call::Publish => {
                let published = self.publish(scene);
                (DeliveryEvent::Begin, SubmissionEvent::Published(published))
            }
            Call::Delete(message) => {
                self.queue.remove(message);
                (DeliveryEvent::Begin, SubmissionEvent::Deleted(true))
            }
            Call::Bury => {
                self.buried = true;
                (DeliveryEvent::Buried(true), SubmissionEvent::Begin)
            }
        }
    }

    /// Carries a call, or loses a part of it. Returns the answers.
    fn carry(&mut self, scene: &Scene, call: &Call, network: Network) -> (DeliveryEvent, SubmissionEvent) {
        if network != Network::Carries {
            self.faults -= 1;
        }
        let answers = match network {
            Network::LosesRequest | Network::Delays => None,
            Network::Carries | Network::LosesAnswer | Network::Doubles => Some(self.serve(scene, call)),
        };
        if let (Network::Delays | Network::Doubles, Call::Write(expected, state)) = (network, call) {
            self.late.push((*expected, state.clone()));
        }
        match answers {
            Some(answers) if network != Network::LosesAnswer => answers,
            _ => match call {
                Call::Read => (DeliveryEvent::Read(None), SubmissionEvent::Read(None)),
                Call::Write(..) => {
                    (DeliveryEvent::Written(Written::Unknown), SubmissionEvent::Written(Written::Unknown))
                }
                Call::Publish => (DeliveryEvent::Begin, SubmissionEvent::Published(Publication::Unknown)),
                Call::Delete(_) => (DeliveryEvent::Begin, SubmissionEvent::Deleted(false)),
                Call::Bury => (DeliveryEvent::Buried(false), SubmissionEvent::Begin),
            },
        }
    }

    fn find(&self, id: Ulid) -> Option<usize> {
        self.workers.iter().position(|worker| worker.id == id && worker.is_alive)
    }

    #[allow(clippy::too_many_lines, reason = "a list")]
    /// Lists what can happen next. The first of them is what happens when nothing goes wrong.
    fn steps(&self, scene: &Scene) -> Vec<Step> {
        let mut steps = Vec::new();
        let networks = |call: &Call| {
            let mut networks = vec![Network::Carries];
            if self.faults > 0 {
                networks.push(Network::LosesRequest);
                if *call != Call::Read {
                    networks.push(Network::LosesAnswer);
                }
                if matches!(call, Call::Write(..)) {
                    networks.extend([Network::Delays, Network::Doubles]);
                }
            }
            networks
        };
        let client = &self.client;
        match &client.request {
            Some(Request { answer: Some(_), .. }) => steps.push(Step::ClientAnswer),
            Some(Request { call, .. }) => steps.extend(networks(call).into_iter().map(Step::ClientRequest)),
            None => {}
        }
        for (at, worker) in self.workers.iter().enumerate() {
            match &worker.request {
                Some(Request { answer: Some(_), .. }) => steps.push(Step::Answer(at)),
                Some(Request { call, .. }) => {
                    steps.extend(networks(call).into_iter().map(|network| Step::Request(at, network)));
                }
                None => {}
            }
            match worker.question {
                Question::Sent(_) => steps.push(Step::Question(at)),
                Question::Answered(_) => steps.push(Step::QuestionAnswer(at)),
                Question::None => {}
            }
        }
        if !self.answers.is_empty() {
            steps.push(Step::Acknowledge { lost: false });
            if self.faults > 0 {
                steps.push(Step::Acknowledge { lost: true });
            }
        }
        if !self.late.is_empty() {
            steps.push(Step::LateWrite);
        }
        if client.question.is_some() {
            steps.push(Step::CancelQuestion);
        }
        if scene.watches && client.submission.is_some() && client.announced.is_some() {
            steps.push(Step::Announce);
        }
        for (at, worker) in self.workers.iter().enumerate() {
            match worker.process {
                Process::Dies { .. } => steps.push(Step::ProcessEnds(at, Ending::Killed)),
                Process::Runs => steps.push(Step::ProcessEnds(at, Ending::Returns)),
                Process::None => {}
            }
            if worker.process != Process::None && self.crashes > 0 {
                steps.push(Step::ProcessEnds(at, Ending::Crashes));
            }
        }
        for (&message, &held) in &self.queue {
            for (at, worker) in self.workers.iter().enumerate() {
                if !held && worker.is_alive && !worker.drains && worker.delivery.is_none() {
                    steps.push(Step::Deliver(message, at));
                }
            }
        }
        for (at, worker) in self.workers.iter().enumerate() {
            let due = worker.timers.iter().filter(|(_, left)| **left == 0);
            steps.extend(due.map(|(&timer, _)| Step::Fired(at, timer)));
        }
        steps.extend(client.timers.keys().map(|&timer| Step::ClientFired(timer)));
        // Not without bounds, or answers to old deliveries would heap up.
        if self.answers.is_empty() {
            let held = self.queue.iter().filter(|(_, held)| **held);
            steps.extend(held.map(|(&message, _)| Step::Redeliver(message)));
        }
        if scene.watches && client.submission.is_some() && client.request.is_none() && !client.was_told {
            steps.push(Step::LookAgain);
        }
        if scene.cancels && !client.was_stopped && client.submission.is_some() {
            steps.extend([Step::Cancel, Step::QueueTimeout]);
        }
        for (at, worker) in self.workers.iter().enumerate() {
            if worker.is_alive && self.deaths > 0 {
                steps.push(Step::Die(at));
            }
            if worker.is_alive && scene.drains && !worker.drains && at == 0 {
                steps.push(Step::Drain(at));
            }
            if worker.drains && worker.process == Process::Runs {
                steps.push(Step::DrainOver(at));
            }
        }
        if self.workers.iter().all(|worker| !worker.is_alive || worker.drains && worker.delivery.is_none()) {
            steps.push(Step::Spawn(0));
        }
        let is_patient = self.workers.iter().all(|worker| {
            worker.timers.values().all(|left| *left > 0)
                && worker.process != (Process::Dies { at_once: true })
                && worker.request.as_ref().is_none_or(|request| request.patience > 0)
        });
        if scene.exclusive && is_patient {
            steps.push(Step::Tick);
        }
        steps
    }

    #[allow(clippy::too_many_lines, reason = "a list")]
    fn step(&mut self, scene: &Scene, step: Step) {
        match step {
            Step::Tick => {
                for worker in &mut self.workers {
                    worker.timers.values_mut().for_each(|left| *left -= 1);
                    if let Some(request) = &mut worker.request {
                        request.patience -= 1;
                    }
                }
            }
            Step::ClientRequest(network) => {
                let call = self.client.request.as_ref().expect("a request").call.clone();
                let (_, answer) = self.carry(scene, &call, network);
                self.client.request.as_mut().expect("a request").answer = Some(answer);
            }
            Step::ClientAnswer => {
                let answer =
                    self.client.request.take().and_then(|request| request.answer).expect("an answer");
                self.client(scene, answer);
            }
            Step::ClientFired(timer) => {
                self.client.timers.remove(&timer);
                self.client(scene, SubmissionEvent::Fired(timer));
            }
            Step::Announce => {
                let stored = self.client.announced.take().expect("an announcement");
                self.client(scene, SubmissionEvent::Announced(stored));
            }
            Step::LookAgain => {
                self.client.announced = None;
                self.client(scene, SubmissionEvent::LookAgain);
            }
            Step::Cancel | Step::QueueTimeout => {
                self.client.was_stopped = true;
                let event = if step == Step::Cancel {
                    SubmissionEvent::Cancel
                } else {
                    SubmissionEvent::QueueTimeout
                };
                self.client(scene, event);
            }
            Step::CancelQuestion => {
                if let Some(at) = self.client.question.take().and_then(|id| self.find(id)) {
                    self.worker(scene, at, DeliveryEvent::Cancel);
                }
            }
            Step::Deliver(message, at) => {
                self.queue.insert(message, true);
                let terms = Terms {
                    retry: scene.retry,
                    backoff: Duration::ZERO,
                    on_failure: false,
                    exclusive: scene.exclusive,
                    has_task: true,
                    is_late: false,
                    age: Duration::ZERO,
                };
                self.workers[at].delivery = Some((message, Delivery::new(self.workers[at].id, terms)));
                self.worker(scene, at, DeliveryEvent::Begin);
            }
            Step::Redeliver(message) => {
                self.queue.insert(message, false);
            }
            Step::Request(at, network) => {
                let call = self.workers[at].request.as_ref().expect("a request").call.clone();
                let (answer, _) = self.carry(scene, &call, network);
                self.workers[at].request.as_mut().expect("a request").answer = Some(answer);
            }
            Step::Answer(at) => {
                let answer = self.workers[at].request.take().and_then(|request| request.answer);
                self.worker(scene, at, answer.expect("an answer"));
            }
            Step::Fired(at, timer) => {
                self.workers[at].timers.remove(&timer);
                self.worker(scene, at, DeliveryEvent::Fired(timer));
            }
            Step::Question(at) => {
                let Question::Sent(id) = self.workers[at].question else {
                    unreachable!("a question was sent")
                };
                let answer = self.find(id).map(|at| {
                    let delivery = self.workers[at].delivery.as_ref();
                    delivery.is_some_and(|(_, delivery)| delivery.holds())
                });
                self.workers[at].question = answer.map_or(Question::None, Question::Answered);
            }
            Step::QuestionAnswer(at) => {
                let Question::Answered(runs) = self.workers[at].question else {
                    unreachable!("it was answered")
                };
                self.workers[at].question = Question::None;
                self.worker(scene, at, DeliveryEvent::Answered(runs));
            }
            Step::ProcessEnds(at, ending) => {
                self.workers[at].process = Process::None;
                self.crashes -= u8::from(ending == Ending::Crashes);
                let returns = ending == Ending::Returns;
                let verdict = if returns { Verdict::Returned(vec![]) } else { Verdict::Died(vec![]) };
                self.worker(scene, at, DeliveryEvent::Ended(verdict));
            }
            Step::Die(at) => {
                self.deaths -= 1;
                let worker = &mut self.workers[at];
                let sent = worker.request.take();
                *worker = Worker::new(worker.id);
                worker.is_alive = false;
                // What it has sent last may arrive after its death.
                if let Some(Request { call: Call::Write(expected, state), answer: None, .. }) = sent {
                    self.late.push((expected, state));
                }
            }
            Step::Drain(at) => {
                self.workers[at].drains = true;
                self.worker(scene, at, DeliveryEvent::Drain);
            }
            Step::DrainOver(at) => self.worker(scene, at, DeliveryEvent::DrainOver),
            Step::Spawn(at) => {
                let id = self.workers[at].id.to_bits() + 10;
                self.workers[at] = Worker::new(Ulid::from_bits(id));
            }
            Step::LateWrite => {
                let (expected, state) = self.late.remove(0);
                self.write(scene, expected, state);
            }
            Step::Acknowledge { lost } => {
                let (message, removes) = self.answers.remove(0);
                self.faults -= u8::from(lost);
                if removes && !lost {
                    self.queue.remove(&message);
                } else if let (false, Some(held)) = (lost, self.queue.get_mut(&message)) {
                    *held = false;
                }
            }
        }
    }

    /// Goes on without faults until the job has ended and nothing is left of it. Fails with the state in which that
    /// does not happen.
    fn comes_to_rest(&self, scene: &Scene) -> Result<(), Box<Self>> {
        let calm = Scene { watches: true, cancels: false, drains: false, ..scene.clone() };
        let mut world = Self { faults: 0, deaths: 0, crashes: 0, ..self.clone() };
        let mut turns = HashMap::new();
        for round in 0..400 {
            let steps = world.steps(&calm);
            // A message is not delivered again while a worker holds it, and a submitter looks again when all is quiet.
            let holds = |message| {
                let holders = world.workers.iter().filter_map(|worker| worker.delivery.as_ref());
                holders.into_iter().any(|(held, _)| *held == message)
            };
            let mut sensible = steps.into_iter().filter(|step| match step {
                Step::Redeliver(message) => !holds(*message),
                Step::DrainOver(_) => false,
                _ => true,
            });
            let Some(first) = sensible.next() else { break };
            // Steps that are always possible take turns, so that none starves.
            let next = match first {
                Step::Deliver(..)
                | Step::Fired(..)
                | Step::ClientFired(_)
                | Step::Redeliver(_)
                | Step::LookAgain
                | Step::Spawn(_) => {
                    let all = std::iter::once(first).chain(sensible);
                    all.min_by_key(|step| turns.get(step).copied().unwrap_or(0)).expect("the first")
                }
                _ => first,
            };
            turns.insert(next, round + 1);
            world.step(&calm, next);
            if world.broken.is_some() {
                break;
            }
        }
        let has_ended = matches!(&world.store, Some(Stored { state: State::End(_), .. }));
        let never_entered = world.last_message == 0 && world.store.is_none();
        let is_clear = world.queue.is_empty() && world.client.submission.is_none() && world.client.was_told;
        let rests = (has_ended || never_entered) && is_clear && world.broken.is_none();
        if rests { Ok(()) } else { Err(Box::new(world)) }
    }
}

impl Worker {
    fn new(id: Ulid) -> Self {
        Self {
            id,
            is_alive: true,
            drains: false,
            delivery: None,
            request: None,
            timers: BTreeMap::new(),
            question: Question::None,
            process: Process::None,
        }
    }
}

impl Model for Scene {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let client = Client {
            submission: Some(Submission::new(CLIENT, self.keyed, true)),
            request: None,
            timers: BTreeMap::new(),
            announced: None,
            question: None,
            was_stopped: false,
            was_told: false,
        };
        let mut world = World {
            store: None,
            last: 0,
            last_message: 0,
            queue: BTreeMap::new(),
            late: Vec::new(),
            answers: Vec::new(),
            workers: (1..=self.workers).map(|id| Worker::new(Ulid::from_bits(id.into()))).collect(),
            client,
            faults: self.faults,
            deaths: self.deaths,
            crashes: self.crashes,
            buried: false,
            starts: 0,
            broken: None,
        };
        world.client(self, SubmissionEvent::Begin);
        let mut worlds = vec![world.clone()];
        if self.keyed {
            // Another submitter was the first with the key, and has died before it published.
            world.write(self, 0, State::Queued { by: OTHER_CLIENT });
            worlds.push(world);
        }
        worlds
    }

    fn actions(&self, world: &World, actions: &mut Vec<Step>) {
        if world.broken.is_none() {
            actions.extend(world.steps(self));
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut world = world.clone();
        world.step(self, step);
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nothing is broken", |_, world: &World| world.broken.is_none()),
            Property::always("each job comes to rest", |scene: &Self, world: &World| {
                world.broken.is_some() || world.last > scene.records || world.comes_to_rest(scene).is_ok()
            }),
        ]
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.last <= self.records
    }
}

/// The number of steps of a scene that are tried, those that come first in time before the others. The scenes that have
/// more take too long otherwise.
const LIMIT: usize = if cfg!(debug_assertions) { 100_000 } else { 1_500_000 };

/// Returns the steps of a path, one a line.
fn steps(path: Path<World, Step>) -> String {
    path.into_actions().iter().map(|step| format!("{step:?}")).collect::<Vec<_>>().join("\n")
}

/// Checks the states of a scene.
#[track_caller]
fn check(scene: Scene) {
    let begin = std::time::Instant::now();
    let all = HasDiscoveries::Any;
    let checker = scene.checker().threads(2).target_state_count(LIMIT).finish_when(all).spawn_bfs().join();
    let (count, unique) = (checker.state_count(), checker.unique_state_count());
    println!("{count} states, {unique} of them unique, in {:?}", begin.elapsed());
    if let Some((name, path)) = checker.discoveries().into_iter().next() {
        let last = path.last_state().clone();
        println!("it comes to: {:#?}", last.comes_to_rest(checker.model()));
        panic!("{name}: {:?} after\n{}\n{last:#?}", last.broken, steps(path));
    }
}

/// Checks that a scene with a flaw breaks the promise.
#[track_caller]
fn check_breaks(scene: Scene, promise: &str) {
    let only = HasDiscoveries::AnyOf(["nothing is broken"].into());
    let checker = scene.checker().finish_when(only).spawn_bfs().join();
    let path = checker.discovery("nothing is broken").expect("the model finds the flaw");
    let broken = path.last_state().broken;
    assert_eq!(broken, Some(promise), "{}", steps(path));
}

// Those that are ignored look at many more states: `cargo xtask test --only cluster-models` runs them, optimised.

#[test]
fn a_job_ends_once_when_a_worker_dies() {
    check(Scene { faults: 0, deaths: 1, ..Scene::new() });
}

#[test]
fn a_job_ends_once_when_an_answer_is_lost() {
    check(Scene { faults: 1, workers: 1, ..Scene::new() });
}

#[test]
#[ignore = "many states"]
fn a_job_ends_once_when_a_worker_dies_and_an_answer_is_lost() {
    check(Scene { deaths: 1, ..Scene::new() });
}

#[test]
#[ignore = "many states"]
fn a_job_that_may_be_retried_starts_no_more_often_than_allowed() {
    check(Scene { retry: 1, deaths: 1, crashes: 1, faults: 0, ..Scene::new() });
}

#[test]
#[ignore = "many states"]
fn a_job_that_was_cancelled_before_it_ran_does_not_run() {
    check(Scene { cancels: true, watches: true, workers: 1, ..Scene::new() });
    check(Scene { cancels: true, watches: true, faults: 0, deaths: 1, retry: 1, ..Scene::new() });
}

#[test]
#[ignore = "many states"]
fn the_second_job_with_a_key_finds_the_first() {
    check(Scene { keyed: true, watches: true, workers: 1, ..Scene::new() });
}

#[test]
#[ignore = "many states"]
fn a_worker_that_drains_gives_its_job_back() {
    check(Scene { drains: true, retry: 1, ..Scene::new() });
}

#[test]
#[ignore = "many states"]
fn a_message_that_is_there_twice_makes_one_job() {
    check(Scene { dedupes: false, ..Scene::new() });
}

#[test]
#[ignore = "many states"]
fn an_exclusive_job_does_not_run_twice_at_once() {
    check(Scene { exclusive: true, retry: 1, records: 6, ..Scene::new() });
}

#[test]
fn the_model_finds_a_store_that_does_not_compare() {
    check_breaks(Scene { compares: false, faults: 0, ..Scene::new() }, "starts are bounded");
}

#[test]
fn the_model_finds_a_worker_that_takes_over_too_early() {
    let scene = Scene { exclusive: true, retry: 1, faults: 0, taker_lease: 2, records: 4, ..Scene::new() };
    check_breaks(scene, "an exclusive job does not run twice at once");
}
