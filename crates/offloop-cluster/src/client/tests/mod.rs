//! The client on a real server, with a worker that the test plays by hand, step by step. Where no server is installed, the
//! tests say so and pass.

mod away;
mod hand;

use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use offloop::remote::pack_error;
use offloop::{ErrorKind, JobState, Retry};

use hand::Hand;

use super::*;
use crate::connection::Connection;
use crate::embedded::Embedded;
use crate::names::{Band, Part, Place};
use crate::protocol::Written;
use crate::records::{Ask, End, Item, Outcome, Report, State};
use crate::security::{SigningKey, Trust};
use crate::store::tests::{connection, laid_out, server};
use crate::store::{Message, Pull};

const GUARD: Duration = Duration::from_secs(60);

#[offloop::task(name = "client:double")]
fn double(number: u64) -> u64 {
    number * 2
}

#[offloop::task(name = "client:echo")]
fn echo(text: String) -> String {
    text
}

fn wait<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    network::block_on(async move { tokio::time::timeout(GUARD, future).await.expect("it ends in time") })
        .unwrap()
}

#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < GUARD, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[track_caller]
fn end<T>(mut handle: impl std::ops::DerefMut<Target = Handle<T>>) -> Result<T, ErrorKind> {
    handle.wait_timeout(GUARD).expect("the job has no end").map_err(offloop::Error::into_kind)
}

fn builder(server: &Embedded) -> ClusterBuilder {
    Cluster::builder(connection(server))
}

fn answer(value: impl Serialize) -> Report {
    Report { answer: rmp_serde::to_vec_named(&value).unwrap(), ..Report::default() }
}

fn failure(kind: &ErrorKind) -> Report {
    Report { error: pack_error(kind), ..Report::default() }
}

macro_rules! open {
    () => {
        match server() {
            Some(server) => {
                let hand = Hand::new(connection(&server));
                let cluster = builder(&server).build().unwrap();
                (server, hand, cluster)
            }
            None => return,
        }
    };
}

#[test]
fn a_job_passes_its_states_and_gives_its_result() {
    let (_server, hand, cluster) = open!();
    let work = prepare(double.with(21)).name("the job").priority(0).retry(Retry::times(2)).run_timeout(GUARD);
    let mut handle = cluster.submit(work).send();
    handle.wait_accepted();
    assert_eq!((handle.state(), handle.waits_for()), (JobState::Queued, None));
    let (message, job) = hand.take();
    assert_eq!((Some(job.id), &*job.task, &*job.name), (handle.remote_id(), "client:double", "the job"));
    assert_eq!((job.retry, job.run_timeout(), &*job.queue), (2, Some(GUARD), "default"));
    assert_eq!(job.signature.len(), 8);
    assert_eq!(rmp_serde::from_slice::<u64>(&job.arguments).unwrap(), 21);
    let claim = hand.claim(&job);
    eventually("it runs", || handle.state() == JobState::Running);
    assert_eq!(handle.worker(), Some(hand.me));
    let release = State::Release { by: hand.me, attempt: 1, delay: Duration::ZERO };
    let Written::Stored(release) = hand.write(&job, claim, &release) else { panic!("it was claimed") };
    eventually("it waits again", || handle.state() == JobState::Queued);
    hand.end(&job, release, Outcome::Returned, answer(42).encode().unwrap());
    wait(async move { message.ack().await });
    assert_eq!(end(handle).unwrap(), 42);
    assert_eq!(cluster.metrics().outcomes.total(), 1);
}

