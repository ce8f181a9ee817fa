//! The live view: what the pools, their workers and the watched event loops of a program do at this moment.
//!
//! ```no_run
//! let _view = offloop::observe::Server::builder().http("127.0.0.1:8811").start()?;
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! With this line, `http://127.0.0.1:8811/` is a page that shows the program live, and `offloop top` lists it. A program
//! without the line shows itself if the environment has `OFFLOOP_OBSERVE=1`, or an address in place of the 1: see
//! [`init_from_env`].
//!
//! [`snapshot`] is the state of the process as a document, which the servers send as JSON. [`Handler`] answers requests
//! for programs that have a server of their own; with the feature `axum`, `router` is a router of axum.
//!
//! # Several processes
//!
//! The processes of one service, such as the workers of one web server, find each other by their Unix sockets, in a
//! directory that only their user can enter. So each of them shows all.
//!
//! # What it costs
//!
//! Nothing is recorded for the view but what the metrics record anyway. A snapshot takes the lock of each pool for some
//! microseconds, and reads some files of `/proc`: below a thousandth of a core at one snapshot a second.
//! `cargo xtask bench observe` measures it. When nobody looks, one thread sleeps for each way in.
//!
//! # Who may look
//!
//! - By the Unix socket: this user. Its directory is private, and the kernel says who asks.
//! - By HTTP without a token: this machine. The server does not start at another address, and a request must ask for a
//!   loopback name, so a page of another site whose name leads here sees nothing.
//! - By HTTP with a token: all who have it. HTTP is not encrypted: for other machines, put it behind a proxy with TLS, or
//!   an SSH tunnel.
//!
//! Who may look sees names of functions, requests' ids, command lines and the last words of dead workers. Jobs can be
//! cancelled only if the program allows it.

mod access;
#[cfg(target_os = "linux")]
mod closing;
#[cfg(target_os = "linux")]
mod connection;
#[cfg(target_os = "linux")]
mod directory;
pub mod document;
mod environment;
mod exposition;
mod handler;
mod history;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "there is no server"))]
mod http;
#[cfg(target_os = "linux")]
mod listening;
mod message;
mod process;
#[cfg(feature = "axum")]
mod router;
mod server;
mod settings;
mod siblings;
mod snapshot;
mod stack;

pub use self::document::{Service, Snapshot};
pub use self::environment::init_from_env;
pub use self::exposition::prometheus;
pub use self::handler::{EventStream, Handler, HandlerBuilder, Reply};
pub use self::message::{Peer, Request, Response};
#[cfg(feature = "axum")]
pub use self::router::router;
pub use self::server::{Server, ServerBuilder};
pub use self::snapshot::snapshot;

/// Takes the bytes of a request, and of a response. Not public API: called by the targets in `fuzz/`.
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    if let Ok(Some((head, length))) = http::request(bytes) {
        assert!(length <= bytes.len() && head.path.starts_with('/'));
        let headers: Vec<(&str, &[u8])> =
            head.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        let (method, path, query) = (head.method.as_str(), head.path.as_str(), head.query.as_str());
        let request = Request { method, path, query, headers: &headers, peer: Peer::Unknown };
        // Without the token there is nothing to see, whatever was sent.
        let token = "a token that nobody guesses";
        assert!(
            access::refusal(&request, Some(token)).is_some() && access::refusal(&request, None).is_some()
        );
    }
    if let Some((_, body)) = http::response(bytes) {
        assert!(body.len() <= bytes.len());
    }
}
