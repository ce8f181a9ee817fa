//! Python interpreters that this system does not have, from Debian's unstable suite, in a directory of their own.
//!
//! `debootstrap` fills the directory, which is below the target directory, and the interpreters run in it as their
//! root. Both need root.

use std::path::PathBuf;

use crate::host;
use crate::plan::CommandLine;

/// The versions that Debian's unstable suite has.
pub(crate) const VERSIONS: [&str; 2] = ["3.14", "3.15"];

/// Returns the root directory.
fn root() -> PathBuf {
    host::target_dir().join("python/debian")
}

/// Returns the commands that create the root directory, unless it exists. Fails with the reason if they cannot run on
/// this machine.
pub(crate) fn commands() -> Result<Vec<CommandLine>, String> {
    if host::output_of("id", &["-u"]).as_deref() != Some("0") {
        return Err("only root can install Debian's newest Python in a directory".to_owned());
    }
    // `debootstrap` creates this directory early and the file at its end.
    let complete = root().join("complete");
    if complete.exists() {
        return Ok(Vec::new());
    }
    if host::output_of("debootstrap", &["--version"]).is_none() {
        return Err("debootstrap is not installed".to_owned());
    }
    let packages: Vec<_> = VERSIONS
        .iter()
        .flat_map(|version| {
            ["", "-venv"]
                .map(|part| format!("python{version}{part}"))
                .into_iter()
                .chain([format!("libpython{version}-testsuite")])
        })
        .collect();
    let root = root().display().to_string();
    Ok(vec![
        CommandLine::new(["rm", "-rf", root.as_str()]),
        CommandLine::new(["mkdir", "-p", root.as_str()]),
        CommandLine::new(["debootstrap", "--variant=minbase"]).and([
            format!("--include={}", packages.join(",")).as_str(),
            "unstable",
            root.as_str(),
        ]),
        CommandLine::new(["touch"]).and([complete.display().to_string()]),
    ])
}

/// Returns the words that precede a command to run it in the root directory.
pub(crate) fn prefix() -> Vec<String> {
    let workspace = host::workspace().display().to_string();
    let script = host::workspace().join("xtask/in-root.sh").display().to_string();
    ["unshare", "--mount", "bash", script.as_str(), &root().display().to_string(), &workspace]
        .map(str::to_owned)
        .into()
}
