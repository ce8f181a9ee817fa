//! Decides who may run what: keys, signed records, trust, and the permissions of each role on the server.
//!
//! The server's own means (TLS, users, credentials) decide who may connect. They do not say who wrote a record: each
//! submitter may publish into a queue. So a job record, the record of a job's end and those of its streamed items carry an
//! Ed25519 signature, over every byte of the record. That covers all fields, those that a later build adds too, and a body that is stored
//! elsewhere by its hash, which is a field. The signature also covers the namespace and the queue or the job that the
//! record is for, so that it says nothing in another place.
//!
//! - A [`SigningKey`] signs what its owner writes. Its [`PublicKey`] names the owner to others.
//! - A [`Trust`] is what a worker believes of submitters, or a submitter of workers. It decides whether a record counts.
//! - A [`Role`] is a part in a cluster, with the permissions that it needs on the server.
//!
//! The rules:
//!
//! - Without a trusted key, jobs and results with plain data count, signed or not, and a pickle never does.
//! - With one, only what a trusted key has signed counts. An end or an item that does not ends the job for its submitter.
//! - A pickle counts if a trusted key has signed it *and* pickles are accepted. That holds on both sides: a pickle from a
//!   worker runs code in the submitter as one from a submitter does in the worker.
//! - A job counts for as long as its end is remembered, and an hour more, since clocks differ. After that a copy of its
//!   record could run it a second time. Until then the stored end refuses the copy.
//!
//! An end is bound to the id of its job. A job with a key has an id that is made of the key, and so has a later one with
//! the same key, once the first is forgotten.

mod keys;
mod party;
mod roles;
#[cfg(all(test, target_os = "linux"))]
mod roles_tests;
mod seal;
#[cfg(test)]
mod tests;
mod trust;

pub(crate) use party::Seals;

pub use keys::{InvalidKey, PublicKey, SigningKey};
pub use roles::Role;
pub use seal::Scope;
pub use trust::{NotTrusted, Trust};
