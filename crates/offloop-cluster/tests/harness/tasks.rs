//! Tasks that record in a file when they start and end, whatever becomes of their workers.

#![allow(clippy::needless_pass_by_value, reason = "a task gets its arguments by value")]

use std::fs::File;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The variable with the process id of the agent whose pool runs a task.
pub const AGENT_PID: &str = "OFFLOOP_TEST_AGENT_PID";

/// Appends a line to the record.
pub fn record(path: &str, token: u64, what: &str) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let line = format!("{token} {what} {} {now}\n", std::process::id());
    let mut file = File::options().append(true).create(true).open(path).unwrap();
    // One write, so that lines of several processes are not mixed.
    file.write_all(line.as_bytes()).unwrap();
}

/// Takes this long, and returns the token.
#[offloop::task(name = "failures:nap")]
pub fn nap(path: String, token: u64, millis: u64) -> u64 {
    record(&path, token, "start");
    std::thread::sleep(Duration::from_millis(millis));
    record(&path, token, "end");
    token
}

/// Records that it lives, again and again.
#[offloop::task(name = "failures:beat")]
pub fn beat(path: String, token: u64, beats: u64) -> u64 {
    record(&path, token, "start");
    for _ in 0..beats {
        std::thread::sleep(Duration::from_millis(20));
        record(&path, token, "beat");
    }
    record(&path, token, "end");
    token
}

/// Ends its process by a signal.
#[offloop::task(name = "failures:crash")]
pub fn crash(path: String, token: u64) -> u64 {
    record(&path, token, "start");
    std::process::abort()
}

/// Panics.
#[offloop::task(name = "failures:fail")]
pub fn fail(path: String, token: u64) -> u64 {
    record(&path, token, "start");
    panic!("as planned")
}

/// Panics, but for the start with this number.
#[offloop::task(name = "failures:succeed_at")]
pub fn succeed_at(path: String, token: u64, start: usize) -> usize {
    record(&path, token, "start");
    let text = std::fs::read_to_string(&path).unwrap();
    let starts = text.lines().filter(|line| line.starts_with(&format!("{token} start "))).count();
    assert_eq!(starts, start, "as planned");
    starts
}

/// Kills the agent whose pool runs it.
#[offloop::task(name = "failures:poison")]
pub fn poison(path: String, token: u64) -> u64 {
    record(&path, token, "start");
    let agent: i32 = std::env::var(AGENT_PID).unwrap().parse().unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(agent).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    std::thread::sleep(Duration::from_secs(60));
    token
}

/// Returns as many bytes as it gets.
#[offloop::task(name = "failures:echo")]
pub fn echo(path: String, token: u64, bytes: offloop::Blob) -> offloop::Blob {
    record(&path, token, "start");
    bytes
}

/// Ends its process at its first start, and records the sum of the bytes at others.
#[offloop::task(name = "failures:crash_once")]
pub fn crash_once(path: String, token: u64, bytes: offloop::Blob) {
    record(&path, token, "start");
    if std::fs::read_to_string(&path).unwrap().matches(&format!("{token} start ")).count() == 1 {
        std::process::abort();
    }
    let sum: u64 = bytes.iter().map(|byte| u64::from(*byte)).sum();
    record(&path, token, &format!("sum-{sum}"));
}

/// Sends numbers as items.
#[offloop::task(name = "failures:numbers")]
pub fn numbers(path: String, token: u64, until: u64) -> u64 {
    record(&path, token, "start");
    for number in 0..until {
        if offloop::job::emit(&number).is_err() {
            break;
        }
    }
    until
}

/// A task that only some builds have.
#[offloop::task(name = "failures:new")]
pub fn new_in_this_build(path: String, token: u64) -> u64 {
    record(&path, token, "start");
    token
}
