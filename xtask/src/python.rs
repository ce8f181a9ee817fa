//! The Python interpreters of this machine, and virtual environments with the package installed.
//!
//! The environments are below the target directory: `python/<version>` for the tests, `python/peers` for the benches.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::plan::CommandLine;
use crate::{debian, host};

/// The supported versions, the preferred one first.
const VERSIONS: [&str; 3] = ["3.13", "3.12", "3.11"];

/// An interpreter that can make virtual environments.
pub(crate) struct Interpreter {
    version: String,
    program: String,
    /// The commands that install it.
    installation: Vec<CommandLine>,
    /// The words that precede each command in which it runs.
    prefix: Vec<String>,
}

impl Interpreter {
    /// Finds all interpreters, the preferred one first. Each version is looked up by its name, then in pyenv; the last
    /// one is `python3`, if its version is another.
    pub(crate) fn all() -> Vec<Self> {
        let mut found: Vec<Self> = VERSIONS
            .iter()
            .filter_map(|version| {
                Self::at(&format!("python{version}")).or_else(|| {
                    let prefix = host::output_of("pyenv", &["prefix", version])?;
                    Self::at(&format!("{prefix}/bin/python"))
                })
            })
            .collect();
        if let Some(python3) = Self::at("python3") {
            if found.iter().all(|other| other.version != python3.version) {
                found.push(python3);
            }
        }
        found
    }

    fn at(program: &str) -> Option<Self> {
        let script = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2]); \
                      sys.exit(sys.version_info < (3, 11))";
        let version = host::output_of(program, &["-c", script])?;
        Some(Self { version, program: program.to_owned(), installation: Vec::new(), prefix: Vec::new() })
    }

    /// Returns the interpreter of the preferred version that is installed.
    pub(crate) fn preferred() -> Result<Self, String> {
        let none = || "no Python 3.11 or later with `venv` is installed".to_owned();
        Self::all().into_iter().next().ok_or_else(none)
    }

    /// Returns the interpreter of the oldest version, unless it is also the preferred one.
    pub(crate) fn oldest() -> Result<Self, String> {
        let none = || "no second Python 3.11 or later is installed".to_owned();
        Self::all().into_iter().skip(1).last().ok_or_else(none)
    }

    /// Returns the interpreter of a version that Debian's unstable suite has, which may not be installed yet.
    pub(crate) fn of_debian(version: &str) -> Result<Self, String> {
        debug_assert!(debian::VERSIONS.contains(&version));
        Ok(Self {
            version: version.to_owned(),
            program: format!("python{version}"),
            installation: debian::commands()?,
            prefix: debian::prefix(),
        })
    }

    /// Returns a command line that runs a program where the interpreter is installed.
    fn command(&self, program: &str) -> CommandLine {
        CommandLine::new(self.prefix.iter().map(String::as_str)).and([program])
    }

    /// Returns the interpreter whose own tests are run on offloop's executors.
    pub(crate) fn with_its_tests() -> Result<Self, String> {
        let has_tests = |it: &Self| {
            it.version == "3.13"
                && host::output_of(&it.program, &["-c", "import test.test_concurrent_futures"]).is_some()
        };
        let none = || "no installed Python 3.13 has its `test` package".to_owned();
        Self::all().into_iter().find(has_tests).ok_or_else(none)
    }

    /// Returns the environment of the tests.
    pub(crate) fn for_tests(self) -> Environment {
        let directory = directory().join(&self.version);
        Environment { interpreter: self, directory, requirements: vec!["python/requirements.txt"] }
    }

    /// Returns the environment of the benches, with the packages that offloop is compared with.
    pub(crate) fn for_peers(self) -> Environment {
        let directory = directory().join("peers");
        Environment { interpreter: self, directory, requirements: vec!["python/benches/requirements.txt"] }
    }
}

/// A virtual environment, which may not exist yet.
pub(crate) struct Environment {
    interpreter: Interpreter,
    directory: PathBuf,
    requirements: Vec<&'static str>,
}

impl Environment {
    /// Adds a file of requirements.
    pub(crate) fn requires(mut self, file: &'static str) -> Self {
        self.requirements.push(file);
        self
    }

    /// Returns the commands that create the environment and install the package in it, built from the present source.
    pub(crate) fn commands(&self) -> Vec<CommandLine> {
        let mut lines = self.wheel();
        lines.extend(self.interpreter.installation.iter().cloned());
        lines.extend(self.creation());
        let mut install = self.python("-m pip install --quiet");
        for file in &self.requirements {
            install = install.and(["-r", file]);
        }
        lines.push(install);
        let wheels = wheels().display().to_string();
        let install = "-m pip install --quiet --no-index --no-deps --force-reinstall --find-links";
        lines.push(self.python(install).and([wheels.as_str(), "offloop"]));
        lines
    }

    /// Returns the command that creates the virtual environment, unless it exists.
    fn creation(&self) -> Option<CommandLine> {
        let directory = self.directory.display().to_string();
        let venv =
            self.interpreter.command(&self.interpreter.program).and(["-m", "venv", "--clear", &directory]);
        (!self.is_of_its_interpreter()).then_some(venv)
    }

    /// Returns the commands that build the wheel, unless that has been done. Where this environment's interpreter is
    /// there may be no Rust, so the preferred one builds it.
    fn wheel(&self) -> Vec<CommandLine> {
        if WHEEL_BUILT.swap(true, Ordering::Relaxed) {
            return Vec::new();
        }
        let wheels = wheels().display().to_string();
        // Otherwise an older wheel would be installed if the build fails.
        let _ = std::fs::remove_dir_all(&wheels);
        let builder = Interpreter::preferred().map(Interpreter::for_tests);
        let builder = builder.as_ref().unwrap_or(self);
        let build = "-m pip wheel --quiet --no-deps --wheel-dir";
        builder.creation().into_iter().chain([builder.python(build).and([wheels.as_str(), "."])]).collect()
    }

    /// Returns a command line of the environment's interpreter.
    pub(crate) fn python(&self, words: &str) -> CommandLine {
        self.interpreter.command(&self.program()).and(words.split(' '))
    }

    /// Returns the path of the environment's interpreter.
    pub(crate) fn program(&self) -> String {
        self.directory.join("bin/python").display().to_string()
    }

    /// Returns the interpreter's name and version.
    pub(crate) fn version(&self) -> String {
        host::output_of(&self.interpreter.program, &["--version"])
            .unwrap_or_else(|| format!("Python {}", self.interpreter.version))
    }

    /// Returns whether the environment exists and was made by this version of the interpreter.
    fn is_of_its_interpreter(&self) -> bool {
        let script = "import pip, sys; print('%d.%d' % sys.version_info[:2])";
        self.interpreter.command(&self.program()).and(["-c", script]).output().as_ref()
            == Some(&self.interpreter.version)
    }
}

/// Whether the wheel is built. All environments of a run install the same one.
static WHEEL_BUILT: AtomicBool = AtomicBool::new(false);

fn wheels() -> PathBuf {
    directory().join("wheels")
}

fn directory() -> PathBuf {
    host::target_dir().join("python")
}
