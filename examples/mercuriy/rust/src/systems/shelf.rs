//! Connections for threads that come and go, such as those of `spawn_blocking`.
//!
//! offloop has this: a `StatePool`, in which each thread owns its connection. Here a call takes an idle connection, or
//! opens one, and puts it back. There are as many as there are calls at a time.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::cancel::Cancellation;
use super::connection::{Address, BoxedConnection, Call, CallError};

pub(super) struct Shelf {
    address: Address,
    idle: Mutex<Vec<BoxedConnection>>,
}

/// The idle connections that are kept.
const KEPT: usize = 16;

impl Shelf {
    pub(super) fn new(address: Address) -> Self {
        Self { address, idle: Mutex::default() }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<BoxedConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls a function. Blocks. Not for a thread of an async runtime: drivers that contain a runtime panic there.
    pub(super) fn call(&self, call: &Call, cancellation: &Cancellation) -> Result<Value, CallError> {
        let idle = self.idle().pop();
        let usable = idle.and_then(|mut connection| (!connection.is_lost()).then_some(connection));
        let mut connection = usable.map_or_else(|| self.address.connect(), Ok)?;
        let canceller = connection.canceller()?;
        let result = cancellation.guard(canceller, || connection.call(call));
        // After a cancel or a lost connection nobody knows what is still to come on it.
        if matches!(result, Ok(_) | Err(CallError::Function(_))) {
            let mut idle = self.idle();
            if idle.len() < KEPT {
                idle.push(connection);
            }
        }
        result
    }

    /// Closes the idle connections. Blocks.
    pub(super) fn clear(&self) {
        let idle = std::mem::take(&mut *self.idle());
        drop(idle);
    }
}
