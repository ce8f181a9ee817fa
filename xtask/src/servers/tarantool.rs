//! Tarantool, with the stored functions of the Python examples.

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use super::site::{Server, Site, free_port};
use crate::host;

const START: &str = include_str!("tarantool.lua");
const FUNCTIONS: &str = "python/examples/tarantool.lua";

/// The program, or why there is none.
pub(super) fn find() -> Result<PathBuf, String> {
    host::output_of("sh", &["-c", "command -v tarantool"])
        .map(PathBuf::from)
        .ok_or_else(|| "Tarantool is not installed (Debian's package `tarantool`)".to_owned())
}

pub(super) fn start(site: &Site, program: &Path) -> Result<Server, String> {
    let room = site.room("tarantool")?;
    let script = room.join("start.lua");
    // Copied, as the servers' user may not get to the workspace.
    let functions = room.join("functions.lua");
    fs::write(&script, START)
        .and_then(|()| fs::copy(FUNCTIONS, &functions))
        .map_err(|error| format!("{FUNCTIONS}: {error}"))?;
    let port = free_port()?;
    let address = format!("127.0.0.1:{port}");
    let mut command = site.command("TERM", program);
    command.arg(script).arg(&address).arg(functions).current_dir(room);
    let to = address.clone();
    Server::start(site, "tarantool", address, Signal::TERM, command, move || greets(&to).is_ok())
}

/// Whether what listens there says that it is a Tarantool.
fn greets(address: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut greeting = [0; 9];
    stream.read_exact(&mut greeting)?;
    if greeting == *b"Tarantool" { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
}
