//! Notices that an event loop stands still, from outside, *while* it stands still.
//!
//! A blocking call on the loop freezes everything that the loop serves, and once it has returned nobody can say
//! which call it was. So a thread beside the loop listens to its [`Pulse`]: the loop [beats](Pulse::beat) at an
//! interval, and when a beat is late by more than a threshold, the thread says so at once, and again and again
//! until the loop goes on.
//!
//! ```
//! use std::sync::mpsc;
//! use std::time::Duration;
//!
//! use offloop::watch::{Event, Monitor};
//!
//! let (send, receive) = mpsc::channel();
//! let (pulse, _guard) = Monitor::new(Duration::from_millis(20)).start(move |event| {
//!     let _ = send.send(event);
//! })?;
//! pulse.beat(); // a real loop does so every `pulse.interval()`
//! std::thread::sleep(Duration::from_millis(100)); // what a loop must not do
//! assert!(matches!(receive.recv()?, Event::Stalled { .. }));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # tokio
//!
//! With the feature `tokio` there is more than that: `Builder` watches a runtime, current-thread or multi-thread, and
//! tells a `Stall` to a callback, and with the feature `tracing` to the program's subscriber, as a warning with the
//! target `offloop::watch`: which thread, in which task, for how long, whether it computes or waits, which call
//! belongs off the loop, and how often that place has stalled. (Of one place's stalls the first, second, fourth,
//! eighth… are logged; the callback is told all.) One worker that is stuck in a task is found although the others go
//! on. With the feature `watch-stacks` it tells the thread's stack, too. `examples/watchdog.rs` shows it.
//!
//! # What is believed
//!
//! A stall shorter than the threshold is never reported; one longer than the threshold and one interval always is.
//! If the watching thread itself was kept from running (the process was stopped, the machine slept or is
//! overloaded), a late beat is no evidence: the loop gets the whole threshold again, counted from then.
//!
//! # What it costs
//!
//! The loop: a beat reads the monotonic clock and stores one number. No lock, no allocation, and no system call
//! where the clock is read without one, as on Linux. The thread: it sleeps, and wakes about once each threshold to
//! read that number.
//!
//! A tokio runtime is woken four times each threshold to answer; what its workers do is read from the counters that
//! tokio keeps anyway. `cargo xtask bench watch` measures it.

mod guard;
mod judge;
#[cfg(all(test, shuttle))]
mod model;
mod monitor;
mod pulse;
#[cfg(feature = "tokio")]
mod tokio;

#[cfg(feature = "tokio")]
pub use self::tokio::{Activity, Builder, Frame, Phase, Place, Stall, Thread, Watch, Watched};
pub use guard::Guard;
pub use judge::Event;
pub use monitor::Monitor;
pub use pulse::Pulse;
