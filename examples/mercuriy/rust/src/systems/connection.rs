//! What a blocking connector has to offer, and the connectors that there are.

use std::io;
use std::net::TcpStream;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::catalog::Function;
use super::postgres::PostgresConnection;
use super::rfc::RfcConnection;
use super::sqlite::SqliteConnection;
use super::tarantool::TarantoolConnection;

/// One connection to a system. It serves one call at a time, and blocks meanwhile.
pub(super) trait Connection {
    /// Calls a function. Blocks until the server has answered.
    fn call(&mut self, call: &Call) -> Result<Value, CallError>;

    /// Returns what ends a call on the server, from another thread. It may block, and does nothing between calls.
    fn canceller(&self) -> Result<Canceller, CallError>;

    /// Returns whether the server has closed the connection since the last call. Blocks for a round trip at most.
    fn is_lost(&mut self) -> bool;
}

/// Ends the call that runs on a connection. To be repeated until the call has ended: a server ignores a cancel that comes
/// before the call.
pub(super) type Canceller = Box<dyn Fn() + Send>;

/// A connection of whatever connector.
pub(super) type BoxedConnection = Box<dyn Connection + Send>;

/// One call of a function.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The function.
    pub function: Function,
    /// Its arguments, which have been checked.
    pub arguments: Vec<Value>,
    /// The id of the message that is delivered by the call, so that the server can recognise a second delivery.
    pub message: Option<String>,
}

/// The reason why a call has no result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum CallError {
    /// The function ran and failed. The text is the server's.
    #[error("{0}")]
    Function(String),
    /// No connection could be opened.
    #[error("no connection to the server: {0}")]
    Down(String),
    /// The connection broke. The function may have run.
    #[error("the connection was lost during the call: {0}")]
    Lost(String),
    /// The call was cancelled.
    #[error("the call was cancelled")]
    Cancelled,
}

/// The address of a system, from which each worker opens its own connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Address {
    /// The host and port of a server of the RFC-shaped protocol.
    Rfc(String),
    /// A URL of PostgreSQL.
    Postgres(String),
    /// The host and port of a Tarantool.
    Tarantool(String),
    /// SQLite, in this process.
    Sqlite,
}

impl Address {
    /// Returns the address for people, without a password. SQLite has none.
    pub fn shown(&self) -> Option<String> {
        match self {
            Self::Rfc(address) | Self::Tarantool(address) => Some(address.clone()),
            Self::Postgres(url) => Some(without_password(url)),
            Self::Sqlite => None,
        }
    }

    /// Opens a connection. Blocks for at most five seconds.
    pub(super) fn connect(&self) -> Result<BoxedConnection, CallError> {
        Ok(match self {
            Self::Rfc(address) => Box::new(RfcConnection::open(address)?),
            Self::Postgres(url) => Box::new(PostgresConnection::open(url)?),
            Self::Tarantool(address) => Box::new(TarantoolConnection::open(address)?),
            Self::Sqlite => Box::new(SqliteConnection::open()?),
        })
    }
}

/// Returns the hosts and the database of a URL or of a text of settings.
fn without_password(url: &str) -> String {
    let Ok(config) = url.parse::<tokio_postgres::Config>() else {
        return "an address that cannot be read".to_owned();
    };
    let hosts = config.get_hosts().iter().zip(config.get_ports()).map(|(host, port)| match host {
        tokio_postgres::config::Host::Tcp(host) => format!("{host}:{port}"),
        tokio_postgres::config::Host::Unix(path) => format!("{}:{port}", path.display()),
    });
    let hosts: Vec<_> = hosts.collect();
    format!("{}/{}", hosts.join(","), config.get_dbname().unwrap_or_default())
}

/// Returns whether the other side has closed the connection: between two calls there is nothing else to read.
pub(super) fn has_hung_up(socket: &TcpStream) -> io::Result<bool> {
    socket.set_nonblocking(true)?;
    let peeked = socket.peek(&mut [0]);
    socket.set_nonblocking(false)?;
    match peeked {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        _ => Ok(true),
    }
}
