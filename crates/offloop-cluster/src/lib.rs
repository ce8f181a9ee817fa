//! Runs offloop's tasks on other machines. The queue, the store and the transport are those of
//! [NATS JetStream](https://docs.nats.io/nats-concepts/jetstream), an existing server. This crate adds what a queue
//! lacks: one worker at a time may run a job, a job ends once, and it can be stopped.
//!
//! The parts:
//!
//! - [`Cluster`]: the executor that submits jobs.
//! - [`Ulid`]: the ids of jobs, clients and workers.
//! - [`records`]: what is stored for a job, as bytes.
//! - [`embedded`]: a server of this program's own.
//! - [`worker`]: the program that runs jobs.
//! - [`protocol`]: the states of a job, and who moves it from one to the next.
//! - [`admin`]: what an operator does.
//! - [`security`]: keys, signed records, and who trusts whom.

pub mod admin;
mod client;
#[cfg(target_os = "linux")]
pub mod embedded;
#[allow(dead_code, reason = "the client and the worker each need a part")]
mod names;
#[allow(dead_code, reason = "the client and the worker each need a part")]
mod network;
pub mod protocol;
pub mod records;
pub mod security;
#[allow(dead_code, unused_imports, reason = "the client and the worker each need a part")]
mod store;
mod ulid;
#[cfg(target_os = "linux")]
pub mod worker;

#[cfg(target_os = "linux")]
pub use client::EmbeddedClusterBuilder;
pub use client::{BuildError, Cluster, ClusterBuilder, ClusterHandle, DeadJob, NoAnswer, StoredEnd, Submit};
pub use names::Band;
pub use store::{BlobError, ConnectError, Credentials, LayoutError};
pub use ulid::{ParseUlidError, Ulid};
#[cfg(target_os = "linux")]
pub use worker::{Worker, init};

/// Compiles and runs the code of the guide.
#[cfg(all(doctest, target_os = "linux"))]
#[doc = include_str!("../docs/cluster.md")]
struct GuideCode;
