//! Watches a tokio runtime.

mod builder;
mod report;
mod runtime;
mod slot;
mod stall;
mod tracker;

pub use self::builder::{RuntimeWatch, RuntimeWatchBuilder, WatchedFuture};
pub use self::stall::{Stall, StallPhase, StalledThread, TaskOrigin};
