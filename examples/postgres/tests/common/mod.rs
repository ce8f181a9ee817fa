//! What the tests share: the real server, and a connection to watch it with.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this module")]

use std::collections::BTreeSet;
use std::io::Write;
use std::time::{Duration, Instant};

use offloop::Handle;
use offloop_example_postgres::{Database, FUNCTIONS};
use postgres::{Client, NoTls};

/// When a test gives up on something that should have happened long ago.
pub const GIVE_UP: Duration = Duration::from_secs(120);

/// A server that runs.
pub struct Server {
    url: String,
    observer: Client,
}

impl Server {
    /// Finds it, with the stored functions made. `None`, and a word about it, if there is none.
    pub fn find() -> Option<Self> {
        let Ok(url) = std::env::var("OFFLOOP_POSTGRES_URL") else {
            skip("no PostgreSQL in OFFLOOP_POSTGRES_URL");
            return None;
        };
        let mut observer = Client::connect(&url, NoTls).unwrap();
        observer.batch_execute(FUNCTIONS).unwrap();
        Some(Self { url, observer })
    }

    /// A database whose connections the server knows by `name`.
    pub fn database(&self, name: &str, connections: usize) -> Database {
        Database::new(&format!("{}?application_name={name}", self.url), connections).unwrap()
    }

    /// The server's processes for the connections of that name.
    pub fn backends(&mut self, name: &str) -> BTreeSet<i32> {
        let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = $1";
        let rows = self.observer.query(sql, &[&name]).unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// How many queries that contain `part` run on connections of that name.
    pub fn running(&mut self, name: &str, part: &str) -> i64 {
        let sql = "SELECT count(*) FROM pg_stat_activity
                   WHERE application_name = $1 AND state = 'active' AND position($2 IN query) > 0";
        self.observer.query_one(sql, &[&name, &part]).unwrap().get(0)
    }

    /// Ends one of the server's processes, and with it its connection.
    pub fn terminate(&mut self, backend: i32) {
        self.observer.execute("SELECT pg_terminate_backend($1, 60000)", &[&backend]).unwrap();
    }
}

/// Says which test is skipped, and why.
pub fn skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    // Not by a macro: the harness hides what a passing test prints.
    std::io::stderr().write_all(format!("skipped: {test}: {reason}\n").as_bytes()).unwrap();
}

/// The server's process for this connection.
pub fn backend(client: &mut Client) -> Result<i32, postgres::Error> {
    Ok(client.query_one("SELECT pg_backend_pid()", &[])?.get(0))
}

/// How a call ended; a failure if it does not.
#[track_caller]
pub fn end<T: Send + 'static>(mut handle: Handle<T>) -> Result<T, offloop::Error> {
    handle.wait_timeout(GIVE_UP).expect("the call ends")
}

/// Polls until `holds`.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < GIVE_UP, "it never happened: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
