//! PostgreSQL as Debian packages it: its programs are not on the search path.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::server::{Server, TemporaryDirectory, free_address};

/// Returns the directory of the newest version's programs, or the reason why there is none.
pub(crate) fn find() -> Result<PathBuf, String> {
    fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, programs)| programs.join("postgres").exists() && programs.join("initdb").exists())
        .max()
        .map(|(_, programs)| programs)
        .ok_or_else(|| "PostgreSQL is not installed (Debian's package `postgresql`)".to_owned())
}

/// Starts a server that asks for no password: its data belong to the tests, and it listens on loopback only.
pub(crate) fn start(directory: &TemporaryDirectory, programs: &Path) -> Result<Server, String> {
    let data = directory.subdirectory("postgres")?;
    let mut initdb = directory.command(&programs.join("initdb"));
    initdb.args(["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--username=offloop"]);
    let output = initdb.arg("--pgdata").arg(&data).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    let output = output.map_err(|error| format!("initdb did not start: {error}"))?;
    if !output.status.success() {
        return Err(format!("initdb failed: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)));
    }

    let address = free_address()?;
    let (_, port) = address.rsplit_once(':').unwrap_or_default();
    let mut command = directory.command(&programs.join("postgres"));
    command.arg("-D").arg(&data).args(["-p", port]);
    for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"] {
        command.args(["-c", setting]);
    }
    let mut is_ready = Command::new(programs.join("pg_isready"));
    is_ready.args(["--quiet", "--host=127.0.0.1", "--port", port]);
    let url = format!("postgresql://offloop@{address}/postgres");
    Server::start(directory, "postgres", url, command, move || {
        is_ready.status().is_ok_and(|status| status.success())
    })
}
