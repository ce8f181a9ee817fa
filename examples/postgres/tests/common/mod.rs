//! The real server that the tests share, and a connection to observe it.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this module")]

use std::collections::BTreeSet;
use std::io::Write;
use std::time::{Duration, Instant};

use offloop::Handle;
use offloop_example_postgres::{Database, FUNCTIONS};
use postgres::{Client, NoTls};

/// A test fails after this time without the expected event.
pub const TIMEOUT: Duration = Duration::from_secs(120);

/// A running server.
pub struct Server {
    url: String,
    observer: Client,
}

impl Server {
    /// Connects to the server and creates the stored functions. Returns `None` and reports a skipped test if there is
    /// no server.
    pub fn find() -> Option<Self> {
        let Ok(url) = std::env::var("OFFLOOP_POSTGRES_URL") else {
            skip("OFFLOOP_POSTGRES_URL is not set");
            return None;
        };
        let mut observer = Client::connect(&url, NoTls).unwrap();
        observer.batch_execute(FUNCTIONS).unwrap();
        Some(Self { url, observer })
    }

    /// Returns a database whose connections have this name on the server.
    pub fn database(&self, name: &str, connections: usize) -> Database {
        Database::new(&format!("{}?application_name={name}", self.url), connections).unwrap()
    }

    /// Returns the server's processes for the connections of that name.
    pub fn backends(&mut self, name: &str) -> BTreeSet<i32> {
        let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = $1";
        let rows = self.observer.query(sql, &[&name]).unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Returns the number of queries that contain `part` and run on connections of that name.
    pub fn running(&mut self, name: &str, part: &str) -> i64 {
        let sql = "SELECT count(*) FROM pg_stat_activity
                   WHERE application_name = $1 AND state = 'active' AND position($2 IN query) > 0";
        self.observer.query_one(sql, &[&name, &part]).unwrap().get(0)
    }

    /// Ends one of the server's processes, and so its connection.
    pub fn terminate(&mut self, backend: i32) {
        self.observer.execute("SELECT pg_terminate_backend($1, 60000)", &[&backend]).unwrap();
    }
}

/// Reports that the current test is skipped, and why.
pub fn skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    // Not with a macro: the harness hides what a passing test prints with one.
    std::io::stderr().write_all(format!("skipped: {test}: {reason}\n").as_bytes()).unwrap();
}

/// Returns the server's process for this connection.
pub fn backend(client: &mut Client) -> Result<i32, postgres::Error> {
    Ok(client.query_one("SELECT pg_backend_pid()", &[])?.get(0))
}

/// Waits for a call and returns its result. Fails if it does not end.
#[track_caller]
pub fn end<T: Send + 'static>(mut handle: Handle<T>) -> Result<T, offloop::Error> {
    handle.wait_timeout(TIMEOUT).expect("the call ends")
}

/// Waits until `holds` returns true.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < TIMEOUT, "did not happen within {TIMEOUT:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
