//! The facts that a worker thread records when it starts, for the live view.

use std::ops::Range;

use crate::base::clock::Moment;
use crate::base::{stack, thread};

/// The facts that a thread records when it starts.
pub(super) struct Birth {
    /// The system's id of the thread.
    pub(super) thread: i32,
    pub(super) at: Moment,
    /// The addresses of its stack. They are empty if they are unknown.
    pub(super) stack: Range<usize>,
}

impl Birth {
    pub(super) fn of_this_thread() -> Self {
        Self { thread: thread::current_id(), at: Moment::now(), stack: stack::current_bounds() }
    }
}
