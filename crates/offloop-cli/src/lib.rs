//! The command `offloop`: a look into running programs that use offloop.
//!
//! `offloop top` shows the pools, workers, jobs and event loops of a service in the terminal, as a text or as JSON, or
//! serves the same as a web page. It reads what a program shows on its socket (see `offloop::observe`), and trusts
//! nothing of it.
//!
//! The crate is a program; the library exists so that the Python package ships the same program. Its only function is
//! [`main`].
//!
//! | module | contents |
//! | --- | --- |
//! | `arguments` | the command line |
//! | `cluster` | the commands for a cluster |
//! | `screen` | the view in the terminal |
//! | `once` | the view as a text, or as JSON |
//! | `web` | the page in a browser |
//! | `network` | the thread that asks programs while the screen is shown |
//! | `programs` | the programs that can be watched, and how one is found again |
//! | `http` | requests to a program |
//! | `panels` | a service as tables |
//! | `history` | how some values have changed while they were watched |
//! | `table` | tables, fitted to a width |
//! | `clean`, `text` | what programs send, made fit to be printed |

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "values are rounded to be shown"
)]

#[cfg(not(unix))]
compile_error!("offloop-cli needs Unix sockets and terminals");

mod arguments;
mod clean;
mod cluster;
mod history;
mod http;
mod network;
mod once;
mod panels;
mod programs;
mod screen;
mod table;
mod text;
mod web;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};

use clap::{CommandFactory, Parser};

use arguments::{Arguments, Command, TopArguments};
use programs::Lookup;

/// The end of a command that did not do what was asked: the exit code, and a sentence that says what to do.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
}

/// A program could not be reached, or something else went wrong.
const FAILED: u8 = 1;
/// The command line is wrong. That is also the code of the parser.
const USAGE: u8 = 2;
/// There is no program to watch.
const NOTHING: u8 = 3;

impl Failure {
    fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(FAILED, error.to_string())
    }
}

/// Runs the command line, whose first word is the program's name, and returns the exit code.
///
/// It reads and writes the standard streams and the terminal, and blocks until the command is done. Signals that end a
/// program end the process, after the terminal is restored.
pub fn main(arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> u8 {
    let result = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => run(arguments.command),
        Err(error) => {
            // This fails if nobody reads it, and then nobody misses it.
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(USAGE);
        }
    };
    match result {
        Ok(()) => 0,
        Err(failure) => {
            let _ = writeln!(io::stderr(), "offloop: {}", failure.message);
            failure.code
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Top(arguments) => top(&arguments),
        Command::Cluster { command } => cluster::run(command),
        Command::Worker { .. } => Err(Failure::new(
            USAGE,
            "`offloop worker` runs Python functions, and comes with the Python package: pip install 'offloop[cluster]'. A \
             program in Rust is a worker itself: see offloop_cluster::init",
        )),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "offloop", &mut script);
            print(&script)
        }
        Command::Man => {
            let mut page = Vec::new();
            let command = Arguments::command();
            clap_mangen::Man::new(command.clone()).render(&mut page)?;
            for (name, title) in [("top", "offloop-top"), ("cluster", "offloop-cluster")] {
                if let Some(found) = command.find_subcommand(name) {
                    clap_mangen::Man::new(found.clone().name(title)).render(&mut page)?;
                }
            }
            print(&page)
        }
    }
}

fn top(arguments: &TopArguments) -> Result<(), Failure> {
    if let Some(url) = &arguments.cluster {
        let to = cluster::ClusterAddress::at(url.clone());
        return cluster::top(&to, arguments.interval(), arguments.once, arguments.json);
    }
    let (targets, web) = arguments.targets_and_web();
    let lookup = Lookup::new(&targets, arguments.token()?)?;
    if let Some(address) = web {
        web::serve(&lookup, address)
    } else if arguments.once || arguments.json || !io::stdout().is_terminal() {
        once::print(&lookup, arguments.json)
    } else {
        screen::run(lookup, arguments.interval())
    }
}

/// Writes to the standard output. A reader that has gone, as `head` does, is no error.
fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    match output.write_all(bytes).and_then(|()| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(FAILED, format!("the output could not be written: {error}")))
        }
        _ => Ok(()),
    }
}
