//! The value that a worker thread of a [`StatePool`](super::StatePool) owns.

use std::any::Any;
use std::cell::{Cell, RefCell};

use crate::base::panic::drop_quietly;
use crate::base::sync::thread_local;

thread_local! {
    /// The value of this worker thread. A thread serves one pool, so there is one at most.
    static STATE: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
    /// Set by the job that runs on this thread when its value must not be used again. Reset before each job.
    static DISCARD: Cell<bool> = const { Cell::new(false) };
}

/// Calls `work` with this thread's value, which `open` makes if there is none of type `S`.
pub(super) fn with_state<S: 'static, R, E>(
    open: impl FnOnce() -> Result<S, E>,
    work: impl FnOnce(&mut S) -> R,
) -> Result<R, E> {
    // It is taken out while the job runs, so that none is left after a panic.
    let mut state = match STATE.with(RefCell::take).and_then(|state| state.downcast::<S>().ok()) {
        Some(state) => state,
        None => Box::new(open()?),
    };
    DISCARD.with(|discard| discard.set(false));
    let result = work(&mut state);
    if DISCARD.with(Cell::take) {
        // It is broken, so its destructor may well panic. The job has its result nevertheless.
        drop_quietly(state);
    } else {
        STATE.with(|slot| slot.replace(Some(state)));
    }
    Ok(result)
}

/// Declares the value of this worker broken, from within a job: it is dropped when the job ends, and the worker's next
/// job gets a new one. Without effect elsewhere.
pub fn discard_worker_state() {
    DISCARD.with(|discard| discard.set(true));
}

/// Drops the value of this thread, which leaves its pool.
pub(super) fn close() {
    drop_quietly(STATE.with(RefCell::take));
}
