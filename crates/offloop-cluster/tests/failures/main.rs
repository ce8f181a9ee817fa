//! Makes parts of a cluster fail, with real servers and with agents that are processes of their own. Each test
//! needs a NATS server: `OFFLOOP_NATS_SERVER`, or `nats-server` in `PATH`. Where there is none, it says so and passes.
//! The tests that take long are ignored here; `cargo xtask test --only cluster-failures` runs them.

#![cfg(target_os = "linux")]
#![allow(missing_docs, reason = "a test")]

#[path = "../harness/mod.rs"]
mod harness;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use harness::agents::{Agent, Instructions};
use harness::books::Books;
use harness::proxy::Proxy;
use harness::servers::Servers;
use harness::tasks::{beat, crash, crash_once, echo, nap, new_in_this_build, numbers, poison, succeed_at};
use harness::{GUARD, eventually, settings};
use offloop::{Error, ErrorKind, Handle, OnFull, Retry, prepare};
use offloop_cluster::admin::Admin;
use offloop_cluster::{Cluster, ClusterHandle, Connection, Credentials, StoredEnd};

offloop::init_tests!();

#[test]
#[ignore = "an agent, which other tests start"]
fn agent() {
    harness::agents::serve();
}

/// Returns a submitter.
fn submitter(url: &str, replicas: usize) -> Cluster {
    let replicas = u32::try_from(replicas).unwrap();
    let connection = Connection::to(url).settings(settings()).replicas(replicas);
    Cluster::builder(connection).unreachable_after(GUARD).build().unwrap()
}

/// Servers, agents and a submitter.
struct Scene {
    cluster: Cluster,
    books: Books,
    agents: Vec<Agent>,
    servers: Servers,
}

impl Scene {
    /// Starts all of them. `None` where no server is installed.
    fn start(servers: usize, agents: usize) -> Option<Self> {
        Some(Self::of(Servers::start(servers)?, agents))
    }

    fn of(servers: Servers, agents: usize) -> Self {
        let cluster = submitter(&servers.url(), servers.count());
        let books = Books::new(servers.directory());
        let mut scene = Self { cluster, books, agents: Vec::new(), servers };
        for _ in 0..agents {
            scene.add(&scene.instructions());
        }
        scene.await_agents(agents);
        scene
    }

    fn instructions(&self) -> Instructions {
        Instructions::of(&self.servers)
    }

    fn add(&mut self, instructions: &Instructions) {
        self.agents.push(instructions.start());
    }

    fn await_agents(&mut self, count: usize) {
        eventually("the agents are there", || {
            assert!(!self.agents.iter_mut().any(Agent::is_dead), "an agent has ended");
            self.cluster.workers().is_ok_and(|it| it.len() >= count)
        });
    }

    /// Submits a nap.
    fn nap(&self, millis: u64, retries: u32) -> (u64, ClusterHandle<u64>) {
        let token = self.books.token();
        let call = prepare(nap.with(self.books.path(), token, millis)).retry(Retry::times(retries));
        (token, self.cluster.submit(call).send())
    }

    /// Returns the agent that runs a job.
    fn runner<R>(&self, handle: &ClusterHandle<R>) -> usize {
        eventually("a worker runs the job", || handle.worker().is_some());
        let workers = self.cluster.workers().unwrap();
        let worker = workers.iter().find(|it| Some(it.worker) == handle.worker()).unwrap();
        self.agents.iter().position(|agent| agent.pid() == worker.pid).unwrap()
    }
}

/// Waits for a job's end, and fails where it would hang.
#[track_caller]
fn end<R: Send + 'static>(handle: impl Into<Handle<R>>) -> Result<R, Error> {
    let handle = handle.into();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(handle.wait()));
    receiver.recv_timeout(GUARD).expect("the job ends")
}

#[test]
fn crash_ends_one_job() {
    let Some(scene) = Scene::start(1, 1) else { return };
    let (_, neighbour) = scene.nap(1500, 0);
    let token = scene.books.token();
    let error = end(scene.cluster.run(crash.with(scene.books.path(), token))).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WorkerDied(_)), "{error}");
    assert!(end(neighbour.into_handle()).is_ok());
    assert_eq!(scene.books.starts(token), 1);
    assert_eq!(end(scene.nap(0, 0).1.into_handle()).unwrap(), token + 1);
}

