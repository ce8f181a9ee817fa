//! Shows how to wrap a blocking connector. The protocol is made up: remote function calls by name, with named
//! parameters and results.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`client`] | the vendor's connector: blocking, one call at a time, without async code |
//! | [`connector`] | **the wrapper**: one connection per worker, reconnect, cancel, typed errors |
//! | [`server`] | the other side, for the example and its tests |
//!
//! SAP's RFC is the best-known protocol of this kind. Its SDK is proprietary, so it is not run here; see the README.

pub mod client;
pub mod connector;
pub mod server;
mod wire;

pub use client::{CallError, Client};
pub use connector::Connector;
pub use server::{Functions, Server};
pub use wire::Parameters;

/// Returns parameters made of pairs of name and value.
pub fn parameters<const N: usize>(pairs: [(&str, &str); N]) -> Parameters {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
