//! The commands that a chore runs. Each is printed before it runs.

use std::error::Error;
use std::fmt;
use std::io::Write;
use std::process::Command;

use crate::host;
use crate::tail::{self, Output};

/// The commands of a step.
pub(crate) enum Plan {
    /// Runs these until one fails.
    Run(Vec<CommandLine>),
    /// Does the same, and reports the part that cannot run on this machine, with the reason.
    RunPart(Vec<CommandLine>, String),
    /// Runs nothing, for this reason.
    Skip(String),
}

/// A command with its arguments and the variables added to its environment. It is displayed as one would type it.
#[derive(Clone)]
pub(crate) struct CommandLine {
    environment: Vec<(&'static str, &'static str)>,
    words: Vec<String>,
}

/// Returns the command line `cargo` with these words, which single spaces divide.
pub(crate) fn cargo(words: &str) -> CommandLine {
    CommandLine::new(["cargo"]).and(words.split(' '))
}

/// Returns the command that runs another in a network of its own, which has the loopback interface only. `None` if it cannot
/// be made here.
pub(crate) fn network_of_its_own() -> Option<CommandLine> {
    // Dask asks for the address that it would be reached at.
    let alone = "ip link set lo up && ip route add default dev lo src 127.0.0.1 && exec \"$@\"";
    let is_possible = host::is_root() && host::output_of("ip", &["-V"]).is_some();
    is_possible.then(|| CommandLine::new(["unshare", "--net", "sh", "-c", alone, "sh"]))
}

/// A command that failed. It is displayed as the reason.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) reason: String,
    /// The end of what it printed. Empty if that went to a terminal.
    pub(crate) tail: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl Error for Failure {}

/// Prints and runs the command lines. Fails with the first that fails.
pub(crate) fn run_all(lines: Vec<CommandLine>) -> Result<(), Failure> {
    run_with(lines, Output::PassedOn)
}

/// Does the same, but prints them, and what they print, where `output` says.
pub(crate) fn run_with(lines: Vec<CommandLine>, output: Output<'_>) -> Result<(), Failure> {
    lines.into_iter().try_for_each(|line| {
        match output {
            Output::PassedOn => println!("$ {line}"),
            // The log is there to help; without this line it still does.
            Output::Logged(mut file) => drop(writeln!(file, "$ {line}")),
        }
        line.run(output)
    })
}

impl CommandLine {
    pub(crate) fn new<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        Self { environment: Vec::new(), words: Vec::new() }.and(words)
    }

    /// Appends words.
    pub(crate) fn and(mut self, words: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        self.words.extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Adds a variable to the environment.
    pub(crate) fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.push((name, value));
        self
    }

    /// Returns the command line of a program that runs this one, whose words it takes as its last arguments.
    pub(crate) fn after(&self, program: &Self) -> Self {
        let environment = program.environment.iter().chain(&self.environment).copied().collect();
        Self { environment, words: program.words.iter().chain(&self.words).cloned().collect() }
    }

    /// Returns the command, for a caller that reads its output.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).envs(self.environment.iter().copied());
        command
    }

    /// Runs the command without printing it, and returns its output, or `None` if it fails.
    pub(crate) fn output(&self) -> Option<String> {
        host::output_of(&self.words[0], &self.words[1..])
    }

    /// Runs the command. If its output is passed on, it has this process's input.
    fn run(&self, output: Output<'_>) -> Result<(), Failure> {
        match tail::run(self.command(), output) {
            Ok((status, _)) if status.success() => Ok(()),
            Ok((status, tail)) => Err(Failure { reason: status.to_string(), tail }),
            Err(error) => {
                let reason = format!("`{}` did not start: {error}", self.words[0]);
                Err(Failure { reason, tail: String::new() })
            }
        }
    }
}

impl From<CommandLine> for Plan {
    fn from(line: CommandLine) -> Self {
        Self::Run(vec![line])
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.environment {
            write!(f, "{name}={value:?} ")?;
        }
        f.write_str(&self.words.join(" "))
    }
}
