//! Runs a command beside real servers, which exist only as long as the command runs.
//!
//! ```text
//! cargo run -p offloop-example-servers -- COMMAND [ARGUMENT...]
//! cargo run -p offloop-example-servers -- --missing    # prints the servers that are not installed
//! ```
//!
//! Each server listens on a free port of loopback, keeps its data in a new temporary directory, and runs as an
//! ordinary user. The command finds in its environment:
//!
//! - `OFFLOOP_POSTGRES_URL`, `OFFLOOP_TARANTOOL_URL`: the address of the server,
//! - `OFFLOOP_POSTGRES_RESTART`, `OFFLOOP_TARANTOOL_RESTART`: a shell command that restarts the server and returns when
//!   it answers again.
//!
//! The variables of a server that is not installed are not set.

mod postgres;
mod server;
mod tarantool;

use std::error::Error;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, ExitCode, ExitStatus};
use std::time::Duration;

use server::{Server, TemporaryDirectory};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        [] => Err("usage: cargo run -p offloop-example-servers -- COMMAND [ARGUMENT...]".into()),
        ["--missing"] => {
            print!("{}", missing());
            Ok(ExitCode::SUCCESS)
        }
        ["--restart", socket, name] => request_restart(socket, name),
        [program, ref arguments @ ..] => run(program, arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}

/// Returns one line for each server that is not installed.
fn missing() -> String {
    let reasons = [postgres::find().err(), tarantool::find().err()].into_iter().flatten();
    reasons.map(|reason| reason + "\n").collect()
}

fn run(program: &str, arguments: &[&str]) -> Result<ExitCode, Box<dyn Error>> {
    eprint!("{}", missing());
    let directory = TemporaryDirectory::new()?;
    let mut servers = Vec::new();
    if let Ok(programs) = postgres::find() {
        servers.push(postgres::start(&directory, &programs)?);
    }
    if let Ok(program) = tarantool::find() {
        servers.push(tarantool::start(&directory, &program)?);
    }
    let status = run_beside(&directory, &mut servers, Command::new(program).args(arguments))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Runs the command, and restarts servers on request until it ends.
///
/// One thread does both, because the system ends a server when the thread that started it ends.
fn run_beside(
    directory: &TemporaryDirectory,
    servers: &mut [Server],
    command: &mut Command,
) -> Result<ExitStatus, Box<dyn Error>> {
    let socket = directory.path().join("restart");
    let listener = UnixListener::bind(&socket)?;
    listener.set_nonblocking(true)?;
    let this_program = std::env::current_exe()?;
    for server in &*servers {
        let restart =
            format!("'{}' --restart '{}' {}", this_program.display(), socket.display(), server.name);
        let name = server.name.to_uppercase();
        command.env(format!("OFFLOOP_{name}_URL"), &server.url);
        command.env(format!("OFFLOOP_{name}_RESTART"), restart);
    }
    let mut child = command.spawn().map_err(|error| {
        format!("the command `{}` did not start: {error}", command.get_program().to_string_lossy())
    })?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        match listener.accept() {
            // An error means that the process that asked has ended meanwhile.
            Ok((stream, _)) => drop(restart(&stream, servers)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Restarts the server whose name is read from the stream, and writes the error, or nothing after a success.
fn restart(mut stream: &UnixStream, servers: &mut [Server]) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let mut name = String::new();
    BufReader::new(stream).read_line(&mut name)?;
    let error = match servers.iter_mut().find(|server| server.name == name.trim_end()) {
        Some(server) => server.restart().err(),
        None => Some(format!("no server is called {name}")),
    };
    stream.write_all(error.unwrap_or_default().as_bytes())
}

/// Asks the process that listens on the socket to restart a server, and waits until it has done so.
fn request_restart(socket: &str, name: &str) -> Result<ExitCode, Box<dyn Error>> {
    let mut stream = UnixStream::connect(socket)?;
    writeln!(stream, "{name}")?;
    let mut error = String::new();
    stream.read_to_string(&mut error)?;
    if error.is_empty() { Ok(ExitCode::SUCCESS) } else { Err(error.into()) }
}