/// Submits jobs, half of which may be started four times, disturbs what runs them, and checks the books.
fn books_are_right_after(
    scene: &mut Scene,
    count: u64,
    millis: u64,
    mut disturb: impl FnMut(&mut Scene, u64),
) {
    let jobs: Vec<_> =
        (0..count).map(|at| (at % 2 * 3, scene.nap(millis, u32::try_from(at % 2 * 3).unwrap()))).collect();
    let began = Instant::now();
    let mut steps = 0;
    // The handles tell when all is over.
    let (sender, receiver) = std::sync::mpsc::channel();
    for (retries, (token, handle)) in jobs {
        let sender = sender.clone();
        std::thread::spawn(move || {
            let _ = sender.send((retries, token, handle.into_handle().wait()));
        });
    }
    drop(sender);
    let mut ends = BTreeMap::new();
    while ends.len() < usize::try_from(count).unwrap() {
        assert!(began.elapsed() < GUARD, "{} of {count} jobs have ended", ends.len());
        match receiver.recv_timeout(Duration::from_millis(50)) {
            Ok((retries, token, result)) => {
                assert!(ends.insert(token, (retries, result)).is_none(), "job {token} ended twice");
            }
            Err(_) if began.elapsed() > Duration::from_secs(steps + 1) => {
                steps += 1;
                disturb(scene, steps);
            }
            Err(_) => {}
        }
        if began.elapsed() > Duration::from_secs(steps + 1) {
            steps += 1;
            disturb(scene, steps);
        }
    }
    let record = scene.books.read();
    for (token, (retries, result)) in ends {
        let starts =
            record.get(&token).map_or(0, |lines| lines.iter().filter(|it| it.what == "start").count());
        assert!(starts as u64 <= 1 + retries, "job {token} was started {starts} times");
        match result {
            Ok(value) => assert_eq!((value, starts > 0), (token, true)),
            Err(error) => assert!(matches!(error.kind(), ErrorKind::Lost { .. }), "job {token}: {error}"),
        }
    }
    let jobs = "OFFLOOP1_default_JOBS";
    eventually("nothing is left in the queue", || scene.servers.messages(jobs) == Some(0));
}

#[test]
fn node_kill_books() {
    let Some(mut scene) = Scene::start(1, 3) else { return };
    books_are_right_after(&mut scene, 200, 100, |scene, step| {
        // Later nobody would live for the lease after which jobs are taken over.
        if step <= 8 {
            let at = usize::try_from(step % 3).unwrap();
            scene.agents[at].kill();
            scene.agents[at] = scene.instructions().start();
        }
    });
}

#[test]
fn poison_is_bounded() {
    let Some(mut scene) = Scene::start(1, 4) else { return };
    let token = scene.books.token();
    let call = prepare(poison.with(scene.books.path(), token)).retry(Retry::times(1));
    let error = end(scene.cluster.run(call)).unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Lost { worker, attempt: 2, .. } if worker == "agent"),
        "{error}"
    );
    assert_eq!(scene.books.starts(token), 2);
    assert_eq!(scene.agents.iter_mut().filter_map(|agent| agent.is_dead().then_some(())).count(), 2);
    let dead = scene.cluster.dead().unwrap();
    assert_eq!((dead.len(), &*dead[0].reason), (1, "Lost"));
    assert_eq!(dead[0].job.as_ref().unwrap().task, "failures:poison");
}

#[test]
fn server_kill_no_double_start() {
    let Some(mut scene) = Scene::start(1, 2) else { return };
    for after in [0, 20, 50, 500] {
        let jobs: Vec<_> = (0..3).map(|_| scene.nap(1000, 0)).collect();
        scene.books.await_start(jobs[0].0);
        std::thread::sleep(Duration::from_millis(after));
        scene.servers.kill(0);
        scene.servers.restart(0);
        for (token, handle) in jobs {
            assert_eq!(end(handle.into_handle()).unwrap(), token, "{after} ms after it was started");
            assert_eq!(scene.books.starts(token), 1, "{after} ms after it was started");
        }
    }
}

