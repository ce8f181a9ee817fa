//! Stored functions of PostgreSQL through its blocking driver, for an async program.
//!
//! The driver's `Client` is one connection, and each call on it blocks. [`Database`] gives each thread of a pool one
//! client, replaces a lost one, and sends each cancel to the server, where it ends the query.

use std::error::Error;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use offloop::{BuildError, Handle, ShutdownReport, StatePool, ThreadPool, job, prepare, run_in_executor};
use postgres::{CancelToken, Client, Config, NoTls};

/// A database with several connections, each on a thread of its own.
///
/// A call returns a [`Handle`] at once. If that is dropped or cancelled, or if its timeout passes, the call ends here
/// and its query ends on the server.
#[derive(Debug, Clone)]
pub struct Database {
    pool: StatePool<Client>,
    config: Config,
}

impl Database {
    /// Prepares at most `connections` connections. Each is opened when the first call needs it.
    pub fn new(url: &str, connections: usize) -> Result<Self, Box<dyn Error>> {
        let mut config: Config = url.parse()?;
        // Cancels connect as well, so they also need this limit.
        config.connect_timeout(Duration::from_secs(10));
        let (pool, config) = (pool(&config, connections)?, config);
        Ok(Self { pool, config })
    }

    /// Runs `work` with a connection. If the connection is lost meanwhile, this call fails, and the next one gets a new
    /// connection. Errors and metrics contain the `name`.
    pub fn call<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce(&mut Client) -> Result<T, postgres::Error> + Send + 'static,
    ) -> Handle<Result<T, postgres::Error>> {
        let job = move |client: &mut Client| discard_if_unusable(client, |client| with_cancel(client, work));
        run_in_executor(&self.pool, prepare(job).name(name))
    }

    /// Runs `work`, and runs it again on a new connection if its own turns out to be lost. After a restart of the
    /// server, all connections are lost.
    pub fn call_repeatable<T: Send + 'static>(
        &self,
        name: &'static str,
        mut work: impl FnMut(&mut Client) -> Result<T, postgres::Error> + Send + 'static,
    ) -> Handle<Result<T, postgres::Error>> {
        let config = self.config.clone();
        let twice = move |client: &mut Client| match with_cancel(client, &mut work) {
            Err(_) if client.is_closed() && !job::is_cancelled() => {
                *client = config.connect(NoTls)?;
                with_cancel(client, work)
            }
            result => result,
        };
        let job = move |client: &mut Client| discard_if_unusable(client, twice);
        run_in_executor(&self.pool, prepare(job).name(name))
    }

    /// Refuses new calls, waits for the others for the time `drain`, cancels the rest, and closes the connections.
    pub fn shutdown(&self, drain: Duration) -> Handle<ShutdownReport> {
        self.pool.shutdown(drain)
    }
}

fn pool(config: &Config, connections: usize) -> Result<StatePool<Client>, BuildError> {
    let config = config.clone();
    let builder = ThreadPool::builder().name("postgres").max_workers(connections);
    builder.build_with_worker_state(move || config.connect(NoTls))
}

/// Runs `call`, then discards the connection if it must not be used again.
fn discard_if_unusable<T>(client: &mut Client, call: impl FnOnce(&mut Client) -> T) -> T {
    let result = call(client);
    // The server may act on a cancel so late that it would end the next query of this connection.
    if client.is_closed() || job::is_cancelled() {
        job::discard_worker_state();
    }
    result
}

/// Runs `work`, and cancels its query on the server if the job is cancelled meanwhile.
fn with_cancel<T>(
    client: &mut Client,
    work: impl FnOnce(&mut Client) -> Result<T, postgres::Error>,
) -> Result<T, postgres::Error> {
    let token = client.cancel_token();
    let (end, ended) = mpsc::channel::<()>();
    let hook = job::on_cancel(move || cancel_until(&ended, &token));
    let result = work(client);
    drop(end);
    drop(hook);
    result
}

/// Asks the server to cancel until the query has ended. Once is not enough: the server ignores a cancel that comes
/// before the query.
fn cancel_until(ended: &mpsc::Receiver<()>, token: &CancelToken) {
    loop {
        if let Err(error) = token.cancel_query(NoTls) {
            eprintln!("the server could not be asked to cancel a query: {error}");
        }
        match ended.recv_timeout(Duration::from_millis(20)) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => break,
        }
    }
}

/// The stored functions that the example and its tests call.
pub const FUNCTIONS: &str = "
    -- Another session that creates them at this moment waits.
    SELECT pg_advisory_xact_lock(5);

    -- Takes 50 ms.
    CREATE OR REPLACE FUNCTION offloop_double(value bigint) RETURNS bigint LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_sleep(0.05);
        RETURN value * 2;
    END $$;

    -- Takes ten minutes.
    CREATE OR REPLACE FUNCTION offloop_stall(who text) RETURNS text LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_sleep(600);
        RETURN who;
    END $$;

    CREATE OR REPLACE FUNCTION offloop_fail() RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'no such customer' USING ERRCODE = 'P0002';
    END $$;
";

/// Calls `offloop_double`. Blocks.
pub fn double(client: &mut Client, value: i64) -> Result<i64, postgres::Error> {
    Ok(client.query_one("SELECT offloop_double($1)", &[&value])?.get(0))
}
