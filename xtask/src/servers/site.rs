//! Where servers live while they are needed: a directory, the user that they run as, and who cleans up after them.

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

use crate::host;

/// A new directory. It goes when this process and all that it has started here have ended, however that came.
pub(super) struct Site {
    directory: PathBuf,
    /// Whom to become: servers refuse to be root.
    user: Option<User>,
    /// What the servers print. Each holds a copy of this end of the pipe for as long as it lives.
    output: Option<ChildStdin>,
    /// Reads the other end. When nobody holds this one any more it removes the directory.
    keeper: Child,
}

struct User {
    uid: u32,
    gid: u32,
}

/// How long a server may take to start or to stop, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(120);

impl Site {
    pub(super) fn new() -> Result<Self, String> {
        let user = if geteuid().is_root() { Some(User::nobody()?) } else { None };
        // Not under the target directory: another user may not get there.
        let directory = std::env::temp_dir().join(format!("offloop-servers-{}", std::process::id()));
        let mode = if user.is_some() { 0o711 } else { 0o700 };
        let failed = |error: io::Error| format!("{}: {error}", directory.display());
        DirBuilder::new().mode(mode).create(&directory).map_err(failed)?;
        let mut keeper = Command::new("sh")
            .args(["-c", r#"cat >"$1/log"; rm -rf -- "$1""#, "keeper"])
            .arg(&directory)
            .stdin(Stdio::piped())
            // Ctrl-C is not for it.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        Ok(Self { directory, user, output: keeper.stdin.take(), keeper })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A new directory in which servers may write.
    pub(super) fn room(&self, name: &str) -> Result<PathBuf, String> {
        let room = self.directory.join(name);
        let (uid, gid) = self.user.as_ref().map(|user| (user.uid, user.gid)).unzip();
        DirBuilder::new()
            .mode(0o700)
            .create(&room)
            .and_then(|()| chown(&room, uid, gid))
            .map_err(|error| format!("{}: {error}", room.display()))?;
        Ok(room)
    }

    /// A command that runs as the servers' user and gets `signal` when this thread ends, though not by Ctrl-C.
    pub(super) fn command(&self, signal: &str, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        if let Some(User { uid, gid }) = &self.user {
            command.args(["--clear-groups", &format!("--reuid={uid}"), &format!("--regid={gid}")]);
        }
        let output = || {
            let output = self.output.as_ref().and_then(|output| output.as_fd().try_clone_to_owned().ok());
            output.map_or_else(Stdio::null, Stdio::from)
        };
        command.arg(format!("--pdeathsig={signal}")).arg("--").arg(program);
        command.current_dir(&self.directory).process_group(0);
        command.stdin(Stdio::null()).stdout(output()).stderr(output());
        command
    }

    /// Runs a command to its end.
    pub(super) fn finish(&self, command: &mut Command) -> Result<(), String> {
        match command.status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(with_log(format!("{command:?}: {status}"), &self.log())),
            Err(error) => Err(format!("{command:?}: {error}")),
        }
    }

    fn log(&self) -> PathBuf {
        self.directory.join("log")
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        drop(self.output.take());
        // Until the directory is gone.
        if let Err(error) = self.keeper.wait() {
            eprintln!("{}: {error}", self.directory.display());
        }
    }
}

impl User {
    fn nobody() -> Result<Self, String> {
        let id = |option| {
            let id = host::output_of("id", &[option, "nobody"]).and_then(|id| id.parse().ok());
            id.ok_or("servers refuse to run as root, and there is no user `nobody`")
        };
        Ok(Self { uid: id("-u")?, gid: id("-g")? })
    }
}

/// A server that runs.
pub(super) struct Server {
    pub(super) name: &'static str,
    pub(super) url: String,
    signal: Signal,
    command: Command,
    answers: Box<dyn Fn() -> bool>,
    process: Child,
    log: PathBuf,
}

impl Server {
    /// Starts it and waits until it answers.
    pub(super) fn start(
        site: &Site,
        name: &'static str,
        url: String,
        signal: Signal,
        mut command: Command,
        answers: impl Fn() -> bool + 'static,
    ) -> Result<Self, String> {
        let process = command.spawn().map_err(|error| format!("{name}: {error}"))?;
        let mut server =
            Self { name, url, signal, command, answers: Box::new(answers), process, log: site.log() };
        server.wait_until_it_answers()?;
        Ok(server)
    }

    pub(super) fn restart(&mut self) -> Result<(), String> {
        self.stop();
        self.process = self.command.spawn().map_err(|error| format!("{}: {error}", self.name))?;
        self.wait_until_it_answers()
    }

    fn wait_until_it_answers(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        while !(self.answers)() {
            if let Ok(Some(status)) = self.process.try_wait() {
                return Err(with_log(format!("{} ended at once: {status}", self.name), &self.log));
            }
            if begun.elapsed() > PATIENCE {
                return Err(with_log(format!("{} does not answer", self.name), &self.log));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn stop(&mut self) {
        // It is our child and has not been waited for, so the number is still its own.
        let asked = Pid::from_child(&self.process);
        let begun = Instant::now();
        if kill_process(asked, self.signal).is_ok() {
            while matches!(self.process.try_wait(), Ok(None)) && begun.elapsed() < PATIENCE {
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

/// `wrong`, with the last that the servers printed.
fn with_log(wrong: String, log: &Path) -> String {
    let log = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = log.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(20)).fold(wrong, |text, line| text + "\n  " + line)
}

/// A port of loopback that is free now.
pub(super) fn free_port() -> Result<u16, String> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| format!("no free port: {error}"))
}
