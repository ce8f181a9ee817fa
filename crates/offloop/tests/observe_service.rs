//! Promises of the live view between processes: programs find each other by their sockets, and nobody else finds them.

#![cfg(all(feature = "observe", target_os = "linux"))]
#![allow(missing_docs, reason = "a test crate has no users")]

#[path = "observe_support/mod.rs"]
mod support;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use offloop::observe::document::Stack;
use offloop::observe::{self, Server};
use offloop::{ThreadPool, prepare};
use support::{Place, Program, ask, ask_socket, eventually, get, pool_named, ready, service_at, snapshot_at};

/// A program that says nothing of the view: it runs a job until it is told to end.
#[test]
#[ignore = "it is the program of other tests"]
fn a_program_without_a_line() {
    let pool = ThreadPool::builder().name("work").max_workers(1).build().unwrap();
    let (send, receive) = std::sync::mpsc::channel::<()>();
    let job = pool.run(prepare(move || receive.recv().unwrap_or_default()).name("long"));
    eventually("the job runs", || job.state() == offloop::JobState::Running);
    ready(&job.id().to_string());
    drop(send);
    let _ = job.wait();
}

/// A program with the line, which allows jobs to be cancelled.
#[test]
#[ignore = "it is the program of other tests"]
fn a_program_with_a_line() {
    let service = std::env::var("TEST_SERVICE").unwrap();
    let server = Server::builder().service(service).http("127.0.0.1:0").allow_cancel(true).start().unwrap();
    let pool = ThreadPool::builder().name("work").max_workers(1).build().unwrap();
    let job = pool.run(
        prepare(|| {
            while !offloop::job::is_cancelled() {
                std::thread::yield_now();
            }
        })
        .name("long"),
    );
    eventually("the job runs", || job.state() == offloop::JobState::Running);
    ready(&format!("{} {}", job.id(), server.http_address().unwrap()));
    drop(server);
    drop(job);
}

/// A program that forks. The child lives until it is killed, for a minute at most.
#[test]
#[ignore = "it is the program of other tests"]
fn a_program_that_forks() {
    let server = Server::builder().service("forks").start().unwrap();
    // SAFETY: the child runs code of this library, which is made for it, and leaves by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: it takes a plain number.
        unsafe { libc::alarm(60) };
        assert!(server.socket_path().is_none() && server.http_address().is_none());
        if std::env::var_os("TEST_CHILD_SERVES").is_some() {
            let own = Server::builder().service("forks").start().unwrap();
            let _pool = ThreadPool::builder().name("of the child").build().unwrap();
            ready(&std::process::id().to_string());
            drop(own);
        }
        drop(server);
        loop {
            std::thread::park();
        }
    }
    if std::env::var_os("TEST_CHILD_SERVES").is_none() {
        ready(&child.to_string());
    } else {
        let _ = std::io::Read::read(&mut std::io::stdin(), &mut [0]);
    }
    drop(server);
}

/// A program that opens the view twice.
#[test]
#[ignore = "it is the program of other tests"]
fn a_program_that_is_served_already() {
    let _pool = ThreadPool::builder().build().unwrap();
    let first = Server::builder().service("mine").start().unwrap();
    let error = Server::builder().start().unwrap_err();
    assert!(error.to_string().contains("close that server first"), "{error}");
    drop(first);
    let second = Server::builder().service("mine").start().unwrap();
    assert!(second.socket_path().unwrap().exists());
    ready("");
}

fn with_variable(place: &Place) -> Program {
    place.start("a_program_without_a_line", &[("OFFLOOP_OBSERVE", "1"), ("OFFLOOP_SERVICE", "quiet")])
}

#[test]
fn a_program_that_knows_nothing_of_the_view_shows_itself_to_its_user() {
    let place = Place::new();
    let program = with_variable(&place);
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place.sockets()), 0o700, "only its user can enter");
    let snapshot = snapshot_at(&program.socket);
    assert_eq!((snapshot.process.pid, snapshot.process.service.as_str()), (program.pid(), "quiet"));
    assert_eq!(pool_named(&snapshot, "work").jobs[0].name.as_deref(), Some("long"));
    assert_eq!(ask_socket(&program.socket, "GET", "/").status, 200);
    program.end();
    assert!(place.names().is_empty(), "the socket goes with its program");
}

