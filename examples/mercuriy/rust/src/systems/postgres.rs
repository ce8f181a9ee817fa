//! PostgreSQL through its blocking driver.

use std::time::{Duration, Instant};

use postgres::{Client, NoTls};
use serde_json::Value;
use tokio_postgres::Config;

use super::connection::{Call, CallError, Canceller, Connection};

/// The stored functions. Each takes its arguments as one JSON array.
pub(super) const FUNCTIONS: &str = "
    -- Another session that creates them at this moment waits.
    SELECT pg_advisory_xact_lock(51);

    CREATE SCHEMA IF NOT EXISTS mercuriy_rust;
    CREATE OR REPLACE FUNCTION mercuriy_rust.echo(args jsonb) RETURNS jsonb LANGUAGE sql AS $$
        SELECT args->0
    $$;
    CREATE OR REPLACE FUNCTION mercuriy_rust.add(args jsonb) RETURNS jsonb LANGUAGE sql AS $$
        SELECT to_jsonb((args->>0)::bigint + (args->>1)::bigint)
    $$;
    CREATE OR REPLACE FUNCTION mercuriy_rust.slow(args jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_sleep((args->>0)::numeric / 1000);
        RETURN args->0;
    END $$;
    CREATE OR REPLACE FUNCTION mercuriy_rust.fail(args jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION '%', args->>0;
    END $$;
    CREATE OR REPLACE FUNCTION mercuriy_rust.big(args jsonb) RETURNS jsonb LANGUAGE sql AS $$
        SELECT to_jsonb(repeat('x', (args->>0)::int))
    $$;
    CREATE OR REPLACE FUNCTION mercuriy_rust.running(args jsonb) RETURNS jsonb LANGUAGE sql AS $$
        SELECT to_jsonb(count(*)) FROM pg_stat_activity
        WHERE state = 'active' AND query LIKE 'SELECT mercuriy_rust.slow(%'
    $$;
";

/// The longest time that connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that was idle for longer is asked whether it is still there.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

/// Returns the settings of a connection, for both connectors.
pub(super) fn config(url: &str) -> Result<Config, postgres::Error> {
    let mut config: Config = url.parse()?;
    // Cancels connect as well, so they also need this limit.
    config.connect_timeout(CONNECT_TIMEOUT).application_name("mercuriy");
    if config.get_options().is_none() {
        // If a worker is killed, nobody asks the server to cancel. So it looks itself whether the client is there.
        config.options("-c client_connection_check_interval=500");
    }
    Ok(config)
}

/// Returns the statement that calls a function. Its parameter is a JSON array, as text.
pub(super) fn statement(call: &Call) -> String {
    format!("SELECT mercuriy_rust.{}($1::text::jsonb)::text", call.function.name())
}

/// Returns what an error of the driver means for the call.
#[allow(clippy::needless_pass_by_value, reason = "for `map_err`")]
pub(super) fn call_error(error: postgres::Error) -> CallError {
    match error.as_db_error() {
        // 57P01 and its neighbours: the server is being stopped. 57014: the query was cancelled.
        Some(db) if db.code().code() == "57014" => CallError::Cancelled,
        Some(db) if db.code().code().starts_with("57P") => CallError::Lost(db.message().to_owned()),
        Some(db) => CallError::Function(db.message().to_owned()),
        None => CallError::Lost(with_cause(&error)),
    }
}

/// Returns the error and what has caused it: the driver's own text names the kind alone.
pub(super) fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

pub(super) struct PostgresConnection {
    client: Client,
    used: Instant,
}

impl PostgresConnection {
    pub(super) fn open(url: &str) -> Result<Self, CallError> {
        let down = |error: postgres::Error| CallError::Down(with_cause(&error));
        let config = config(url).map_err(down)?;
        let mut client = postgres::Config::from(config).connect(NoTls).map_err(down)?;
        client.batch_execute(FUNCTIONS).map_err(down)?;
        Ok(Self { client, used: Instant::now() })
    }
}

impl Connection for PostgresConnection {
    fn call(&mut self, call: &Call) -> Result<Value, CallError> {
        let arguments = Value::from(call.arguments.clone()).to_string();
        let row = self.client.query_one(&statement(call), &[&arguments]).map_err(call_error)?;
        self.used = Instant::now();
        let text: &str = row.try_get(0).map_err(call_error)?;
        serde_json::from_str(text).map_err(|error| CallError::Function(error.to_string()))
    }

    fn canceller(&self) -> Result<Canceller, CallError> {
        let token = self.client.cancel_token();
        Ok(Box::new(move || {
            if let Err(error) = token.cancel_query(NoTls) {
                tracing::warn!(error = with_cause(&error), "the server could not be asked to cancel a query");
            }
        }))
    }

    fn is_lost(&mut self) -> bool {
        self.client.is_closed()
            || (self.used.elapsed() > TRUSTED_FOR && self.client.is_valid(CONNECT_TIMEOUT).is_err())
    }
}
