//! Promises of the live view: what a snapshot shows, and who may look at it by HTTP.

#![cfg(all(feature = "observe", target_os = "linux"))]
#![allow(missing_docs, reason = "a test crate has no users")]

mod common;
#[path = "observe_support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use common::{Gate, end, occupy};
use offloop::observe::document::{Snapshot, Stack};
use offloop::observe::{self, Handler, Peer, Reply, Request, Server};
use offloop::watch::{Monitor, StallPlace};
use offloop::{ErrorKind, JobState, ThreadPool, prepare};
use support::{Answer, GIVE_UP, ask, connect, eventually, get, pool_named, raw, read_answer};

/// Serves on a port of this machine, without a Unix socket, of which a process has one.
fn serve(set: impl FnOnce(observe::ServerBuilder) -> observe::ServerBuilder) -> (Server, SocketAddr) {
    let server = set(Server::builder().unix(false).http("127.0.0.1:0")).start().unwrap();
    let address = server.http_address().unwrap();
    (server, address)
}

fn plainly(builder: observe::ServerBuilder) -> observe::ServerBuilder {
    builder
}

fn pool(name: &'static str) -> ThreadPool {
    ThreadPool::builder().name(name).max_workers(1).queue_capacity(50).build().unwrap()
}

#[test]
fn a_snapshot_shows_the_job_that_runs_and_those_that_wait() {
    let pool = pool("shown");
    let gate = Gate::new();
    let pass = gate.clone();
    let work = prepare(move || pass.pass()).name("report").request("r-7").run_timeout(GIVE_UP * 2);
    let running = pool.run(work);
    eventually("the job runs", || running.state() == JobState::Running);
    let queued = pool.run(|| ());
    std::thread::sleep(Duration::from_millis(20));

    let snapshot = observe::snapshot();
    assert_eq!(snapshot.version, observe::document::VERSION);
    assert_eq!(snapshot.process.pid, std::process::id());
    assert!(snapshot.process.rss.unwrap() > 100_000 && snapshot.process.threads.unwrap() >= 2);
    assert!(snapshot.process.started <= snapshot.time && snapshot.process.started > snapshot.time - 3600.0);
    let shown = pool_named(&snapshot, "shown");
    assert_eq!((shown.kind.as_str(), shown.queued, shown.capacity), ("threads", 1, Some(50)));
    assert_eq!((shown.running, shown.max_workers), (1, 1));
    assert!(shown.oldest_queued.unwrap() >= 0.02);
    assert_eq!(shown.workers_by_state["busy"], 1);
    let [job] = shown.jobs.as_slice() else { panic!("{:?}", shown.jobs) };
    assert_eq!((job.id.to_string(), job.name.as_deref()), (running.id().to_string(), Some("report")));
    assert_eq!((job.request.as_deref(), job.pid, job.is_cancelled), (Some("r-7"), None, false));
    assert!(job.running >= 0.02 && job.time_left.unwrap() > GIVE_UP.as_secs_f64());
    let [worker] = shown.workers.as_slice() else { panic!("{:?}", shown.workers) };
    assert_eq!((worker.thread, worker.state.as_str()), (job.thread, "busy"));
    assert!(std::path::Path::new(&format!("/proc/self/task/{}", job.thread.unwrap())).exists());

    gate.open();
    end(running).unwrap();
    end(queued).unwrap();
    let snapshot = observe::snapshot();
    let shown = pool_named(&snapshot, "shown");
    assert_eq!((shown.queued, shown.oldest_queued, shown.outcomes["completed"]), (0, None, 2));
    assert_eq!(shown.run_time.total.count, 2);
    assert!(shown.run_time.total.max.unwrap() >= 0.02);
    assert_eq!(shown.run_time.buckets.iter().map(|(_, count)| count).sum::<u64>(), 2);
}

#[test]
fn a_pool_that_has_ended_is_shown_no_more_and_ids_are_not_used_again() {
    let first = pool("ends");
    let id = pool_named(&observe::snapshot(), "ends").id;
    drop(first);
    eventually("the pool has gone", || observe::snapshot().pools.iter().all(|pool| pool.name != "ends"));
    let _second = pool("ends");
    assert_ne!(pool_named(&observe::snapshot(), "ends").id, id);
}