#[test]
fn a_jobs_trace_is_in_its_record_and_in_the_headers_of_its_message() {
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let Some(server) = server() else { return };
    let hand = Hand::new(connection(&server));
    let calls = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let cluster = builder(&server)
        .carry(move || match counted.fetch_add(1, Ordering::Relaxed) {
            0 => Some(format!("{PARENT}\na=1").into_bytes()),
            1 => None,
            _ => panic!("on purpose"),
        })
        .build()
        .unwrap();
    let submitted = |work| {
        let handle = cluster.run(work);
        let (message, job) = hand.take();
        let header = |name| message.header(name).map(str::to_owned);
        let seen = (header("traceparent"), header("tracestate"), job.carry);
        drop(handle);
        seen
    };
    let both = format!("{PARENT}\na=1").into_bytes();
    assert_eq!(submitted(prepare(double.with(1))), (Some(PARENT.to_owned()), Some("a=1".to_owned()), both));
    assert_eq!(submitted(prepare(double.with(1))), (None, None, Vec::new()));
    assert_eq!(submitted(prepare(double.with(1)).carry(*b"own")), (None, None, b"own".to_vec()));
    let own = submitted(prepare(double.with(1)).carry(PARENT.as_bytes()));
    assert_eq!(own, (Some(PARENT.to_owned()), None, PARENT.as_bytes().to_vec()));
    // A hook that panics harms no job.
    assert_eq!(submitted(prepare(double.with(1))), (None, None, Vec::new()));
    assert_eq!(calls.load(Ordering::Relaxed), 3);
}

