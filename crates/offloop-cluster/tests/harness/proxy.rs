//! A network that can be cut: connections through a proxy to one server.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// The pause between two looks of a connection whether it may go on.
const LOOK: Duration = Duration::from_millis(20);

/// Passes connections on to a server, until it is cut. What was on its way then arrives when it is healed, as TCP has it.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Nothing passes in either direction, on old connections and new ones.
    is_cut: AtomicBool,
    /// Connections with a lower number than this pass nothing any more, and are not closed either.
    first_alive: AtomicU64,
    next: AtomicU64,
    is_over: AtomicBool,
}

impl State {
    fn passes(&self, number: u64) -> bool {
        !self.is_cut.load(SeqCst) && number >= self.first_alive.load(SeqCst)
    }
}

impl Proxy {
    pub fn to(far: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for near in listener.incoming() {
                if shared.is_over.load(SeqCst) {
                    return;
                }
                let Ok(near) = near else { continue };
                let (number, state) = (shared.next.fetch_add(1, SeqCst), Arc::clone(&shared));
                std::thread::spawn(move || connect(near, far, number, &state));
            }
        });
        Self { address, state }
    }

    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Cuts the network, or heals it.
    pub fn cut(&self, is_cut: bool) {
        self.state.is_cut.store(is_cut, SeqCst);
    }

    /// Makes a black hole of the connections that there are. New ones pass.
    pub fn swallow(&self) {
        self.state.first_alive.store(self.state.next.load(SeqCst), SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.is_over.store(true, SeqCst);
        // Wakes the listener's thread.
        let _ = TcpStream::connect(self.address);
    }
}

fn connect(near: TcpStream, far: SocketAddr, number: u64, state: &Arc<State>) {
    while !state.passes(number) {
        if state.is_over.load(SeqCst) {
            return;
        }
        std::thread::sleep(LOOK);
    }
    let Ok(far) = TcpStream::connect(far) else { return };
    let (Ok(near_copy), Ok(far_copy)) = (near.try_clone(), far.try_clone()) else { return };
    let shared = Arc::clone(state);
    std::thread::spawn(move || pass(near_copy, far_copy, number, &shared));
    pass(far, near, number, state);
}

/// Passes bytes on in one direction.
fn pass(mut from: TcpStream, mut to: TcpStream, number: u64, state: &State) {
    let mut bytes = vec![0; 64 * 1024];
    let _ = (from.set_nodelay(true), to.set_nodelay(true), from.set_read_timeout(Some(LOOK)));
    while !state.is_over.load(SeqCst) {
        if !state.passes(number) {
            std::thread::sleep(LOOK);
            continue;
        }
        match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => {
                // It was on its way when the network was cut.
                while !state.passes(number) && !state.is_over.load(SeqCst) {
                    std::thread::sleep(LOOK);
                }
                if to.write_all(&bytes[..count]).is_err() {
                    break;
                }
            }
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
