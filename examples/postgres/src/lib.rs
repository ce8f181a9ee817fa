//! Stored functions of PostgreSQL through its blocking driver, for an async program.
//!
//! The driver's `Client` is one connection, and each call on it blocks. [`Database`] gives each thread of a pool one
//! client, has a lost one replaced, and carries a cancel to the server, where it ends the query.

use std::error::Error;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use offloop::{
    BuildError, Handle, Report, StatePool, ThreadPool, discard_state, job, prepare, run_in_executor,
};
use postgres::{CancelToken, Client, Config, NoTls};

/// A database with some connections, each on a thread of its own.
///
/// A call returns a [`Handle`] at once. To drop or cancel it, or to let its timeout pass, ends the call here and its
/// query on the server.
#[derive(Debug, Clone)]
pub struct Database {
    pool: StatePool<Client>,
    config: Config,
}

impl Database {
    /// Connects when the calls come: `connections` at most, one for each call that runs.
    pub fn new(url: &str, connections: usize) -> Result<Self, Box<dyn Error>> {
        let mut config: Config = url.parse()?;
        // To a cancel, too, somebody has to listen.
        config.connect_timeout(Duration::from_secs(10));
        let (pool, config) = (pool(&config, connections)?, config);
        Ok(Self { pool, config })
    }

    /// Runs `work` with a connection. If that is lost meanwhile, the call fails; the next one gets a new one. Errors
    /// and figures call it by its `name`.
    pub fn call<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce(&mut Client) -> Result<T, postgres::Error> + Send + 'static,
    ) -> Handle<Result<T, postgres::Error>> {
        let job = move |client: &mut Client| tidy(client, |client| with_cancel(client, work));
        run_in_executor(&self.pool, prepare(job).name(name))
    }

    /// Runs `work`, which may run twice: once more on a new connection, if its own turns out to be lost, as all are
    /// that the server had before it was restarted.
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
        let job = move |client: &mut Client| tidy(client, twice);
        run_in_executor(&self.pool, prepare(job).name(name))
    }

    /// Takes no more calls, gives those under way until `drain`, cancels the rest, and closes the connections.
    pub fn shutdown(&self, drain: Duration) -> Handle<Report> {
        self.pool.shutdown(drain)
    }
}

fn pool(config: &Config, connections: usize) -> Result<StatePool<Client>, BuildError> {
    let config = config.clone();
    let builder = ThreadPool::builder().name("postgres").max_threads(connections);
    builder.build_with_state(move || config.connect(NoTls))
}

/// Says that the connection is not to be used again, if that is so.
fn tidy<T>(client: &mut Client, call: impl FnOnce(&mut Client) -> T) -> T {
    let result = call(client);
    // The server acts on a cancel some time after it was sent: on this connection, that may be in the next query.
    if client.is_closed() || job::is_cancelled() {
        discard_state();
    }
    result
}

/// Runs `work`; if its job is cancelled meanwhile, its query is cancelled on the server.
fn with_cancel<T>(
    client: &mut Client,
    work: impl FnOnce(&mut Client) -> Result<T, postgres::Error>,
) -> Result<T, postgres::Error> {
    let token = client.cancel_token();
    let (over, is_over) = mpsc::channel::<()>();
    let hook = job::on_cancel(move || cancel_until(&is_over, &token));
    let result = work(client);
    drop(over);
    drop(hook);
    result
}

/// Asks the server to cancel, and again as long as the query runs: it ignores what comes before the query does.
fn cancel_until(is_over: &mpsc::Receiver<()>, token: &CancelToken) {
    loop {
        if let Err(error) = token.cancel_query(NoTls) {
            eprintln!("the server was not told to cancel a query: {error}");
        }
        match is_over.recv_timeout(Duration::from_millis(20)) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => break,
        }
    }
}

/// The stored functions that the example and its tests call.
pub const FUNCTIONS: &str = "
    -- Whoever else makes them at this moment waits.
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

/// `offloop_double`, as a blocking call.
pub fn double(client: &mut Client, value: i64) -> Result<i64, postgres::Error> {
    Ok(client.query_one("SELECT offloop_double($1)", &[&value])?.get(0))
}
