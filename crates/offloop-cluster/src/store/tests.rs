//! The store on a real server. Each test needs one: `OFFLOOP_NATS_SERVER`, or `nats-server` in `PATH`. Where there is none,
//! the tests say so and pass. `cargo xtask test --only cluster` installs one.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::*;
use crate::embedded::{Embedded, StartError, USER};
use crate::names::{Band, Part, Place};
use crate::protocol::{Publication, Written};
use crate::records::{Ask, Item, Job, Outcome, Presence, State};
use crate::{Ulid, network};

const GUARD: Duration = Duration::from_secs(60);

/// Starts a server. `None` where none is installed.
pub(crate) fn server() -> Option<Embedded> {
    match Embedded::builder().start() {
        Ok(server) => Some(server),
        Err(StartError::Missing(_)) => {
            eprintln!("skipped: no NATS server is installed");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Returns the way to a server.
pub(crate) fn connection(server: &Embedded) -> Connection {
    let credentials = Credentials::User { user: USER.to_owned(), password: server.password().to_owned() };
    Connection::to(format!("nats://{}", server.address())).credentials(credentials)
}

/// Returns a store whose namespace is laid out, and the capacity of its queue. On a disk that is busy, with the files of a
/// build say, the server may need longer for that than a request waits.
pub(crate) async fn laid_out(connection: &Connection, queue: &str, capacity: Option<u64>) -> (Store, u64) {
    let store = Store::connect(connection).await.unwrap();
    let begin = Instant::now();
    loop {
        match store.prepare(&[queue.to_owned()], capacity).await {
            Ok(capacity) => return (store, capacity),
            Err(error) => assert!(begin.elapsed() < GUARD / 2, "{error}"),
        }
    }
}

/// Runs a test on the network's thread, with a store whose queue `q` has room for three jobs in each band.
fn with_store<F: Future<Output = ()> + Send + 'static>(test: impl FnOnce(Store) -> F + Send + 'static) {
    let Some(server) = server() else { return };
    let connection = connection(&server);
    let run = async move {
        let (store, capacity) = laid_out(&connection, "q", Some(3)).await;
        assert_eq!(capacity, 3);
        tokio::time::timeout(GUARD, test(store)).await.expect("it ends in time");
    };
    network::block_on(run).unwrap();
}

impl Store {
    /// Lays the namespace out as a later version may.
    pub(crate) async fn make_newer_layout(&self) {
        let newer =
            serde_json::json!({ "name": "OFFLOOP7_default_JOBS", "subjects": ["offloop.7.default.job.>"] });
        let _: serde_json::Value = self.api("STREAM.CREATE.OFFLOOP7_default_JOBS", &newer).await.unwrap();
    }

    /// Returns whether the stream of jobs has a share of the store.
    pub(crate) async fn has_shares(&self) -> bool {
        matches!(self.capacity_of(&self.names().jobs()).await, Ok(Some(_)))
    }
}

fn record(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn put(store: &Store, band: Band, id: Ulid) -> Publication {
    store.publish("q", band, id, record("job"), &JobHeaders::default()).await
}

#[test]
fn a_second_copy_of_a_job_is_dropped_and_a_full_band_refuses() {
    with_store(|store| async move {
        let id = Ulid::new();
        let first = put(&store, Band::Normal, id).await;
        assert!(matches!(first, Publication::Stored(_)));
        assert_eq!(put(&store, Band::Normal, id).await, first);
        for _ in 0..2 {
            assert!(matches!(put(&store, Band::Normal, Ulid::new()).await, Publication::Stored(_)));
        }
        assert_eq!(put(&store, Band::Normal, Ulid::new()).await, Publication::Full);
        assert!(matches!(put(&store, Band::High, Ulid::new()).await, Publication::Stored(_)));
        let Publication::Stored(first) = first else { unreachable!() };
        assert!(store.delete(first).await, "it was there");
        assert!(store.delete(first).await, "it is gone");
        assert!(matches!(put(&store, Band::Normal, Ulid::new()).await, Publication::Stored(_)));
        let queues = store.queues().await.unwrap();
        assert_eq!((queues.len(), queues[0].queue.as_str(), queues[0].jobs), (1, "q", [1, 3, 0]));
        assert!(queues[0].oldest.is_some());
    });
}

#[test]
fn jobs_are_taken_and_given_back() {
    with_store(|store| async move {
        let mut pull = store.pull("q", Band::Normal);
        assert!(pull.next(2, Duration::ZERO).await.is_empty());
        assert!(!pull.is_open());
        assert!(pull.next(2, Duration::from_millis(50)).await.is_empty());
        let headers = JobHeaders { task: "a:b".to_owned(), ..JobHeaders::default() };
        store.publish("q", Band::Normal, Ulid::new(), record("first"), &headers).await;
        let Publication::Stored(second) = put(&store, Band::Normal, Ulid::new()).await else {
            panic!("the queue has room")
        };
        let mut taken = Vec::new();
        while taken.len() < 2 {
            taken.extend(pull.next(2 - taken.len(), Duration::from_secs(10)).await);
        }
        let first = &taken[0];
        assert_eq!((&first.record, first.header("Offloop-Task")), (&record("first"), Some("a:b")));
        assert!(first.age() < GUARD);
        first.ack().await;
        taken[1].progress().await;
        taken[1].nak(Duration::ZERO).await;
        let again = pull.next(1, Duration::from_secs(10)).await;
        assert_eq!(again[0].record, record("job"));
        again[0].nak(Duration::from_millis(20)).await;
        // Dropped calls lose nothing.
        let again = loop {
            let next = tokio::time::timeout(Duration::from_millis(1), pull.next(1, Duration::from_secs(10)));
            if let Ok(again) = next.await {
                break again;
            }
        };
        again[0].ack().await;
        // The ack has no answer, but what is sent afterwards comes after it.
        store.workers().await.unwrap();
        assert!(store.delete(second).await);
        assert!(store.queues().await.unwrap().is_empty());
    });
}

/// Returns the number of requests that wait for jobs.
async fn requests(store: &Store) -> u64 {
    let info = format!("CONSUMER.INFO.{}.{}", store.names().jobs(), Names::consumer("q", Band::Normal));
    let info: serde_json::Value = store.api(&info, &serde_json::Value::Null).await.unwrap();
    info["num_waiting"].as_u64().unwrap()
}

/// Waits for a job, which does not come, until this number of requests wait for one.
async fn pull_until(store: &Store, pull: &mut Pull, wanted: u64, expires: Duration) {
    while requests(store).await != wanted {
        let next = tokio::time::timeout(Duration::from_millis(5), pull.next(1, expires));
        assert!(next.await.is_err(), "nothing comes");
    }
}

#[test]
fn a_request_whose_signs_of_life_are_late_still_brings_its_job() {
    with_store(|store| async move {
        let mut pull = store.pull("q", Band::Normal);
        pull_until(&store, &mut pull, 1, GUARD).await;
        pull.hear_nothing();
        pull_until(&store, &mut pull, 2, GUARD).await;
        // The first request, which is taken for lost, is the one that the server answers.
        assert!(matches!(put(&store, Band::Normal, Ulid::new()).await, Publication::Stored(_)));
        let taken = pull.next(1, GUARD).await;
        assert_eq!(taken.len(), 1);
        taken[0].ack().await;
        assert_eq!(requests(&store).await, 1);
        // The second request is known to wait, so no other one is made.
        for _ in 0..10 {
            pull_until(&store, &mut pull, 1, GUARD).await;
        }
        assert!(pull.is_open());
    });
}

#[test]
fn requests_wait_in_a_bounded_number_while_signs_of_life_are_late() {
    with_store(|store| async move {
        let mut pull = store.pull("q", Band::Normal);
        for round in 0..10_u64 {
            pull.hear_nothing();
            pull_until(&store, &mut pull, (round + 1).min(3), GUARD).await;
            let next = tokio::time::timeout(Duration::from_millis(5), pull.next(1, GUARD));
            assert!(next.await.is_err(), "nothing comes");
        }
        assert_eq!(requests(&store).await, 3);
        for _ in 0..3 {
            assert!(matches!(put(&store, Band::Normal, Ulid::new()).await, Publication::Stored(_)));
        }
        let mut taken = Vec::new();
        while taken.len() < 3 {
            taken.extend(pull.next(1, GUARD).await);
        }
        for message in &taken {
            message.ack().await;
        }
        // Now one request is enough again.
        pull_until(&store, &mut pull, 1, GUARD).await;
        let next = tokio::time::timeout(Duration::from_millis(5), pull.next(1, GUARD));
        assert!(next.await.is_err(), "nothing comes");
        assert_eq!(requests(&store).await, 1);
    });
}

#[test]
fn the_end_of_a_former_request_is_not_that_of_the_present_one() {
    with_store(|store| async move {
        let mut pull = store.pull("q", Band::Normal);
        pull_until(&store, &mut pull, 1, Duration::from_secs(5)).await;
        pull.hear_nothing();
        pull_until(&store, &mut pull, 2, GUARD).await;
        // The time of the first one passes.
        while requests(&store).await != 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // It has told so, and no other one is made for it.
        for _ in 0..10 {
            let next = tokio::time::timeout(Duration::from_millis(5), pull.next(1, GUARD));
            assert!(next.await.is_err(), "nothing comes");
            assert_eq!(requests(&store).await, 1);
        }
        assert!(matches!(put(&store, Band::Normal, Ulid::new()).await, Publication::Stored(_)));
        let taken = pull.next(1, GUARD).await;
        assert_eq!(taken.len(), 1);
        taken[0].ack().await;
        assert!(!pull.is_open());
    });
}

#[test]
fn many_workers_wait_for_one_band() {
    const WORKERS: usize = 1500;
    with_store(|store| async move {
        assert_eq!(store.prepare(&[], Some(WORKERS as u64)).await.unwrap(), WORKERS as u64);
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..WORKERS {
            let mut pull = store.pull("q", Band::Normal);
            workers.spawn(async move {
                let taken = pull.next(1, GUARD).await;
                assert_eq!(taken.len(), 1, "it is served");
                taken[0].ack().await;
            });
        }
        // All of them wait.
        while requests(&store).await != WORKERS as u64 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for _ in 0..WORKERS {
            assert!(matches!(put(&store, Band::Normal, Ulid::new()).await, Publication::Stored(_)));
        }
        while let Some(served) = workers.join_next().await {
            served.unwrap();
        }
    });
}

#[test]
fn one_of_two_writes_wins_and_is_announced() {
    with_store(|store| async move {
        let (client, job) = (Ulid::new(), Ulid::new());
        let mut events = store.events(client).await.unwrap();
        let place = Place { client: Some(client), job };
        assert!(store.read(&place).await.unwrap().is_none());
        let write = |expected, text: &str| {
            let (store, text) = (store.clone(), text.as_bytes().to_vec());
            async move { store.write(&place, expected, text, GUARD).await }
        };
        let (one, two) = tokio::join!(write(0, "claim"), write(0, "claim"));
        let stored = [one, two].iter().find_map(|it| match it {
            Written::Stored(revision) => Some(*revision),
            _ => None,
        });
        let first = stored.unwrap();
        assert!([one, two].contains(&Written::Refused));
        let Written::Stored(second) = write(first, "end").await else { panic!("it was the last") };
        assert_eq!(write(first, "late").await, Written::Refused);
        let read = store.read(&place).await.unwrap().unwrap();
        assert_eq!((read.revision, &read.bytes[..]), (second, &b"end"[..]));
        assert!(read.age < GUARD);
        for (revision, text) in [(first, "claim"), (second, "end")] {
            let event = events.next().await.unwrap();
            assert_eq!((event.place, event.revision, &event.bytes[..]), (place, revision, text.as_bytes()));
        }
        let (found, _) = store.find(job).await.unwrap().unwrap();
        assert_eq!(found, place);
        assert!(store.find(Ulid::new()).await.unwrap().is_none());
    });
}

#[test]
fn many_states_are_read_at_once() {
    with_store(|store| async move {
        let client = Ulid::new();
        let places: Vec<_> = (0..600).map(|_| Place { client: Some(client), job: Ulid::new() }).collect();
        for place in places.iter().step_by(2) {
            let written = store.write(place, 0, place.job.to_string().into_bytes(), GUARD).await;
            assert!(matches!(written, Written::Stored(_)));
        }
        let read = store.read_many(&places).await.unwrap();
        for (at, (place, read)) in places.iter().zip(read).enumerate() {
            let text = read.map(|read| String::from_utf8(read.bytes.to_vec()).unwrap());
            assert_eq!(text, (at % 2 == 0).then(|| place.job.to_string()));
        }
        assert!(store.read_many(&places[1..2]).await.unwrap()[0].is_none());
    });
}

#[test]
fn a_state_that_is_forgotten_leaves_a_mark() {
    with_store(|store| async move {
        let place = Place { client: None, job: Ulid::new() };
        let mut events = store.events_about(place.job).await.unwrap();
        store.write(&place, 0, b"end".to_vec(), Duration::from_secs(1)).await;
        let is_mark = |bytes: &[u8]| match State::decode(bytes) {
            Ok(State::End(end)) => end.outcome == Outcome::Forgotten,
            _ => false,
        };
        while !is_mark(&store.read(&place).await.unwrap().unwrap().bytes) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(store.write(&place, 0, b"new".to_vec(), GUARD).await, Written::Refused);
        assert_eq!(&events.next().await.unwrap().bytes[..], b"end");
        assert!(is_mark(&events.next().await.unwrap().bytes));
        assert!(is_mark(&store.read_many(&[place]).await.unwrap()[0].as_ref().unwrap().bytes));
    });
}

#[test]
fn large_payloads_come_back_whole_or_not_at_all() {
    with_store(|store| async move {
        let job = Ulid::new();
        let bytes: Bytes = (0..5_000_000_u32).map(|it| it.to_le_bytes()[1]).collect();
        let blob = store.put_blob(job, Part::Arguments, bytes.clone(), GUARD).await.unwrap();
        assert_eq!(store.get_blob(job, Part::Arguments, &blob).await.unwrap(), bytes);
        let first = store.get_from_leader(job, Part::Arguments, 0).await.unwrap();
        assert!(first.len() > 1_000_000 && first == bytes[..first.len()]);
        for wrong in [
            crate::records::BlobRef { size: blob.size - 1, ..blob },
            crate::records::BlobRef { sha256: [0; 32], ..blob },
            crate::records::BlobRef { size: u64::MAX, ..blob },
        ] {
            assert_eq!(store.get_blob(job, Part::Arguments, &wrong).await, Err(BlobError::Damaged));
        }
        let empty = store.put_blob(job, Part::Result(1), Bytes::new(), GUARD).await.unwrap();
        assert!(store.get_blob(job, Part::Result(1), &empty).await.unwrap().is_empty());
        store.delete_blob(job, Part::Arguments).await;
        assert_eq!(store.get_blob(job, Part::Arguments, &blob).await, Err(BlobError::Missing));
        let result = store.put_blob(job, Part::Result(2), record("result"), GUARD).await.unwrap();
        store.delete_blob(job, Part::Result(1)).await;
        assert_eq!(store.get_blob(job, Part::Result(2), &result).await.unwrap(), b"result");
    });
}

#[test]
fn parties_find_ask_and_answer_each_other() {
    with_store(|store| async move {
        let (client, worker, job) = (Ulid::new(), Ulid::new(), Ulid::new());
        assert!(store.workers().await.unwrap().is_empty());
        let presence = Presence {
            worker,
            host: "here".to_owned(),
            tasks: vec![("t".to_owned(), Some(7))],
            ..Presence::default()
        };
        for _ in 0..2 {
            assert!(store.announce(&presence).await);
        }
        let there = store.workers().await.unwrap();
        assert_eq!((there.len(), &there[0].host, &there[0].tasks), (1, &presence.host, &presence.tasks));
        store.leave(worker).await;
        assert!(store.workers().await.unwrap().is_empty());

        let ask = Ask::Has { id: job };
        assert!(matches!(store.ask(worker, &ask, GUARD).await, Reply::NoResponders));
        let mut asked = store.asked(worker).await.unwrap();
        let answers = tokio::spawn(async move {
            let question = asked.next().await.unwrap();
            assert_eq!(question.ask, Ok(Ask::Has { id: job }));
            question.respond(b"yes".to_vec()).await;
            let told = asked.next().await.unwrap();
            assert_eq!(told.ask, Ok(Ask::Credit { id: job, attempt: 1, next: 2, room: 3 }));
            // It says nothing to the next question.
            asked.next().await.unwrap();
            asked
        });
        let Reply::Answer(answer) = store.ask(worker, &ask, GUARD).await else { panic!("it answers") };
        assert_eq!(&answer[..], b"yes");
        store.tell(worker, &Ask::Credit { id: job, attempt: 1, next: 2, room: 3 }).await;
        assert!(matches!(store.ask(worker, &Ask::Drain, Duration::from_millis(50)).await, Reply::Silent));
        drop(answers.await.unwrap());

        let mut items = store.items(client).await.unwrap();
        let word = Item::new(1, 0, b"word".to_vec());
        let record = Bytes::from(word.encode().unwrap());
        store.send_item(client, job, record.clone()).await;
        assert_eq!(items.next().await.unwrap(), (job, word, record));
    });
}

#[test]
fn dead_jobs_are_kept_with_their_reason() {
    with_store(|store| async move {
        let jobs: Vec<_> = (0..300).map(|_| Ulid::new()).collect();
        for id in &jobs {
            let record = Job::new(*id, Ulid::new(), "task", Vec::new()).encode().unwrap();
            assert!(store.bury(*id, "q", record.into(), Outcome::NoSuchTask).await);
        }
        let dead = store.dead().await.unwrap();
        assert_eq!(dead.iter().map(|dead| dead.id).collect::<Vec<_>>(), jobs);
        assert_eq!((dead[0].queue.as_str(), dead[0].reason.as_str()), ("q", "NoSuchTask"));
        assert_eq!(Job::decode(&dead[0].record).unwrap().id, jobs[0]);
        assert!(dead[0].age < GUARD);
        assert!(store.forget_dead(jobs[0]).await);
        assert_eq!(store.dead().await.unwrap().len(), 299);
    });
}

#[test]
fn a_newer_layout_is_refused_with_both_versions() {
    with_store(|store| async move {
        store.make_newer_layout().await;
        let error = store.prepare(&[], None).await.unwrap_err();
        assert!(matches!(error, LayoutError::Newer { found: 7, known: 1, .. }), "{error}");
        assert!(error.to_string().contains("layout 7") && error.to_string().contains("layout 1"));
    });
}

#[test]
fn the_capacity_stays_as_it_is_unless_another_one_is_given() {
    with_store(|store| async move {
        assert_eq!(store.prepare(&[], None).await.unwrap(), 3);
        assert_eq!(store.prepare(&["other".to_owned()], Some(4)).await.unwrap(), 4);
        assert_eq!(store.prepare(&["q".to_owned()], None).await.unwrap(), 4);
    });
}

#[test]
fn parties_that_lay_a_namespace_out_at_once_keep_each_other_waiting_at_most() {
    for _ in 0..5 {
        let Some(server) = server() else { return };
        let connection = connection(&server);
        let run = async move {
            let party = || async {
                let store = Store::connect(&connection).await.unwrap();
                while let Err(error) = store.prepare(&["q".to_owned()], None).await {
                    assert!(matches!(error, LayoutError::Unreachable(_)), "{error}");
                }
                store.has_shares().await
            };
            let parties = futures_util::future::join_all((0..30).map(|_| party()));
            let all = tokio::time::timeout(GUARD, parties).await.expect("they end in time");
            assert!(all.into_iter().all(|has_shares| has_shares));
        };
        network::block_on(run).unwrap();
    }
}

#[test]
#[ignore = "it takes half a minute"]
fn a_party_that_died_while_it_measured_the_store_keeps_others_out_for_half_a_minute() {
    let Some(server) = server() else { return };
    let connection = connection(&server);
    let run = async move {
        let store = Store::connect(&connection).await.unwrap();
        let lock = serde_json::json!({ "name": store.names().measuring(), "subjects": ["measuring"] });
        let _: serde_json::Value =
            store.api(&format!("STREAM.CREATE.{}", store.names().measuring()), &lock).await.unwrap();
        let begin = Instant::now();
        while let Err(error) = store.prepare(&[], None).await {
            assert!(matches!(error, LayoutError::Unreachable(_)), "{error}");
            assert!(begin.elapsed() < GUARD, "{error}");
        }
        assert!(store.has_shares().await);
    };
    network::block_on(run).unwrap();
}

#[test]
fn a_store_without_a_server_answers_in_time() {
    let done = network::block_on(async {
        let settings = Settings { answer: Duration::from_millis(50), ..Settings::default() };
        let store = Store::connect(&Connection::to("nats://127.0.0.1:9").settings(settings)).await.unwrap();
        let place = Place { client: None, job: Ulid::new() };
        let requests = async {
            assert_eq!(put(&store, Band::Low, Ulid::new()).await, Publication::Unknown);
            assert!(!store.delete(1).await);
            assert_eq!(store.write(&place, 0, Vec::new(), GUARD).await, Written::Unknown);
            assert!(store.read(&place).await.is_none());
            assert!(store.read_many(&[place]).await.is_none());
            assert!(store.workers().await.is_none());
            assert!(store.put_blob(place.job, Part::Arguments, record("x"), GUARD).await.is_none());
            let wait = Duration::from_millis(50);
            assert!(matches!(store.ask(Ulid::new(), &Ask::Drain, wait).await, Reply::Silent));
            assert!(store.pull("q", Band::Low).next(1, Duration::from_millis(50)).await.is_empty());
            let error = store.prepare(&[], None).await.unwrap_err();
            assert!(matches!(&error, LayoutError::Unreachable(reason) if !reason.is_empty()), "{error}");
        };
        tokio::time::timeout(GUARD, requests).await.expect("each ends in time");
    });
    done.expect("the test has not panicked");
}

#[test]
fn bad_ways_to_a_cluster_are_refused() {
    let errors = network::block_on(async {
        let url = Store::connect(&Connection::to("nats://me:secret@:x")).await.unwrap_err();
        let namespace = Connection::to("nats://127.0.0.1:9").namespace("a.b");
        let name = Store::connect(&namespace).await.unwrap_err();
        let nothing = Credentials::Creds("nothing".to_owned());
        let creds = Connection::to("nats://127.0.0.1:9").credentials(nothing);
        (url, name, Store::connect(&creds).await.unwrap_err())
    });
    let (url, name, creds) = errors.unwrap();
    assert!(matches!(url, ConnectError::Url { .. }) && !url.to_string().contains("secret"), "{url}");
    assert!(name.to_string().contains("\"a.b\""), "{name}");
    assert!(matches!(creds, ConnectError::Credentials(_)));
    let shown = format!("{:?}", Connection::to("nats://me:secret@h:1, nats://me:secret@i:1"));
    assert!(shown.contains("\"h:1,i:1\"") && !shown.contains("secret"), "{shown}");
}

#[test]
fn times_of_the_server_are_read() {
    assert_eq!(parse_time("1970-01-01T00:00:00Z"), Some(0));
    assert_eq!(parse_time("2000-02-29T12:00:00.5Z"), Some(951_825_600_500_000_000));
    assert_eq!(parse_time("2026-11-26T18:00:01.000000001Z"), Some(1_795_716_001_000_000_001));
    for wrong in ["", "2026-11-26", "2026-11-26T18:00:01+01:00", "2026-13-26T18:00:01Z", "x-y-zTa:b:cZ"] {
        assert_eq!(parse_time(wrong), None, "{wrong}");
    }
}

#[test]
fn a_url_may_say_how_to_log_in() {
    let Some(server) = server() else { return };
    for (password, is_right) in [(server.password().to_owned(), true), ("wrong".to_owned(), false)] {
        let connection = Connection::to(format!("nats://{USER}:{password}@{}", server.address()));
        let prepared = network::block_on(async move {
            Store::connect(&connection).await.unwrap().prepare(&[], None).await.map(drop)
        });
        assert_eq!(prepared.unwrap().is_ok(), is_right);
    }
    assert!(
        matches!(credentials_in("nats://s%40x%zz@h:1"), Some(Credentials::Token(token)) if token == "s@x%zz")
    );
    assert!(credentials_in("nats://h:1").is_none() && credentials_in("h:1").is_none());
}
