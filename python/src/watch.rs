//! The watchdog's native half: it notices that an event loop stands still while the interpreter may be out of reach.
//!
//! The loop beats a [`Pulse`]. The engine's monitor, a thread that never needs the interpreter, puts an event into the
//! [`EventQueue`] when beats fail to come, with the stack of the loop's thread as it reads it from memory ([`Stacks`]). A
//! thread of Python takes it from there and reports the stall. If that thread cannot get the interpreter for long, the
//! [`listener`] writes the report to the standard error itself.

mod clocks;
mod event_queue;
mod listener;
mod loop_thread;
mod pulse;
mod stacks;

pub(crate) use event_queue::{EventQueue, StallEvent};
pub(crate) use pulse::Pulse;
pub(crate) use stacks::{StackFrame, StackReader, Stacks, ThreadKey};
