//! Code that the benches of the cluster share: servers of their own, and values from `/proc`.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Calls `look` until it returns something.
///
/// # Panics
///
/// It returned nothing within [`PATIENCE`].
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        sleep(Duration::from_millis(2));
    }
}

/// Returns the median of `values`. If there are two middle values, it is the greater one.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A child that is killed when this is dropped.
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One NATS server on the loopback interface, or several that keep each stream together. They can be killed and started
/// again.
pub(crate) struct Servers {
    home: PathBuf,
    /// The port of each, and its port for the others.
    ports: Vec<(u16, u16)>,
    children: Vec<Killed>,
}

impl Servers {
    pub(crate) fn start(count: usize) -> Self {
        let home = std::env::temp_dir().join(format!("offloop-bench-{}", std::process::id()));
        fs::create_dir_all(&home).expect("a directory for the server");
        // All are taken before one is given back, so that they differ.
        let listeners: Vec<_> = (0..count * 2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> = listeners.iter().map(|it| it.local_addr().unwrap().port()).collect();
        drop(listeners);
        let ports = ports.chunks(2).map(|pair| (pair[0], pair[1])).collect();
        let mut servers = Self { home, ports, children: Vec::new() };
        for number in 0..count {
            fs::write(servers.configuration(number), servers.text(number)).expect("a file for the server");
            servers.launch(number);
        }
        servers.wait();
        servers
    }

    /// Returns the URL of all of them.
    pub(crate) fn url(&self) -> String {
        let urls: Vec<_> = self.ports.iter().map(|(port, _)| format!("nats://127.0.0.1:{port}")).collect();
        urls.join(",")
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.children.iter().map(|child| child.0.id()).collect()
    }

    /// Kills the first server and starts it again. Returns when it was started.
    pub(crate) fn restart(&mut self) -> Instant {
        drop(self.children.remove(0));
        let at = Instant::now();
        self.launch(0);
        at
    }

    fn configuration(&self, number: usize) -> PathBuf {
        self.home.join(format!("{number}.conf"))
    }

    /// Returns the settings: those of the embedded server, without a password.
    fn text(&self, number: usize) -> String {
        let (port, between) = self.ports[number];
        let store = self.home.join(number.to_string());
        let mut text = format!(
            "server_name: s{number}\nlisten: \"127.0.0.1:{port}\"\nmax_payload: 8MB\n\
             jetstream {{ store_dir: \"{}\", sync_interval: 100ms }}\n",
            store.display()
        );
        if self.ports.len() > 1 {
            let routes: Vec<_> =
                self.ports.iter().map(|(_, it)| format!("\"nats://127.0.0.1:{it}\"")).collect();
            let routes = routes.join(", ");
            let cluster =
                format!("cluster {{ name: bench, listen: \"127.0.0.1:{between}\", routes: [{routes}] }}\n");
            text.push_str(&cluster);
        }
        text
    }

    fn launch(&mut self, number: usize) {
        let log = fs::File::create(self.home.join(format!("{number}.log"))).expect("a log");
        let child = server()
            .arg("-c")
            .arg(self.configuration(number))
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .expect("the server `nats-server`, or the one that OFFLOOP_NATS_SERVER names");
        self.children.insert(number, Killed(child));
    }

    /// Waits until all accept connections.
    fn wait(&self) {
        for (port, _) in &self.ports {
            wait_for("the server", || TcpStream::connect(("127.0.0.1", *port)).ok());
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.children.clear();
        // It is below the system's directory for temporary files.
        let _ = fs::remove_dir_all(&self.home);
    }
}

/// Returns the number after `name`, which includes its colon, in a file of `/proc`.
fn field(file: impl AsRef<Path>, name: &str) -> Option<f64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// Returns the memory of processes in KiB: the pages that only they have, and their shares of others.
pub(crate) fn memory(pids: &[u32]) -> f64 {
    pids.iter().filter_map(|pid| field(format!("/proc/{pid}/smaps_rollup"), "Pss:")).sum()
}

/// Returns the processor time of a process.
pub(crate) fn processor_time(pid: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in brackets, may have spaces.
    let rest = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks = |at: usize| rest.split(' ').nth(at).and_then(|it| it.parse::<u64>().ok()).unwrap_or(0);
    // Linux counts 100 ticks a second for programs.
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// Returns whether the server's program is there.
pub(crate) fn has_server() -> bool {
    server().arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn server() -> Command {
    Command::new(std::env::var_os("OFFLOOP_NATS_SERVER").unwrap_or_else(|| "nats-server".into()))
}
