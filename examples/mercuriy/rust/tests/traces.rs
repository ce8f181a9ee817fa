//! A trace goes on from the request into the worker process.

#![cfg(feature = "otlp")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// The trace of the request, as the client names it and as it travels to the collector.
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE: [u8; 16] =
    [0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47, 0x36];

/// The time after which something that must happen has not happened.
const PATIENCE: Duration = Duration::from_secs(100);

/// Starts a collector on a thread. Returns its address and what it is sent.
fn collector() -> (String, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it has one").to_string();
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let send = send.clone();
            thread::spawn(move || send.send(take(stream)));
        }
    });
    (address, receive)
}

/// Takes one request, and answers it. Returns its body.
fn take(stream: TcpStream) -> Vec<u8> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a head");
        if line.trim_end().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().expect("a number");
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").expect("it waits");
    body
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn a_trace_goes_on_in_the_worker_that_walks_a_document() {
    let (collector, sent) = collector();
    let mut service = Command::new(env!("CARGO_BIN_EXE_mercuriy"))
        .args(["--port", "0", "--otlp", &format!("http://{collector}")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    BufReader::new(service.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    let address = line.trim_end().rsplit('/').next().expect("an address").to_owned();
    let mut stream = TcpStream::connect(&address).expect("it listens");
    let request = format!(
        "POST /documents HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTraceparent: {TRACEPARENT}\r\n\
         Content-Length: 3\r\n\r\n[1]"
    );
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let mut missing = vec!["work", "request", "job"];
    while !missing.is_empty() {
        let batch = sent.recv_timeout(PATIENCE).expect("the spans are sent");
        if contains(&batch, &TRACE) {
            missing.retain(|name| !contains(&batch, name.as_bytes()));
        }
    }
    service.kill().expect("it is a child");
    service.wait().expect("it is a child");
}