#[test]
fn leader_kill_books() {
    let Some(mut scene) = Scene::start(3, 2) else { return };
    let mut killed = None;
    books_are_right_after(&mut scene, 60, 200, |scene, step| match step {
        2 => {
            let leader = scene.servers.leader("OFFLOOP1_default_JOBS").unwrap_or(0);
            scene.servers.kill(leader);
            killed = Some(leader);
        }
        6 => scene.servers.restart(killed.take().unwrap()),
        _ => {}
    });
    if let Some(killed) = killed {
        scene.servers.restart(killed);
    }
}

/// Starts one agent behind a network that can be cut, and another one beside it.
fn divided() -> Option<(Scene, Proxy)> {
    let mut scene = Scene::start(1, 0)?;
    let proxy = Proxy::to(scene.servers.address(0));
    scene.add(&scene.instructions().url(proxy.url()));
    scene.await_agents(1);
    Some((scene, proxy))
}

#[test]
fn partition_one_end() {
    let Some((mut scene, proxy)) = divided() else { return };
    let (token, handle) = scene.nap(1000, 1);
    scene.books.await_start(token);
    proxy.cut(true);
    scene.add(&scene.instructions());
    assert_eq!(end(handle.into_handle()).unwrap(), token);
    assert_eq!(scene.books.starts(token), 2, "the other agent has taken it over");
    proxy.cut(false);
    // The first one has an end for it, too. It is back when it takes jobs again.
    drop(scene.agents.pop());
    let (token, handle) = scene.nap(0, 0);
    assert_eq!(end(handle.into_handle()).unwrap(), token);
    let (status, refused) = scene.agents.pop().unwrap().finish();
    assert!(status.success());
    assert_eq!(refused, 1, "its late end was refused");
}

#[test]
fn exclusive_never_overlaps() {
    let Some((mut scene, proxy)) = divided() else { return };
    let token = scene.books.token();
    let call = prepare(beat.with(scene.books.path(), token, 400)).retry(Retry::times(1));
    let handle = scene.cluster.submit(call).exclusive(true).send();
    scene.books.await_start(token);
    proxy.cut(true);
    scene.add(&scene.instructions());
    assert_eq!(end(handle.into_handle()).unwrap(), token);
    proxy.cut(false);
    let runs = scene.books.runs(token);
    assert_eq!(runs.len(), 2);
    assert!(runs[0].1 < runs[1].0, "the first run had ended before the second one began: {runs:?}");
}

#[test]
fn submitter_partition() {
    let Some(scene) = Scene::start(1, 2) else { return };
    let proxy = Proxy::to(scene.servers.address(0));
    let far = submitter(&proxy.url(), 1);
    let tokens: Vec<_> = (0..10).map(|_| scene.books.token()).collect();
    let submit = |token: &u64| far.run(nap.with(scene.books.path(), *token, 300));
    let handles: Vec<_> = tokens.iter().map(submit).collect();
    scene.books.await_start(tokens[0]);
    proxy.cut(true);
    let all_end = || tokens.iter().all(|token| scene.books.read().get(token).is_some_and(|it| it.len() == 2));
    eventually("the jobs go on", all_end);
    assert!(handles.iter().any(|handle| handle.state() != offloop::JobState::Ended));
    proxy.cut(false);
    for (token, handle) in tokens.iter().zip(handles) {
        assert_eq!(end(handle).unwrap(), *token);
        assert_eq!(scene.books.starts(*token), 1);
    }
}

#[test]
fn blackhole_is_noticed() {
    let Some((scene, proxy)) = divided() else { return };
    assert!(end(scene.nap(0, 0).1.into_handle()).is_ok());
    proxy.swallow();
    // The agent is the only one, so it must have noticed that its connection is dead.
    let (token, handle) = scene.nap(0, 0);
    assert_eq!(end(handle.into_handle()).unwrap(), token);
}

