//! Calls over real sockets, to the server and to servers that misbehave.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use offloop::{ErrorKind, Handle};
use offloop_example_blocking_protocol::{CallError, Connector, Parameters, Server, parameters};

/// When a test gives up on something that should have happened long ago.
const GIVE_UP: Duration = Duration::from_secs(60);

#[track_caller]
fn end<T: Send + 'static>(mut handle: Handle<T>) -> Result<T, offloop::Error> {
    handle.wait_timeout(GIVE_UP).expect("the call ends")
}

#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < GIVE_UP, "it never happened: {what}");
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

/// A server that does this with each connection, after it has read something.
fn misbehaving(answer: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // All that there is: to close a socket with something unread in it takes the answer back.
            assert!(stream.read(&mut [0; 1000]).unwrap() > 0);
            answer(stream);
        }
    });
    address
}

#[test]
fn the_loop_turns_while_200_calls_wait() {
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
    // They take half a second together.
    let turns = turns.load(Ordering::Relaxed);
    assert!(turns >= 10, "the loop came round {turns} times");
    assert!(server.accepted() <= 20, "{} connections of 20 workers", server.accepted());
}

#[test]
fn a_functions_error_is_its_callers_and_costs_no_connection() {
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
fn a_cancelled_call_hangs_up_and_frees_its_worker() {
    let server = Server::start().unwrap();
    let connector = Connector::new(server.address(), 1).unwrap();
    let stall = connector.call("STALL", Parameters::new());
    eventually("the call runs", || server.running() == 1);
    drop(stall);
    eventually("the server knows", || server.running() == 0);
    echoes(&connector);
    assert_eq!(server.accepted(), 2, "the worker did not connect anew");
}

#[test]
fn a_call_whose_time_is_up_hangs_up_and_frees_its_worker() {
    let server = Server::start().unwrap();
    let connector = Connector::new(server.address(), 1).unwrap();
    let stall = connector.call("STALL", Parameters::new());
    eventually("the call runs", || server.running() == 1);
    let error = end(stall.timeout(Duration::from_millis(10))).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::RunDeadline(_)), "{error:?}");
    assert_eq!(error.job_name(), "STALL");
    eventually("the server knows", || server.running() == 0);
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
    eventually("the server knows of all", || server.running() == 0);
}

/// Nor does one that comes with the answer.
#[test]
fn a_cancel_does_not_hit_the_next_call() {
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
fn a_lost_connection_costs_one_call_and_is_replaced() {
    let server = Server::start().unwrap();
    let connector = Connector::new(server.address(), 1).unwrap();
    echoes(&connector);
    server.hang_up();
    let error = echo(&connector).unwrap().unwrap_err();
    assert!(matches!(error, CallError::Lost(_)), "{error:?}");
    echoes(&connector);
    // And while a call waits for its answer.
    let stall = connector.call("STALL", Parameters::new());
    eventually("the call runs", || server.running() == 1);
    server.hang_up();
    assert!(matches!(end(stall).unwrap(), Err(CallError::Lost(_))));
    echoes(&connector);
}

#[test]
fn a_server_that_is_not_there_is_each_calls_error() {
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let connector = Connector::new(nobody, 1).unwrap();
    for _ in 0..2 {
        let error = echo(&connector).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::State(_)), "{error:?}");
    }
}

#[test]
fn garbage_is_an_error_and_not_what_the_next_call_reads() {
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
        let address = misbehaving(move |mut stream| {
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
fn a_server_that_dies_within_its_answer_is_a_lost_connection() {
    let address = misbehaving(|mut stream| stream.write_all(b"\0\0\0\x64R\0\0").unwrap());
    let error = echo(&Connector::new(address, 1).unwrap()).unwrap().unwrap_err();
    assert!(matches!(error, CallError::Lost(_)), "{error:?}");
}

#[test]
fn a_message_that_is_too_large_is_refused_here() {
    let server = Server::start().unwrap();
    let connector = Connector::new(server.address(), 1).unwrap();
    let large = "x".repeat(2 << 20);
    let error = end(connector.call("ECHO", parameters([("TEXT", &large)]))).unwrap().unwrap_err();
    assert!(matches!(error, CallError::Protocol(_)), "{error:?}");
    echoes(&connector);
}
