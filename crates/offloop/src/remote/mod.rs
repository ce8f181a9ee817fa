//! Executors of your own that run calls elsewhere: in another program, on another machine.

mod carrier;
mod ender;
mod errors;
mod executor;
mod items;
mod outbound;
#[cfg(target_os = "linux")]
mod performance;
mod tasks;

pub use carrier::Carrier;
pub use ender::{Answer, Ender};
pub use errors::{pack_error, unpack_error};
pub use executor::Remote;
pub use outbound::{Instructions, Malformed, Outbound};
#[cfg(target_os = "linux")]
pub use performance::{Canceller, Performance, Performed, perform};
pub use tasks::{TaskEntry, tasks};
