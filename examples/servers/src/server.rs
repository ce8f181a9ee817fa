//! A server process, and the temporary directory that servers share.

use std::fs::{self, DirBuilder};
use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};

/// The user `nobody` and its group. A server that root starts runs as this user, because servers refuse to be root.
const NOBODY: u32 = 65_534;

/// The longest time that a server may take to start or to stop. Generous: the machine may be busy.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A temporary directory. It is removed when this process and all processes started by [`command`](Self::command)
/// have ended, even if they are killed.
pub(crate) struct TemporaryDirectory {
    path: PathBuf,
    /// The pipe that servers write their output to. Each server inherits a copy and keeps it open until it ends.
    output: Option<ChildStdin>,
    /// A shell that writes this output to `log`. When the last copy of the pipe is closed, it removes the directory.
    remover: Child,
}

impl TemporaryDirectory {
    pub(crate) fn new() -> Result<Self, String> {
        // Not below the target directory: `nobody` may have no access to it.
        let path = std::env::temp_dir().join(format!("offloop-servers-{}", std::process::id()));
        let failed = |error: io::Error| format!("the directory {} was not created: {error}", path.display());
        let mode = if geteuid().is_root() { 0o711 } else { 0o700 };
        DirBuilder::new().mode(mode).create(&path).map_err(failed)?;
        let mut remover = Command::new("sh")
            .args(["-c", r#"cat >"$1/log"; rm -rf -- "$1""#, "remover"])
            .arg(&path)
            .stdin(Stdio::piped())
            // A process group of its own, so that Ctrl-C does not end it.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        Ok(Self { path, output: remover.stdin.take(), remover })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Creates a subdirectory that the servers' user owns.
    pub(crate) fn subdirectory(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.path.join(name);
        let owner = geteuid().is_root().then_some(NOBODY);
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .and_then(|()| chown(&path, owner, owner))
            .map_err(|error| format!("the directory {} was not created: {error}", path.display()))?;
        Ok(path)
    }

    /// Returns a command that runs `program` as the servers' user. The system sends it SIGINT when the thread that
    /// spawned it ends; Ctrl-C does not reach it.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        if geteuid().is_root() {
            command.args(["--clear-groups", &format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}")]);
        }
        let output = || {
            let output = self.output.as_ref().and_then(|output| output.as_fd().try_clone_to_owned().ok());
            output.map_or_else(Stdio::null, Stdio::from)
        };
        command.arg("--pdeathsig=INT").arg("--").arg(program);
        command.current_dir(&self.path).process_group(0);
        command.stdin(Stdio::null()).stdout(output()).stderr(output());
        command
    }

    fn log(&self) -> PathBuf {
        self.path.join("log")
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        drop(self.output.take());
        // Returns when the directory is removed.
        if let Err(error) = self.remover.wait() {
            eprintln!("the directory {} may still exist: {error}", self.path.display());
        }
    }
}

/// A running server.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) url: String,
    command: Command,
    answers: Box<dyn FnMut() -> bool>,
    process: Child,
    log: PathBuf,
}

impl Server {
    /// Starts a server and waits until `answers` returns true.
    pub(crate) fn start(
        directory: &TemporaryDirectory,
        name: &'static str,
        url: String,
        mut command: Command,
        answers: impl FnMut() -> bool + 'static,
    ) -> Result<Self, String> {
        let process = command.spawn().map_err(|error| format!("{name} did not start: {error}"))?;
        let log = directory.log();
        let mut server = Self { name, url, command, answers: Box::new(answers), process, log };
        server.wait_until_it_answers()?;
        Ok(server)
    }

    pub(crate) fn restart(&mut self) -> Result<(), String> {
        self.stop();
        self.process =
            self.command.spawn().map_err(|error| format!("{} did not start: {error}", self.name))?;
        self.wait_until_it_answers()
    }

    fn wait_until_it_answers(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        while !(self.answers)() {
            if let Ok(Some(status)) = self.process.try_wait() {
                return Err(self.with_log(&format!("ended at once: {status}")));
            }
            if begun.elapsed() > TIMEOUT {
                return Err(self.with_log(&format!("did not answer within {TIMEOUT:?}")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Returns `problem` and the last lines of the servers' output.
    fn with_log(&self, problem: &str) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(20)..];
        format!("{} {problem}\n  {}", self.name, last.join("\n  "))
    }

    fn stop(&mut self) {
        let begun = Instant::now();
        // The process is a child that has not been waited for, so no other process has its pid.
        if kill_process(Pid::from_child(&self.process), Signal::INT).is_ok() {
            while matches!(self.process.try_wait(), Ok(None)) && begun.elapsed() < TIMEOUT {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Returns an address on loopback whose port is free now.
pub(crate) fn free_address() -> Result<String, String> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map(|address| address.to_string())
        .map_err(|error| format!("no free port on loopback: {error}"))
}
