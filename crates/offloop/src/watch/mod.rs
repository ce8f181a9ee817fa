//! Notices from outside that an event loop is stalled, *while* it is stalled.
//!
//! A blocking call on the loop delays everything that the loop serves, and once it has returned nothing shows which
//! call it was. So a thread beside the loop watches its [`Pulse`]: the loop [beats](Pulse::beat) at an interval, and
//! when a beat is late by more than a threshold, the thread reports it at once, and again at growing intervals until
//! the loop goes on.
//!
//! ```
//! use std::sync::mpsc;
//! use std::time::Duration;
//!
//! use offloop::watch::{Monitor, StallEvent};
//!
//! let (send, receive) = mpsc::channel();
//! let (pulse, _guard) = Monitor::new(Duration::from_millis(20)).start(move |event| {
//!     let _ = send.send(event);
//! })?;
//! pulse.beat(); // a real loop does so every `pulse.interval()`
//! std::thread::sleep(Duration::from_millis(100)); // what a loop must not do
//! assert!(matches!(receive.recv()?, StallEvent::Began { .. }));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # tokio
//!
//! With the feature `tokio`, `RuntimeWatchBuilder` watches a runtime, current-thread or multi-thread. It reports each
//! `Stall` to a callback: which thread is stuck, in which task, for how long, whether it computes or waits, which call
//! belongs off the loop, and how often that place has stalled. One worker that is stuck in a task is found although the
//! others go on. With the feature `watch-stacks` the report has the thread's stack, too.
//!
//! With the feature `tracing` the reports also go to the program's subscriber, as warnings with the target
//! `offloop::watch`. A place has at most one line a minute, and then a summary of what had none; the callback gets all.
//! `examples/watchdog.rs` shows it.
//!
//! # What counts as a stall
//!
//! A stall that is shorter than the threshold is never reported. One that is longer than the threshold and one interval
//! always is. Time in which the thread could have run but had no core does not count, where the kernel keeps account of
//! it: of tokio's threads it is measured, and for other loops [`Monitor::start_measured`] takes a measure. If the
//! watching thread itself was kept from running (the process was stopped, the machine slept or is
//! overloaded), a late beat is no evidence: the loop gets the whole threshold again from then on.
//!
//! # What it costs
//!
//! The loop: a beat reads the monotonic clock and stores one number. It takes no lock, does not allocate, and makes no
//! system call where the clock is read without one, as on Linux. The thread: it sleeps, and wakes about once each
//! threshold to read that number.
//!
//! A tokio runtime is woken four times each threshold to answer. What its workers do is read from the counters that
//! tokio keeps anyway. `cargo xtask bench watch` measures it.

mod clock;
mod detector;
mod guard;
#[cfg(all(test, shuttle))]
mod model;
mod monitor;
mod pulse;
#[cfg_attr(not(feature = "observe"), allow(dead_code, reason = "the live view reads it"))]
pub(crate) mod record;
#[cfg(feature = "tokio")]
mod tokio;

pub use self::detector::StallEvent;
pub use self::guard::WatchGuard;
pub use self::monitor::{MeasureStarvation, Monitor};
pub use self::pulse::Pulse;
pub use self::record::StallPlace;
#[cfg(feature = "tokio")]
pub use self::tokio::{
    RuntimeWatch, RuntimeWatchBuilder, Stall, StallPhase, StalledThread, TaskOrigin, WatchedFuture,
};
pub use crate::base::activity::Activity;
#[cfg(feature = "tokio")]
pub use crate::base::stack::StackFrame;
