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

mod parties;
mod server;
mod steps;

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
    check_breaks(Scene { compares: false, faults: 0, ..Scene::new() }, "a job ends once");
}

#[test]
fn the_model_finds_a_worker_that_takes_over_too_early() {
    let scene = Scene { exclusive: true, retry: 1, faults: 0, taker_lease: 2, records: 4, ..Scene::new() };
    check_breaks(scene, "an exclusive job does not run twice at once");
}