#[test]
fn rates_and_the_last_minute_come_with_the_second_look() {
    let pool = pool("rates");
    end(pool.run(|| ())).unwrap();
    observe::snapshot();
    for _ in 0..50 {
        end(pool.run(|| std::thread::sleep(Duration::from_millis(1)))).unwrap();
    }
    eventually("it is compared with an earlier look", || {
        let snapshot = observe::snapshot();
        let shown = pool_named(&snapshot, "rates");
        let rate = shown.outcomes_per_second.get("completed").copied().unwrap_or_default();
        rate > 0.0 && shown.run_time.recent.count >= 50
    });
    let snapshot = observe::snapshot();
    assert!(snapshot.process.cores_used.is_some() && snapshot.starvation.seconds > 0.0);
    let recent = &pool_named(&snapshot, "rates").run_time.recent;
    assert!(recent.p50.unwrap() >= 0.000_5 && recent.p99 >= recent.p50 && recent.seconds > 0.0, "{recent:?}");
}

#[test]
fn a_worker_whose_job_waits_for_another_is_blocked() {
    let pool = pool("nested");
    let gate = Gate::new();
    let (inner, pass) = (pool.clone(), gate.clone());
    let outer = pool.run(move || inner.run(move || pass.pass()).wait());
    eventually("one is blocked and one is busy", || {
        let snapshot = observe::snapshot();
        let shown = pool_named(&snapshot, "nested");
        let states: Vec<_> = shown.workers.iter().map(|worker| worker.state.as_str()).collect();
        shown.workers_by_state["blocked"] == 1 && states.contains(&"blocked") && states.contains(&"busy")
    });
    gate.open();
    end(outer).unwrap().unwrap();
}

#[test]
fn a_reader_of_another_build_reads_what_it_knows() {
    let mut json: serde_json::Value = serde_json::from_str(&observe::snapshot().to_json()).unwrap();
    json["of_a_newer_build"] = serde_json::json!({ "a": [1] });
    json["process"].as_object_mut().unwrap().remove("cores").unwrap();
    let read: Snapshot = serde_json::from_value(json).unwrap();
    assert_eq!((read.process.pid, read.process.cores), (std::process::id(), 0));
}

#[test]
fn a_watched_loop_is_shown_with_its_lateness_its_stalls_and_their_places() {
    let monitor = Monitor::new(Duration::from_millis(20)).name("main loop").kind("asyncio");
    let (pulse, guard) = monitor.start(|_| ()).unwrap();
    for _ in 0..5 {
        pulse.beat();
        std::thread::sleep(pulse.interval());
    }
    pulse.beat();
    let shown = || observe::snapshot().loops.into_iter().find(|shown| shown.name == "main loop");
    eventually("the loop is late at this moment", || shown().unwrap().late_now > 0.03);
    eventually("its stall is counted while it lasts", || {
        let shown = shown().unwrap();
        shown.stalls == 1 && shown.stalled >= 0.02
    });
    let place = StallPlace::new("read_all").line("files.py", Some(12)).advice("read it in a thread");
    pulse.stalled_at(1, place.clone(), Duration::from_millis(60));
    pulse.stalled_at(1, place, Duration::from_millis(80));
    pulse.beat();
    eventually("the stall is over", || shown().unwrap().late_now < 0.02);
    let now = shown().unwrap();
    assert_eq!((now.kind.as_str(), now.threshold), ("asyncio", 0.02));
    assert!(now.lateness.total.count >= 6 && now.lateness.total.max.unwrap() > 0.03, "{:?}", now.lateness);
    let [place] = now.places.as_slice() else { panic!("{:?}", now.places) };
    assert_eq!(
        (place.function.as_str(), place.file.as_deref(), place.line),
        ("read_all", Some("files.py"), Some(12))
    );
    assert_eq!(
        (place.stalls, place.stalled, place.advice.as_deref()),
        (1, 0.08, Some("read it in a thread"))
    );
    drop(guard);
    assert_eq!(shown(), None, "the watch has ended");
}