#[test]
fn dropped_events_are_read() {
    // One user is told of no state, as if its connection were too slow for all of them.
    let users = "no_auth_user: all\nauthorization {\n  users: [\n    { user: all, password: all }\n    \
                 { user: deaf, password: deaf, permissions: { subscribe: { deny: \"offloop.1.*.event.>\" } } }\n  ]\n}";
    let Some(servers) = Servers::start_for(1, users, "") else { return };
    let scene = Scene::of(servers, 1);
    let deaf = Credentials::User { user: "deaf".to_owned(), password: "deaf".to_owned() };
    let connection = Connection::to(scene.servers.url()).settings(settings()).credentials(deaf);
    let cluster = Cluster::builder(connection).build().unwrap();
    let token = scene.books.token();
    assert_eq!(end(cluster.run(nap.with(scene.books.path(), token, 0))).unwrap(), token);
}

#[test]
fn stop_and_continue() {
    let Some(mut scene) = Scene::start(1, 2) else { return };
    let (token, handle) = scene.nap(1000, 1);
    let runner = scene.runner(&handle);
    scene.books.await_start(token);
    scene.agents[runner].pause();
    assert_eq!(end(handle.into_handle()).unwrap(), token);
    assert_eq!(scene.books.starts(token), 2);
    scene.agents[runner].resume();
    let (_, refused) = scene.agents.remove(runner).finish();
    assert_eq!(refused, 1);
    // The server does so, too, for longer than a lease.
    let (token, handle) = scene.nap(500, 0);
    scene.books.await_start(token);
    scene.servers.pause(0);
    std::thread::sleep(settings().lease + Duration::from_secs(1));
    scene.servers.resume(0);
    assert_eq!(end(handle.into_handle()).unwrap(), token);
    assert_eq!(scene.books.starts(token), 1);
}

#[test]
fn store_limit_is_full() {
    let Some(servers) = Servers::start_with(1, "max_file_store: 8MiB") else { return };
    let scene = Scene::of(servers, 0);
    let connection = Connection::to(scene.servers.url()).settings(settings());
    let cluster = Cluster::builder(connection).on_full(OnFull::Reject).build().unwrap();
    let mut kept = Vec::new();
    loop {
        let token = scene.books.token();
        let bytes = offloop::Blob::from(vec![0; 200_000]);
        let handle = cluster.submit(echo.with(scene.books.path(), token, bytes)).send();
        let handle = handle.into_handle();
        eventually("it is accepted or refused", || handle.state() != offloop::JobState::Waiting);
        if handle.state() == offloop::JobState::Ended {
            let error = end(handle).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::QueueFull { .. }), "{error}");
            break;
        }
        kept.push((token, handle));
        assert!(kept.len() < 100, "the store holds more than its limit");
    }
    assert!(!kept.is_empty());
    // Nothing that was accepted is lost: it is run when there is room.
    let mut scene = scene;
    scene.servers.kill(0);
    scene.servers.limit(0, "max_file_store: 1GiB");
    scene.servers.restart(0);
    scene.add(&scene.instructions());
    for (token, handle) in kept {
        let size = end(handle).map(|bytes| bytes.len());
        assert!(matches!(size, Ok(200_000)), "job {token}: {size:?}");
    }
}

#[test]
fn a_failure_is_retried_only_if_that_was_asked_for() {
    let Some(scene) = Scene::start(1, 1) else { return };
    let starts = Retry::times(2).backoff(Duration::from_millis(10));
    for (retry, allowed) in [(starts, 1), (starts.on_failure(), 3)] {
        for succeeds_at in [1, 2, 9] {
            let token = scene.books.token();
            let call = prepare(succeed_at.with(scene.books.path(), token, succeeds_at)).retry(retry);
            let ended = end(scene.cluster.run(call));
            assert_eq!(scene.books.starts(token), allowed.min(succeeds_at));
            match ended {
                Ok(start) => assert!(start == succeeds_at && start <= allowed),
                Err(error) => {
                    assert!(
                        succeeds_at > allowed && matches!(error.kind(), ErrorKind::Panicked(_)),
                        "{error}"
                    );
                    // The handle gets the last failure.
                    assert!(error.to_string().contains(&format!("left: {allowed}")), "{error}");
                }
            }
        }
        let token = scene.books.token();
        let call = prepare(nap.with(scene.books.path(), token, 60_000)).retry(retry);
        let error = end(scene.cluster.run(call.run_timeout(Duration::from_millis(100)))).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::RunTimeout(_)), "{error}");
        assert_eq!(scene.books.starts(token), allowed);
    }
    let dead = scene.cluster.dead().unwrap();
    assert_eq!(dead.len(), 2, "those that were to be started again and have failed the last time: {dead:?}");
}