#[test]
fn a_queued_job_that_is_cancelled_never_runs_and_leaves_nothing() {
    let (_server, hand, cluster) = open!();
    let mut handle = cluster.submit(double.with(1)).send();
    handle.wait_accepted();
    assert_eq!(wait(handle.cancel_stored()), StoredEnd::NeverRan);
    let dropped = cluster.run(double.with(2));
    drop(dropped);
    let late = cluster.run(prepare(double.with(3)).queue_timeout(Duration::from_millis(20)));
    assert!(matches!(end(Box::new(late)), Err(ErrorKind::QueueTimeout(_))));
    let store = hand.store.clone();
    wait(async move {
        while !store.queues().await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn a_queue_timeout_names_the_queue_and_the_limit() {
    let (_server, _hand, cluster) = open!();
    let late = || prepare(double.with(3)).queue_timeout(Duration::from_millis(20));
    let error = cluster.run(late()).wait().unwrap_err();
    assert_eq!(error.queue(), Some("default"));
    let message = error.to_string();
    let end = "still in the queue `default` after its limit of 20ms, so it was removed unrun; start more workers for \
               that queue or raise the limit";
    assert!(message.starts_with("job ") && message.contains("double") && message.ends_with(end), "{message}");
    let error = cluster.submit(late()).queue("slow").send().into_handle().wait().unwrap_err();
    assert!(error.queue() == Some("slow") && error.to_string().contains("the queue `slow` after"), "{error}");
}

#[test]
fn a_queue_timeout_names_the_limit_also_to_those_who_have_only_the_id() {
    let (server, _hand, cluster) = open!();
    let limit = Duration::from_millis(200);
    let is_it = |error: &ErrorKind| matches!(error, ErrorKind::QueueTimeout(it) if *it == limit);
    let restarted = builder(&server).build().unwrap();
    for is_of_handle in [false, true] {
        let work = prepare(double.with(3));
        let work = if is_of_handle { work } else { work.queue_timeout(limit) };
        let mut handle = cluster.submit(work).send();
        let id = handle.remote_id().unwrap();
        handle.wait_accepted();
        let mut handle = handle.into_handle();
        if is_of_handle {
            handle = handle.timeout(limit);
        }
        assert!(is_it(&end(Box::new(handle)).unwrap_err()));
        let error = end(restarted.attach::<u64>(id)).unwrap_err();
        assert!(is_it(&error), "{error}");
    }
}

#[test]
fn a_running_job_that_is_cancelled_is_killed_and_the_record_says_so() {
    let (_server, hand, cluster) = open!();
    // That it was started in time does not protect it later.
    let limit = Duration::from_millis(500);
    let submitted = Instant::now();
    let handle = cluster.submit(prepare(double.with(1)).queue_timeout(limit)).send();
    let (_, job) = hand.take();
    let (store, me) = (hand.store.clone(), hand.me);
    let mut asked = wait(async move { store.asked(me).await.unwrap() });
    let claim = hand.claim(&job);
    eventually("it runs", || handle.state() == JobState::Running);
    let late = submitted + limit + limit / 2;
    std::thread::sleep(late.saturating_duration_since(Instant::now()));
    let stored = handle.cancel_stored();
    let question = wait(async move { asked.next().await.unwrap() });
    assert_eq!(question.ask, Ok(Ask::Cancel { id: job.id }));
    hand.end(&job, claim, Outcome::Cancelled, Vec::new());
    assert_eq!(wait(stored), StoredEnd::Killed);
}

#[test]
fn a_job_that_has_ended_before_it_is_cancelled_says_so() {
    let (_server, hand, cluster) = open!();
    let handle = cluster.submit(double.with(1)).send();
    hand.perform(Outcome::Returned, &answer(2));
    eventually("it has ended", || handle.state() == JobState::Ended);
    assert_eq!(wait(handle.cancel_stored()), StoredEnd::HadEnded);
}

#[test]
fn a_full_queue_makes_jobs_wait_or_refuses_them() {
    let Some(server) = server() else { return };
    let hand = Hand::new(connection(&server));
    let cluster = builder(&server).capacity(1).build().unwrap();
    let mut first = cluster.submit(double.with(1)).send();
    first.wait_accepted();
    let mut second = cluster.submit(double.with(2)).send();
    eventually("it has found no room", || second.waits_for().is_some_and(|it| it.contains("full")));
    assert_eq!(second.state(), JobState::Waiting);
    let rejected = cluster.try_run(double.with(3)).unwrap_err();
    assert!(matches!(rejected.kind(), ErrorKind::QueueFull { capacity: 1 }), "{rejected:?}");
    let rejects = builder(&server).on_full(OnFull::Reject).build().unwrap();
    let refused = rejects.submit(double.with(3)).send();
    assert!(matches!(end(refused), Err(ErrorKind::QueueFull { capacity: 1 })));
    let runs = builder(&server).on_full(OnFull::CallerRuns).build().unwrap();
    // Another submitter's job fills the queue, so the first one waits. The next would be one too many of its own.
    let waits = runs.run(double.with(4));
    eventually("the layout is known", || runs.0.carrier().shared.capacity.load(Ordering::Relaxed) == 1);
    let here = runs.run(double.with(5));
    assert_eq!(here.state(), JobState::Ended);
    assert_eq!(here.wait().unwrap(), 10);
    assert!(waits.cancel());
    hand.perform(Outcome::Returned, &answer(2));
    assert_eq!(end(first).unwrap(), 2);
    second.wait_accepted();
    hand.perform(Outcome::Returned, &answer(4));
    assert_eq!(end(second).unwrap(), 4);
    assert!(matches!(builder(&server).on_full(OnFull::ShedOldest).build(), Err(BuildError::ShedOldest)));
}

#[test]
fn bands_take_jobs_by_their_priority() {
    let (_server, hand, cluster) = open!();
    let [mut high, mut low] = [5, -5].map(|it| cluster.run(prepare(double.with(1)).priority(it)));
    high.wait_accepted();
    low.wait_accepted();
    let store = hand.store.clone();
    assert_eq!(wait(async move { store.queues().await.unwrap() })[0].jobs, [1, 0, 1]);
}

#[test]
fn a_second_submission_with_a_key_finds_the_first() {
    let (server, hand, cluster) = open!();
    let other = builder(&server).build().unwrap();
    let first = cluster.submit(double.with(1)).key("invoice-42").send();
    eventually("it is queued", || first.state() == JobState::Queued);
    let second = other.submit(double.with(1)).key("invoice-42").send();
    let third = other.submit(double.with(1)).key("invoice-42").send();
    assert_eq!(first.remote_id(), second.remote_id());
    let (message, job) = hand.take();
    let claim = hand.claim_keyed(&job);
    for handle in [&first, &second, &third] {
        eventually("it runs", || handle.state() == JobState::Running);
    }
    // The first one decides.
    assert_eq!(wait(third.cancel_stored()), StoredEnd::LeftToOthers);
    hand.end(&job, claim, Outcome::Returned, answer(2).encode().unwrap());
    wait(async move { message.ack().await });
    assert_eq!((end(first).unwrap(), end(second).unwrap()), (2, 2));
    let late = other.submit(double.with(1)).key("invoice-42").send();
    assert_eq!(end(late).unwrap(), 2);
    let store = hand.store.clone();
    assert!(wait(async move { store.queues().await.unwrap() }).is_empty(), "it was submitted once");
}

#[test]
fn a_job_is_found_again_by_its_id() {
    let (server, hand, cluster) = open!();
    let handle = cluster.submit(double.with(4)).send();
    let id = handle.remote_id().unwrap();
    handle.into_handle().detach();
    let restarted = builder(&server).build().unwrap();
    let early = restarted.attach::<u64>(id);
    let (_, job) = hand.take();
    assert_eq!(early.state(), JobState::Waiting);
    let claim = hand.claim(&job);
    eventually("it runs", || early.state() == JobState::Running);
    let running = restarted.attach::<u64>(id);
    eventually("it runs", || running.state() == JobState::Running);
    hand.end(&job, claim, Outcome::Returned, answer(8).encode().unwrap());
    assert_eq!((end(early).unwrap(), end(running).unwrap()), (8, 8));
    assert_eq!(end(restarted.attach::<u64>(id)).unwrap(), 8);
    let text = end(restarted.attach::<String>(id)).unwrap_err();
    assert!(matches!(text, ErrorKind::Decode(_)), "{text:?}");
}

#[test]
fn errors_travel() {
    let (_server, hand, cluster) = open!();
    let panic = ErrorKind::Rejected("so it goes".into());
    let failed = cluster.run(double.with(1));
    hand.perform(Outcome::Failed, &failure(&panic));
    assert!(
        matches!(end(Box::new(failed)), Err(ErrorKind::Rejected(text)) if text.to_string().contains("so it goes"))
    );

    let store = hand.store.clone();
    let presence = Presence {
        worker: hand.me,
        name: "w".to_owned(),
        host: "there".to_owned(),
        tasks: vec![("client:double".to_owned(), Some(7))],
        ..Presence::default()
    };
    assert!(wait(async move { store.announce(&presence).await }));
    let lost = cluster.run(double.with(1));
    let (_, job) = hand.take();
    let claim = hand.claim(&job);
    hand.end(&job, claim, Outcome::Lost, hand.me.to_bits().to_be_bytes().to_vec());
    let kind = end(Box::new(lost)).unwrap_err();
    let ErrorKind::Lost { worker, host, attempt: 1, .. } = &kind else { panic!("{kind:?}") };
    assert_eq!((worker, &**host), (&hand.me.to_string(), "there"));

    let lost = cluster.run(double.with(1));
    let (_, job) = hand.take();
    let claim = hand.claim(&job);
    let silent_for = Duration::from_secs(10);
    let said = ErrorKind::Lost { worker: "w".to_owned(), host: "there".to_owned(), attempt: 1, silent_for };
    hand.end(&job, claim, Outcome::Lost, failure(&said).encode().unwrap());
    let kind = end(Box::new(lost)).unwrap_err();
    assert!(
        matches!(&kind, ErrorKind::Lost { worker, silent_for: it, .. } if worker == "w" && *it == silent_for)
    );

    let forgotten = cluster.run(double.with(1));
    let (_, job) = hand.take();
    hand.end(&job, 0, Outcome::Forgotten, Vec::new());
    assert!(
        matches!(end(Box::new(forgotten)), Err(ErrorKind::Unreachable(text)) if text.contains("not keep"))
    );

    let unknown = cluster.run(double.with(1));
    let (_, job) = hand.take();
    hand.end(&job, 0, Outcome::NoSuchTask, Vec::new());
    let kind = end(Box::new(unknown)).unwrap_err();
    let ErrorKind::NoSuchTask { task, wanted, offered, workers } = &kind else { panic!("{kind:?}") };
    assert_eq!((&**task, offered.len(), &*workers[0]), ("client:double", 1, "w on there"));
    assert_ne!(*wanted, offered[0]);

    let expired = cluster.run(double.with(1));
    let (_, job) = hand.take();
    hand.end(&job, 0, Outcome::Expired, Vec::new());
    assert!(
        matches!(end(Box::new(expired)), Err(ErrorKind::Unreachable(text)) if text.contains("dead jobs"))
    );

    let unreadable = cluster.run(double.with(1));
    let (_, job) = hand.take();
    let (store, place) = (hand.store.clone(), Place::of(&job));
    wait(async move { store.write(&place, 0, b"nonsense".to_vec(), GUARD).await });
    assert!(matches!(end(Box::new(unreadable)), Err(ErrorKind::Decode(_))));
}

#[test]
fn a_task_of_another_program_is_called_by_its_name() {
    let (_server, hand, cluster) = open!();
    let handle = cluster.call::<Vec<String>>("app.tasks:split", ("so it goes", 3));
    let report = Report { stdout: b"printed".to_vec(), ..answer(["so", "it", "goes"]) };
    let job = hand.perform(Outcome::Returned, &report);
    assert_eq!((&*job.task, job.signature.len()), ("app.tasks:split", 0));
    let mut arguments = rmp_serde::Deserializer::from_read_ref(&job.arguments);
    let text: String = serde::Deserialize::deserialize(&mut arguments).unwrap();
    let number: u8 = serde::Deserialize::deserialize(&mut arguments).unwrap();
    assert_eq!((&*text, number), ("so it goes", 3));
    assert_eq!(end(handle).unwrap(), ["so", "it", "goes"]);
    let raw =
        cluster.submit(NamedCall::<offloop::remote::Encoded>::encoded("t", vec![1, 2])).pickle("3.13").send();
    let job = hand.perform(Outcome::Returned, &Report { answer: vec![0xc1, 7], ..Report::default() });
    assert_eq!((job.codec, &*job.python, job.arguments), (crate::records::Codec::Pickle, "3.13", vec![1, 2]));
    assert_eq!(end(raw).unwrap().0, [0xc1, 7]);
}

#[test]
fn large_arguments_and_results_travel_by_themselves() {
    let (_server, hand, cluster) = open!();
    let text = "so it goes ".repeat(200_000);
    let handle = cluster.run(echo.with(text.clone()));
    let (_, job) = hand.take();
    let (store, id, blob) = (hand.store.clone(), job.id, job.blob.unwrap());
    assert!(job.arguments.is_empty());
    let arguments = wait(async move { store.get_blob(id, Part::Arguments, &blob).await.unwrap() });
    assert_eq!(rmp_serde::from_slice::<String>(&arguments).unwrap(), text);
    let claim = hand.claim(&job);
    let (store, report) = (hand.store.clone(), Bytes::from(answer(&text).encode().unwrap()));
    let blob = wait(async move { store.put_blob(id, Part::Result(1), report, GUARD).await });
    hand.end(&job, claim, Outcome::Returned, Report { blob, ..Report::default() }.encode().unwrap());
    assert_eq!(end(Box::new(handle)).unwrap(), text);
    // The arguments are of no use any more.
    let (store, blob) = (hand.store.clone(), job.blob.unwrap());
    wait(async move { while store.get_blob(id, Part::Arguments, &blob).await.is_ok() {} });
}

#[test]
fn items_are_passed_on_once_and_in_order_as_the_reader_has_room() {
    let (_server, hand, cluster) = open!();
    let (handle, mut items) = cluster.stream::<String, u64>(double.with(1), 2);
    let (_, job) = hand.take();
    assert_eq!(job.stream, Some(2));
    let (store, me) = (hand.store.clone(), hand.me);
    let mut asked = wait(async move { store.asked(me).await });
    let claim = hand.claim(&job);
    eventually("it runs", || handle.state() == JobState::Running);
    let encoded = |number: u64| {
        // An item travels with the name of its type.
        let text = format!("item {number}");
        rmp_serde::to_vec_named(&text).unwrap()
    };
    let send = |numbers: &'static [u64]| {
        let (store, client, id) = (hand.store.clone(), job.client, job.id);
        let items: Vec<_> = numbers.iter().map(|number| Item::new(1, *number, encoded(*number))).collect();
        wait(async move {
            for item in items {
                store.send_item(client, id, item.encode().unwrap().into()).await;
            }
        });
    };
    let mut credit = |wanted: u64| {
        let mut seen = asked.take().unwrap();
        let (room, back) = wait(async move {
            loop {
                match seen.next().await.unwrap().ask {
                    Ok(Ask::Credit { next, room, attempt: 1, .. }) if next == wanted => return (room, seen),
                    Ok(Ask::Credit { next, .. }) => assert!(next < wanted),
                    other => panic!("{other:?}"),
                }
            }
        });
        asked = Some(back);
        room
    };
    // Doubled, out of order, and one too many.
    send(&[0, 0, 2, 1, 2]);
    assert_eq!(credit(2), 0);
    assert!(items.wait_next().is_some());
    send(&[2]);
    credit(3);
    assert!(items.wait_next().is_some());
    assert!(items.wait_next().is_some());
    hand.end(&job, claim, Outcome::Returned, answer(2).encode().unwrap());
    assert!(items.wait_next().is_none());
    assert_eq!(end(Box::new(handle)).unwrap(), 2);
}

#[test]
fn a_client_says_whether_it_wants_a_job() {
    let (_server, hand, cluster) = open!();
    let handle = cluster.run(double.with(1));
    let (_, job) = hand.take();
    let asks = |id| {
        let (store, client) = (hand.store.clone(), job.client);
        wait(async move { store.ask(client, &Ask::Has { id }, GUARD).await })
    };
    assert!(matches!(asks(job.id), crate::store::Reply::Answer(answer) if &answer[..] == b"y"));
    assert!(matches!(asks(Ulid::new()), crate::store::Reply::Answer(answer) if &answer[..] == b"n"));
    drop(handle);
}

#[test]
fn a_job_that_the_server_does_not_take_ends_in_time() {
    let builder = Cluster::builder("nats://127.0.0.1:9").unreachable_after(Duration::from_millis(100));
    let cluster = builder.build().unwrap();
    let handle = cluster.submit(double.with(1)).send();
    assert!(
        handle.waits_for().is_some_and(|reason| reason.contains("cannot be reached")),
        "{:?}",
        handle.waits_for()
    );
    let refused = cluster.try_run(double.with(1)).unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::Unreachable(_)));
    let kind = end(handle).unwrap_err();
    assert!(
        matches!(&kind, ErrorKind::Unreachable(text) if text.contains("did not take the job within 100ms")),
        "{kind:?}"
    );
    let cancelled = cluster.submit(double.with(1)).send();
    assert_eq!(wait(cancelled.cancel_stored()), StoredEnd::NeverRan);
    assert!(cluster.workers().unwrap_err().to_string().contains("cannot be reached"));
    let report = cluster.shutdown(Duration::ZERO).wait().unwrap();
    assert_eq!(report.cancelled, 0);
}

