//! A limit for waits that could take forever.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

/// Much longer than any turn takes.
const LIMIT: Duration = Duration::from_secs(30);

/// Ends the bench with a message unless it is dropped in time.
///
/// It limits the waits of all contenders from outside, including those for pipes, and costs them nothing. A timeout for
/// each job would be part of what is measured.
pub(crate) struct Alarm {
    /// Dropping it stops the alarm.
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
