//! Promises about whom a program believes: an environment that says "be a worker" is not enough, and a program with more
//! rights than its user never becomes one.

#![cfg(all(feature = "process", target_os = "linux"))]

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use offloop::{ErrorKind, ProcessPool};

offloop::init_tests!();

/// The user and group that have no rights of their own.
const NOBODY: u32 = 65534;

#[offloop::task]
fn whose_rights() -> u32 {
    // SAFETY: it takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// A copy of this program that anyone may run with the rights of root. Removed when dropped.
struct SetUserId {
    directory: PathBuf,
}

impl SetUserId {
    /// Returns `None` where a program cannot be given these rights, and says why on standard error.
    fn make(name: &str) -> Option<Self> {
        // SAFETY: it takes nothing and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("skipped: only root can make a set-user-ID program");
            return None;
        }
        let directory = std::env::temp_dir().join(format!("offloop-{name}-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let this = Self { directory };
        fs::set_permissions(&this.directory, fs::Permissions::from_mode(0o755)).unwrap();
        // By another program. A child that another test starts meanwhile would keep a file open that this one writes to,
        // and such a file cannot be run.
        let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(this.program()).status();
        assert!(copied.unwrap().success());
        fs::set_permissions(this.program(), fs::Permissions::from_mode(0o4755)).unwrap();
        let printed = this.as_nobody("has_the_rights_of").output().unwrap();
        if !text(&printed.stdout).contains("rights of 0") {
            eprintln!("skipped: set-user-ID has no effect here ({printed:?})");
            return None;
        }
        Some(this)
    }

    fn program(&self) -> PathBuf {
        self.directory.join("program")
    }

    /// Returns the command that runs one of the ignored tests of the copy as a user without rights.
    fn as_nobody(&self, test: &str) -> Command {
        let mut command = again(&self.program(), test);
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
        command
    }
}

impl Drop for SetUserId {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Returns the command that runs one of the ignored tests of a copy of this program.
fn again(program: &Path, test: &str) -> Command {
    let mut command = Command::new(program);
    command.args(["--ignored", "--exact", "--nocapture", test]).stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Checks that a process has neither become a worker nor run the program's own code.
#[track_caller]
fn assert_refused(output: &Output, reason: &str) {
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(errors.contains("offloop: this process could not become a worker") && errors.contains(reason));
    assert_eq!(text(&output.stdout), "");
}

#[test]
#[ignore = "run by the tests below"]
fn has_the_rights_of() {
    println!("rights of {}", whose_rights());
}

#[test]
#[ignore = "run by a test below"]
fn has_a_pool() {
    let pool = ProcessPool::builder().max_workers(1).stderr_tail(0).build().unwrap();
    let error = pool.run(whose_rights.with()).wait().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WorkerStart(_)), "{error:?}");
}

#[test]
fn a_set_user_id_program_does_not_become_a_worker_for_the_user_who_starts_it() {
    let Some(program) = SetUserId::make("attacked") else { return };
    let (ours, theirs) = UnixStream::pair().unwrap();
    std::io::Write::write_all(&mut &ours, b"offloop worker 1 and orders of an attacker").unwrap();
    let mut command = program.as_nobody("has_the_rights_of");
    command.env("OFFLOOP_WORKER", std::process::id().to_string()).stdin(OwnedFd::from(theirs));
    assert_refused(&command.output().unwrap(), "more rights than the user who started it");
}

#[test]
fn a_pool_in_a_set_user_id_program_has_no_workers_and_they_say_why() {
    let Some(program) = SetUserId::make("pool") else { return };
    let output = program.as_nobody("has_a_pool").output().unwrap();
    let printed = text(&output.stderr);
    assert!(output.status.success(), "{output:?}");
    assert!(printed.contains("more rights than the user who started it"), "{printed}");
}

#[test]
fn a_program_whose_environment_names_another_process_runs_as_usual() {
    // As a program that a job has started, whose worker could not remove the variable.
    let mut command = again(Path::new("/proc/self/exe"), "has_the_rights_of");
    let output = command.env("OFFLOOP_WORKER", "1").output().unwrap();
    assert!(text(&output.stdout).contains("rights of"), "{output:?}");
}

#[test]
fn a_program_whose_standard_input_is_not_a_pools_socket_does_not_become_a_worker() {
    let parent = std::process::id().to_string();
    let mut command = again(Path::new("/proc/self/exe"), "has_the_rights_of");
    let output = command.env("OFFLOOP_WORKER", &parent).output().unwrap();
    assert_refused(&output, "no pool has written to its standard input");

    let (ours, theirs) = UnixStream::pair().unwrap();
    std::io::Write::write_all(&mut &ours, b"something else").unwrap();
    let mut command = again(Path::new("/proc/self/exe"), "has_the_rights_of");
    let output = command.env("OFFLOOP_WORKER", &parent).stdin(OwnedFd::from(theirs)).output().unwrap();
    assert_refused(&output, "no pool has written to its standard input");
}

#[test]
fn a_marker_that_is_no_process_id_is_refused() {
    let mut command = again(Path::new("/proc/self/exe"), "has_the_rights_of");
    let output = command.env("OFFLOOP_WORKER", "yes").output().unwrap();
    assert_refused(&output, "no process id");
}
