//! Shares between the tests of failures and the torture: servers and agents as processes of their own, a network that can be
//! cut, tasks that record their starts, and the books of those.

#![allow(dead_code, unreachable_pub, reason = "each program uses its own part of this module")]
#![allow(clippy::missing_panics_doc, missing_docs, reason = "a part of tests")]

pub mod agents;
pub mod books;
pub mod proxy;
pub mod servers;
pub mod tasks;

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use offloop_cluster::protocol::Settings;
use rustix::process::{Pid, Signal, getpid, getppid, kill_process, set_parent_process_death_signal};

/// A generous bound for what takes some seconds at most.
pub const GUARD: Duration = Duration::from_secs(120);

/// Returns times that are short, so that tests need not wait long.
pub fn settings() -> Settings {
    Settings {
        lease: Duration::from_secs(3),
        progress: Duration::from_millis(700),
        answer: Duration::from_secs(1),
        margin: Duration::from_millis(700),
        ask: Duration::from_millis(300),
        pause: Duration::from_millis(200),
        busy: Duration::from_millis(500),
        rollout: Duration::from_secs(4),
        ..Settings::default()
    }
}

/// Waits until this is so.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < GUARD, "it is not so that {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Makes a command's process die with the thread that starts it.
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    let parent = getpid();
    let tie = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    };
    // SAFETY: between fork and exec the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(tie) }
}

/// Opens a log, which is made if it is not there.
pub fn append_to(log: &Path) -> File {
    File::options().create(true).append(true).open(log).unwrap()
}

pub fn signal(process: &Child, signal: Signal) {
    kill_process(Pid::from_child(process), signal).expect("the process was not collected");
}
