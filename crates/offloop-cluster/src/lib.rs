//! Runs offloop's tasks on other machines. The queue, the store and the transport are those of
//! [NATS JetStream](https://docs.nats.io/nats-concepts/jetstream), an existing server. This crate adds what a queue
//! lacks: one worker at a time may run a job, a job ends once, and it can be stopped.
//!
//! The parts:
//!
//! - [`Ulid`]: the ids of jobs, clients and workers.
//! - [`records`]: what is stored for a job, as bytes.
//! - [`embedded`]: a server of this program's own.
//! - [`protocol`]: the states of a job, and who moves it from one to the next.
//! - [`security`]: keys, signed records, and who trusts whom.

#[cfg(target_os = "linux")]
pub mod embedded;
pub mod protocol;
pub mod records;
pub mod security;
mod ulid;

pub use ulid::{ParseUlidError, Ulid};
