//! The process pool, divided by the process that runs the code. The protocol is in `README.md`.
//!
//! | folder or file | what it holds |
//! | --- | --- |
//! | `pool/` | what runs in the parent |
//! | `worker/` | what runs in a worker or a template |
//! | `link/` | the channel between them; one end in each |
//! | `handshake`, `limits` | how a started process becomes a worker |
//! | `os/` | the system calls beneath |
//!
//! `pool` and `worker` never import each other.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod handshake;
mod limits;
mod link;
mod os;
pub(crate) mod pool;
pub(crate) mod worker;