/// A task that blocks its runtime is named with the line that spawned it.
#[cfg(feature = "tokio")]
#[test]
fn a_watched_runtime_is_shown_with_the_tasks_that_stall_it() {
    use offloop::watch::RuntimeWatchBuilder;

    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let builder = RuntimeWatchBuilder::new().threshold(Duration::from_millis(20)).name("the runtime");
    let watch = builder.start(runtime.handle()).unwrap();
    let shown = || observe::snapshot().loops.into_iter().find(|shown| shown.name == "the runtime");
    assert_eq!(shown().unwrap().kind, "tokio");
    let line = line!() + 1;
    let task = watch.spawn(async { std::thread::sleep(Duration::from_millis(150)) });
    watch.block_on(&runtime, async { task.await.unwrap() });
    eventually("the stall is over, and its place is known", || {
        let shown = shown().unwrap();
        let place = shown.places.iter().find(|place| place.line == Some(line));
        shown.stalls >= 1 && shown.stalled >= 0.05 && place.is_some_and(|place| place.longest >= 0.05)
    });
    drop(watch);
    assert_eq!(shown(), None);
}

#[test]
fn the_page_is_one_file_that_asks_nobody_else() {
    let (_server, address) = serve(plainly);
    let page = get(address, "/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'") && policy.contains("connect-src 'self'"), "{policy}");
    assert!(
        policy.contains("script-src 'sha256-") && policy.ends_with("; frame-ancestors 'self'"),
        "{policy}"
    );
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"), "the token is in its address");
    assert_eq!(page.header("cache-control"), Some("no-store"));
    for elsewhere in ["src=\"http", "href=\"http", "src=\"//", "url(http"] {
        assert!(!page.body.contains(elsewhere), "{elsewhere}");
    }
}

#[test]
fn each_route_answers_and_each_error_says_what_to_do() {
    let pool = pool("routes");
    end(pool.run(|| ())).unwrap();
    let _watch = Monitor::new(Duration::from_secs(1)).start(|_| ()).unwrap();
    let (_server, address) = serve(plainly);
    let snapshot: Snapshot = serde_json::from_str(&get(address, "/snapshot").body).unwrap();
    assert!(!snapshot.process.may_cancel);
    let service: observe::Service = serde_json::from_str(&get(address, "/service").body).unwrap();
    assert_eq!(service.processes[0].process.pid, std::process::id());
    let metrics = get(address, "/metrics");
    let lines = metrics.body.lines().map(|line| Ok(line.to_owned()));
    let samples = prometheus_parse::Scrape::parse(lines).unwrap().samples;
    let families = [
        "offloop_jobs_total",
        "offloop_oldest_queued_seconds",
        "offloop_queue_capacity_jobs",
        "offloop_loop_late_seconds",
    ];
    for name in families {
        assert!(samples.iter().any(|sample| sample.metric == name), "{name}");
    }
    let refused = [
        ("GET", "/nowhere", 404),
        ("POST", "/snapshot", 405),
        ("GET", "/jobs/1/2/cancel", 405),
        ("GET", "/jobs/x/2/stack", 404),
        ("GET", "/jobs/4194304/2/stack", 404),
        ("GET", "/../../etc/passwd", 404),
    ];
    for (method, target, status) in refused {
        let answer = ask(address, method, target, &[]);
        assert_eq!(answer.status, status, "{method} {target}");
        assert!(answer.error().len() > 20, "{}", answer.body);
    }
}

