//! Runs offloop's tasks on other machines. The queue, the store and the transport are those of
//! [NATS JetStream](https://docs.nats.io/nats-concepts/jetstream), an existing server. This crate adds what a queue
//! lacks: one worker at a time may run a job, a job ends once, and it can be stopped.
//!
//! ```text
//! submitter                        server                              worker
//! Cluster::run(call)
//!   Submission ──── job ─────────▶ queue ────────── message ─────────▶ Delivery
//!        ▲                         state ◀────────── claim ──────────────  │
//!        │                           │  ◀──── end, with the result ──────  ▼
//!      Handle ◀──────── event ───────┘                                Performer: a process pool
//!        └────────── cancel, credit for items (asked directly) ──────────▲
//! ```
//!
//! The parts:
//!
//! - [`Cluster`]: the executor that submits jobs. [`ClusterHandle`] is a handle with what only a cluster's jobs have.
//! - [`worker`]: the program that runs jobs.
//! - [`Connection`]: the settings that submitters, workers and operators have alike.
//! - [`protocol`]: the states of a job, and who moves it from one to the next. It decides; the others carry out.
//! - [`records`]: what is stored for a job, as bytes.
//! - [`security`]: keys, signed records, who trusts whom, and what the server lets each party do.
//! - [`embedded`]: a server of this program's own.
//! - [`admin`]: what an operator does.
//! - [`Ulid`]: the ids of jobs, clients and workers.
//!
//! All input and output is on one thread of this process, `offloop-net`, whatever runtime the caller is on. The guides are in
//! the repository: "From one machine to many" and "Operating a cluster".

pub mod admin;
mod client;
mod connection;
#[cfg(target_os = "linux")]
pub mod embedded;
mod names;
mod network;
pub mod protocol;
pub mod records;
pub mod security;
mod store;
mod trace;
mod ulid;
#[cfg(target_os = "linux")]
pub mod worker;

#[cfg(target_os = "linux")]
pub use client::EmbeddedClusterBuilder;
pub use client::{BuildError, Cluster, ClusterBuilder, ClusterHandle, DeadJob, NoAnswer, StoredEnd, Submit};
pub use connection::{Connection, Credentials};
pub use names::Band;
pub use store::{BlobError, ConnectError, LayoutError};
pub use ulid::{ParseUlidError, Ulid};
#[cfg(target_os = "linux")]
pub use worker::{Worker, init};

/// Compiles and runs the code of the guide.
#[cfg(all(doctest, target_os = "linux"))]
#[doc = include_str!("../docs/cluster.md")]
struct GuideCode;
