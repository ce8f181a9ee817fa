//! The list of checks, each a name and the commands behind it.

use std::fmt;
use std::process::Command;

use crate::host;

pub(super) struct Step {
    pub(super) name: &'static str,
    /// Asked when the step's turn has come.
    pub(super) plan: fn() -> Plan,
}

pub(super) enum Plan {
    /// These, until one fails.
    Run(Vec<Line>),
    /// Nothing can be run here, for this reason.
    Skip(String),
}

/// A command line, shown as one would type it.
pub(super) struct Line {
    environment: Vec<(&'static str, &'static str)>,
    words: Vec<String>,
}

pub(super) fn all() -> Vec<Step> {
    vec![
        Step { name: "format", plan: || cargo("fmt --all --check").into() },
        Step {
            name: "lints",
            plan: || cargo("clippy --workspace --all-targets --all-features -- -D warnings").into(),
        },
        Step {
            name: "lints-bare",
            plan: || cargo("clippy -p offloop --no-default-features --lib -- -D warnings").into(),
        },
        Step { name: "tests", plan: || cargo("test --workspace --all-features").into() },
        Step { name: "nextest", plan: nextest },
        Step { name: "tests-bare", plan: || cargo("test -p offloop --no-default-features --lib").into() },
        Step { name: "models", plan: models },
        Step { name: "miri", plan: miri },
        Step {
            name: "docs",
            plan: || {
                cargo("doc --workspace --no-deps --all-features").with("RUSTDOCFLAGS", "-D warnings").into()
            },
        },
        Step { name: "licences", plan: || deny(&["licenses", "bans", "sources"]) },
        Step { name: "advisories", plan: advisories },
        Step { name: "torture", plan: || cargo("xtask torture --seconds 10 --seed 1").into() },
        Step {
            name: "bench-smoke",
            plan: || {
                let benches = ["threads", "processes"];
                Plan::Run(benches.map(|name| cargo("xtask bench").and([name, "--quick"])).into())
            },
        },
        Step { name: "example-quickstart", plan: || cargo("run -p offloop --example quickstart").into() },
        Step { name: "example-executor", plan: || cargo("run -p offloop --example executor").into() },
        Step { name: "example-json-keys", plan: || cargo("run -p offloop --example json_keys").into() },
    ]
}

/// The example of tests that use process pools, under nextest, which starts a process for each test. The step
/// `tests` runs it under `cargo test`, doctests included.
fn nextest() -> Plan {
    if host::output_of("cargo", &["nextest", "--version"]).is_none() {
        return Plan::Skip("cargo-nextest is not installed".to_owned());
    }
    cargo("nextest run -p offloop-example-testing").into()
}

/// The concurrency models, under a scheduler that tries many orders: all tests that there are under this flag.
/// Other flags than the usual would rebuild everything each time, so they have a target directory of their own.
fn models() -> Plan {
    let target = host::target_dir().join("shuttle").display().to_string();
    cargo("test -p offloop --no-default-features --lib --release")
        .and(["--target-dir", &target])
        .with("RUSTFLAGS", "--cfg shuttle")
        .into()
}

/// The unit tests under Miri, on the first installed toolchain that has it.
fn miri() -> Plan {
    let toolchains = host::output_of("rustup", &["toolchain", "list"]).unwrap_or_default();
    let names = toolchains.lines().filter_map(|line| line.split_whitespace().next());
    let has_miri =
        |name: &&str| host::output_of("rustup", &["run", name, "cargo", "miri", "--version"]).is_some();
    match names.into_iter().find(has_miri) {
        Some(name) => Line::new(["rustup", "run", name, "cargo"])
            .and("miri test -p offloop --no-default-features --lib".split(' '))
            .with("MIRIFLAGS", "-Zmiri-disable-isolation")
            .into(),
        None => Plan::Skip("no installed toolchain has miri".to_owned()),
    }
}

/// Checks of cargo-deny. It reads the manifests of all dependencies, those of other systems included, which an
/// ordinary build does not download.
fn deny(checks: &[&str]) -> Plan {
    if host::output_of("cargo", &["deny", "--version"]).is_none() {
        return Plan::Skip("cargo-deny is not installed".to_owned());
    }
    Plan::Run(vec![cargo("fetch"), cargo("deny --all-features --offline check").and(checks)])
}

/// Known vulnerabilities, by the newest database on this machine; it is not fetched here.
fn advisories() -> Plan {
    let home = std::env::var_os("CARGO_HOME")
        .map(std::path::PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    if home.is_some_and(|home| home.join("advisory-dbs").is_dir()) {
        deny(&["advisories"])
    } else {
        Plan::Skip("no advisory database on this machine".to_owned())
    }
}

fn cargo(words: &str) -> Line {
    Line::new(["cargo"]).and(words.split(' '))
}

impl Line {
    fn new<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        Self { environment: Vec::new(), words: Vec::new() }.and(words)
    }

    fn and(mut self, words: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        self.words.extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.push((name, value));
        self
    }

    /// Runs it with this process's input and output.
    pub(super) fn run(&self) -> Result<(), String> {
        let mut command = Command::new(&self.words[0]);
        let status = command.args(&self.words[1..]).envs(self.environment.iter().copied()).status();
        match status {
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
