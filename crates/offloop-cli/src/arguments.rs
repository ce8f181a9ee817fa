//! The command line.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::cluster::ClusterCommand;
use crate::{FAILED, Failure, USAGE};

#[derive(Debug, Parser)]
#[command(name = "offloop", version, about = "Looks into running programs that use offloop")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what a program's pools, jobs, workers and event loops do
    Top(TopArguments),
    /// Look at a cluster, and do what its operator does
    Cluster {
        #[command(subcommand)]
        command: ClusterCommand,
    },
    /// Run jobs of a cluster in Python (the command of the Python package)
    #[command(disable_help_flag = true)]
    Worker {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        words: Vec<OsString>,
    },
    /// Print a completion script for a shell
    Completions { shell: Shell },
    /// Print the manual page
    #[command(hide = true)]
    Man,
}

const TOKEN_HELP: &str = "\
The token that the program asks for. Other users can read it in the list of processes: prefer --token-file, or the \
variable OFFLOOP_OBSERVE_TOKEN";

const AFTER_HELP: &str = "\
A program can be watched if it was started with OFFLOOP_OBSERVE=1, or serves the live view itself.
Without a terminal the view is printed once, as with --once.

Exit codes:
  0  done
  1  a program could not be reached, or the terminal or the output failed
  2  the command line is wrong
  3  no program can be watched";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct TopArguments {
    /// Process ids, sockets, addresses with their ports, or names of services
    ///
    /// Without any, all programs of this user that can be watched.
    #[arg(value_name = "PID|SOCKET|URL")]
    targets: Vec<String>,
    /// Print the view once, as a text
    #[arg(long, conflicts_with = "web")]
    pub(crate) once: bool,
    /// Print the documents once, one service in each line
    #[arg(long, conflicts_with = "web")]
    pub(crate) json: bool,
    /// Show a cluster instead: that at this URL, or in the variable OFFLOOP_CLUSTER_URL
    #[arg(long, value_name = "URL", num_args = 0..=1, conflicts_with_all = ["web", "targets"])]
    #[expect(clippy::option_option, reason = "the option may be given without a value")]
    pub(crate) cluster: Option<Option<String>>,
    /// Seconds between two looks at the program
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: f64,
    /// Serve the view as a page for a browser, and print its address
    ///
    /// Without ADDRESS it is on loopback, at a port that is free. The page needs the token that is part of the printed
    /// address, so that other users of this machine cannot open it.
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = ANY_PORT)]
    web: Option<String>,
    #[arg(long, conflicts_with = "token_file", help = TOKEN_HELP)]
    token: Option<String>,
    /// A file whose first line is the token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl TopArguments {
    /// Returns the programs that are named, and the address to serve the page at, if that is wanted.
    ///
    /// A word after `--web` that is no address names a program.
    pub(crate) fn targets_and_web(&self) -> (Vec<String>, Option<&str>) {
        match &self.web {
            Some(word) if !is_address(word) => {
                let targets = std::iter::once(word).chain(&self.targets).cloned().collect();
                (targets, Some(ANY_PORT))
            }
            web => (self.targets.clone(), web.as_deref()),
        }
    }

    /// Returns the token to send to programs, if there is one.
    pub(crate) fn token(&self) -> Result<Option<String>, Failure> {
        let token = if let Some(token) = &self.token {
            Some(token.clone())
        } else if let Some(file) = &self.token_file {
            let text = std::fs::read_to_string(file).map_err(|error| {
                Failure::new(FAILED, format!("the token could not be read from {}: {error}", file.display()))
            })?;
            Some(text.lines().next().unwrap_or_default().trim().to_owned())
        } else {
            std::env::var("OFFLOOP_OBSERVE_TOKEN").ok()
        };
        let token = token.filter(|token| !token.is_empty());
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(Failure::new(USAGE, "a token consists of printable ASCII characters without spaces"));
        }
        Ok(token)
    }

    pub(crate) fn interval(&self) -> Duration {
        Duration::from_secs_f64(self.interval)
    }
}

/// The address of a page whose port nobody has chosen.
const ANY_PORT: &str = "127.0.0.1:0";

/// Returns whether the word is an IP address or `localhost`, with or without a port.
fn is_address(word: &str) -> bool {
    let host = word.strip_prefix("localhost").is_some_and(|rest| rest.is_empty() || rest.starts_with(':'));
    host || word.parse::<IpAddr>().is_ok() || word.parse::<SocketAddr>().is_ok()
}

fn interval(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "this is no number of seconds".to_owned())?;
    if (0.2..=60.0).contains(&seconds) { Ok(seconds) } else { Err("it goes from 0.2 to 60".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_word_after_web_that_is_no_address_names_a_program() {
        let read = |words: &str| {
            let Command::Top(arguments) = Arguments::parse_from(words.split(' ')).command else { panic!() };
            let (targets, web) = arguments.targets_and_web();
            (targets.join(" "), web.map(str::to_owned))
        };
        let at = |address: &str| Some(address.to_owned());
        assert_eq!(read("offloop top 7"), ("7".into(), None));
        assert_eq!(read("offloop top --web"), (String::new(), at("127.0.0.1:0")));
        assert_eq!(read("offloop top --web 7 8"), ("7 8".into(), at("127.0.0.1:0")));
        assert_eq!(read("offloop top --web http://h:1/"), ("http://h:1/".into(), at("127.0.0.1:0")));
        assert_eq!(read("offloop top --web 127.0.0.1:9 7"), ("7".into(), at("127.0.0.1:9")));
        for address in ["localhost", "localhost:9", "::1", "[::1]:9", "0.0.0.0"] {
            assert!(is_address(address), "{address}");
        }
    }

    #[test]
    fn an_interval_has_limits() {
        assert_eq!(interval("0.2"), Ok(0.2));
        for wrong in ["0", "-1", "61", "nan", "inf", "soon"] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }
}