#[test]
fn without_the_variable_nothing_is_opened() {
    for value in ["", "0"] {
        let place = Place::new();
        let program = place.start("a_program_without_a_line", &[("OFFLOOP_OBSERVE", value)]);
        assert!(!place.sockets().exists());
        program.end();
    }
}

#[test]
fn a_variable_that_is_wrong_is_reported_and_the_program_goes_on() {
    let place = Place::new();
    for (value, expected) in [("0.0.0.0:1", "give a token"), ("nowhere", "127.0.0.1:8811")] {
        let mut command = place.command("a_program_without_a_line");
        command.env("OFFLOOP_OBSERVE", value).stdin(Stdio::null());
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.contains(expected), "{errors}");
    }
}

#[test]
fn the_variable_can_name_an_address_which_the_first_process_gets() {
    let place = Place::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let environment = [("OFFLOOP_OBSERVE", &*address.to_string()), ("OFFLOOP_SERVICE", "web")];
    let first = place.start("a_program_without_a_line", &environment);
    let second = place.start("a_program_without_a_line", &environment);
    let service: observe::Service = serde_json::from_str(&get(address, "/service").body).unwrap();
    let pids: Vec<_> = service.processes.iter().map(|process| process.process.pid).collect();
    assert_eq!(pids, [first.pid(), second.pid()]);
}

#[test]
fn what_is_left_of_a_killed_program_is_cleared_away_by_the_next_who_looks() {
    let place = Place::new();
    let killed = with_variable(&place);
    let path = killed.socket.clone();
    killed.kill();
    assert!(path.exists(), "nobody could remove it");
    let other = with_variable(&place);
    let service = service_at(&other.socket);
    assert_eq!((service.processes.len(), service.missing.len()), (1, 0));
    assert!(!path.exists());
}

#[test]
fn all_processes_of_one_service_are_in_one_view_and_no_others() {
    let place = Place::new();
    let one = place.start("a_program_with_a_line", &[("TEST_SERVICE", "web & more")]);
    let two = place.start("a_program_with_a_line", &[("TEST_SERVICE", "web & more")]);
    let other = place.start("a_program_with_a_line", &[("TEST_SERVICE", "other")]);
    for (asked, expected) in [(&one, [one.pid(), two.pid()]), (&two, [two.pid(), one.pid()])] {
        let service = service_at(&asked.socket);
        let pids: Vec<_> = service.processes.iter().map(|process| process.process.pid).collect();
        assert_eq!(pids, expected, "the one that is asked comes first");
        assert!(service.missing.is_empty(), "{:?}", service.missing);
    }
    assert_eq!(service_at(&other.socket).processes.len(), 1);

    // A request about a job of another process is passed on, within the service.
    let job = &two.words[0];
    let at_one = one.words[1].parse().unwrap();
    let stack = get(at_one, &format!("/jobs/{}/{job}/stack", two.pid()));
    let stack: Stack = serde_json::from_str(&stack.body).unwrap();
    assert!(stack.thread.starts_with("thread work-1"), "{stack:?}");
    let foreign = format!("/jobs/{}/{}/cancel", other.pid(), other.words[0]);
    assert_eq!(ask(at_one, "POST", &foreign, &["X-Offloop: 1"]).status, 404, "it is of another service");
    let target = format!("/jobs/{}/{job}/cancel", two.pid());
    assert_eq!(ask(at_one, "POST", &target, &["X-Offloop: 1"]).status, 202);
    eventually("the job of the other process ends", || {
        ask(at_one, "POST", &target, &["X-Offloop: 1"]).status == 404
    });
    assert_eq!(pool_named(&snapshot_at(&one.socket), "work").jobs.len(), 1, "its own goes on");
}

#[test]
fn a_process_that_does_not_answer_is_named_and_the_others_are_shown() {
    let place = Place::new();
    let (one, stopped) = (with_variable(&place), with_variable(&place));
    stopped.signal(libc::SIGSTOP);
    let service = service_at(&one.socket);
    assert_eq!(service.processes.len(), 1);
    let [missing] = service.missing.as_slice() else { panic!("{:?}", service.missing) };
    assert_eq!((missing.pid, missing.reason.as_str()), (stopped.pid(), "it has not answered in time"));
    stopped.signal(libc::SIGCONT);
    eventually("it is back", || service_at(&one.socket).processes.len() == 2);
}

