//! Time, and the output of the program itself.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A copy of standard output that workers do not inherit.
static OUTPUT: OnceLock<File> = OnceLock::new();

/// Returns the time since a fixed moment that is the same for this process and its workers.
pub(crate) fn now() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default()
}

/// Calls `holds` every `pause` until it returns true or `limit` has passed. Returns its last answer.
pub(crate) fn poll_until(limit: Duration, pause: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = now() + limit;
    loop {
        if holds() {
            return true;
        }
        if now() >= deadline {
            return false;
        }
        std::thread::sleep(pause);
    }
}

/// Reserves standard output for [`say`]. Jobs print and write raw bytes to descriptors 1 and 2, so these become
/// `/dev/null` before the first worker is started.
pub(crate) fn claim_output() -> io::Result<()> {
    let copy = io::stdout().as_fd().try_clone_to_owned()?;
    OUTPUT.get_or_init(|| copy.into());
    let null = File::options().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

/// Prints a line to the caller's standard output. An error is ignored: the run goes on without a reader.
pub(crate) fn say(text: impl Display) {
    let line = format!("{text}\n");
    let _ = match OUTPUT.get() {
        Some(mut output) => output.write_all(line.as_bytes()),
        None => io::stdout().write_all(line.as_bytes()),
    };
}
