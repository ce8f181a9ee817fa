//! Debian systems in directories of their own: for Python interpreters that this system does not have, and to try what
//! is published where there is no Rust.
//!
//! `debootstrap` fills a directory, which is below the target directory, and programs run in it as their root. Both
//! need root.

use std::path::PathBuf;

use crate::host;
use crate::plan::CommandLine;

/// The versions of Python that the unstable suite has.
pub(crate) const VERSIONS: [&str; 2] = ["3.14", "3.15"];

/// A Debian release, and the version of its Python.
#[derive(Clone, Copy)]
pub(crate) struct Release {
    suite: &'static str,
    pub(crate) python: &'static str,
}

impl Release {
    pub(crate) const OF_OLDEST_PYTHON: Self = Self { suite: "bookworm", python: "3.11" };
    /// The release on whose Python instructions are counted.
    pub(crate) const OF_COUNTED_PYTHON: Self = Self { suite: "trixie", python: "3.13" };

    /// The releases in which the wheel is tried.
    pub(crate) const TRIED: [Self; 2] = [Self::OF_OLDEST_PYTHON, Self::OF_COUNTED_PYTHON];
}

/// A Debian system, which may not be installed yet.
pub(crate) struct Debian {
    suite: &'static str,
    directory: PathBuf,
    packages: Vec<String>,
}

impl Debian {
    /// Returns the system with the interpreters of [`VERSIONS`] and their own tests.
    pub(crate) fn with_pythons() -> Self {
        let packages = VERSIONS
            .iter()
            .flat_map(|version| {
                ["", "-venv"]
                    .map(|part| format!("python{version}{part}"))
                    .into_iter()
                    .chain([format!("libpython{version}-testsuite")])
            })
            .collect();
        Self { suite: "unstable", directory: host::target_dir().join("python/debian"), packages }
    }

    /// Returns the system of a release, with its Python and nothing to build with.
    pub(crate) fn release(release: Release) -> Self {
        let suite = release.suite;
        let packages = ["python3", "python3-venv"].map(str::to_owned).into();
        Self { suite, directory: host::target_dir().join("releases").join(suite), packages }
    }

    /// Returns the system whose Python runs under Valgrind.
    pub(crate) fn with_valgrind() -> Self {
        // Valgrind finds some functions of the C library by symbols that are in a package of their own.
        let packages = ["python3", "python3-venv", "valgrind", "libc6-dbg"].map(str::to_owned).into();
        Self {
            suite: Release::OF_COUNTED_PYTHON.suite,
            directory: host::target_dir().join("python/valgrind"),
            packages,
        }
    }

    /// Returns the command that installs the system, unless that has been done. Fails with the reason if it cannot run
    /// on this machine.
    pub(crate) fn installation(&self) -> Result<CommandLine, String> {
        if !host::is_root() {
            return Err("only root can install Debian in a directory".to_owned());
        }
        if host::output_of("debootstrap", &["--version"]).is_none() {
            return Err("debootstrap is not installed".to_owned());
        }
        let directory = self.directory.display().to_string();
        let script = CommandLine::new(["bash", "xtask/install-debian.sh"]);
        Ok(script.and([self.suite, directory.as_str(), &self.packages.join(",")]))
    }

    /// Returns the words that precede a command to run it in the system. It finds this workspace at the same path.
    pub(crate) fn prefix(&self) -> Vec<String> {
        let workspace = host::workspace().display().to_string();
        let script = host::workspace().join("xtask/in-root.sh").display().to_string();
        ["unshare", "--mount", "bash", script.as_str(), &self.directory.display().to_string(), &workspace]
            .map(str::to_owned)
            .into()
    }
}