#[test]
fn a_dead_job_is_started_again_with_its_large_arguments() {
    let Some(scene) = Scene::start(1, 1) else { return };
    let token = scene.books.token();
    let bytes = offloop::Blob::from(vec![3; 1 << 20]);
    let error = end(scene.cluster.run(crash_once.with(scene.books.path(), token, bytes))).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WorkerDied(_)), "{error}");
    // The submitter has learned of the end, and the arguments are with the dead letter alone.
    let messages = |stream: &str| scene.servers.messages(&format!("OFFLOOP1_default_{stream}"));
    eventually("the arguments are deleted", || messages("ARGS") == Some(0));
    let admin = Admin::connect(Connection::to(scene.servers.url()).settings(settings())).unwrap();
    let dead = admin.dead().unwrap();
    assert_eq!(dead.len(), 1);
    admin.retry(dead[0].id.parse().unwrap()).unwrap();
    let sum = format!("sum-{}", 3 << 20);
    eventually("it has run with them", || scene.books.read()[&token].iter().any(|line| line.what == sum));
    assert_eq!(scene.books.starts(token), 2);
    assert!(admin.dead().unwrap().is_empty());
    assert_eq!(messages("DEAD"), Some(0), "nothing is kept for a letter that is gone");
}

#[test]
fn the_arguments_of_a_dead_job_do_not_displace_other_dead_jobs() {
    // Dead jobs have 4 MiB of it.
    let Some(servers) = Servers::start_with(1, "max_file_store: 64MiB") else { return };
    let scene = Scene::of(servers, 1);
    for size in [1, 5 << 20] {
        let bytes = offloop::Blob::from(vec![3; size]);
        let call = crash_once.with(scene.books.path(), scene.books.token(), bytes);
        assert!(matches!(end(scene.cluster.run(call)).unwrap_err().kind(), ErrorKind::WorkerDied(_)));
    }
    let admin = Admin::connect(Connection::to(scene.servers.url()).settings(settings())).unwrap();
    let dead = admin.dead().unwrap();
    assert_eq!(dead.len(), 2, "both are kept");
    let retried = dead.iter().map(|dead| admin.retry(dead.id.parse().unwrap()));
    let errors: Vec<_> = retried.filter_map(Result::err).map(|error| error.to_string()).collect();
    assert!(errors.len() == 1 && errors[0].contains("not stored any more"), "{errors:?}");
    assert_eq!(admin.dead().unwrap().len(), 1, "the one without its arguments");
}

