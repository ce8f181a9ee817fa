//! One worker on a real server. The tests speak to it as a submitter does, but without the client, whose machine would
//! hide what the worker does. Where no server is installed, they say so and pass.

#![allow(dead_code, reason = "the tasks are called by their names only")]

use std::time::Duration;

use bytes::Bytes;
use offloop::remote::unpack_error;
use offloop::{ErrorKind, ProcessPool};

use super::*;
use crate::connection::Connection;
use crate::embedded::Embedded;
use crate::names::{Band, Part, Place};
use crate::network;
use crate::protocol::{Publication, Settings};
use crate::records::{Ask, End, Job, Outcome, Report, State};
use crate::security::{Scope, SigningKey, Trust};
use crate::store::tests::{connection, server};
use crate::store::{INLINE, JobHeaders, Reply};

offloop::init_tests!();

const GUARD: Duration = Duration::from_secs(60);

#[offloop::task(name = "worker:double")]
fn double(number: u64) -> u64 {
    2 * number
}

#[offloop::task(name = "worker:reversed")]
fn reversed(text: String) -> String {
    println!("{} bytes", text.len());
    text.chars().rev().collect()
}

#[offloop::task(name = "worker:panics")]
fn panics() {
    panic!("as planned")
}

#[offloop::task(name = "worker:aborts")]
fn aborts() {
    std::process::abort()
}

