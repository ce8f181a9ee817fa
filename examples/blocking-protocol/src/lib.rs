//! How to wrap a blocking connector, on a protocol of one's own: remote function calls by name, with named parameters
//! and results.
//!
//! | module | what it stands for |
//! | --- | --- |
//! | [`client`] | the vendor's connector: blocking, one call at a time, knows nothing of async |
//! | [`connector`] | **the wrapper**: one connection per worker, reconnect, cancel, typed errors |
//! | [`server`] | the other side, for the example and its tests |
//!
//! SAP's RFC is the classic case of such a protocol. Its SDK is proprietary, so it is not run here; see the README.

pub mod client;
pub mod connector;
pub mod server;
mod wire;

pub use client::{CallError, Client};
pub use connector::Connector;
pub use server::Server;
pub use wire::Parameters;

/// Parameters from pairs of name and value.
pub fn parameters<const N: usize>(pairs: [(&str, &str); N]) -> Parameters {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
