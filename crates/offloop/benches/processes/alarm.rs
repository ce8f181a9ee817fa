//! An end to waits that would have none.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

/// Far more than any turn takes.
const LIMIT: Duration = Duration::from_secs(30);

/// Ends the bench with a message unless it is dropped in time.
///
/// This bounds the waits of all contenders from outside, pipes included, and costs none of them anything: a
/// deadline for each job would be measured with it.
pub(crate) struct Alarm {
    /// Its drop is the signal.
    _off: Sender<()>,
}

impl Alarm {
    pub(crate) fn set(what: String) -> Self {
        let (off, is_off) = mpsc::channel();
        thread::spawn(move || {
            if is_off.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
                eprintln!("the bench gives up: {what} took longer than {LIMIT:?}");
                std::process::exit(1);
            }
        });
        Self { _off: off }
    }
}
