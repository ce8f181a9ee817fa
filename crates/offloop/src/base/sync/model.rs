//! The wait for a future in a model.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use super::{Condvar, Mutex};

/// A waker that wakes the thread that waits for it.
///
/// The checker's `park` may wake by itself. That would hide a lost wake-up for as long as any other thread can run. A
/// condition variable does not.
struct Bell {
    rung: Mutex<bool>,
    ring: Condvar,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.rung.lock() = true;
        self.ring.notify_one();
    }
}

/// Waits for a future on this thread.
pub(crate) fn wait<F: Future + Unpin>(mut future: F) -> F::Output {
    let bell = Arc::new(Bell { rung: Mutex::new(false), ring: Condvar::new() });
    let waker = Waker::from(Arc::clone(&bell));
    loop {
        if let Poll::Ready(output) = Pin::new(&mut future).poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        let mut rung = bell.rung.lock();
        while !*rung {
            rung = bell.ring.wait(rung).unwrap();
        }
        *rung = false;
    }
}