#[test]
fn events_follow_one_another_until_the_server_closes() {
    let (server, address) = serve(plainly);
    let mut stream = connect(address);
    write!(stream, "GET /events?every=0.2 HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().contains("200"));
    let mut data = lines.by_ref().filter_map(|line| line.strip_prefix("data: ").map(str::to_owned));
    let times: Vec<f64> = (0..3)
        .map(|_| {
            let service: observe::Service = serde_json::from_str(&data.next().unwrap()).unwrap();
            service.processes[0].time
        })
        .collect();
    assert!(times.is_sorted() && times[0] < times[2], "{times:?}");
    server.close();
    // One more may be on its way.
    assert!(data.count() <= 1, "the stream ends");
    TcpStream::connect(address).unwrap_err();
}

fn is_refused(answer: &Answer, status: u16) -> bool {
    answer.status == status && !answer.body.contains("processes") && answer.error().len() > 20
}

#[test]
fn without_a_token_a_page_of_another_site_sees_nothing() {
    let (_server, address) = serve(plainly);
    for target in ["/", "/snapshot", "/service", "/events", "/metrics", "/jobs/1/1/stack"] {
        // Its name leads here: DNS rebinding.
        let rebound = raw(address, &format!("GET {target} HTTP/1.1\r\nHost: evil.example\r\n\r\n"));
        assert!(is_refused(&rebound, 403), "{target}: {rebound:?}");
        let nameless = raw(address, &format!("GET {target} HTTP/1.1\r\n\r\n"));
        assert!(is_refused(&nameless, 403), "{target}: {nameless:?}");
        let proxied = ask(address, "GET", target, &["X-Forwarded-For: 10.1.2.3"]);
        assert!(is_refused(&proxied, 403), "{target}: {proxied:?}");
    }
}

#[test]
fn with_a_token_only_those_who_have_it_see_something() {
    let (_server, address) = serve(|builder| builder.token("s3cret"));
    for target in ["/", "/snapshot", "/events", "/metrics"] {
        assert!(is_refused(&get(address, target), 401), "{target}");
        assert!(is_refused(&get(address, &format!("{target}?token=s3cre")), 401), "{target}");
        assert!(
            is_refused(&ask(address, "GET", target, &["Authorization: Bearer s3crets"]), 401),
            "{target}"
        );
    }
    assert_eq!(get(address, "/snapshot?token=s3cret").status, 200);
    let by_name = "GET /snapshot HTTP/1.1\r\nHost: service.example\r\nAuthorization: Bearer s3cret\r\n\r\n";
    assert_eq!(raw(address, by_name).status, 200);
}

#[test]
fn an_address_that_others_reach_needs_a_token() {
    for address in ["0.0.0.0:0", "[::]:0"] {
        let error = Server::builder().unix(false).http(address).start().unwrap_err();
        assert!(error.to_string().contains("give a token"), "{error}");
    }
    let error = Server::builder().unix(false).http("nonsense").start().unwrap_err();
    assert!(
        error.to_string().contains("nonsense") && error.to_string().contains("127.0.0.1:8811"),
        "{error}"
    );
    let error = Server::builder().unix(false).start().unwrap_err();
    assert!(error.to_string().contains("way in"), "{error}");
    let (_server, taken) = serve(plainly);
    let error = Server::builder().unix(false).http(taken.to_string()).start().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    let server = Server::builder().unix(false).http("0.0.0.0:0").token("s3cret").start().unwrap();
    assert!(server.http_address().is_some());
}

#[test]
fn a_job_is_cancelled_from_the_view_only_if_the_program_allows_it() {
    let pool = pool("cancelled from outside");
    let gate = Gate::new();
    let pass = gate.clone();
    let stopped = pool.run(move || {
        pass.pass();
        offloop::job::is_cancelled()
    });
    eventually("the job runs", || stopped.state() == JobState::Running);
    let target = format!("/jobs/{}/{}/cancel", std::process::id(), stopped.id());

    let (_closed, address) = serve(plainly);
    assert!(is_refused(&ask(address, "POST", &target, &["X-Offloop: 1"]), 403));
    let (_open, address) = serve(|builder| builder.allow_cancel(true));
    let snapshot: Snapshot = serde_json::from_str(&get(address, "/snapshot").body).unwrap();
    assert!(snapshot.process.may_cancel);
    // What a form on another site's page can send.
    let form = ["Content-Type: application/x-www-form-urlencoded", "Content-Length: 0"];
    assert!(is_refused(&ask(address, "POST", &target, &form), 403));
    assert_eq!(stopped.state(), JobState::Running);

    let answer = ask(address, "POST", &target, &["X-Offloop: 1", "Content-Length: 2"]);
    assert_eq!(answer.status, 408, "its body does not come");
    let answer = ask(address, "POST", &target, &["X-Offloop: 1"]);
    assert_eq!((answer.status, answer.body.as_str()), (202, "{\"cancelled\":true}"));
    assert!(matches!(end(stopped).map_err(offloop::Error::into_kind), Err(ErrorKind::Cancelled)));
    eventually("it is shown as cancelled until it returns", || {
        pool_named(&observe::snapshot(), "cancelled from outside").jobs.iter().all(|job| job.is_cancelled)
    });
    assert!(is_refused(&ask(address, "POST", &target, &["X-Offloop: 1"]), 404));
    gate.open();
}

#[test]
fn the_stack_of_a_job_is_shown_or_the_reason_why_there_is_none() {
    let pool = pool("stuck");
    let (gate, job) = occupy(&pool);
    let (_server, address) = serve(plainly);
    let target = format!("/jobs/{}/{}/stack", std::process::id(), job.id());
    let stack: Stack = serde_json::from_str(&get(address, &target).body).unwrap();
    assert!(stack.thread.starts_with("thread stuck-1 ("), "{stack:?}");
    if cfg!(all(feature = "watch-stacks", target_arch = "x86_64")) && !stack.frames.is_empty() {
        assert!(stack.frames.iter().any(|frame| frame.function.contains("pass")), "{stack:?}");
    } else {
        assert!(stack.note.as_deref().unwrap().contains("waits"), "{stack:?}");
    }
    gate.open();
    end(job).unwrap();
    assert!(is_refused(&get(address, &target), 404));
}

#[test]
fn hostile_requests_get_a_status_and_the_server_goes_on() {
    let (_server, address) = serve(plainly);
    let long = "a".repeat(20_000);
    let hostile = [
        ("\u{16}\u{3}\u{1}\u{2}\r\n\r\n".to_owned(), 400),
        ("GET http://127.0.0.1/snapshot HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/9.9\r\nHost: localhost\r\n\r\n".to_owned(), 400),
        (format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nHost: localhost\r\nA: {long}\r\n\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "A: b\r\n".repeat(100)), 431),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n".to_owned(), 413),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(), 411),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n".to_owned(), 403),
    ];
    for (text, status) in hostile {
        let answer = raw(address, &text);
        assert!(is_refused(&answer, status), "{}: {answer:?}", &text[..text.len().min(60)]);
    }
    assert_eq!(get(address, "/snapshot").status, 200);
}

