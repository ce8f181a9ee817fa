//! The systems whose functions are called, each through a connector that blocks.
//!
//! | module | what it is |
//! | --- | --- |
//! | `catalog` | the functions and their arguments |
//! | `connection` | the interface of a blocking connector |
//! | `rfc`, `postgres`, `tarantool`, `sqlite` | the connectors |
//! | `system` | one system: the same call, in each of the four places |
//! | `shelf`, `cancel` | connections and cancellation for threads that own neither |
//! | `in_process` | the call in a process of procspawn |
//! | `async_postgres` | PostgreSQL's async connector, to compare with |

mod async_postgres;
mod cancel;
mod catalog;
mod connection;
mod in_process;
mod postgres;
mod rfc;
mod shelf;
mod sqlite;
mod system;
mod tarantool;

pub use self::catalog::Function;
pub use self::connection::{Address, Call, CallError};
pub(crate) use self::rfc::{MESSAGE, RESULT};
pub use self::system::{Answer, System, Via};

use std::time::Duration;

use offloop::BuildError;

use crate::rfc_server::RfcServer;

/// The systems of the service.
#[derive(Debug)]
pub struct Systems {
    all: Vec<System>,
    /// The embedded server, unless another one was named.
    rfc_server: Option<RfcServer>,
}

/// The addresses of the servers that are there. A stand-in takes the place of the others.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    /// A URL of PostgreSQL.
    pub postgres: Option<String>,
    /// The host and port of a Tarantool.
    pub tarantool: Option<String>,
    /// The host and port of a server of the RFC-shaped protocol.
    pub rfc: Option<String>,
}

impl Systems {
    /// Prepares the systems. Starts the embedded server, if it is needed. Opens no connection.
    pub fn new(addresses: &Addresses) -> Result<Self, Box<dyn std::error::Error>> {
        let rfc_server = addresses.rfc.is_none().then(RfcServer::start).transpose()?;
        let own = rfc_server.as_ref().map(|server| server.address().to_string());
        let rfc = Address::Rfc(addresses.rfc.clone().or(own).unwrap_or_default());
        let postgres = match &addresses.postgres {
            Some(url) => System::new("postgres", Address::Postgres(url.clone()), None),
            None => System::new("postgres", Address::Sqlite, Some("sqlite")),
        };
        let tarantool = match &addresses.tarantool {
            Some(address) => System::new("tarantool", Address::Tarantool(address.clone()), None),
            None => System::new("tarantool", rfc.clone(), Some("rfc")),
        };
        let all = [
            System::new("rfc", rfc, None),
            postgres,
            tarantool,
            System::new("sqlite", Address::Sqlite, None),
        ];
        let all: Built<Vec<_>> = all.into_iter().collect();
        Ok(Self { all: all?, rfc_server })
    }

    /// Returns the system of this name.
    pub fn named(&self, name: &str) -> Option<&System> {
        self.all.iter().find(|system| system.name() == name)
    }

    /// Returns all systems.
    pub fn all(&self) -> &[System] {
        &self.all
    }

    /// Returns the process id of the server that the service has started for this system.
    pub fn server_pid(&self, system: &System) -> Option<u32> {
        let is_rfc = matches!(system.address(), Address::Rfc(_));
        self.rfc_server.as_ref().filter(|_| is_rfc).and_then(RfcServer::pid)
    }

    /// Ends the pools of connections. Calls that still run after `drain` are cancelled on their servers.
    pub async fn shut_down(&self, drain: Duration) {
        let ends: Vec<_> = self.all.iter().map(|system| system.shut_down(drain)).collect();
        for end in ends {
            // An error means that the pool has ended already.
            let _ = end.await;
        }
    }
}

/// Returns the error of a pool that cannot be built, for `?`.
type Built<T> = Result<T, BuildError>;
