//! Tarantool, with the stored functions of the Python example.

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::server::{Server, TemporaryDirectory, free_address};

/// A whole server: it configures itself and listens at the address in `LISTEN`.
const SCRIPT: &str = include_str!("../../../python/examples/tarantool.lua");

/// Returns the program, or the reason why there is none.
pub(crate) fn find() -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join("tarantool"))
        .find(|program| program.exists())
        .ok_or_else(|| "Tarantool is not installed (Debian's package `tarantool`)".to_owned())
}

pub(crate) fn start(directory: &TemporaryDirectory, program: &Path) -> Result<Server, String> {
    let data = directory.subdirectory("tarantool")?;
    // A copy, because the servers' user may have no access to this repository.
    let script = data.join("server.lua");
    fs::write(&script, SCRIPT).map_err(|error| format!("{}: {error}", script.display()))?;
    let url = free_address()?;
    let mut command = directory.command(program);
    command.arg(script).env("LISTEN", &url).current_dir(data);
    let address = url.clone();
    Server::start(directory, "tarantool", url, command, move || is_tarantool(&address).unwrap_or(false))
}

/// Returns whether the server at this address greets its clients as Tarantool does.
fn is_tarantool(address: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut greeting = [0; 9];
    stream.read_exact(&mut greeting)?;
    Ok(greeting == *b"Tarantool")
}
