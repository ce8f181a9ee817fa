//! A server for the view, with threads of its own: a Unix socket for the tools of this user, and HTTP if it is wanted.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::handler::{Handler, HandlerBuilder};
use crate::base::fork::{OwnProcess, PerProcess};
use crate::metrics::view::inspector::note_observed;

#[cfg(target_os = "linux")]
use super::listening::Listening;
#[cfg(not(target_os = "linux"))]
use unsupported::Listening;

/// Shows the view until it is dropped.
///
/// ```
/// let server = offloop::observe::Server::builder().service("reports").http("127.0.0.1:0").unix(false).start()?;
/// println!("look at http://{}/", server.http_address().expect("it was asked for"));
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// One thread sleeps for each of the two ways in; others come and go with those who look. In a forked child the server
/// is none: the child closes its copies of the sockets, and its drop does nothing. Linux only.
#[must_use = "dropping it closes the view"]
pub struct Server {
    listening: OwnProcess<Vec<Listening>>,
}

/// Sets up a [`Server`].
#[derive(Clone)]
#[must_use = "a builder does nothing until `start`"]
pub struct ServerBuilder {
    handler: HandlerBuilder,
    has_token: bool,
    http: Option<String>,
    unix: bool,
}

impl Server {
    /// Returns a builder. By default there is the Unix socket alone, and nothing can be cancelled.
    pub fn builder() -> ServerBuilder {
        ServerBuilder { handler: Handler::builder(), has_token: false, http: None, unix: true }
    }

    fn listening(&self) -> impl Iterator<Item = &Listening> {
        self.listening.get().into_iter().flatten()
    }

    /// Returns the address at which it serves HTTP. `None` if it was not asked to, and in a forked child.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.listening().find_map(Listening::address)
    }

    /// Returns the path of its Unix socket. `None` if it has none, and in a forked child.
    pub fn socket_path(&self) -> Option<&Path> {
        self.listening().find_map(Listening::path)
    }

    /// Closes the view: no more connections are taken, and those that there are end. Waits for the threads that take
    /// connections, which end at once.
    pub fn close(self) {
        drop(self);
    }

    /// Closes the Unix socket alone, for another server of this process.
    fn close_socket(&mut self) {
        if let Some(mut listening) =
            std::mem::replace(&mut self.listening, OwnProcess::new(Vec::new())).into_inner()
        {
            listening.retain(|listening| listening.path().is_none());
            self.listening = OwnProcess::new(listening);
        }
    }
}

impl ServerBuilder {
    /// Names the service of this process. All processes of one service and one user on this machine are shown in one
    /// view. Default: `OFFLOOP_SERVICE`, else the name of the program.
    pub fn service(mut self, name: impl Into<String>) -> Self {
        self.handler = self.handler.service(name);
        self
    }

    /// Serves HTTP at this address as well, such as `127.0.0.1:8811`. With the port 0 the system chooses one. Default: no
    /// HTTP.
    ///
    /// Without a [`token`](Self::token) it has to be an address of this machine alone.
    pub fn http(mut self, address: impl Into<String>) -> Self {
        self.http = Some(address.into());
        self
    }

    /// Sets the token that all who look by HTTP must have. The Unix socket, which only this user can reach, needs none.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.handler = self.handler.token(token);
        self.has_token = true;
        self
    }

    /// Sets whether those who look can cancel jobs. Default false.
    pub fn allow_cancel(mut self, allow: bool) -> Self {
        self.handler = self.handler.allow_cancel(allow);
        self
    }

    /// Sets whether there is the Unix socket, by which `offloop top` and the other processes of the service find this
    /// one. Default true.
    ///
    /// It is in a directory that only this user can enter: `offloop` in `XDG_RUNTIME_DIR`, else `/tmp/offloop-UID`.
    pub fn unix(mut self, wanted: bool) -> Self {
        self.unix = wanted;
        self
    }

    /// Opens the view, and starts its threads.
    ///
    /// # Errors
    ///
    /// If an address or the directory of the socket cannot be used, with the reason. If the address is not of this
    /// machine alone and there is no token. If this process has such a socket already, by another server than the one that
    /// `OFFLOOP_OBSERVE` has started, which gives its socket up. If the system starts no thread.
    pub fn start(self) -> io::Result<Server> {
        if self.unix {
            give_socket_up();
        }
        self.start_beside()
    }

    /// Does the same, and leaves the server of the environment alone.
    pub(super) fn start_beside(self) -> io::Result<Server> {
        let handler = self.handler.build();
        let mut listening = Vec::new();
        if let Some(address) = &self.http {
            listening.push(Listening::on_address(resolve(address, self.has_token)?, &handler)?);
        }
        if self.unix {
            listening.push(Listening::on_socket(&handler)?);
        }
        if listening.is_empty() {
            let text = "a server needs a way in: give it an HTTP address, or leave it its Unix socket";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        note_observed();
        Ok(Server { listening: OwnProcess::new(listening) })
    }
}

/// The server that the environment has asked for. It has no owner, so it is kept here.
static KEPT: PerProcess<Mutex<Option<Server>>> = PerProcess::new();

/// Keeps a server for as long as the process lives.
pub(super) fn keep(server: Server) {
    *KEPT.get(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner) = Some(server);
}

/// Returns whether this process has its Unix socket.
pub(super) fn has_socket() -> bool {
    Listening::has_socket()
}

/// Closes the Unix socket of the server that is kept, since another server is to have it.
fn give_socket_up() {
    let Some(kept) = KEPT.existing() else { return };
    if let Some(server) = &mut *kept.lock().unwrap_or_else(PoisonError::into_inner) {
        server.close_socket();
    }
}

/// Returns the address that was asked for, if it may be used.
fn resolve(address: &str, has_token: bool) -> io::Result<SocketAddr> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
    let unknown = |error: &dyn fmt::Display| {
        invalid(format!("the address `{address}` of the view: {error}; give one such as 127.0.0.1:8811"))
    };
    let mut found = address.to_socket_addrs().map_err(|error| unknown(&error))?;
    let found = found.next().ok_or_else(|| unknown(&"it leads nowhere"))?;
    if !has_token && !found.ip().is_loopback() {
        return Err(invalid(format!(
            "the address `{address}` of the view can be reached from elsewhere: give a token, or an address of this \
             machine alone such as 127.0.0.1:8811"
        )));
    }
    Ok(found)
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("http_address", &self.http_address())
            .field("socket_path", &self.socket_path())
            .finish()
    }
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("http", &self.http)
            .field("unix", &self.unix)
            .field("has_token", &self.has_token)
            .finish_non_exhaustive()
    }
}

/// On other systems than Linux there is no server.
#[cfg(not(target_os = "linux"))]
mod unsupported {
    use std::io;
    use std::net::SocketAddr;
    use std::path::Path;

    use super::Handler;

    pub(super) enum Listening {}

    impl Listening {
        pub(super) fn on_address(_address: SocketAddr, _handler: &Handler) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(super) fn on_socket(_handler: &Handler) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(super) fn has_socket() -> bool {
            false
        }

        pub(super) fn address(&self) -> Option<SocketAddr> {
            match *self {}
        }

        pub(super) fn path(&self) -> Option<&Path> {
            match *self {}
        }
    }
}
