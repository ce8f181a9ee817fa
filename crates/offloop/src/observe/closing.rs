//! The end of one way in, and the count of its connections.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

/// Tells the threads of one way in that it closes.
pub(super) struct Closing {
    /// Wakes the thread that takes connections.
    event: OwnedFd,
    is_closed: Mutex<bool>,
    /// Wakes the threads that wait for the time of the next event.
    changed: Condvar,
    /// The number of connections.
    connections: AtomicUsize,
}

impl Closing {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            is_closed: Mutex::new(false),
            changed: Condvar::new(),
            connections: AtomicUsize::new(0),
        })
    }

    /// Returns a descriptor that is readable once the way in closes.
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    pub(super) fn close(&self) {
        *self.is_closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
        // It fails only if the counter is full, and then the thread is woken already.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }

    pub(super) fn is_closed(&self) -> bool {
        *self.is_closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for this time, or until the way in closes. Returns whether it does.
    pub(super) fn wait(&self, time: Duration) -> bool {
        let is_closed = self.is_closed.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(is_closed, time, |is_closed| !*is_closed);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Counts one connection for as long as it lives.
pub(super) struct ConnectionPlace(Arc<Closing>);

impl ConnectionPlace {
    /// Counts a connection. Returns the number of the others.
    pub(super) fn take(closing: &Arc<Closing>) -> (Self, usize) {
        let others = closing.connections.fetch_add(1, Ordering::Relaxed);
        (Self(Arc::clone(closing)), others)
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