#[test]
fn a_store_full_of_jobs_has_room_for_their_claims_and_ends() {
    let Some(servers) = Servers::start_with(1, "max_file_store: 64MiB") else { return };
    let mut scene = Scene::of(servers, 0);
    let connection = Connection::to(scene.servers.url()).settings(settings());
    let refusing = Cluster::builder(connection).on_full(OnFull::Reject).build().unwrap();
    // Arguments that go into the record, and such that are stored beside it.
    for size in [300_000, 1 << 20] {
        let mut kept = Vec::new();
        loop {
            let token = scene.books.token();
            let call = echo.with(scene.books.path(), token, offloop::Blob::from(vec![0; size]));
            let handle = refusing.submit(call).send().into_handle();
            eventually("it is accepted or refused", || handle.state() != offloop::JobState::Waiting);
            if handle.state() == offloop::JobState::Ended {
                let error = end(handle).unwrap_err();
                assert!(matches!(error.kind(), ErrorKind::QueueFull { .. }), "{error}");
                break;
            }
            kept.push(handle);
            assert!(kept.len() < 200, "the store holds more than its limit");
        }
        assert!(kept.len() > 5, "a share is not next to nothing: {}", kept.len());
        // With the other policy such a job waits, until those that were accepted have run.
        let token = scene.books.token();
        let call = echo.with(scene.books.path(), token, offloop::Blob::from(vec![0; size]));
        let waiting = scene.cluster.run(call);
        scene.add(&scene.instructions());
        for handle in kept.into_iter().chain([waiting]) {
            assert_eq!(end(handle).map(|bytes| bytes.len()).unwrap(), size);
        }
        // A job's message is removed after its end is stored, by its agent.
        eventually("nothing waits any more", || {
            ["JOBS", "ARGS"]
                .iter()
                .all(|it| scene.servers.messages(&format!("OFFLOOP1_default_{it}")) == Some(0))
        });
        scene.agents.clear();
    }
}

#[test]
fn streams_share_the_store_of_one_server_and_of_three() {
    for count in [1, 3] {
        let Some(servers) = Servers::start_with(count, "max_file_store: 300MiB") else { return };
        // The largest power of two that fits one server is divided. For several servers it has to be said.
        let url = servers.url();
        let mut connection = Connection::to(&url).settings(settings());
        if count > 1 {
            connection = connection.replicas(3).storage(256 << 20);
        }
        let _cluster = Cluster::builder(connection).build().unwrap();
        for (stream, share) in [("JOBS", 32), ("ARGS", 64), ("BLOBS", 96), ("DEAD", 16), ("STATE", -1)] {
            let mut limit = None;
            eventually("the stream is there", || {
                limit = servers.max_bytes(&format!("OFFLOOP1_default_{stream}"));
                limit.is_some()
            });
            assert_eq!(limit, Some(if share > 0 { share << 20 } else { share }), "{stream}, {count} servers");
        }
        for stream in ["PROBE", "MEASURING"] {
            assert_eq!(servers.max_bytes(&format!("OFFLOOP1_default_{stream}")), None);
        }
    }
}

#[test]
fn parties_that_lay_a_namespace_out_at_once_divide_the_store_as_one_does() {
    for round in 0..5 {
        let Some(servers) = Servers::start_with(1, "max_file_store: 64MiB") else { return };
        let connection = || Connection::to(servers.url()).settings(settings());
        let clusters: Vec<_> = (0..12).map(|_| Cluster::builder(connection()).build().unwrap()).collect();
        for cluster in &clusters {
            eventually("the namespace is laid out", || cluster.workers().is_ok());
        }
        let limits = ["JOBS", "ARGS", "BLOBS", "DEAD", "STATE"].map(|stream| {
            let name = format!("OFFLOOP1_default_{stream}");
            eventually("the stream is there", || servers.max_bytes(&name).is_some());
            servers.max_bytes(&name).unwrap()
        });
        assert_eq!(limits, [8 << 20, 16 << 20, 24 << 20, 4 << 20, -1], "round {round}");
    }
}

#[test]
fn skewed_clocks() {
    let Some(mut scene) = Scene::start(1, 0) else { return };
    for skew in [-3600, 0, 3600] {
        scene.add(&scene.instructions().skew(skew).slots(1));
    }
    scene.await_agents(3);
    let jobs: Vec<_> = (0..30)
        .map(|_| {
            let token = scene.books.token();
            let call = prepare(nap.with(scene.books.path(), token, 100)).queue_timeout(GUARD);
            (token, scene.cluster.run(call))
        })
        .collect();
    let token = scene.books.token();
    let retried =
        prepare(crash.with(scene.books.path(), token)).retry(Retry::times(2).backoff(Duration::from_secs(1)));
    let error = end(scene.cluster.run(retried)).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WorkerDied(_)), "{error}");
    let runs = scene.books.runs(token);
    assert_eq!(runs.len(), 3);
    assert!(
        runs[1].0 - runs[0].0 >= 1_000_000_000 && runs[2].0 - runs[1].0 >= 2_000_000_000,
        "none was early"
    );
    for (token, handle) in jobs {
        assert_eq!(end(handle).unwrap(), token);
        assert_eq!(scene.books.starts(token), 1);
    }
}

