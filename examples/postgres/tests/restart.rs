//! The server restarts during calls. This test is alone in its binary, because a restart would make other tests fail.

mod common;

use std::collections::BTreeSet;
use std::process::Command;

use common::{Server, backend, end, eventually, skip};
use offloop::Handle;
use offloop_example_postgres::Database;

fn backends(database: &Database) -> BTreeSet<i32> {
    let call = || {
        database.call_repeatable("backend", |client| {
            client.execute("SELECT offloop_double(1)", &[])?;
            backend(client)
        })
    };
    let calls: Vec<Handle<_>> = (0..12).map(|_| call()).collect();
    calls.into_iter().map(|call| end(call).unwrap().unwrap()).collect()
}

#[test]
fn after_a_restart_all_workers_open_new_connections() {
    let Some(mut server) = Server::find() else { return };
    let Ok(restart) = std::env::var("OFFLOOP_POSTGRES_RESTART") else {
        return skip("OFFLOOP_POSTGRES_RESTART is not set");
    };
    let database = server.database("restarted", 4);
    let before = backends(&database);
    let stall = database.call("offloop_stall", |client| client.execute("SELECT offloop_stall('f')", &[]));
    eventually("the query runs", || server.running("restarted", "offloop_stall") == 1);

    assert!(Command::new("sh").args(["-c", &restart]).status().unwrap().success());

    let error = end(stall).unwrap().unwrap_err();
    assert!(error.is_closed() || error.code().is_some(), "{error:?}");
    let after = backends(&database);
    assert!(before.is_disjoint(&after), "{before:?} {after:?}");
    assert!(after.len() <= 4);
}
