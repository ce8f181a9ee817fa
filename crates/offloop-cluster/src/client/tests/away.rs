//! Promises about jobs whose server is away, or out of reach.

use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command as Process, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use super::*;
use crate::embedded::SERVER_VARIABLE;

/// A server that can be killed and started again at the same place.
struct Restartable {
    address: SocketAddr,
    directory: std::path::PathBuf,
    process: Option<Child>,
}

impl Restartable {
    fn new(name: &str) -> Option<Self> {
        static HOSTS: AtomicU8 = AtomicU8::new(1);
        server()?;
        // At a host that no other test uses nobody takes the port while the server is away.
        let host = Ipv4Addr::new(127, 0, 1, HOSTS.fetch_add(1, Ordering::Relaxed));
        let address = TcpListener::bind((host, 0)).unwrap().local_addr().unwrap();
        let directory = std::env::temp_dir().join(format!("offloop-client-{name}-{}", std::process::id()));
        let mut this = Self { address, directory, process: None };
        this.start();
        Some(this)
    }

    fn start(&mut self) {
        let program = std::env::var_os(SERVER_VARIABLE).unwrap_or_else(|| "nats-server".into());
        let mut command = Process::new(program);
        let (host, port) = (self.address.ip().to_string(), self.address.port().to_string());
        command.args(["-a", &host, "-p", &port, "-js", "-sd"]).arg(&self.directory);
        self.process = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    fn connection(&self) -> Connection {
        Connection::to(format!("nats://{}", self.address))
    }
}

impl Drop for Restartable {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn handles_stay_pending_while_the_server_is_away_and_get_their_results_afterwards() {
    let Some(mut server) = Restartable::new("restart") else { return };
    let hand = Hand::new(server.connection());
    let cluster = Cluster::builder(server.connection()).build().unwrap();
    let running = cluster.submit(double.with(1)).send();
    let (_, job) = hand.take();
    let claim = hand.claim(&job);
    let mut queued = cluster.submit(double.with(2)).send();
    queued.wait_accepted();
    // The store of a server that was killed has what was on its disk.
    std::thread::sleep(Duration::from_millis(300));
    for _ in 0..2 {
        server.kill();
        eventually("the client notices", || cluster.trouble().is_some());
        let submitted_meanwhile = cluster.submit(double.with(3)).send();
        assert!(submitted_meanwhile.waits_for().is_some());
        server.start();
        eventually("the client is back", || cluster.trouble().is_none());
        let mut submitted_meanwhile = submitted_meanwhile;
        submitted_meanwhile.wait_accepted();
        assert_eq!(wait(submitted_meanwhile.cancel_stored()), StoredEnd::NeverRan);
        assert_eq!((running.state(), queued.state()), (JobState::Running, JobState::Queued));
    }
    hand.end(&job, claim, Outcome::Returned, answer(2).encode().unwrap());
    assert_eq!(end(running).unwrap(), 2);
    assert_eq!(wait(queued.cancel_stored()), StoredEnd::NeverRan);
}

/// A way to the server that can be cut.
struct Proxy {
    port: u16,
    is_cut: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    fn new(to: std::net::SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (is_cut, streams) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Vec<TcpStream>>>::default());
        let (cut, all) = (Arc::clone(&is_cut), Arc::clone(&streams));
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let (Ok(near), false) = (near, cut.load(Ordering::SeqCst)) else { continue };
                let far = TcpStream::connect(to).unwrap();
                all.lock().unwrap().extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                for (mut from, mut to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)]
                {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        Self { port, is_cut, streams }
    }

    fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        for stream in self.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn mend(&self) {
        self.is_cut.store(false, Ordering::SeqCst);
    }
}

#[test]
fn jobs_go_on_while_their_submitter_is_cut_off_and_their_ends_are_read_afterwards() {
    let Some(server) = server() else { return };
    let hand = Hand::new(connection(&server));
    let proxy = Proxy::new(server.address());
    let Connection { credentials, .. } = connection(&server);
    let way = Connection::to(format!("nats://127.0.0.1:{}", proxy.port)).credentials(credentials);
    let cluster = Cluster::builder(way).build().unwrap();
    let handles: Vec<_> = (0..20).map(|number| cluster.submit(double.with(number)).send()).collect();
    let mut jobs: Vec<_> = handles.iter().map(|_| hand.take()).collect();
    proxy.cut();
    eventually("the client notices", || cluster.trouble().is_some());
    for (message, job) in jobs.drain(..) {
        let claim = hand.claim(&job);
        let number: u64 = rmp_serde::from_slice(&job.arguments).unwrap();
        hand.end(&job, claim, Outcome::Returned, answer(number * 2).encode().unwrap());
        wait(async move { message.ack().await });
    }
    assert!(handles.iter().all(|handle| handle.state() != JobState::Ended));
    proxy.mend();
    for (number, handle) in (0..).zip(handles) {
        assert_eq!(end(handle).unwrap(), number * 2);
    }
}
