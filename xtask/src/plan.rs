//! What a chore is going to do: command lines, shown before they run.

use std::fmt;
use std::process::Command;

pub(crate) enum Plan {
    /// These, until one fails.
    Run(Vec<Line>),
    /// The same, and what they leave out for want of something on this machine.
    RunPart(Vec<Line>, String),
    /// Nothing can be run here, for this reason.
    Skip(String),
}

/// A command line, shown as one would type it.
pub(crate) struct Line {
    environment: Vec<(&'static str, &'static str)>,
    words: Vec<String>,
}

pub(crate) fn cargo(words: &str) -> Line {
    Line::new(["cargo"]).and(words.split(' '))
}

/// Runs the lines, each of which is shown first. Fails with the first that fails, and says how it ended.
pub(crate) fn run_all(lines: Vec<Line>) -> Result<(), String> {
    lines.into_iter().try_for_each(|line| {
        println!("$ {line}");
        line.run()
    })
}

impl Line {
    pub(crate) fn new<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        Self { environment: Vec::new(), words: Vec::new() }.and(words)
    }

    pub(crate) fn and(mut self, words: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        self.words.extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    pub(crate) fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.push((name, value));
        self
    }

    /// As it is given to the system, for a caller that wants what it prints.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).envs(self.environment.iter().copied());
        command
    }

    /// Runs it with this process's input and output.
    fn run(&self) -> Result<(), String> {
        match self.command().status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(status.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl From<Line> for Plan {
    fn from(line: Line) -> Self {
        Self::Run(vec![line])
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.environment {
            write!(f, "{name}={value:?} ")?;
        }
        f.write_str(&self.words.join(" "))
    }
}