#[test]
fn a_cluster_with_a_newer_layout_is_refused_with_both_versions() {
    let (server, hand, _cluster) = open!();
    let store = hand.store.clone();
    wait(async move { store.make_newer_layout().await });
    let cluster = builder(&server).build().unwrap();
    for _ in 0..2 {
        let kind = end(cluster.submit(double.with(1)).send()).unwrap_err();
        let ErrorKind::Unreachable(text) = &kind else { panic!("{kind:?}") };
        assert!(text.contains("layout 7") && text.contains("layout 1"), "{text}");
    }
}

#[test]
fn a_shutdown_waits_for_jobs_and_stops_the_rest() {
    let (_server, hand, cluster) = open!();
    let done = cluster.run(double.with(1));
    hand.perform(Outcome::Returned, &answer(2));
    let left = cluster.run(double.with(2));
    eventually("it is queued", || left.state() == JobState::Queued);
    let report = cluster.shutdown(Duration::from_millis(10)).wait().unwrap();
    assert_eq!((report.cancelled, report.killed), (1, 0));
    assert_eq!(done.wait().unwrap(), 2);
    assert!(matches!(end(Box::new(left)), Err(ErrorKind::Cancelled)));
    // It is out of the queue when the shutdown has ended.
    let store = hand.store.clone();
    assert!(wait(async move { store.queues().await.unwrap() }).is_empty());
    assert!(matches!(end(Box::new(cluster.run(double.with(1)))), Err(ErrorKind::Closed)));
}

