//! The server: a few functions, on threads of this program.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::client::CallError;
use crate::parameters;
use crate::wire::{Message, Parameters};

/// The functions of a server. Gets the function's name, its parameters and the caller's connection, whose end tells that
/// the caller has gone. Returns the results, or the key and the description of a failure.
pub type Functions =
    dyn Fn(&str, Parameters, &TcpStream) -> Result<Parameters, (&'static str, String)> + Send + Sync;

/// A server that listens until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    functions: Box<Functions>,
    closed: AtomicBool,
    accepted: AtomicUsize,
    running: AtomicUsize,
    streams: Mutex<Vec<TcpStream>>,
}

impl Server {
    /// Starts a server with the example's functions: `ECHO` returns its parameters; `ORDER_TOTAL` takes 50 ms and
    /// multiplies `QUANTITY` by `PRICE`; `STALL` returns when the caller has closed the connection.
    pub fn start() -> io::Result<Self> {
        Self::start_with(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, Box::new(perform))
    }

    /// Starts a server with other functions. Each connection calls them on a thread of its own.
    pub fn start_with(listener: TcpListener, functions: Box<Functions>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            functions,
            closed: AtomicBool::new(false),
            accepted: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            streams: Mutex::default(),
        });
        let server = Self { address: listener.local_addr()?, shared };
        let shared = Arc::clone(&server.shared);
        thread::Builder::new().name("server".into()).spawn(move || shared.accept(&listener))?;
        Ok(server)
    }

    /// Returns the address that the server listens at.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the number of connections that the server has accepted.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Returns the number of calls that are running.
    pub fn running(&self) -> usize {
        self.shared.running.load(Ordering::SeqCst)
    }

    /// Closes all connections, as a restart of the server would.
    pub fn hang_up(&self) {
        self.shared.hang_up();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.shared.hang_up();
        // Wakes the accepting thread, so that it sees the flag.
        let _ = TcpStream::connect(self.address);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("accepted", &self.accepted)
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming().map_while(Result::ok) {
            if self.closed.load(Ordering::SeqCst) {
                break;
            }
            self.accepted.fetch_add(1, Ordering::SeqCst);
            let Ok(end) = stream.try_clone() else { continue };
            self.streams.lock().unwrap_or_else(PoisonError::into_inner).push(end);
            let shared = Arc::clone(&self);
            thread::spawn(move || {
                // Whatever the error is, the connection and its thread end.
                let _ = shared.serve(&stream);
                let _ = stream.shutdown(Shutdown::Both);
            });
        }
    }

    fn serve(&self, stream: &TcpStream) -> Result<(), CallError> {
        stream.set_nodelay(true).map_err(CallError::Lost)?;
        loop {
            let Message::Call { function, parameters } = Message::read(stream)? else {
                return Err(CallError::Protocol("an answer from a client".to_owned()));
            };
            self.running.fetch_add(1, Ordering::SeqCst);
            let outcome = (self.functions)(&function, parameters, stream);
            self.running.fetch_sub(1, Ordering::SeqCst);
            let answer = outcome.map_or_else(
                |(key, message)| Message::Failure { key: key.to_owned(), message },
                Message::Results,
            );
            answer.write(stream)?;
        }
    }

    fn hang_up(&self) {
        for stream in self.streams.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn perform(
    function: &str,
    sent: Parameters,
    caller: &TcpStream,
) -> Result<Parameters, (&'static str, String)> {
    match function {
        "ECHO" => Ok(sent),
        "ORDER_TOTAL" => {
            thread::sleep(Duration::from_millis(50));
            let total = number(&sent, "QUANTITY")?.checked_mul(number(&sent, "PRICE")?);
            let total = total.ok_or_else(|| ("OVERFLOW", "the total is too large".to_owned()))?;
            Ok(parameters([("TOTAL", &total.to_string())]))
        }
        "STALL" => {
            // Blocks until the caller sends something or closes the connection.
            let _ = caller.peek(&mut [0]);
            Ok(Parameters::new())
        }
        _ => Err(("FUNCTION_NOT_FOUND", format!("there is no function {function}"))),
    }
}

fn number(parameters: &Parameters, name: &str) -> Result<u64, (&'static str, String)> {
    let value = parameters.get(name).ok_or_else(|| ("PARAMETER_MISSING", name.to_owned()))?;
    value.parse().map_err(|error| ("PARAMETER_INVALID", format!("{name}: {error}")))
}
