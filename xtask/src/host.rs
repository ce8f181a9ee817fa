//! What the chores need to know of the machine they run on.

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The directory of the workspace.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package is in a folder of the workspace")
}

/// The directory that cargo builds into.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// What a command prints; `None` if it is not installed or fails.
pub(crate) fn output_of(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Today's date in UTC, as `2026-01-31`.
pub(crate) fn date() -> String {
    output_of("date", &["-u", "+%F"]).unwrap_or_else(|| "date unknown".to_owned())
}

/// The processor's model and how many cores this process may use.
pub(crate) fn processor() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    format!("{model}, {cores} cores")
}

/// The compiler's version.
pub(crate) fn compiler() -> String {
    output_of("rustc", &["--version"]).unwrap_or_else(|| "rustc unknown".to_owned())
}
