//! Watches a tokio runtime.

mod builder;
mod report;
mod runtime;
mod slot;
mod stack;
mod stall;
mod suspect;
mod thread;

pub use builder::{Builder, Watch, Watched};
pub use slot::Place;
pub use stack::Frame;
pub use stall::{Activity, Phase, Stall};
pub use thread::Thread;