#[test]
fn a_client_that_sends_half_a_request_keeps_nobody_waiting_and_is_let_go() {
    let (_server, address) = serve(plainly);
    let mut half = connect(address);
    half.write_all(b"GET /snapshot HTT").unwrap();
    for _ in 0..5 {
        assert_eq!(get(address, "/snapshot").status, 200);
    }
    assert_eq!(read_answer(half).map(|answer| answer.status), Some(408));
}

#[test]
fn a_client_that_takes_no_events_is_dropped() {
    let pool = ThreadPool::builder().name("wide").max_workers(300).build().unwrap();
    let gate = Gate::new();
    // Long names make large events, which fill the socket's buffers soon.
    let jobs: Vec<_> = (0..200)
        .map(|number| {
            let pass = gate.clone();
            pool.run(prepare(move || pass.pass()).name(format!("{number}{}", "x".repeat(10_000))))
        })
        .collect();
    let (server, address) = serve(plainly);
    let mut stream = connect(address);
    write!(stream, "GET /events?every=0.2 HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let port = format!("{:04X}", stream.local_addr().unwrap().port());
    // The server's end is gone from the kernel's list, or no longer established.
    let is_established = || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        table.lines().skip(1).any(|line| {
            let mut words = line.split_whitespace().skip(1);
            let (_, remote, state) = (words.next(), words.next(), words.next());
            remote.is_some_and(|remote| remote.ends_with(&port)) && state == Some("01")
        })
    };
    assert!(is_established());
    eventually("the server lets it go", || !is_established());
    assert_eq!(get(address, "/snapshot").status, 200);
    drop(server);
    gate.open();
    for job in jobs {
        end(job).unwrap();
    }
}

