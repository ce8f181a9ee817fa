//! A client of the live view, and programs to look at.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this module")]

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use offloop::observe::document::{Pool, Service, Snapshot};

/// The time after which a test gives up on something that should happen soon.
pub const GIVE_UP: Duration = Duration::from_secs(30);

/// Polls until `holds` returns true. Fails the test if it never does.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < GIVE_UP, "it never happened: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// An answer, taken apart.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// Returns the value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (other, value) = line.split_once(": ")?;
            other.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// Returns the sentence of an error.
    #[track_caller]
    pub fn error(&self) -> String {
        let json: serde_json::Value = serde_json::from_str(&self.body).expect("an error is JSON");
        json["error"].as_str().expect("it is a sentence").to_owned()
    }
}

/// Reads an answer to its end. `None` if the connection ends without one.
pub fn read_answer(mut stream: impl Read) -> Option<Answer> {
    let mut bytes = Vec::new();
    // A connection that is cut gives what has come until then.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(GIVE_UP)).unwrap();
    stream
}

/// Sends a request to an address, with a loopback name as its host.
#[track_caller]
pub fn ask(address: SocketAddr, method: &str, target: &str, headers: &[&str]) -> Answer {
    let host = format!("Host: {address}");
    let lines = [&[host.as_str()], headers, &["", ""]].concat();
    raw(address, &format!("{method} {target} HTTP/1.1\r\n{}", lines.join("\r\n")))
}

#[track_caller]
pub fn get(address: SocketAddr, target: &str) -> Answer {
    ask(address, "GET", target, &[])
}

/// Sends any text to an address.
#[track_caller]
pub fn raw(address: SocketAddr, text: &str) -> Answer {
    let mut stream = connect(address);
    stream.write_all(text.as_bytes()).unwrap();
    read_answer(stream).expect("an answer")
}

/// Sends a request to a socket.
#[track_caller]
pub fn ask_socket(path: &Path, method: &str, target: &str) -> Answer {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(GIVE_UP)).unwrap();
    stream.write_all(format!("{method} {target} HTTP/1.1\r\nX-Offloop: 1\r\n\r\n").as_bytes()).unwrap();
    read_answer(stream).expect("an answer")
}

#[track_caller]
pub fn snapshot_at(path: &Path) -> Snapshot {
    serde_json::from_str(&ask_socket(path, "GET", "/snapshot").body).expect("a snapshot")
}

#[track_caller]
pub fn service_at(path: &Path) -> Service {
    serde_json::from_str(&ask_socket(path, "GET", "/service").body).expect("a service")
}

/// Returns the pool of this name.
#[track_caller]
pub fn pool_named<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Pool {
    snapshot.pools.iter().find(|pool| pool.name == name).expect("the pool is shown")
}

/// A directory of its own, removed at the end.
pub struct Place(PathBuf);

impl Place {
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // The path of a socket is short.
        let path = std::env::temp_dir().join(format!("offloop-view-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Returns the directory in which programs of this place find each other.
    pub fn sockets(&self) -> PathBuf {
        self.0.join("offloop")
    }

    /// Returns the names of the files there.
    pub fn names(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.sockets()) else { return Vec::new() };
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Returns a command that runs a part of this test program again: the ignored test of this name.
    pub fn command(&self, part: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", part, "--ignored", "--nocapture"]);
        for name in ["OFFLOOP_OBSERVE", "OFFLOOP_OBSERVE_TOKEN", "OFFLOOP_SERVICE"] {
            command.env_remove(name);
        }
        command.env("XDG_RUNTIME_DIR", &self.0);
        command
    }

    /// Starts a part of this test program, which prints a line when it is ready.
    pub fn start(&self, part: &str, environment: &[(&str, &str)]) -> Program {
        Program::start(self.command(part).envs(environment.iter().copied()), self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A program that goes on until its standard input ends. Killed when it is dropped.
pub struct Program {
    child: Child,
    /// The words of the line that it has printed.
    pub words: Vec<String>,
    pub socket: PathBuf,
    /// Kept open, since the program may print more.
    _lines: Lines<BufReader<ChildStdout>>,
}

impl Program {
    fn start(command: &mut Command, place: &Place) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines
            .by_ref()
            .map(|line| line.expect("it prints text"))
            .find_map(|line| line.split_once("ready:").map(|(_, rest)| rest.to_owned()));
        let words = line.expect("it says that it is ready").split_whitespace().map(str::to_owned).collect();
        let socket = place.sockets().join(format!("{}.sock", child.id()));
        Self { child, words, socket, _lines: lines }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends its standard input, and waits for its end.
    pub fn end(mut self) {
        drop(self.child.stdin.take());
        eventually("the program ends", || self.child.try_wait().unwrap().is_some());
    }

    /// Kills it by SIGKILL, and waits for its end.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: `kill` takes plain numbers; the process is a child that was not waited for.
        assert_eq!(unsafe { libc::kill(i32::try_from(self.pid()).unwrap(), signal) }, 0);
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In a program: says that it is ready, with some words, and waits for the end of its standard input.
pub fn ready(words: &str) {
    println!("ready: {words}");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
