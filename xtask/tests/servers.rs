//! Whatever ends `cargo xtask servers`, its servers end with it and leave nothing behind.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

const GIVE_UP: Duration = Duration::from_secs(120);

/// A `cargo xtask servers` whose command waits for its input to end.
struct Running {
    xtask: Child,
    directory: PathBuf,
    addresses: Vec<String>,
}

impl Running {
    /// `None` if no server is installed.
    fn start(then: &str) -> Option<Self> {
        let script =
            format!(r#"echo "${{OFFLOOP_POSTGRES_URL-}} ${{OFFLOOP_TARANTOOL_URL-}}"; read -r line; {then}"#);
        let mut xtask = Command::new(env!("CARGO_BIN_EXE_xtask"))
            .args(["servers", "--", "sh", "-c", &script])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(xtask.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = |url: &str| url.trim_start_matches("postgresql://offloop@").replace("/offloop", "");
        let addresses: Vec<_> = line.split_whitespace().map(address).collect();
        let directory = std::env::temp_dir().join(format!("offloop-servers-{}", xtask.id()));
        assert!(directory.is_dir(), "{line:?}");
        let running = Self { xtask, directory, addresses };
        for address in &running.addresses {
            assert!(TcpStream::connect(address).is_ok(), "nobody listens at {address}");
        }
        (!running.addresses.is_empty()).then_some(running)
    }

    /// What is checked when it has ended, or was made to.
    #[track_caller]
    fn leaves_nothing(mut self) {
        self.xtask.wait().unwrap();
        let begun = Instant::now();
        while self.directory.exists() {
            assert!(begun.elapsed() < GIVE_UP, "{} is still there", self.directory.display());
            std::thread::sleep(Duration::from_millis(20));
        }
        for address in &self.addresses {
            assert!(TcpStream::connect(address).is_err(), "somebody listens at {address}");
        }
    }
}

fn skipped() {
    // Not by a macro: the harness hides what a passing test prints.
    std::io::stderr().write_all(b"skipped: neither PostgreSQL nor Tarantool is installed\n").unwrap();
}

#[test]
fn the_commands_end_is_theirs_and_its_status_is_handed_on() {
    let Some(mut running) = Running::start("exit 7") else { return skipped() };
    drop(running.xtask.stdin.take());
    assert_eq!(running.xtask.wait().unwrap().code(), Some(7));
    assert!(!running.directory.exists(), "it came back before all was gone");
    running.leaves_nothing();
}

#[test]
fn a_ctrl_c_ends_them() {
    let Some(running) = Running::start("true") else { return skipped() };
    kill_process_group(Pid::from_child(&running.xtask), Signal::INT).unwrap();
    running.leaves_nothing();
}

#[test]
fn a_kill_ends_them() {
    let Some(mut running) = Running::start("true") else { return skipped() };
    running.xtask.kill().unwrap();
    running.leaves_nothing();
}
