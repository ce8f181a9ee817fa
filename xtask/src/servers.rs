//! `cargo xtask servers`: runs a command beside real servers, which exist for as long as it runs.
//!
//! Each server listens on a free port of loopback, on data of its own in a new directory, as an ordinary user. The
//! command learns from its environment where they are: `OFFLOOP_POSTGRES_URL`, `OFFLOOP_TARANTOOL_URL`, and under
//! `…_RESTART` a shell command that restarts one and returns when it answers again. The variables of a server that
//! is not installed are not set.

mod postgres;
mod site;
mod tarantool;

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::mpsc::{self, Sender};
use std::thread;

use clap::Args;
use site::{Server, Site};

#[derive(Args)]
pub(crate) struct Arguments {
    /// What to run.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// What `…_RESTART` runs.
#[derive(Args)]
pub(crate) struct Restart {
    /// The socket of the `cargo xtask servers` that has the server.
    control: PathBuf,
    /// The server's name.
    name: String,
}

/// Why servers are missing here, if any are.
pub(crate) fn missing() -> Option<String> {
    let reasons: Vec<_> = [postgres::find().err(), tarantool::find().err()].into_iter().flatten().collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

pub(crate) fn has_postgres() -> bool {
    postgres::find().is_ok()
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    if let Some(reason) = missing() {
        eprintln!("{reason}");
    }
    let site = Site::new()?;
    let mut servers = Vec::new();
    if let Ok(programs) = postgres::find() {
        servers.push(postgres::start(&site, &programs)?);
    }
    if let Ok(program) = tarantool::find() {
        servers.push(tarantool::start(&site, &program)?);
    }
    let status = beside(&site, &mut servers, &arguments.command)?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

enum Event {
    Ended(std::io::Result<ExitStatus>),
    Restart(UnixStream),
}

/// Runs the command, and meanwhile restarts servers on demand. This thread does all of it: the servers are told to
/// end when the thread that has started them does.
fn beside(site: &Site, servers: &mut [Server], words: &[String]) -> Result<ExitStatus, Box<dyn Error>> {
    let control = site.directory().join("control");
    let listener = UnixListener::bind(&control)?;
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    let xtask = std::env::current_exe()?;
    for server in &*servers {
        let restart = format!("'{}' restart-server '{}' {}", xtask.display(), control.display(), server.name);
        let name = server.name.to_uppercase();
        command.env(format!("OFFLOOP_{name}_URL"), &server.url);
        command.env(format!("OFFLOOP_{name}_RESTART"), restart);
    }
    let child = command.spawn().map_err(|error| format!("`{}`: {error}", words[0]))?;

    let (send, events) = mpsc::channel();
    report_end(child, send.clone());
    report_restarts(listener, send);
    for event in events {
        match event {
            Event::Ended(status) => return Ok(status?),
            Event::Restart(stream) => {
                // Whoever asked may have gone meanwhile.
                let _ = answer(&stream, servers);
            }
        }
    }
    unreachable!("the command's end is reported");
}

fn report_end(mut child: Child, send: Sender<Event>) {
    thread::spawn(move || send.send(Event::Ended(child.wait())));
}

fn report_restarts(listener: UnixListener, send: Sender<Event>) {
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            if send.send(Event::Restart(stream)).is_err() {
                break;
            }
        }
    });
}

/// Restarts the server whose name is asked for, and says what went wrong: nothing, if all is well.
fn answer(mut stream: &UnixStream, servers: &mut [Server]) -> std::io::Result<()> {
    let mut name = String::new();
    BufReader::new(stream).read_line(&mut name)?;
    let wrong = match servers.iter_mut().find(|server| server.name == name.trim_end()) {
        Some(server) => server.restart().err(),
        None => Some("there is no such server".to_owned()),
    };
    stream.write_all(wrong.unwrap_or_default().as_bytes())
}

/// Asks the `cargo xtask servers` that is running to restart a server, and waits until it has.
pub(crate) fn restart(arguments: &Restart) -> Result<ExitCode, Box<dyn Error>> {
    let mut stream = UnixStream::connect(&arguments.control)?;
    writeln!(stream, "{}", arguments.name)?;
    let mut wrong = String::new();
    stream.read_to_string(&mut wrong)?;
    if wrong.is_empty() { Ok(ExitCode::SUCCESS) } else { Err(wrong.into()) }
}
