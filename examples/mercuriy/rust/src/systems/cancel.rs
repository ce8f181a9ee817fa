//! The cancellation of a call that runs in a thread which its caller does not own.
//!
//! offloop has this: `job::on_cancel`. Plain threads need it by hand.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::connection::{CallError, Canceller};

/// A server ignores a cancel that comes before the call. So it is repeated after this time.
pub(super) const REPEAT: Duration = Duration::from_millis(20);

/// One call, and the request to end it.
#[derive(Default)]
pub(super) struct Cancellation {
    state: Mutex<State>,
    /// Notified when the call has ended.
    over: Condvar,
}

#[derive(Default)]
enum State {
    #[default]
    NotBegun,
    Running(Canceller),
    Cancelled,
    Over,
}

impl Cancellation {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `work`, which `canceller` ends, unless the call was cancelled before.
    pub(super) fn guard<T>(
        &self,
        canceller: Canceller,
        work: impl FnOnce() -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        {
            let mut state = self.lock();
            if matches!(*state, State::Cancelled) {
                return Err(CallError::Cancelled);
            }
            *state = State::Running(canceller);
        }
        let result = work();
        // Waits for a cancel that is just being sent: it must not hit the connection's next call.
        *self.lock() = State::Over;
        self.over.notify_all();
        result
    }

    /// Ends the call. Blocks until it has ended. Returns whether it was running.
    pub(super) fn cancel(&self) -> bool {
        let mut state = self.lock();
        let mut was_running = false;
        loop {
            match &*state {
                State::NotBegun => *state = State::Cancelled,
                State::Running(canceller) => {
                    was_running = true;
                    canceller();
                    state = self.over.wait_timeout(state, REPEAT).unwrap_or_else(PoisonError::into_inner).0;
                    continue;
                }
                State::Cancelled | State::Over => {}
            }
            return was_running;
        }
    }
}
