//! Servers that can be killed, stopped and started again, alone or three together.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::{append_to, die_with_parent, eventually, signal};

/// The variable that names the server's program.
const VARIABLE: &str = offloop_cluster::embedded::SERVER_VARIABLE;

/// The number of a log's last lines that a failed test shows.
const SHOWN: usize = 40;

/// A directory that is removed when this is dropped.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("offloop-test-{}", offloop_cluster::Ulid::new()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Prints the last lines of each log.
    fn print_logs(&self) {
        for entry in std::fs::read_dir(&self.0).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|it| it == "log") {
                let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
                let lines: Vec<_> = text.lines().collect();
                let end = &lines[lines.len().saturating_sub(SHOWN)..];
                eprintln!("-- {}\n{}", entry.file_name().display(), end.join("\n"));
            }
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Server {
    process: Option<Child>,
    address: SocketAddr,
    configuration: PathBuf,
    /// The configuration, but for the rest of the block of `jetstream`.
    head: String,
}

/// One server, or three that keep all streams together.
pub struct Servers {
    servers: Vec<Server>,
    directory: Directory,
}

/// Returns the path of a server's program. `None` where none is installed, which it says.
fn program() -> Option<PathBuf> {
    let program = std::env::var_os(VARIABLE).map_or_else(|| "nats-server".into(), PathBuf::from);
    let version = Command::new(&program).arg("--version").stdout(Stdio::null()).status();
    if version.is_err() {
        eprintln!("skipped: no NATS server is installed");
    }
    version.is_ok().then_some(program)
}

/// Returns free addresses at a host of the loopback network that nobody else uses: what others listen at, or connect from,
/// takes none of them, not even while its server is dead.
fn free_addresses(count: usize) -> Vec<SocketAddr> {
    let [a, b, c, ..] = RandomState::new().build_hasher().finish().to_ne_bytes();
    let host = Ipv4Addr::new(127, a.clamp(1, 254), b, c.clamp(1, 254));
    // All are taken before one is given back, so that they differ.
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind((host, 0)).unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap()).collect()
}

impl Servers {
    /// Starts this number of servers, with these lines in the block of `jetstream`. `None` where no server is installed.
    pub fn start_with(count: usize, jetstream: &str) -> Option<Self> {
        Self::start_for(count, "", jetstream)
    }

    /// Does the same, with these lines beside that block.
    pub fn start_for(count: usize, beside: &str, jetstream: &str) -> Option<Self> {
        program()?;
        let directory = Directory::new();
        let addresses = free_addresses(count * 2);
        let (addresses, routes) = addresses.split_at(count);
        let list = routes.iter().map(|it| format!("\"nats-route://{it}\"")).collect::<Vec<_>>();
        let make = |at: usize| {
            let home = directory.path().join(format!("n{at}"));
            std::fs::create_dir_all(&home).unwrap();
            let (configuration, store) = (home.join("server.conf"), home.join("store").display().to_string());
            let mut head = format!("server_name: n{at}\nlisten: \"{}\"\n{beside}\n", addresses[at]);
            if count > 1 {
                let (route, routes) = (routes[at], list.join(", "));
                let cluster = format!("name: test\n  listen: \"{route}\"\n  routes: [{routes}]");
                head = format!("{head}cluster {{\n  {cluster}\n}}\n");
            }
            let head = format!("{head}jetstream {{\n  store_dir: {store:?}\n  sync_interval: 100ms\n");
            Server { process: None, address: addresses[at], configuration, head }
        };
        let mut servers = Self { servers: (0..count).map(make).collect(), directory };
        (0..count).for_each(|at| servers.limit(at, jetstream));
        (0..count).for_each(|at| servers.spawn(at));
        (0..count).for_each(|at| servers.await_start(at));
        Some(servers)
    }

    /// Sets these lines in the block of `jetstream`, for the next start of a server.
    pub fn limit(&self, at: usize, jetstream: &str) {
        let Server { configuration, head, .. } = &self.servers[at];
        std::fs::write(configuration, format!("{head}  {jetstream}\n}}\n")).unwrap();
    }

    pub fn start(count: usize) -> Option<Self> {
        Self::start_with(count, "")
    }

    pub fn count(&self) -> usize {
        self.servers.len()
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Returns the URLs of all servers.
    pub fn url(&self) -> String {
        let urls = self.servers.iter().map(|server| format!("nats://{}", server.address));
        urls.collect::<Vec<_>>().join(",")
    }

    pub fn address(&self, at: usize) -> SocketAddr {
        self.servers[at].address
    }

    fn spawn(&mut self, at: usize) {
        let server = &mut self.servers[at];
        let log = append_to(&self.directory.path().join(format!("n{at}.log")));
        let mut command = Command::new(program().expect("it was there"));
        command.arg("-c").arg(&server.configuration).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        server.process = Some(die_with_parent(&mut command).spawn().unwrap());
    }

    fn await_start(&mut self, at: usize) {
        let Server { address, process, .. } = &mut self.servers[at];
        eventually("the server listens", || {
            let status = process.as_mut().and_then(|process| process.try_wait().unwrap());
            assert_eq!(status, None, "server {at} has ended");
            TcpStream::connect_timeout(address, Duration::from_secs(1)).is_ok()
        });
    }

    /// Kills a server. What it has stored stays.
    pub fn kill(&mut self, at: usize) {
        if let Some(mut process) = self.servers[at].process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts a server that was killed, and waits until it listens.
    pub fn restart(&mut self, at: usize) {
        self.spawn(at);
        self.await_start(at);
    }

    pub fn pause(&self, at: usize) {
        self.signal(at, Signal::STOP);
    }

    pub fn resume(&self, at: usize) {
        self.signal(at, Signal::CONT);
    }

    fn signal(&self, at: usize, which: Signal) {
        if let Some(process) = &self.servers[at].process {
            signal(process, which);
        }
    }

    /// Returns the server that leads this stream.
    pub fn leader(&self, stream: &str) -> Option<usize> {
        let info: serde_json::Value = self.ask(&format!("$JS.API.STREAM.INFO.{stream}"))?;
        info["cluster"]["leader"].as_str()?.strip_prefix('n')?.parse().ok()
    }

    /// Returns the number of messages in a stream.
    pub fn messages(&self, stream: &str) -> Option<u64> {
        self.ask(&format!("$JS.API.STREAM.INFO.{stream}"))?["state"]["messages"].as_u64()
    }

    /// Returns the limit of a stream, in bytes. `None`: it is not there; -1: it has none.
    pub fn max_bytes(&self, stream: &str) -> Option<i64> {
        self.ask(&format!("$JS.API.STREAM.INFO.{stream}"))?["config"]["max_bytes"].as_i64()
    }

    fn ask(&self, subject: &str) -> Option<serde_json::Value> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (url, subject) = (self.url(), subject.to_owned());
        runtime.block_on(async move {
            let ask = async {
                let urls: Vec<&str> = url.split(',').collect();
                let client = async_nats::connect(&urls[..]).await.ok()?;
                let answer = client.request(subject, "".into()).await.ok()?;
                serde_json::from_slice(&answer.payload).ok()
            };
            tokio::time::timeout(Duration::from_secs(5), ask).await.ok()?
        })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.directory.print_logs();
        }
        (0..self.servers.len()).for_each(|at| self.kill(at));
    }
}
