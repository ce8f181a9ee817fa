//! Programs that can be watched, and the command.

use std::fs::{self, DirBuilder};
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use offloop::{ThreadPool, prepare};

/// The variable that makes this test a program, and names its service.
const SERVICE: &str = "OFFLOOP_CLI_TEST_SERVICE";

/// A guard against tests that hang. Nothing is measured by it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program, if this process is one. It ends with its standard input.
#[test]
#[ignore = "the program that other tests watch"]
fn watched_program() {
    let Ok(service) = std::env::var(SERVICE) else { return };
    let _view = offloop::observe::Server::builder().service(service).allow_cancel(true).start().unwrap();
    let pool = ThreadPool::builder().name("work").max_workers(4).build().unwrap();
    for name in ["long_job", "other_job"] {
        let wait = || {
            while !offloop::job::is_cancelled() {
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        pool.run(prepare(wait).name(name).request(format!("request-of-{name}"))).detach();
    }
    let _ = std::io::stdin().read(&mut [0]);
    std::process::exit(0);
}

/// A directory for sockets that no other test sees. It is removed in the end.
pub(crate) struct Runtime(PathBuf);

impl Runtime {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("offloop-cli-{}-{number}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the directory of the sockets, which may not exist yet.
    pub(crate) fn sockets(&self) -> PathBuf {
        self.0.join("offloop")
    }

    pub(crate) fn socket(&self, pid: u32) -> PathBuf {
        self.sockets().join(format!("{pid}.sock"))
    }

    /// Starts a program, and waits until it can be watched.
    pub(crate) fn program(&self, service: &str) -> Program {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "support::watched_program", "--ignored"]).env(SERVICE, service);
        command.env("XDG_RUNTIME_DIR", &self.0).stdin(Stdio::piped()).stdout(Stdio::null());
        let program = Program(command.spawn().unwrap());
        wait_until(|| self.socket(program.pid()).exists(), "the program's socket");
        program
    }

    /// Returns the command `offloop`, which finds no other programs.
    pub(crate) fn offloop(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_offloop"));
        command.args(arguments).env("XDG_RUNTIME_DIR", &self.0).stdin(Stdio::null());
        command
    }

    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        self.offloop(arguments).output().unwrap()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running program. It is killed in the end.
pub(crate) struct Program(pub(crate) Child);

impl Program {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn wait_until(mut condition: impl FnMut() -> bool, what: &str) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
