//! Facts about this machine and this repository.

use std::ffi::OsStr;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns the directory of the workspace.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is in a folder of the workspace")
}

/// Returns the directory that cargo builds into.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// Runs a program and returns its output, or `None` if it is not installed or fails.
pub(crate) fn output_of(program: &str, arguments: &[impl AsRef<OsStr>]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Returns whether root runs this program.
pub(crate) fn is_root() -> bool {
    output_of("id", &["-u"]).as_deref() == Some("0")
}

/// Returns today's date in UTC, as `2026-01-31`.
pub(crate) fn date() -> String {
    output_of("date", &["-u", "+%F"]).unwrap_or_else(|| "date unknown".to_owned())
}

/// Returns the processor's model and the number of cores that this process may use.
pub(crate) fn processor() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    format!("{model}, {cores} cores")
}

/// Returns the compiler's version.
pub(crate) fn compiler() -> String {
    output_of("rustc", &["--version"]).unwrap_or_else(|| "rustc unknown".to_owned())
}
