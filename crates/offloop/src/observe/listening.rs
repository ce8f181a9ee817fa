//! One way in: a listening socket, the thread that takes its connections, and the threads that answer these.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::closing::{Closing, ConnectionPlace};
use super::connection::{self, Stream};
use super::directory;
use super::handler::Handler;
use super::message::{Peer, Response};
use crate::base::fork::PerProcess;
use crate::base::spawn::spawn;
use crate::base::sync::thread;

/// The most connections at a time for each way in. Those that come on top are told to come back later.
const MAX_CONNECTIONS: usize = 32;

/// The time to wait when the system refuses a connection or a thread, for lack of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Listening {
    place: Place,
    closing: Arc<Closing>,
    thread: Option<thread::JoinHandle<()>>,
    /// Taken before the listening socket is closed.
    inherited: Option<Inherited>,
}

enum Place {
    Address(SocketAddr),
    /// Removed when this is dropped.
    Socket(SocketFile),
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listening {
    /// Serves at an address.
    pub(super) fn on_address(address: SocketAddr, handler: &Handler) -> io::Result<Self> {
        let listener = TcpListener::bind(address).map_err(|error| {
            io::Error::new(error.kind(), format!("the address {address} of the view: {error}"))
        })?;
        let place = Place::Address(listener.local_addr()?);
        Self::start(place, Listener::Tcp(listener), handler)
    }

    /// Serves at the socket of this process.
    pub(super) fn on_socket(handler: &Handler) -> io::Result<Self> {
        let (file, listener) = SocketFile::create()?;
        Self::start(Place::Socket(file), Listener::Unix(listener), handler)
    }

    fn start(place: Place, listener: Listener, handler: &Handler) -> io::Result<Self> {
        let closing = Arc::new(Closing::new()?);
        listener.set_nonblocking()?;
        let descriptor = listener.as_raw_fd();
        let (ends, handler) = (Arc::clone(&closing), handler.clone());
        let builder = thread::Builder::new().name("offloop-observe".into());
        let thread = spawn(builder, move || take_connections(&listener, &ends, &handler))?;
        Ok(Self { place, closing, thread: Some(thread), inherited: Inherited::new(descriptor) })
    }

    /// Returns whether this process has its socket.
    pub(super) fn has_socket() -> bool {
        let known = SOCKET.existing();
        known.is_some_and(|known| known.lock().unwrap_or_else(PoisonError::into_inner).is_some())
    }

    pub(super) fn address(&self) -> Option<SocketAddr> {
        match &self.place {
            Place::Address(address) => Some(*address),
            Place::Socket(_) => None,
        }
    }

    pub(super) fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::Address(_) => None,
            Place::Socket(file) => Some(&file.0),
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.inherited = None;
        self.closing.close();
        if let Some(thread) = self.thread.take() {
            // It catches the panics of what it calls.
            let _ = thread.join();
        }
    }
}

impl Listener {
    fn as_raw_fd(&self) -> i32 {
        match self {
            Self::Tcp(listener) => listener.as_raw_fd(),
            Self::Unix(listener) => listener.as_raw_fd(),
        }
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => listener.set_nonblocking(true),
            Self::Unix(listener) => listener.set_nonblocking(true),
        }
    }

    fn poll_entry(&self) -> PollFd<'_> {
        let descriptor = match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        };
        PollFd::from_borrowed_fd(descriptor, PollFlags::IN)
    }

    /// Takes a connection, if there is one.
    fn accept(&self) -> io::Result<(Box<dyn Stream>, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept()?;
                stream.set_nonblocking(false)?;
                let address = match address.ip() {
                    IpAddr::V6(address) => address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4),
                    address @ IpAddr::V4(_) => address,
                };
                Ok((Box::new(stream), Peer::Address(address)))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                // The directory keeps others away. Should its rights be changed meanwhile, the kernel knows who asks.
                let user = rustix::net::sockopt::socket_peercred(&stream)?.uid;
                let is_ours = user == rustix::process::geteuid() || user.is_root();
                Ok((Box::new(stream), if is_ours { Peer::Socket } else { Peer::Unknown }))
            }
        }
    }
}

