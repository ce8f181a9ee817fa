//! The process pool, divided by the process that runs the code. The protocol is in `README.md`.
//!
//! | folder or file | what it holds |
//! | --- | --- |
//! | `pool/` | what runs in the parent |
//! | `worker/` | what runs in a worker or a template |
//! | `link/` | the channel between them; one end in each |
//! | `decoders` | the threads that decode results which may take long |
//! | `launch` | the outcome of a call's submission |
//! | `handshake`, `limits` | how a started process becomes a worker |
//! | `os/` | the system calls beneath |
//! | `unsupported` | the same public names on systems other than Linux, where no pool can be built |
//!
//! `pool` and `worker` never import each other.

pub(crate) mod decoders;
#[cfg(all(any(test, fuzzing), target_os = "linux"))]
pub(crate) mod fuzz;
#[cfg(target_os = "linux")]
mod handshake;
pub(crate) mod launch;
#[cfg(target_os = "linux")]
mod limits;
#[cfg(target_os = "linux")]
mod link;
#[cfg(target_os = "linux")]
mod os;
#[cfg(target_os = "linux")]
pub(crate) mod pool;
#[cfg(not(target_os = "linux"))]
pub(crate) mod unsupported;
#[cfg(target_os = "linux")]
pub(crate) mod worker;
