//! Tasks for the tests of process pools, and functions that inspect processes from outside.

#![allow(dead_code, reason = "each test crate uses its own part")]
#![allow(unreachable_pub, reason = "shared by test crates")]
#![allow(clippy::needless_pass_by_value, reason = "the tasks here own their arguments on purpose")]

use std::borrow::Cow;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use offloop::ProcessPool;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub fn pool(workers: usize) -> ProcessPool {
    ProcessPool::builder().max_workers(workers).build().unwrap()
}

/// Polls until `holds` returns true. Fails after 30 s, which is enough for a slow machine.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Returns whether a process is dead. A zombie, which its parent has not reaped, counts as dead.
pub fn is_gone(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X'])),
        Err(_) => true,
    }
}

pub fn kill(pid: u32, signal: i32) {
    let pid = i32::try_from(pid).unwrap();
    assert!(pid > 1);
    // SAFETY: `kill` takes plain numbers; the pid is that of a process that the test started.
    unsafe { libc::kill(pid, signal) };
}

/// A user and a group without rights.
pub const NOBODY: u32 = 65534;

/// Makes this process another user and another group, for good.
pub fn become_nobody() {
    // SAFETY: the calls take plain numbers. They change the rights of all threads of this process, as is meant.
    let results = unsafe { (libc::setgid(NOBODY), libc::setuid(NOBODY)) };
    assert_eq!(results, (0, 0));
}

/// Returns whether this process may change its user. If not, says that the test is skipped.
pub fn is_root() -> bool {
    // SAFETY: the call returns a plain number.
    let is_root = unsafe { libc::geteuid() } == 0;
    if !is_root {
        println!("skipped: this test changes its user, which takes root");
    }
    is_root
}

/// A file to which a job in another process writes a line when it has arrived.
pub struct Gate(PathBuf);

impl Gate {
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("offloop-gate-{}-{number}", std::process::id()));
        std::fs::write(&path, "").unwrap();
        Self(path)
    }

    /// Makes one that a job may use whatever rights it has given up.
    pub fn for_everybody() -> Self {
        let gate = Self::new();
        let file = std::fs::File::open(&gate.0).unwrap();
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        gate
    }

    pub fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// Removes the file. A job that waits for that goes on.
    pub fn open(&self) {
        std::fs::remove_file(&self.0).unwrap();
    }

    pub fn lines(&self) -> Vec<String> {
        std::fs::read_to_string(&self.0).unwrap().lines().map(str::to_owned).collect()
    }

    pub fn arrivals(&self) -> usize {
        self.lines().len()
    }

    /// Waits for the first job to arrive, and returns the id of its process.
    #[track_caller]
    pub fn wait_for_pid(&self) -> u32 {
        eventually("a job arrives at the gate", || std::fs::read_to_string(&self.0).unwrap().ends_with('\n'));
        self.lines()[0].parse().unwrap()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn again(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).stdin(Stdio::null());
    command
}

/// Runs one of this crate's ignored tests in a process of its own, and returns what it printed.
pub fn this_test_again(test: &str, environment: &[(&str, &str)]) -> String {
    let output = again(test).envs(environment.iter().copied()).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    printed
}

pub struct Background(Child);

/// Starts one of this crate's ignored tests in a process of its own.
pub fn this_test_in_the_background(test: &str) -> Background {
    Background(again(test).stdout(Stdio::piped()).spawn().unwrap())
}

impl Background {
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Reads the line `pids [1, 2, …]`.
    pub fn announced_pids(&mut self, count: usize) -> Vec<u32> {
        let lines = BufReader::new(self.0.stdout.as_mut().unwrap()).lines();
        let line = lines.map(Result::unwrap).find(|line| line.contains("pids [")).unwrap();
        let list = line.split_once('[').unwrap().1.trim_end_matches(']');
        let pids: Vec<u32> = list.split(", ").map(|pid| pid.parse().unwrap()).collect();
        assert_eq!(pids.len(), count);
        pids
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn announce(gate: &str) {
    let mut file = std::fs::OpenOptions::new().append(true).open(gate).unwrap();
    file.write_all(format!("{}\n", std::process::id()).as_bytes()).unwrap();
}

#[offloop::task]
pub fn process_id() -> u32 {
    std::process::id()
}

#[offloop::task]
pub fn add(a: u64, b: u64) -> u64 {
    a + b
}

#[offloop::task]
pub fn count_words<'a>(text: &'a str, bytes: &'a [u8], word: Cow<'a, str>) -> (usize, usize, usize) {
    (text.split(' ').count(), bytes.len(), text.split(' ').filter(|it| *it == word).count())
}

#[offloop::task]
pub fn reversed(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().rev().copied().collect()
}

#[offloop::task]
pub fn long_text(length: usize) -> String {
    "x".repeat(length)
}

#[offloop::task]
pub fn panics(message: String) {
    panic!("{message}");
}

#[offloop::task]
pub fn nap(value: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(2));
    value
}

#[offloop::task]
pub fn announce_and_sleep(gate: &str) {
    announce(gate);
    std::thread::sleep(Duration::from_secs(600));
}

#[offloop::task]
pub fn announce_and_nap(gate: &str) -> String {
    announce(gate);
    std::thread::sleep(Duration::from_millis(300));
    "finished".to_owned()
}

#[offloop::task]
pub fn compute_for_ever(gate: &str) {
    announce(gate);
    loop {
        std::hint::spin_loop();
    }
}

