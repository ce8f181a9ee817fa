//! However the program ends, its servers end with it and leave no files behind.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// A test fails after this time without the expected event.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The program, with a command that runs until the end of its input.
struct Running {
    program: Child,
    directory: PathBuf,
    addresses: Vec<String>,
}

impl Running {
    /// Starts the program and waits for the command's start. The command then reads its input and runs `then`. Returns
    /// `None` if no server is installed.
    fn start(then: &str) -> Option<Self> {
        let script =
            format!(r#"echo "${{OFFLOOP_POSTGRES_URL-}} ${{OFFLOOP_TARANTOOL_URL-}}"; read -r line; {then}"#);
        let mut program = Command::new(env!("CARGO_BIN_EXE_offloop-example-servers"))
            .args(["sh", "-c", &script])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(program.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = |url: &str| {
            url.trim_start_matches("postgresql://offloop@").trim_end_matches("/postgres").to_owned()
        };
        let addresses: Vec<_> = line.split_whitespace().map(address).collect();
        let directory = std::env::temp_dir().join(format!("offloop-servers-{}", program.id()));
        assert!(directory.is_dir(), "{} does not exist; printed: {line:?}", directory.display());
        for address in &addresses {
            assert!(TcpStream::connect(address).is_ok(), "no server listens at {address}");
        }
        (!addresses.is_empty()).then_some(Self { program, directory, addresses })
    }

    /// Waits for the program's end, then checks that its directory and its servers are gone.
    #[track_caller]
    fn leaves_nothing(mut self) {
        self.program.wait().unwrap();
        let begun = Instant::now();
        while self.directory.exists() {
            assert!(begun.elapsed() < TIMEOUT, "{} still exists", self.directory.display());
            std::thread::sleep(Duration::from_millis(20));
        }
        for address in &self.addresses {
            assert!(TcpStream::connect(address).is_err(), "a server still listens at {address}");
        }
    }
}

fn report_skipped() {
    // Not with a macro: the harness hides what a passing test prints with one.
    std::io::stderr().write_all(b"skipped: neither PostgreSQL nor Tarantool is installed\n").unwrap();
}

#[test]
fn the_servers_end_with_the_command_and_its_status_is_returned() {
    let Some(mut running) = Running::start("exit 7") else { return report_skipped() };
    drop(running.program.stdin.take());
    assert_eq!(running.program.wait().unwrap().code(), Some(7));
    assert!(!running.directory.exists(), "the program ended before its directory was removed");
    running.leaves_nothing();
}

#[test]
fn the_restart_commands_restart_the_servers() {
    let restart = r#"eval "${OFFLOOP_POSTGRES_RESTART-}" && eval "${OFFLOOP_TARANTOOL_RESTART-}""#;
    let Some(mut running) = Running::start(restart) else { return report_skipped() };
    drop(running.program.stdin.take());
    assert_eq!(running.program.wait().unwrap().code(), Some(0));
    running.leaves_nothing();
}

#[test]
fn ctrl_c_ends_the_servers() {
    let Some(running) = Running::start("true") else { return report_skipped() };
    kill_process_group(Pid::from_child(&running.program), Signal::INT).unwrap();
    running.leaves_nothing();
}

#[test]
fn killing_the_program_ends_the_servers() {
    let Some(mut running) = Running::start("true") else { return report_skipped() };
    running.program.kill().unwrap();
    running.leaves_nothing();
}