#[test]
fn ends_of_strangers_do_not_count_and_jobs_are_signed() {
    let Some(server) = server() else { return };
    let (mine, workers, stranger) = (SigningKey::generate(), SigningKey::generate(), SigningKey::generate());
    let hand = Hand::new(connection(&server));
    let trust = Trust::none().key(workers.public().clone());
    let cluster = Cluster::builder(connection(&server).key(mine.clone()).trust(trust)).build().unwrap();
    let believes = Trust::none().key(mine.public().clone());
    for key in [Some(&workers), Some(&stranger), None] {
        let mut handle = cluster.run(double.with(21));
        let (message, job) = hand.take();
        let scope = crate::security::Scope::Job { namespace: "default", queue: "default" };
        assert_eq!(believes.admit_job(scope, &message.record, &job, GUARD), Ok(()));
        let claim = hand.claim(&job);
        let body = answer(42).encode().unwrap();
        let state = State::End(Box::new(End { by: hand.me, attempt: 1, outcome: Outcome::Returned, body }));
        let record = state.encode().unwrap();
        let scope = crate::security::Scope::End { namespace: "default", job: job.id };
        let record = key.map_or(record.clone(), |key| key.seal(scope, &record).unwrap());
        let (store, place) = (hand.store.clone(), Place::of(&job));
        wait(async move { store.write(&place, claim, record, GUARD).await });
        wait(async move { message.ack().await });
        match end(&mut handle) {
            Ok(value) => assert!(value == 42 && key.is_some_and(|key| key.public() == workers.public())),
            Err(ErrorKind::NotTrusted(_)) => assert!(key.is_none_or(|key| key.public() != workers.public())),
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_item_of_a_stranger_ends_the_stream_and_stops_the_job() {
    let Some(server) = server() else { return };
    let (workers, stranger) = (SigningKey::generate(), SigningKey::generate());
    let hand = Hand::new(connection(&server));
    let trust = Trust::none().key(workers.public().clone());
    let cluster = Cluster::builder(connection(&server).trust(trust)).build().unwrap();
    for key in [Some(&workers), Some(&stranger), None] {
        let (mut handle, mut items) = cluster.stream::<String, u64>(double.with(21), 4);
        let (_, job) = hand.take();
        hand.claim(&job);
        eventually("it runs", || handle.state() == JobState::Running);
        let (store, me, client, id) = (hand.store.clone(), hand.me, job.client, job.id);
        let mut asked = wait(async move { store.asked(me).await }).unwrap();
        let text = [vec![0xa0], rmp_serde::to_vec("text").unwrap()].concat();
        let record = Item::new(1, 0, text).encode().unwrap();
        let scope = crate::security::Scope::Item { namespace: "default", job: id };
        let record = key.map_or(record.clone(), |key| key.seal(scope, &record).unwrap());
        let store = hand.store.clone();
        wait(async move { store.send_item(client, id, record.into()).await });
        if key.is_some_and(|key| key.public() == workers.public()) {
            assert_eq!(items.wait_next().unwrap().unwrap(), "text");
            continue;
        }
        assert!(items.wait_next().is_none());
        assert!(matches!(end(&mut handle), Err(ErrorKind::NotTrusted(_))));
        wait(async move {
            while !matches!(asked.next().await.unwrap().ask, Ok(Ask::Cancel { id: of }) if of == id) {}
        });
    }
}

#[test]
fn a_stream_with_a_key_is_rejected() {
    let (_server, _, cluster) = open!();
    let (handle, mut items) = cluster.submit(double.with(1)).key("one").stream::<u64, u64>(4);
    assert!(
        matches!(end(handle), Err(ErrorKind::Rejected(reason)) if reason.to_string().contains("one reader"))
    );
    assert!(items.wait_next().is_none());
}

#[test]
fn an_embedded_cluster_runs_jobs_and_ends_with_its_executor() {
    if server().is_none() {
        return;
    }
    let cluster = Cluster::embedded().workers(2).slots(1).build().unwrap();
    assert_eq!(cluster.run(double.with(21)).wait().unwrap(), 42);
    eventually("both are there", || cluster.workers().unwrap().len() == 2);
    let mut results = cluster.map(1..=5, |number| double.with(number));
    let names: Vec<_> = std::iter::from_fn(|| results.wait_next()).map(Result::unwrap).collect();
    drop(results);
    assert_eq!(names, [2, 4, 6, 8, 10]);
    let workers = cluster.workers().unwrap();
    assert!(workers.iter().all(|worker| worker.pid == std::process::id() && worker.slots == 1));
    let store = cluster.0.carrier().store.clone();
    drop(cluster);
    eventually("the server is gone", || !store.link().borrow().is_up);
}
