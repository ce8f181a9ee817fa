//! The Python interpreters of this machine, and virtual environments with the package installed.
//!
//! The environments are below the target directory: `python/<version>` for the tests, `python/peers` for the benches,
//! `python/peers-<version>` for the benches on a version that is asked for,
//! `python/engines` for the tests on Dask and Ray, `python/nats` for the cluster's server, `python/cluster-peers` for the
//! bench of clusters, `python/counting` for counts of instructions, `python/dist` for the tools that package and check,
//! and `releases/python-<version>` to try what is published.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::debian::{self, Debian, Release};
use crate::host;
use crate::plan::CommandLine;

/// The supported versions, the preferred one first.
const VERSIONS: [&str; 3] = ["3.13", "3.12", OLDEST];
const OLDEST: &str = "3.11";

/// An interpreter that can make virtual environments.
pub(crate) struct Interpreter {
    version: String,
    program: String,
    /// The command that installs it, if it does not belong to this system.
    installation: Option<CommandLine>,
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
        Some(Self { version, program: program.to_owned(), installation: None, prefix: Vec::new() })
    }

    /// Returns the interpreter of the preferred version that is installed.
    pub(crate) fn preferred() -> Result<Self, String> {
        let none = || "no Python 3.11 or later with `venv` is installed".to_owned();
        Self::all().into_iter().next().ok_or_else(none)
    }

    /// Returns the interpreter of a version, such as `3.14`, which may not be installed yet: if this system lacks it, Debian's
    /// unstable suite may have it.
    pub(crate) fn of_version(version: &str) -> Result<Self, String> {
        let mut all = Self::all();
        match all.iter().position(|it| it.version == version) {
            Some(at) => Ok(all.swap_remove(at)),
            None if debian::VERSIONS.contains(&version) => Self::of_debian(version),
            None => Err(format!(
                "no Python {version} is installed; Debian's unstable suite has {}",
                debian::VERSIONS.join(" and ")
            )),
        }
    }

    /// Returns the interpreter of the oldest version, which may not be installed yet: if this system lacks it, a Debian
    /// release has it.
    pub(crate) fn oldest() -> Result<Self, String> {
        let mut all = Self::all();
        match all.iter().position(|it| it.version == OLDEST) {
            Some(0) => Err(format!("Python {OLDEST} is the preferred one as well")),
            Some(at) => Ok(all.swap_remove(at)),
            None => Self::of_release(Release::OF_OLDEST_PYTHON),
        }
    }

    /// Returns the interpreter of a version that Debian's unstable suite has, which may not be installed yet.
    pub(crate) fn of_debian(version: &str) -> Result<Self, String> {
        debug_assert!(debian::VERSIONS.contains(&version));
        Ok(Self {
            version: version.to_owned(),
            program: format!("python{version}"),
            installation: Some(Debian::with_pythons().installation()?),
            prefix: Debian::with_pythons().prefix(),
        })
    }

    /// Returns the interpreter of a Debian release, which may not be installed yet.
    pub(crate) fn of_release(release: Release) -> Result<Self, String> {
        Self::in_debian(release, &Debian::release(release))
    }

    /// Returns the interpreter on which instructions are counted, which may not be installed yet.
    pub(crate) fn beside_valgrind() -> Result<Self, String> {
        Self::in_debian(Release::OF_COUNTED_PYTHON, &Debian::with_valgrind())
    }

    fn in_debian(release: Release, debian: &Debian) -> Result<Self, String> {
        Ok(Self {
            version: release.python.to_owned(),
            program: "python3".to_owned(),
            installation: Some(debian.installation()?),
            prefix: debian.prefix(),
        })
    }

    /// Returns a command line that runs a program where the interpreter is installed.
    pub(crate) fn command(&self, program: &str) -> CommandLine {
        CommandLine::new(self.prefix.iter().map(String::as_str)).and([program])
    }

    /// Returns the interpreter of this system whose own tests are run on offloop's executors.
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

    /// Returns the environment of the tests on engines of others, with these engines.
    pub(crate) fn for_engines(self) -> Environment {
        let directory = directory().join("engines");
        Environment {
            interpreter: self,
            directory,
            requirements: vec!["python/tests_engines/requirements.txt"],
        }
    }

    /// Returns the environment of the benches, with the packages that offloop is compared with.
    pub(crate) fn for_peers(self) -> Environment {
        let directory = directory().join("peers");
        Environment { interpreter: self, directory, requirements: vec!["python/benches/requirements.txt"] }
    }

    /// Returns the environment of the benches on a version that not all packages may have builds for. What is compared has to
    /// be installed by `python/benches/install.py`, which leaves out those.
    pub(crate) fn for_peers_with_builds(self) -> Environment {
        let directory = directory().join(format!("peers-{}", self.version));
        Environment { interpreter: self, directory, requirements: Vec::new() }
    }

    /// Returns the environment in which instructions are counted.
    pub(crate) fn for_counting(self) -> Environment {
        Environment { interpreter: self, directory: directory().join("counting"), requirements: Vec::new() }
    }

    /// Returns the environment of the tools that package and check what is published.
    pub(crate) fn for_packaging(self) -> Environment {
        let directory = directory().join("dist");
        Environment { interpreter: self, directory, requirements: vec!["python/requirements-dist.txt"] }
    }

    /// Returns the environment with the NATS server of the cluster's tests.
    pub(crate) fn for_nats(self) -> Environment {
        let directory = directory().join("nats");
        let requirements = vec!["crates/offloop-cluster/tests/requirements.txt"];
        Environment { interpreter: self, directory, requirements }
    }

    /// Returns the environment of the bench that compares clusters. It installs the peers itself.
    pub(crate) fn for_cluster_peers(self) -> Environment {
        let directory = directory().join("cluster-peers");
        Environment { interpreter: self, directory, requirements: Vec::new() }
    }

    /// Returns an empty environment, to install what is published in.
    pub(crate) fn for_trial(self) -> Environment {
        let directory = host::target_dir().join("releases").join(format!("python-{}", self.version));
        Environment { interpreter: self, directory, requirements: Vec::new() }
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
        lines.extend(self.commands_without_the_package());
        let wheels = wheels().display().to_string();
        let install = "-m pip install --quiet --no-index --no-deps --force-reinstall --find-links";
        lines.push(self.python(install).and([wheels.as_str(), "offloop"]));
        lines
    }

    /// Returns the commands that create the environment, with what it requires.
    pub(crate) fn commands_without_the_package(&self) -> Vec<CommandLine> {
        let mut lines: Vec<_> =
            self.interpreter.installation.iter().cloned().chain(self.creation()).collect();
        // One file after the other: with hashes in one of them, pip would want hashes in all.
        lines.extend(
            self.requirements.iter().map(|file| self.python("-m pip install --quiet -r").and([*file])),
        );
        lines
    }

    /// Returns whether what it requires is there, or can be installed: some packages have no builds for some versions of
    /// Python, and a package index may be out of reach. Installs nothing.
    pub(crate) fn can_be_made(&self) -> bool {
        let options = ["-m", "pip", "install", "--quiet", "--dry-run", "--no-deps"];
        let files = self.requirements.iter().flat_map(|file| ["-r", file]);
        let arguments: Vec<_> = options.into_iter().chain(files).collect();
        let own = self.is_of_its_interpreter().then(|| self.program());
        host::output_of(&own.unwrap_or_else(|| self.interpreter.program.clone()), &arguments).is_some()
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
    pub(crate) fn wheel(&self) -> Vec<CommandLine> {
        if WHEEL_BUILT.swap(true, Ordering::Relaxed) {
            return Vec::new();
        }
        let wheels = wheels().display().to_string();
        let builder = Interpreter::preferred().map(Interpreter::for_tests);
        let builder = builder.as_ref().unwrap_or(self);
        let build = "-m pip wheel --quiet --no-deps --wheel-dir";
        let mut lines: Vec<_> = builder.creation().into_iter().collect();
        // Otherwise an older wheel would be installed if the build fails.
        lines.push(CommandLine::new(["rm", "-rf", &wheels]));
        lines.push(builder.python(build).and([wheels.as_str(), "."]));
        lines
    }

    /// Returns a command line of the environment's interpreter.
    pub(crate) fn python(&self, words: &str) -> CommandLine {
        self.interpreter.command(&self.program()).and(words.split(' '))
    }

    /// Returns the path of the environment's interpreter.
    pub(crate) fn program(&self) -> String {
        self.directory.join("bin/python").display().to_string()
    }

    /// Returns the path of a program that the environment's packages have installed.
    pub(crate) fn program_beside(&self, name: &str) -> String {
        self.directory.join("bin").join(name).display().to_string()
    }

    /// Returns the interpreter's name and version.
    pub(crate) fn version(&self) -> String {
        let version = self.interpreter.command(&self.interpreter.program).and(["--version"]);
        version.output().unwrap_or_else(|| format!("Python {}", self.interpreter.version))
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

/// Returns the directory of the wheel that the tests install.
pub(crate) fn wheels() -> PathBuf {
    directory().join("wheels")
}

fn directory() -> PathBuf {
    host::target_dir().join("python")
}