#[test]
fn rolling_build() {
    let Some(mut scene) = Scene::start(1, 0) else { return };
    let old = scene.instructions().lacks("failures:new");
    scene.add(&old);
    scene.await_agents(1);
    // No worker has it for longer than a rollout takes.
    let token = scene.books.token();
    let path = scene.books.path();
    let call = || new_in_this_build.with(path.clone(), token);
    let error = end(scene.cluster.run(call())).unwrap_err();
    match error.kind() {
        ErrorKind::NoSuchTask { task, workers, .. } => {
            assert_eq!((&**task, workers.len()), ("failures:new", 1));
        }
        _ => panic!("{error}"),
    }
    assert_eq!(scene.books.starts(token), 0);
    // While builds serve side by side, the old one leaves it to the new one.
    scene.add(&scene.instructions());
    scene.await_agents(2);
    let handles: Vec<_> = (0..10).map(|_| scene.cluster.run(call())).collect();
    assert!(handles.into_iter().all(|handle| end(handle).is_ok()));
}

#[test]
fn a_worker_that_is_told_to_end_lets_its_jobs_end() {
    let Some(mut scene) = Scene::start(1, 2) else { return };
    let jobs: Vec<_> = (0..12).map(|_| scene.nap(500, 0)).collect();
    scene.books.await_start(jobs[0].0);
    let (status, _) = scene.agents.remove(0).finish();
    assert!(status.success());
    for (token, handle) in jobs {
        assert_eq!(end(handle.into_handle()).unwrap(), token);
        assert_eq!(scene.books.starts(token), 1);
    }
}

#[test]
fn items_come_whole_and_in_order() {
    let Some(scene) = Scene::start(1, 2) else { return };
    for buffersize in 1..=8 {
        let token = scene.books.token();
        let call = numbers.with(scene.books.path(), token, 100);
        let (handle, mut items) = scene.cluster.stream::<u64, u64>(call, buffersize);
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let all = std::iter::from_fn(|| items.wait_next()).map(Result::unwrap);
            let _ = sender.send(all.collect::<Vec<u64>>());
        });
        assert_eq!(receiver.recv_timeout(GUARD).unwrap(), (0..100).collect::<Vec<u64>>());
        assert_eq!(end(handle).unwrap(), 100);
    }
}

#[test]
fn cancel_storm() {
    let Some(scene) = Scene::start(1, 3) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut never_ran = Vec::new();
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for round in 0..15_u64 {
        let jobs: Vec<_> = (0..20).map(|_| scene.nap(10, 1)).collect();
        std::thread::sleep(Duration::from_millis(round * 3));
        for (token, handle) in jobs {
            let stored = runtime.block_on(async {
                tokio::time::timeout(GUARD, handle.cancel_stored()).await.expect("the cluster answers")
            });
            *counts.entry(format!("{stored:?}")).or_default() += 1;
            if stored == StoredEnd::NeverRan {
                assert_eq!(scene.books.starts(token), 0);
                never_ran.push(token);
            }
        }
    }
    eventually("nothing is left", || scene.servers.messages("OFFLOOP1_default_JOBS") == Some(0));
    let record = scene.books.read();
    assert!(never_ran.iter().all(|token| !record.contains_key(token)), "what never ran never runs");
    assert!(counts.len() > 1, "{counts:?}");
}

#[test]
#[ignore = "it takes half a minute"]
fn pull_survives_20_restarts() {
    let Some(mut scene) = Scene::start(1, 1) else { return };
    for _ in 0..20 {
        scene.servers.kill(0);
        scene.servers.restart(0);
        let (token, handle) = scene.nap(0, 0);
        assert_eq!(end(handle.into_handle()).unwrap(), token);
    }
}