#[test]
fn too_many_clients_are_told_to_come_back_and_those_who_do_are_served() {
    let (_server, address) = serve(plainly);
    let idle: Vec<TcpStream> = (0..32).map(|_| connect(address)).collect();
    let refused = read_answer(connect(address)).expect("it is told");
    assert!(is_refused(&refused, 503), "{refused:?}");
    drop(idle);
    eventually("there is room again", || get(address, "/snapshot").status == 200);
}

#[test]
fn a_handler_answers_without_a_server() {
    let handler = Handler::builder().token("s3cret").build();
    let ask = |peer, query: &str| {
        let request = Request { method: "GET", path: "/snapshot", query, headers: &[], peer };
        match handler.handle(&request) {
            Reply::Response(response) => response.status,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        (ask(Peer::Unknown, ""), ask(Peer::Unknown, "token=s3cret"), ask(Peer::Socket, "")),
        (401, 200, 200)
    );
    let request =
        Request { method: "GET", path: "events", query: "every=0.2", headers: &[], peer: Peer::Socket };
    let Reply::Events(mut events) = handler.handle(&request) else { panic!("no events") };
    assert_eq!(events.interval(), Duration::from_millis(200));
    let event = String::from_utf8(events.event()).unwrap();
    assert!(event.starts_with("retry: 2000\nevent: service\ndata: {") && event.ends_with("}\n\n"), "{event}");
}

/// The hooks of a binding are set once for the process, so all that is about them is in this test.
#[test]
fn a_binding_names_its_jobs_and_shows_their_stacks() {
    use offloop::embed::{Inspector, JobFrame, JobPlace, JobStack, set_inspector, set_program};

    struct Binding;

    impl Inspector for Binding {
        fn job_name(&self, place: &JobPlace<'_>) -> Option<String> {
            assert_ne!(place.name, "a call that confuses the binding");
            (place.name == "a call").then(|| "module.function".to_owned())
        }

        fn stack(&self, place: &JobPlace<'_>) -> Option<JobStack> {
            let frame = JobFrame::new("function", Some("module.py".to_owned()), Some(3));
            (place.name == "a call").then(|| JobStack::new(vec![frame]).note("it waits"))
        }
    }

    set_program("python", "module");
    assert!(set_inspector(Binding) && !set_inspector(Binding));
    let pool = ThreadPool::builder().name("bound").max_workers(2).build().unwrap();
    let gate = Gate::new();
    let jobs = ["a call", "a call that confuses the binding"].map(|name| {
        let pass = gate.clone();
        let job = pool.run(prepare(move || pass.pass()).name(name));
        eventually("the job runs", || job.state() == JobState::Running);
        job
    });
    let snapshot = observe::snapshot();
    assert_eq!(snapshot.process.language, "python");
    let mut names: Vec<_> =
        pool_named(&snapshot, "bound").jobs.iter().map(|job| job.name.clone().unwrap()).collect();
    names.sort();
    assert_eq!(
        names,
        ["a call that confuses the binding", "module.function"],
        "a panic of the binding harms nobody"
    );
    let (_server, address) = serve(plainly);
    let target = format!("/jobs/{}/{}/stack", std::process::id(), jobs[0].id());
    let stack: Stack = serde_json::from_str(&get(address, &target).body).unwrap();
    assert_eq!((stack.frames[0].function.as_str(), stack.frames[0].line), ("function", Some(3)));
    assert_eq!(stack.note.as_deref(), Some("it waits"));
    gate.open();
    for job in jobs {
        end(job).unwrap();
    }
}

#[test]
fn a_snapshot_holds_nobody_up() {
    let pool = ThreadPool::builder().name("busy").max_workers(2).build().unwrap();
    let begun = Instant::now();
    let looker = std::thread::spawn(move || {
        let mut looks = 0;
        while begun.elapsed() < Duration::from_millis(500) {
            observe::snapshot();
            looks += 1;
        }
        looks
    });
    let mut done = 0;
    while begun.elapsed() < Duration::from_millis(500) {
        end(pool.run(|| ())).unwrap();
        done += 1;
    }
    assert!(looker.join().unwrap() > 0 && done > 100, "{done} jobs");
}