#[offloop::task]
pub fn note(gate: &str, line: &str) {
    let mut file = std::fs::OpenOptions::new().append(true).open(gate).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

#[offloop::task]
pub fn ignore_sigterm() {
    // SAFETY: ignoring a signal installs no handler.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
    std::thread::sleep(Duration::from_secs(600));
}

#[offloop::task]
pub fn announce_and_ignore_sigterm(path: &str) {
    // SAFETY: ignoring a signal installs no handler.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
    announce(path);
    std::thread::sleep(Duration::from_secs(600));
}

static ASKED_TO_STOP: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

extern "C" fn on_sigterm(_: i32) {
    ASKED_TO_STOP.store(true, Ordering::Relaxed);
}

#[offloop::task]
pub fn clean_up_on_sigterm(gate: &str) {
    let handler: extern "C" fn(i32) = on_sigterm;
    // SAFETY: the handler only stores to an atomic.
    unsafe { libc::signal(libc::SIGTERM, handler as libc::sighandler_t) };
    announce(gate);
    while !ASKED_TO_STOP.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(1));
    }
    announce(gate);
    std::process::exit(0);
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Death {
    WorkerExit(i32),
    Abort,
    Signal(i32),
    CloseAllFiles,
    /// Fills the memory that the worker shares with its pool, except the results, with this byte.
    Scribble(u8),
}

#[offloop::task]
pub fn die(way: Death) {
    match way {
        Death::WorkerExit(code) => std::process::exit(code),
        Death::Abort => std::process::abort(),
        Death::Signal(signal) => kill(std::process::id(), signal),
        Death::CloseAllFiles => {
            for descriptor in 0..1000 {
                // SAFETY: `close` takes a plain number. The test closes files that other code still holds on purpose;
                // after this the process only sleeps.
                unsafe { libc::close(descriptor) };
            }
        }
        Death::Scribble(byte) => {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            let link = maps.lines().find(|line| line.contains("memfd:offloop-link")).unwrap();
            let (start, end) = link.split(' ').next().unwrap().split_once('-').unwrap();
            let number = |text| usize::from_str_radix(text, 16).unwrap();
            let (start, end) = (number(start), number(end));
            // SAFETY: the range is mapped and writable. The test overwrites its content on purpose.
            unsafe { std::ptr::write_bytes(start as *mut u8, byte, end - start) };
        }
    }
    std::thread::sleep(Duration::from_secs(600));
}

/// Writes garbage to every socket among the worker's descriptors, as a faulty job could do.
#[offloop::task]
pub fn write_to_every_socket(value: u64) -> u64 {
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let path = entry.unwrap().path();
        let Ok(target) = std::fs::read_link(&path) else { continue };
        if target.to_string_lossy().starts_with("socket:") {
            let descriptor: i32 = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
            let garbage = [0xAB; 4096];
            // SAFETY: the pointer and the length are those of a live array.
            unsafe { libc::write(descriptor, garbage.as_ptr().cast(), garbage.len()) };
        }
    }
    value
}

#[offloop::task]
pub fn use_memory_and_abort(bytes: usize) {
    let memory = vec![1u8; bytes];
    std::hint::black_box(&memory);
    std::process::abort();
}

#[offloop::task]
pub fn exit_soon(value: u64) -> u64 {
    std::thread::spawn(|| std::process::exit(0));
    value
}

static SET_UP: AtomicU64 = AtomicU64::new(0);
static SET_UPS: AtomicU64 = AtomicU64::new(0);

#[offloop::task]
pub fn set_up(value: u64) {
    SET_UP.store(value, Ordering::Relaxed);
    SET_UPS.fetch_add(1, Ordering::Relaxed);
}

#[offloop::task]
pub fn what_was_set_up() -> (u64, u64) {
    (SET_UP.load(Ordering::Relaxed), SET_UPS.load(Ordering::Relaxed))
}

#[offloop::task]
pub fn set_up_badly(reason: String, by_panic: bool) -> Result<(), String> {
    assert!(!by_panic, "{reason}");
    Err(reason)
}

#[offloop::task]
pub fn print_and_read() -> String {
    println!("printed by the worker");
    let text = b"written to descriptor 1\n";
    // SAFETY: the pointer and the length are those of a live slice.
    unsafe { libc::write(1, text.as_ptr().cast(), text.len()) };
    let mut read = String::new();
    std::io::stdin().read_to_string(&mut read).unwrap();
    read
}

#[offloop::task]
pub fn about_itself() -> (Option<String>, Option<String>) {
    (offloop::job::name(), std::env::var("OFFLOOP_WORKER").ok())
}

#[offloop::task]
pub fn add_in_a_pool_of_its_own(a: u64, b: u64) -> u64 {
    pool(1).run(add.with(a, b)).wait().unwrap()
}

/// A value that cannot be sent to another process and back.
#[derive(Debug)]
pub enum Awkward {
    RefusesEncoding,
    RefusesDecoding,
}

impl Serialize for Awkward {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::RefusesEncoding => Err(serde::ser::Error::custom("it refuses")),
            Self::RefusesDecoding => serializer.serialize_u8(0),
        }
    }
}

impl<'de> Deserialize<'de> for Awkward {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("it refuses"))
    }
}

#[offloop::task]
pub fn take_awkward(_: Awkward) {}

#[offloop::task]
pub fn give_awkward(refuses_encoding: bool) -> Awkward {
    if refuses_encoding { Awkward::RefusesEncoding } else { Awkward::RefusesDecoding }
}