#[offloop::task(name = "worker:forever")]
fn forever() {
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

#[offloop::task(name = "worker:counts")]
fn counts(until: u64) -> u64 {
    (0..until).for_each(|number| offloop::job::emit(&number).unwrap());
    until
}

#[offloop::task(name = "worker:counts_and_panics")]
fn counts_and_panics(until: u64) {
    counts(until);
    panic!("as planned")
}

#[offloop::task(name = "worker:counts_forever")]
fn counts_forever() {
    counts(u64::MAX);
}

/// A server, a worker, and what a submitter needs.
struct Cluster {
    store: Store,
    worker: Worker,
    client: Ulid,
    _server: Embedded,
}

fn settings() -> Settings {
    let default = Settings::default();
    Settings {
        lease: Duration::from_secs(2),
        progress: Duration::from_millis(500),
        ask: Duration::from_millis(200),
        pause: Duration::from_millis(100),
        rollout: Duration::from_millis(500),
        ..default
    }
}

impl Cluster {
    /// Starts both, with changes to the instructions. `None` where no server is installed.
    fn start(change: impl FnOnce(WorkerBuilder) -> WorkerBuilder) -> Option<Self> {
        Self::start_with(|connection| connection, change)
    }

    /// Does the same, with changes to the worker's connection, too.
    fn start_with(
        keys: impl FnOnce(Connection) -> Connection,
        change: impl FnOnce(WorkerBuilder) -> WorkerBuilder,
    ) -> Option<Self> {
        let server = server()?;
        let connection = connection(&server).settings(settings());
        let builder = Worker::builder(keys(connection.clone())).name("tested").slots(2);
        let worker = change(builder).build().unwrap();
        let store = network::block_on(async move { Store::connect(&connection).await }).unwrap().unwrap();
        Some(Self { store, worker, client: Ulid::new(), _server: server })
    }

    fn job(&self, task: &str, arguments: &[u8]) -> Job {
        Job::new(Ulid::new(), self.client, task, arguments.to_vec())
    }

    /// Puts a job into the queue, as soon as the worker has made that.
    fn publish(&self, record: Vec<u8>, id: Ulid) {
        let store = self.store.clone();
        wait(async move {
            let record = Bytes::from(record);
            let headers = JobHeaders::default();
            while !matches!(
                store.publish("default", Band::Normal, id, record.clone(), &headers).await,
                Publication::Stored(_)
            ) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }

    fn submit(&self, job: &Job) -> Ulid {
        self.publish(job.encode().unwrap(), job.id);
        job.id
    }

    /// Waits until the state of a job is one that `find` returns something for.
    fn await_state<T: Send + 'static>(
        &self,
        id: Ulid,
        find: impl Fn(State) -> Option<T> + Send + 'static,
    ) -> T {
        let (store, place) = (self.store.clone(), Place { client: Some(self.client), job: id });
        wait(async move {
            loop {
                if let Some(Some(stored)) = store.read(&place).await
                    && let Some(found) = find(State::decode(&stored.bytes).unwrap())
                {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
    }

    fn end(&self, id: Ulid) -> (End, Report) {
        let end = self.await_state(id, |state| match state {
            State::End(end) => Some(end),
            _ => None,
        });
        let report = Report::decode(&end.body).unwrap();
        (*end, report)
    }

    fn run(&self, job: &Job) -> (End, Report) {
        self.end(self.submit(job))
    }

    fn ask(&self, ask: Ask) -> bool {
        let (store, worker) = (self.store.clone(), self.worker.handle().id());
        match wait(async move { store.ask(worker, &ask, GUARD).await }) {
            Reply::Answer(answer) => rmp_serde::from_slice(&answer).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn eventually(&self, what: &str, is_so: impl Fn(&WorkerMetrics) -> bool) {
        let began = std::time::Instant::now();
        while !is_so(&self.worker.handle().metrics()) {
            assert!(began.elapsed() < GUARD, "{what}: {:?}", self.worker.handle().metrics());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn wait<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    network::block_on(async { tokio::time::timeout(GUARD, future).await.expect("it ends in time") }).unwrap()
}

fn error(report: &Report) -> ErrorKind {
    unpack_error(&report.error).unwrap()
}

#[test]
fn a_job_ends_with_its_result_or_its_error() {
    let Some(cluster) = Cluster::start(|it| it) else { return };
    let (end, report) = cluster.run(&cluster.job("worker:double", &[21]));
    assert_eq!((end.outcome, end.attempt, end.by), (Outcome::Returned, 1, cluster.worker.handle().id()));
    assert_eq!(report.answer, [42]);
    let (end, report) = cluster.run(&cluster.job("worker:panics", &[]));
    assert_eq!(end.outcome, Outcome::Failed);
    assert!(matches!(error(&report), ErrorKind::Panicked(panic) if panic.message() == "as planned"));
    let (end, report) = cluster.run(&cluster.job("worker:double", &[0xc3]));
    assert_eq!(end.outcome, Outcome::Failed);
    assert!(matches!(error(&report), ErrorKind::Decode(_)), "{:?}", error(&report));
    cluster.eventually("it has no job", |metrics| metrics.running == 0);
    let metrics = cluster.worker.handle().metrics();
    assert_eq!(
        (metrics.started, metrics.ended[&Outcome::Returned], metrics.ended[&Outcome::Failed]),
        (3, 1, 2)
    );
    let queues = cluster.store.clone();
    wait(async move {
        while queues.queues().await.unwrap().iter().any(|queue| queue.jobs != [0; 3]) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn a_job_that_is_delivered_twice_to_a_worker_starts_once() {
    let Some(cluster) = Cluster::start(|it| it) else { return };
    let job = cluster.job("worker:forever", &[]);
    let id = cluster.submit(&job);
    cluster.await_state(id, |state| matches!(state, State::Claim { .. }).then_some(()));
    // The server keeps it, since its message has another id.
    cluster.publish(job.encode().unwrap(), Ulid::new());
    // It comes after that, into the same slot.
    assert_eq!(cluster.run(&cluster.job("worker:double", &[21])).1.answer, [42]);
    assert!(cluster.ask(Ask::Cancel { id }));
    assert_eq!(cluster.end(id).0.outcome, Outcome::Cancelled);
    let store = cluster.store.clone();
    wait(async move {
        while store.queues().await.unwrap().iter().any(|queue| queue.jobs != [0; 3]) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert_eq!(cluster.worker.handle().metrics().started, 2);
}

#[test]
fn what_a_job_prints_comes_with_its_end_and_large_payloads_beside_it() {
    let Some(cluster) = Cluster::start(|it| it) else { return };
    let text = "x".repeat(3 << 20);
    let mut job = cluster.job("worker:reversed", &[]);
    let arguments =
        [&[0xdb][..], &u32::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat();
    let store = cluster.store.clone();
    let (id, bytes) = (job.id, Bytes::from(arguments.clone()));
    // The streams are made by the worker.
    let (_, report) = cluster.run(&cluster.job("worker:double", &[1]));
    assert_eq!(report.answer, [2]);
    job.blob = wait(async move { store.put_blob(id, Part::Arguments, bytes, GUARD).await });
    job.capture = Some(100);
    let (_, report) = cluster.run(&job);
    let blob = report.blob.expect("a large result is in a blob");
    let store = cluster.store.clone();
    let body = wait(async move { store.get_blob(id, Part::Result(1), &blob).await }).unwrap();
    let report = Report::decode(&body).unwrap();
    assert!(report.answer == arguments && report.answer.len() > INLINE);
    assert_eq!(report.stdout, format!("{} bytes\n", text.len()).into_bytes());
}

#[test]
fn a_crash_is_retried_as_often_as_allowed_and_then_the_job_is_dead() {
    let Some(cluster) = Cluster::start(|it| it) else { return };
    let mut job = cluster.job("worker:aborts", &[]);
    job.retry = 2;
    let (end, report) = cluster.run(&job);
    assert_eq!((end.outcome, end.attempt), (Outcome::Failed, 3));
    assert!(matches!(error(&report), ErrorKind::WorkerDied(_)));
    assert_eq!(cluster.worker.handle().metrics().started, 3);
    let store = cluster.store.clone();
    let dead = wait(async move { store.dead().await }).unwrap();
    assert_eq!((dead.len(), dead[0].id, &*dead[0].reason, &*dead[0].queue), (1, job.id, "Failed", "default"));
}

#[test]
fn a_running_job_is_killed_when_its_submitter_cancels_it() {
    let Some(cluster) = Cluster::start(|it| it) else { return };
    let id = cluster.submit(&cluster.job("worker:forever", &[]));
    cluster.await_state(id, |state| matches!(state, State::Claim { .. }).then_some(()));
    assert!(cluster.ask(Ask::Has { id }) && !cluster.ask(Ask::Has { id: Ulid::new() }));
    assert!(cluster.ask(Ask::Cancel { id }));
    assert_eq!(cluster.end(id).0.outcome, Outcome::Cancelled);
    cluster.eventually("it has no job", |metrics| metrics.running == 0);
    assert!(!cluster.ask(Ask::Cancel { id }));
}

#[test]
fn a_job_without_its_submitter_is_stopped_if_that_was_asked_for() {
    let Some(cluster) = Cluster::start(|it| it) else { return };
    let mut job = cluster.job("worker:forever", &[]);
    job.cancel_if_lost = true;
    let id = cluster.submit(&job);
    assert_eq!(cluster.end(id).0.outcome, Outcome::Cancelled);
}

#[test]
fn a_task_that_no_worker_has_ends_with_what_was_wanted_and_what_was_there() {
    let Some(cluster) = Cluster::start(|it| it) else { return };
    let mut job = cluster.job("worker:double", &[21]);
    job.signature = 7_u64.to_be_bytes().to_vec();
    let (end, report) = cluster.run(&job);
    assert_eq!(end.outcome, Outcome::NoSuchTask);
    match error(&report) {
        ErrorKind::NoSuchTask { task, wanted, offered, workers } => {
            assert_eq!((&*task, wanted.as_u64(), offered.len()), ("worker:double", 7, 1));
            assert!(workers[0].starts_with("tested on "), "{workers:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn hostile_records() {
    let Some(cluster) = Cluster::start(|it| it) else { return };
    let newer = {
        let mut record = cluster.job("worker:double", &[21]).encode().unwrap();
        let at = record.windows(2).position(|it| it == [0xa1, b'v']).unwrap() + 2;
        record[at] = 9;
        record
    };
    let records =
        [vec![], vec![0xc1; 1000], vec![0x81, 0xa1, b'v', 1], vec![0xdf, 0xff, 0xff, 0xff, 0xff], newer];
    for record in &records {
        cluster.publish(record.clone(), Ulid::new());
    }
    // The third is a record without a task, so it ends like one whose task no worker has.
    cluster.eventually("they are with the dead ones", |metrics| metrics.dead == 5);
    // A state that is none, in place of the claim.
    let job = cluster.job("worker:double", &[21]);
    let (store, place) = (cluster.store.clone(), Place::of(&job));
    wait(async move { store.write(&place, 0, vec![0xc1; 5], GUARD).await });
    cluster.submit(&job);
    let place = Place::of(&job);
    let store = cluster.store.clone();
    let end = wait(async move {
        loop {
            let stored = store.read(&place).await.unwrap().unwrap();
            if let Ok(State::End(end)) = State::decode(&stored.bytes) {
                return end;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert_eq!(end.outcome, Outcome::Lost);
    let (_, report) = cluster.run(&cluster.job("worker:double", &[21]));
    assert_eq!(report.answer, [42], "the worker lives");
}

#[test]
fn items_arrive_in_order_although_messages_get_lost() {
    let Some(cluster) = Cluster::start(|it| it) else { return };
    let mut job = cluster.job("worker:counts", &[40]);
    job.stream = Some(4);
    let (store, client, worker) = (cluster.store.clone(), cluster.client, cluster.worker.handle().id());
    let id = cluster.submit(&job);
    let numbers = wait(async move {
        let mut items = store.items(client).await.unwrap();
        let (mut numbers, mut count) = (Vec::new(), 0_u32);
        while numbers.len() < 40 {
            let (_, item, _) = items.next().await.unwrap();
            count += 1;
            // Every fifth one gets lost, be it new or sent again.
            if count % 5 == 0 {
                continue;
            }
            if item.number == numbers.len() as u64 {
                // Its type comes before it.
                numbers.extend(item.item.last().copied());
            }
            let next = numbers.len() as u64;
            store.tell(worker, &Ask::Credit { id, attempt: 1, next, room: 3 }).await;
        }
        numbers
    });
    assert_eq!(numbers, (0..40).collect::<Vec<u8>>());
    assert_eq!(cluster.end(id).1.answer, [40]);
}

#[test]
fn an_error_is_stored_when_the_reader_has_the_items_before_it() {
    let Some(cluster) = Cluster::start(|it| it) else { return };
    let mut job = cluster.job("worker:counts_and_panics", &[3]);
    job.stream = Some(4);
    let (store, client, worker) = (cluster.store.clone(), cluster.client, cluster.worker.handle().id());
    let listening = store.clone();
    let mut items = wait(async move { listening.items(client).await.unwrap() });
    let id = cluster.submit(&job);
    let place = Place::of(&job);
    wait(async move {
        for number in 0..3 {
            while items.next().await.unwrap().1.number != number {}
        }
        // The last one is sent again, as long as it is not confirmed.
        for next in [1, 2, 2] {
            store.tell(worker, &Ask::Credit { id, attempt: 1, next, room: 4 }).await;
            while items.next().await.unwrap().1.number != 2 {}
            let stored = store.read(&place).await.unwrap().unwrap();
            assert!(matches!(State::decode(&stored.bytes), Ok(State::Claim { .. })));
        }
        store.tell(worker, &Ask::Credit { id, attempt: 1, next: 3, room: 4 }).await;
    });
    let (end, report) = cluster.end(id);
    assert_eq!(end.outcome, Outcome::Failed);
    assert!(matches!(error(&report), ErrorKind::Panicked(panic) if panic.message() == "as planned"));
}

#[test]
fn items_are_signed_for_their_job_and_their_place() {
    let (own, stranger) = (SigningKey::generate(), SigningKey::generate());
    let Some(cluster) = Cluster::start_with(|connection| connection.key(own.clone()), |it| it) else {
        return;
    };
    let mut job = cluster.job("worker:counts", &[1]);
    job.stream = Some(4);
    let (store, client, worker) = (cluster.store.clone(), cluster.client, cluster.worker.handle().id());
    let listening = store.clone();
    let mut items = wait(async move { listening.items(client).await.unwrap() });
    let id = cluster.submit(&job);
    let record = wait(async move {
        let (of, item, record) = items.next().await.unwrap();
        assert_eq!((of, item.number), (id, 0));
        store.tell(worker, &Ask::Credit { id, attempt: 1, next: 1, room: 4 }).await;
        record
    });
    let trust = Trust::none().key(own.public().clone());
    assert_eq!(trust.admit_item("default", id, &record), Ok(false));
    assert_eq!(trust.clone().accept_pickles().admit_item("default", id, &record), Ok(true));
    assert!(trust.admit_item("default", Ulid::new(), &record).is_err());
    assert!(trust.admit_item("other", id, &record).is_err());
    assert!(trust.admit_end("default", id, &record).is_err());
    assert!(Trust::none().key(stranger.public().clone()).admit_item("default", id, &record).is_err());
    // At another place of the stream.
    let mut moved = record.to_vec();
    let number = moved.windows(7).position(|it| it == b"\xa6number").unwrap() + 7;
    assert_eq!(std::mem::replace(&mut moved[number], 1), 0);
    assert!(trust.admit_item("default", id, &moved).is_err());
    assert_eq!(cluster.end(id).1.answer, [1]);
}

#[test]
fn a_job_that_is_killed_by_its_limit_leaves_its_slot_although_its_items_are_not_read() {
    let Some(cluster) = Cluster::start(|it| it.slots(1)) else { return };
    let mut job = cluster.job("worker:counts_forever", &[]);
    job.stream = Some(2);
    job.set_run_timeout(Some(Duration::from_millis(200)));
    let (store, client, worker) = (cluster.store.clone(), cluster.client, cluster.worker.handle().id());
    let listening = store.clone();
    let mut items = wait(async move { listening.items(client).await.unwrap() });
    let id = cluster.submit(&job);
    // The reader is there and has the two items that it has room for, and takes none of them.
    let reader = network::runtime().unwrap().spawn(async move {
        let mut next = 0;
        while let Some((_, item, _)) = items.next().await {
            next = next.max(item.number + 1);
            store.tell(worker, &Ask::Credit { id, attempt: 1, next, room: 2 - next }).await;
        }
    });
    let (end, report) = cluster.end(id);
    assert_eq!((end.outcome, end.attempt), (Outcome::Failed, 1));
    assert!(matches!(error(&report), ErrorKind::RunTimeout(_)), "{:?}", error(&report));
    assert_eq!(cluster.run(&cluster.job("worker:double", &[21])).1.answer, [42]);
    reader.abort();
}

#[test]
fn a_job_whose_items_nobody_reads_ends_with_that_and_not_with_its_result() {
    let Some(cluster) = Cluster::start(|it| it) else { return };
    let mut job = cluster.job("worker:counts", &[40]);
    job.stream = Some(4);
    let (end, report) = cluster.run(&job);
    assert_eq!((end.outcome, end.attempt), (Outcome::Failed, 1));
    assert!(
        matches!(error(&report), ErrorKind::Unreachable(reason) if reason.contains("reader of its items"))
    );
}

#[test]
fn a_worker_that_drains_lets_go_of_its_jobs() {
    let Some(cluster) = Cluster::start(|it| it.drain(Duration::from_millis(200))) else { return };
    let mut job = cluster.job("worker:forever", &[]);
    let lost = cluster.submit(&job);
    (job.id, job.retry) = (Ulid::new(), 1);
    let released = cluster.submit(&job);
    for id in [lost, released] {
        cluster.await_state(id, |state| matches!(state, State::Claim { .. }).then_some(()));
    }
    // It is too late for this one.
    assert!(cluster.ask(Ask::Drain));
    let late = cluster.submit(&cluster.job("worker:double", &[21]));
    let (end, report) = cluster.end(lost);
    assert_eq!(end.outcome, Outcome::Lost);
    assert!(matches!(error(&report), ErrorKind::Lost { worker, .. } if worker == "tested"));
    let attempt = cluster.await_state(released, |state| match state {
        State::Release { attempt, .. } => Some(attempt),
        _ => None,
    });
    assert_eq!(attempt, 1);
    let Cluster { worker, store, client, .. } = cluster;
    assert_eq!(worker.wait().unwrap(), WorkerReport::default());
    let place = Place { client: Some(client), job: late };
    wait(async move {
        assert!(store.read(&place).await.unwrap().is_none(), "it waits for another worker");
        assert!(store.workers().await.unwrap().is_empty());
    });
}

#[test]
fn a_pool_of_the_callers_own_runs_the_jobs() {
    let pool = ProcessPool::builder().max_workers(1).build().unwrap();
    let Some(cluster) = Cluster::start(|it| it.pool(pool.clone()).slots(1)) else { return };
    assert_eq!(cluster.run(&cluster.job("worker:double", &[21])).1.answer, [42]);
    assert_eq!(pool.worker_pids().len(), 1);
}

#[test]
fn jobs_of_strangers_do_not_run_and_ends_are_signed() {
    let (mine, stranger, own) = (SigningKey::generate(), SigningKey::generate(), SigningKey::generate());
    let trust = Trust::none().key_for(mine.public().clone(), ["worker:double"]);
    let own_key = own.clone();
    let keys = |connection: Connection| connection.trust(trust).key(own_key);
    let Some(cluster) = Cluster::start_with(keys, |builder| builder) else { return };
    let believes = Trust::none().key(own.public().clone());
    let run = |key: Option<&SigningKey>, task: &str| {
        let mut job = cluster.job(task, &[21]);
        let now = SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        job.issued = u64::try_from(now.as_millis()).unwrap();
        let scope = Scope::Job { namespace: "default", queue: "default" };
        let record = job.encode().unwrap();
        let record = key.map_or(record.clone(), |key| key.seal(scope, &record).unwrap());
        cluster.publish(record, job.id);
        let (_, report) = cluster.end(job.id);
        let (store, place) = (cluster.store.clone(), Place { client: Some(cluster.client), job: job.id });
        let stored = wait(async move { store.read(&place).await }).unwrap().unwrap();
        assert_eq!(believes.admit_end("default", job.id, &stored.bytes), Ok(false));
        report
    };
    assert_eq!(run(Some(&mine), "worker:double").answer, [42]);
    for (key, task) in
        [(None, "worker:double"), (Some(&stranger), "worker:double"), (Some(&mine), "worker:forever")]
    {
        let report = run(key, task);
        assert!(matches!(error(&report), ErrorKind::NotTrusted(_)), "{:?}", error(&report));
    }
}
