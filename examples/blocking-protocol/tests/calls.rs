//! Calls over real sockets, to the server and to servers that break the protocol.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use offloop::{ErrorKind, Handle};
use offloop_example_blocking_protocol::{CallError, Connector, Parameters, Server, parameters};

/// A test fails after this time without the expected event.
const TIMEOUT: Duration = Duration::from_secs(60);

#[track_caller]
fn end<T: Send + 'static>(mut handle: Handle<T>) -> Result<T, offloop::Error> {
    handle.wait_timeout(TIMEOUT).expect("the call ends")
}

#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < TIMEOUT, "did not happen within {TIMEOUT:?}: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn echo(connector: &Connector) -> Result<Result<Parameters, CallError>, offloop::Error> {
    end(connector.call("ECHO", parameters([("TEXT", "hello")])))
}

#[track_caller]
fn echoes(connector: &Connector) {
    assert_eq!(echo(connector).unwrap().unwrap(), parameters([("TEXT", "hello")]));
}

/// Starts a server that reads from each connection once, then calls `answer`.
fn broken_server(answer: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // Reads everything: closing a socket with unread bytes would discard the answer.
            assert!(stream.read(&mut [0; 1000]).unwrap() > 0);
            answer(stream);
        }
    });
    address
}

#[test]
fn the_event_loop_keeps_running_while_200_calls_wait() {
    let server = Server::start().unwrap();
    let connector = Connector::new(server.address(), 20).unwrap();
    let turns = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&turns);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let order = |quantity: u32| parameters([("QUANTITY", &quantity.to_string()), ("PRICE", "3")]);
        let calls: Vec<_> = (0..200).map(|n| (n, connector.call("ORDER_TOTAL", order(n)))).collect();
        for (quantity, call) in calls {
            assert_eq!(call.await.unwrap().unwrap()["TOTAL"], (3 * quantity).to_string());
        }
    });
    // The calls take half a second together.
    let turns = turns.load(Ordering::Relaxed);
    assert!(turns >= 10, "the other task ran {turns} times");
    assert!(server.accepted() <= 20, "20 workers opened {} connections", server.accepted());
}

#[test]
fn an_error_of_the_function_reaches_the_caller_and_keeps_the_connection() {
    let server = Server::start().unwrap();
    let connector = Connector::new(server.address(), 1).unwrap();
    for (function, sent, expected) in [
        ("NO_SUCH", Parameters::new(), "FUNCTION_NOT_FOUND"),
        ("ORDER_TOTAL", parameters([("QUANTITY", "2")]), "PARAMETER_MISSING"),
        ("ORDER_TOTAL", parameters([("QUANTITY", "two"), ("PRICE", "1")]), "PARAMETER_INVALID"),
    ] {
        let error = end(connector.call(function, sent)).unwrap().unwrap_err();
        let CallError::Function { key, .. } = error else { panic!("{error:?}") };
        assert_eq!(key, expected);
    }
    echoes(&connector);
    assert_eq!(server.accepted(), 1);
}

#[test]
fn a_cancelled_call_closes_its_connection_and_frees_its_worker() {
    let server = Server::start().unwrap();
    let connector = Connector::new(server.address(), 1).unwrap();
    let stall = connector.call("STALL", Parameters::new());
    eventually("the call runs", || server.running() == 1);
    drop(stall);
    eventually("the server sees it", || server.running() == 0);
    echoes(&connector);
    assert_eq!(server.accepted(), 2, "the worker did not open a new connection");
}

#[test]
fn a_call_that_times_out_closes_its_connection_and_frees_its_worker() {
    let server = Server::start().unwrap();
    let connector = Connector::new(server.address(), 1).unwrap();
    let stall = connector.call("STALL", Parameters::new());
    eventually("the call runs", || server.running() == 1);
    let error = end(stall.timeout(Duration::from_millis(10))).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::RunTimeout(_)), "{error:?}");
    assert_eq!(error.job_name(), "STALL");
    eventually("the server sees it", || server.running() == 0);
    echoes(&connector);
}

#[test]
fn a_cancel_at_any_moment_is_not_missed() {
    let server = Server::start().unwrap();
    let connector = Connector::new(server.address(), 1).unwrap();
    for round in 0..200 {
        let stall = connector.call("STALL", Parameters::new());
        thread::sleep(Duration::from_micros(5) * round);
        drop(stall);
    }
    echoes(&connector);
    eventually("the server sees every cancel", || server.running() == 0);
}

/// Not even if it comes at the same time as the answer.
#[test]
fn a_cancel_does_not_affect_the_next_call() {
    let server = Server::start().unwrap();
    let connector = Connector::new(server.address(), 1).unwrap();
    for round in 0..4000 {
        let call = connector.call("ECHO", Parameters::new());
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_micros(round % 250) {
            thread::yield_now();
        }
        call.cancel();
        echoes(&connector);
    }
}

#[test]
fn a_lost_connection_fails_one_call_and_is_replaced() {
    let server = Server::start().unwrap();
    let connector = Connector::new(server.address(), 1).unwrap();
    echoes(&connector);
    server.hang_up();
    let error = echo(&connector).unwrap().unwrap_err();
    assert!(matches!(error, CallError::Lost(_)), "{error:?}");
    echoes(&connector);
    // The same while a call waits for its answer.
    let stall = connector.call("STALL", Parameters::new());
    eventually("the call runs", || server.running() == 1);
    server.hang_up();
    assert!(matches!(end(stall).unwrap(), Err(CallError::Lost(_))));
    echoes(&connector);
}

#[test]
fn each_call_fails_if_no_server_listens() {
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let connector = Connector::new(nobody, 1).unwrap();
    for _ in 0..2 {
        let error = echo(&connector).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::WorkerState(_)), "{error:?}");
    }
}

#[test]
fn garbage_is_an_error_and_the_next_call_does_not_read_it() {
    const GARBAGE: [&[u8]; 5] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n", // a size of a gigabyte
        b"\0\0\0\0",
        b"\0\0\0\x01X",
        b"\0\0\0\x06R\0\0\0\x09a", // a text longer than its frame
        b"\0\0\0\x06R\0\0\0\x01a", // a name without a value
    ];
    for garbage in GARBAGE {
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let address = broken_server(move |mut stream| {
            count.fetch_add(1, Ordering::SeqCst);
            stream.write_all(garbage).unwrap();
        });
        let connector = Connector::new(address, 1).unwrap();
        for connection in 1..=2 {
            let error = echo(&connector).unwrap().unwrap_err();
            assert!(matches!(error, CallError::Protocol(_)), "{garbage:?}: {error:?}");
            assert_eq!(connections.load(Ordering::SeqCst), connection);
        }
    }
}

#[test]
fn a_server_that_ends_within_its_answer_is_a_lost_connection() {
    let address = broken_server(|mut stream| stream.write_all(b"\0\0\0\x64R\0\0").unwrap());
    let error = echo(&Connector::new(address, 1).unwrap()).unwrap().unwrap_err();
    assert!(matches!(error, CallError::Lost(_)), "{error:?}");
}

#[test]
fn a_message_that_is_too_large_is_not_sent() {
    let server = Server::start().unwrap();
    let connector = Connector::new(server.address(), 1).unwrap();
    let large = "x".repeat(2 << 20);
    let error = end(connector.call("ECHO", parameters([("TEXT", &large)]))).unwrap().unwrap_err();
    assert!(matches!(error, CallError::Protocol(_)), "{error:?}");
    echoes(&connector);
}
