//! The caller's terminal, kept from the workers' noise.
//!
//! Jobs print, panic and write raw bytes to descriptors 1 and 2, which workers inherit. So these two become
//! `/dev/null` before the first worker is started, and what this program has to say goes to a copy of its standard
//! output that no worker gets.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::OnceLock;

static OUTPUT: OnceLock<File> = OnceLock::new();

/// Takes standard output and standard error away from everybody but [`say`].
pub(crate) fn claim() -> io::Result<()> {
    // SAFETY: duplicates a descriptor number; an error is returned as -1.
    let copy = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else owns it.
    OUTPUT.get_or_init(|| unsafe { File::from_raw_fd(copy) });
    let null = File::options().write(true).open("/dev/null")?;
    for noisy in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: both are open descriptors; the standard streams own none of them.
        if unsafe { libc::dup2(null.as_raw_fd(), noisy) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Prints a line where the caller sees it.
pub(crate) fn say(text: &str) {
    let line = format!("{text}\n");
    // A reader that is gone is no reason to stop.
    let _ = match OUTPUT.get() {
        Some(mut output) => output.write_all(line.as_bytes()),
        None => io::stdout().write_all(line.as_bytes()),
    };
}
