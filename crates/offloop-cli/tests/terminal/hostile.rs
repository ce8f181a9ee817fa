//! Programs that answer with anything else than a document.

use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;

use crate::support::{Runtime, text};

/// Answers each request at a socket, which is that of process 1, in a thread of its own.
fn serve(runtime: &Runtime, answer: impl Fn(UnixStream) + Send + Sync + 'static) -> String {
    std::fs::DirBuilder::new().mode(0o700).create(runtime.sockets()).unwrap();
    let path = runtime.socket(1);
    let listener = UnixListener::bind(&path).unwrap();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let answer = answer.clone();
            thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                answer(stream);
            });
        }
    });
    path.display().to_string()
}

fn respond(mut stream: &UnixStream, body: &str) {
    let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
}

/// Returns what the command says about a program that cannot be shown.
fn complaint(answer: impl Fn(UnixStream) + Send + Sync + 'static) -> String {
    let runtime = Runtime::new();
    let socket = serve(&runtime, answer);
    let output = runtime.output(&["top", "--once", &socket]);
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(!error.contains('\x1b') && error.len() < 2000, "{error:?}");
    error
}

#[test]
fn a_program_that_never_answers_is_not_waited_for() {
    let error = complaint(|stream| {
        thread::park();
        drop(stream);
    });
    assert!(error.contains("no answer in time"), "{error}");
}

#[test]
fn a_program_that_answers_byte_by_byte_is_not_waited_for() {
    let error = complaint(|mut stream| {
        for byte in b"HTTP/1.1 200 OK\r\nX: ".iter().chain(std::iter::repeat(&b'x')) {
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
            thread::sleep(std::time::Duration::from_millis(50));
        }
    });
    assert!(error.contains("no answer in time"), "{error}");
}

#[test]
fn an_answer_without_end_is_not_kept() {
    let error = complaint(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n[");
        while stream.write_all(&[b' '; 8192]).is_ok() {}
    });
    assert!(error.contains("larger than 16M"), "{error}");
}

#[test]
fn an_answer_that_is_no_document_is_a_sentence() {
    for body in ["<html>\x1b[31m", "", "[1, 2", &"[".repeat(200_000), r#"{"processes": 7}"#, "\u{feff}{}"] {
        let body = body.to_owned();
        let error = complaint(move |stream| respond(&stream, &body));
        assert!(error.contains("no document of offloop"), "{error}");
    }
}

#[test]
fn an_answer_that_is_no_http_is_a_sentence() {
    let error = complaint(|mut stream| drop(stream.write_all(b"220 mail.example ESMTP \x1b[2J\r\n")));
    assert!(error.contains("the connection failed"), "{error}");
}

#[test]
fn names_that_steer_a_terminal_are_printed_without_what_steers() {
    let document = r#"{"pid": 1, "service": "\u001b]0;owned\u0007\u202eevil", "command": ["\u009b2J"]}"#;
    let snapshot = format!(
        r#"{{"process": {document}, "pools": [{{"name": "p\r\np", "jobs": [{{"name": "j\u001b[31m"}}]}}]}}"#
    );
    let runtime = Runtime::new();
    let service = format!(r#"{{"processes": [{snapshot}]}}"#);
    // The one or the other field is known to the route.
    let both = format!("{},{}", &snapshot[..snapshot.len() - 1], &service[1..]);
    let socket = serve(&runtime, move |stream| respond(&stream, &both));
    for arguments in [["top", "--once", &socket], ["top", "--json", &socket]] {
        let output = runtime.output(&arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let printed = text(&output.stdout);
        assert!(printed.contains("]0;owned") && printed.contains("evil"), "{printed:?}");
        assert!(!printed.contains(['\x1b', '\u{7}', '\u{9b}', '\u{202e}', '\r']), "{printed:?}");
    }
}
