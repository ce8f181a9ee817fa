//! PostgreSQL, as Debian packages it: its programs are not on the search path.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use super::site::{Server, Site, free_port};
use crate::host;

/// The directory of the newest version's programs, or why there is none.
pub(super) fn find() -> Result<PathBuf, String> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let complete = |programs: &PathBuf| {
        ["initdb", "postgres", "pg_isready", "createdb"].iter().all(|name| programs.join(name).exists())
    };
    versions
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, programs)| complete(programs))
        .max()
        .map(|(_, programs)| programs)
        .ok_or_else(|| "PostgreSQL is not installed (Debian's package `postgresql`)".to_owned())
}

/// Whoever gets to loopback may do all, as in no real installation: the data are the tests' own.
pub(super) fn start(site: &Site, programs: &Path) -> Result<Server, String> {
    const USER: &str = "offloop";
    let data = site.room("postgres")?;
    let port = free_port()?.to_string();
    site.finish(
        site.command("INT", &programs.join("initdb"))
            .args(["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--username", USER])
            .arg("--pgdata")
            .arg(&data),
    )?;
    let mut command = site.command("INT", &programs.join("postgres"));
    command.arg("-D").arg(&data).args(["-p", &port]);
    for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"] {
        command.args(["-c", setting]);
    }
    let (is_ready, its_port) = (programs.join("pg_isready"), port.clone());
    let answers = move || {
        let program = is_ready.to_str().unwrap_or_default();
        host::output_of(program, &["-h", "127.0.0.1", "-p", &its_port, "-d", "postgres"]).is_some()
    };
    let url = format!("postgresql://{USER}@127.0.0.1:{port}/offloop");
    let server = Server::start(site, "postgres", url, Signal::INT, command, answers)?;
    site.finish(
        site.command("INT", &programs.join("createdb"))
            .args(["--host=127.0.0.1", "--port", &port, "--username", USER])
            .arg("offloop"),
    )?;
    Ok(server)
}