#[test]
fn a_forked_child_does_not_serve_the_socket_of_its_parent() {
    let place = Place::new();
    let program = place.start("a_program_that_forks", &[]);
    let child: i32 = program.words[0].parse().unwrap();
    assert_eq!(snapshot_at(&program.socket).process.pid, program.pid());
    let path = program.socket.clone();
    program.kill();
    // SAFETY: it takes plain numbers, and the process is the child of a program that this test has started.
    assert_eq!(unsafe { libc::kill(child, 0) }, 0, "the child lives");
    let error = UnixStream::connect(path).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    // SAFETY: as above.
    unsafe { libc::kill(child, libc::SIGKILL) };
}

#[test]
fn a_forked_child_can_have_a_view_of_its_own() {
    let place = Place::new();
    let program = place.start("a_program_that_forks", &[("TEST_CHILD_SERVES", "1")]);
    let child: u32 = program.words[0].parse().unwrap();
    let service = service_at(&program.socket);
    let pids: Vec<_> = service.processes.iter().map(|process| process.process.pid).collect();
    assert_eq!(pids, [program.pid(), child]);
    assert!(service.processes[0].pools.is_empty());
    assert_eq!(service.processes[1].pools[0].name, "of the child");
    // SAFETY: it takes plain numbers, and the process is the child of a program that this test has started.
    unsafe { libc::kill(i32::try_from(child).unwrap(), libc::SIGKILL) };
}

#[test]
fn a_directory_that_others_could_enter_is_not_used() {
    let refuses = |place: &Place, expected: &str| {
        let mut command = place.command("a_program_without_a_line");
        let output = command.env("OFFLOOP_OBSERVE", "1").stdin(Stdio::null()).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.contains(expected), "{errors}");
        assert!(errors.contains("XDG_RUNTIME_DIR"), "it says what to do: {errors}");
    };
    let open = Place::new();
    std::fs::create_dir(open.sockets()).unwrap();
    std::fs::set_permissions(open.sockets(), std::fs::Permissions::from_mode(0o750)).unwrap();
    refuses(&open, "others may enter it");
    assert!(open.names().is_empty());

    let (linked, target) = (Place::new(), Place::new());
    std::fs::create_dir(target.sockets()).unwrap();
    std::os::unix::fs::symlink(target.sockets(), linked.sockets()).unwrap();
    refuses(&linked, "it is no directory");
    assert!(target.names().is_empty());

    let file = Place::new();
    std::fs::write(file.sockets(), "").unwrap();
    refuses(&file, "it is no directory");
}

#[test]
fn a_server_of_the_program_takes_the_socket_over_from_that_of_the_variable() {
    let place = Place::new();
    let program = place.start("a_program_that_is_served_already", &[("OFFLOOP_OBSERVE", "1")]);
    assert_eq!(snapshot_at(&program.socket).process.service, "mine");
    program.end();
    assert!(place.names().is_empty());
}

#[test]
fn one_who_sends_garbage_to_a_socket_harms_nobody() {
    let place = Place::new();
    let program = with_variable(&place);
    for garbage in [&b"\0\x01\x02\r\n\r\n"[..], b"", b"GET"] {
        let mut stream = UnixStream::connect(&program.socket).unwrap();
        stream.write_all(garbage).unwrap();
        drop(stream);
    }
    // A socket that speaks something else, and one that says nothing.
    let directory = place.sockets();
    let silent = std::os::unix::net::UnixListener::bind(directory.join("1.sock")).unwrap();
    let rude = std::os::unix::net::UnixListener::bind(directory.join("2.sock")).unwrap();
    std::thread::spawn(move || {
        for mut stream in rude.incoming().flatten() {
            let _ = stream.write_all(b"SSH-2.0-hello\r\n");
        }
    });
    let service = service_at(&program.socket);
    assert_eq!(service.processes.len(), 1);
    let missing: Vec<_> = service.missing.iter().map(|missing| missing.pid).collect();
    assert_eq!(missing, [1, 2]);
    drop(silent);
}