/// Takes connections until the way in closes. Each is answered by a thread of its own.
fn take_connections(listener: &Listener, closing: &Arc<Closing>, handler: &Handler) {
    while !closing.is_closed() {
        let mut entries = [listener.poll_entry(), PollFd::from_borrowed_fd(closing.event(), PollFlags::IN)];
        // It fails after a signal, and for lack of memory.
        let _ = poll(&mut entries, None);
        loop {
            match listener.accept() {
                Ok((stream, peer)) => answer(stream, peer, closing, handler),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The client has gone meanwhile.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => {
                    closing.wait(PAUSE);
                    break;
                }
            }
        }
    }
}

/// Starts a thread that answers a connection, if there are not too many.
fn answer(mut stream: Box<dyn Stream>, peer: Peer, closing: &Arc<Closing>, handler: &Handler) {
    let (place, others) = ConnectionPlace::take(closing);
    if others >= MAX_CONNECTIONS {
        let text = "too many look at this program at once: come back later";
        return connection::refuse(&mut *stream, &Response::error(503, text));
    }
    let (closing, handler) = (Arc::clone(closing), handler.clone());
    let builder = thread::Builder::new().name("offloop-observe".into());
    // Without a thread the connection ends.
    let _ = spawn(builder, move || {
        connection::serve(&mut *stream, peer, &closing, &handler);
        drop(place);
    });
}

/// The file of a socket, which is removed when this is dropped or when the process exits.
struct SocketFile(PathBuf);

/// The socket file of this process, if it has one.
static SOCKET: PerProcess<Mutex<Option<PathBuf>>> = PerProcess::new();

impl SocketFile {
    /// Makes the socket of this process. It is there only when it listens: it is made under another name.
    fn create() -> io::Result<(Self, UnixListener)> {
        let mut known = SOCKET.get(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = &*known {
            let text = format!(
                "this process is served at {} already: close that server first, or start this one without its socket",
                path.display()
            );
            return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        }
        let directory = directory::open()?;
        let pid = std::process::id();
        let (path, hidden) = (directory::socket_of(&directory, pid), directory.join(format!(".{pid}")));
        let at = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let _ = std::fs::remove_file(&hidden);
        let listener = UnixListener::bind(&hidden).map_err(at)?;
        std::fs::rename(&hidden, &path).map_err(at)?;
        remove_at_exit();
        *known = Some(path.clone());
        Ok((Self(path), listener))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let Some(known) = SOCKET.existing() else { return };
        *known.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Makes sure that the socket file goes when the program exits. If the program is killed, those who find the file remove
/// it.
fn remove_at_exit() {
    static ONCE: Once = Once::new();
    extern "C" fn remove() {
        // A forked child has no socket file unless it has made one.
        let path = SOCKET.existing().and_then(|known| known.try_lock().ok()?.take());
        if let Some(path) = path {
            let _ = std::fs::remove_file(path);
        }
    }
    ONCE.call_once(|| {
        // SAFETY: the function has static lifetime, since Rust code is never unloaded, and does not unwind.
        unsafe { libc::atexit(remove) };
    });
}

/// The number of listening sockets that forked children can be made to close.
const MOST: usize = 16;

/// The listening sockets of this process; -1 for none. A forked child closes them, since it does not serve them, and a
/// socket that is open in a child seems to be served for as long as the child lives.
static LISTENERS: [AtomicI32; MOST] = [const { AtomicI32::new(-1) }; MOST];

/// An entry in that list, from which it is removed when this is dropped.
struct Inherited(&'static AtomicI32);

impl Inherited {
    /// Enters a socket that is open. Returns `None` if the list is full.
    fn new(descriptor: i32) -> Option<Self> {
        static ONCE: Once = Once::new();
        extern "C" fn in_child() {
            for listener in &LISTENERS {
                let descriptor = listener.swap(-1, Ordering::Relaxed);
                if descriptor >= 0 {
                    // SAFETY: it is a copy of a listening socket of the parent. Its owner in this child, the stack of a
                    // thread that does not exist here, never uses or closes it. The parent removes its entry before it
                    // closes the socket, so the number means no other file.
                    unsafe { libc::close(descriptor) };
                }
            }
        }
        ONCE.call_once(|| {
            // SAFETY: the handler makes only calls that are allowed in a forked child. It has static lifetime.
            unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        });
        let free = |entry: &&'static AtomicI32| {
            entry.compare_exchange(-1, descriptor, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        LISTENERS.iter().find(free).map(Self)
    }
}

impl Drop for Inherited {
    fn drop(&mut self) {
        self.0.store(-1, Ordering::Relaxed);
    }
}
