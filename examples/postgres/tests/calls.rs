//! Calls of stored functions, checked in the server's own view of its sessions.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{Server, backend, end, eventually};
use offloop::ErrorKind;
use offloop_example_postgres::{Database, double};
use postgres::error::SqlState;

#[test]
fn each_worker_has_one_connection_and_keeps_it() {
    let Some(mut server) = Server::find() else { return };
    let database = server.database("one_each", 4);
    let call =
        |value| database.call("offloop_double", move |client| Ok((double(client, value)?, backend(client)?)));
    let calls: Vec<_> = (0..200).map(|value| (value, call(value))).collect();
    let mut seen = BTreeSet::new();
    for (value, handle) in calls {
        let (doubled, backend) = end(handle).unwrap().unwrap();
        assert_eq!(doubled, 2 * value);
        seen.insert(backend);
    }
    assert_eq!(seen.len(), 4);
    assert_eq!(server.backends("one_each"), seen);
}

#[test]
fn the_event_loop_keeps_running_while_200_calls_wait() {
    let Some(server) = Server::find() else { return };
    let database = server.database("turning", 20);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let turns = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&turns);
    runtime.block_on(async {
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let call = |value| database.call("offloop_double", move |client| double(client, value));
        let calls: Vec<_> = (0..200).map(call).collect();
        for call in calls {
            call.await.unwrap().unwrap();
        }
    });
    // The calls take half a second together. Calls that blocked the loop would let the other task run once per call.
    let turns = turns.load(Ordering::Relaxed);
    assert!(turns >= 10, "the other task ran {turns} times");
}

#[test]
fn a_cancelled_call_ends_on_the_server() {
    let Some(mut server) = Server::find() else { return };
    let database = server.database("cancelled", 1);
    let stall = database.call("offloop_stall", |client| client.execute("SELECT offloop_stall('a')", &[]));
    eventually("the query runs", || server.running("cancelled", "offloop_stall") == 1);
    assert!(stall.cancel());
    eventually("the query is gone", || server.running("cancelled", "offloop_stall") == 0);
    let doubled = end(database.call("offloop_double", |client| double(client, 21)));
    assert_eq!(doubled.unwrap().unwrap(), 42);
}

#[test]
fn a_call_that_times_out_ends_on_the_server() {
    let Some(mut server) = Server::find() else { return };
    let database = server.database("overdue", 1);
    let stall = database.call("offloop_stall", |client| client.execute("SELECT offloop_stall('b')", &[]));
    eventually("the query runs", || server.running("overdue", "offloop_stall") == 1);
    let error = end(stall.timeout(Duration::from_millis(10))).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::RunTimeout(_)), "{error:?}");
    assert_eq!(error.job_name(), "offloop_stall");
    eventually("the query is gone", || server.running("overdue", "offloop_stall") == 0);
}

#[test]
fn a_shutdown_cancels_the_query_on_the_server() {
    let Some(mut server) = Server::find() else { return };
    let database = server.database("shut_down", 1);
    let stall = database.call("offloop_stall", |client| client.execute("SELECT offloop_stall('c')", &[]));
    eventually("the query runs", || server.running("shut_down", "offloop_stall") == 1);
    let report = end(database.shutdown(Duration::ZERO)).unwrap();
    assert_eq!((report.cancelled, report.stuck.len()), (1, 0), "{report:?}");
    assert!(end(stall).unwrap_err().is_cancelled());
    eventually("its connection is closed", || server.backends("shut_down").is_empty());
}

/// Cancels come before the connection is open, before the query is sent, and while it runs. A query whose cancel is
/// missed would occupy the only connection for ten minutes.
#[test]
fn a_cancel_at_any_moment_is_not_missed() {
    let Some(mut server) = Server::find() else { return };
    let database = server.database("any_moment", 1);
    for round in 0..60 {
        let stall = database.call("offloop_stall", |client| client.execute("SELECT offloop_stall('d')", &[]));
        std::thread::sleep(Duration::from_micros(200) * round);
        drop(stall);
    }
    let doubled = end(database.call("offloop_double", |client| double(client, 21)));
    assert_eq!(doubled.unwrap().unwrap(), 42);
    assert_eq!(server.running("any_moment", "offloop_stall"), 0);
}

/// The server may act on the cancel late, and would then end the next query of the old connection.
#[test]
fn after_a_cancel_the_next_call_has_a_new_connection() {
    let Some(mut server) = Server::find() else { return };
    let database = server.database("next_call", 1);
    for _ in 0..5 {
        let before = end(database.call("backend", backend)).unwrap().unwrap();
        let stall = database.call("offloop_stall", |client| client.execute("SELECT offloop_stall('e')", &[]));
        eventually("the query runs", || server.running("next_call", "offloop_stall") == 1);
        drop(stall);
        let after = end(database.call("backend", backend)).unwrap().unwrap();
        assert_ne!(before, after);
    }
}

#[test]
fn an_error_of_the_function_reaches_the_caller_and_keeps_the_connection() {
    let Some(server) = Server::find() else { return };
    let database = server.database("failing", 1);
    let before = end(database.call("backend", backend)).unwrap().unwrap();
    let failed = end(database.call("offloop_fail", |client| client.execute("SELECT offloop_fail()", &[])));
    let error = failed.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::NO_DATA_FOUND), "{error:?}");
    assert_eq!(error.as_db_error().unwrap().message(), "no such customer");
    let after = end(database.call("backend", backend)).unwrap().unwrap();
    assert_eq!(before, after);
}

#[test]
fn a_lost_connection_fails_one_call_and_is_replaced() {
    let Some(mut server) = Server::find() else { return };
    let database = server.database("lost", 1);
    let before = end(database.call("backend", backend)).unwrap().unwrap();
    server.terminate(before);
    assert!(end(database.call("backend", backend)).unwrap().is_err());
    let after = end(database.call("backend", backend)).unwrap().unwrap();
    assert_ne!(before, after);
    server.terminate(after);
    let repeated = end(database.call_repeatable("backend", backend)).unwrap().unwrap();
    assert_ne!(after, repeated, "the call was not repeated on a new connection");
}

#[test]
fn each_call_fails_if_no_server_listens() {
    let database = Database::new("postgresql://nobody@127.0.0.1:1/nothing", 1).unwrap();
    for _ in 0..2 {
        let error = end(database.call("backend", backend)).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::WorkerState(_)), "{error:?}");
    }
}
