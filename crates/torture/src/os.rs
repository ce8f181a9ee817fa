//! The output of the program itself.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;

/// A copy of standard output that workers do not inherit.
static OUTPUT: OnceLock<File> = OnceLock::new();

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
