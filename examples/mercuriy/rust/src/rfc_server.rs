//! The embedded server of the RFC-shaped protocol: a child process of this same program.
//!
//! The process ends when its standard input does, so it ends with the service, whatever ends that. If it ends by itself,
//! a thread starts it again, on the same port.

use std::io::{self, BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use offloop_example_blocking_protocol as rfc;
use serde_json::{Value, json};

use crate::systems::{Function, MESSAGE, RESULT};

/// The first argument of the program that makes it the server. The second one is the port.
pub const ARGUMENT: &str = "rfc-server";

/// This program, even if its file has been replaced meanwhile.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// The server's process, and the thread that starts it again.
#[derive(Debug)]
pub struct RfcServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The process id of the server, 0 while there is none.
    pid: AtomicU32,
    /// The standard input of the server, whose end ends it. Empty once the service has closed it for good.
    lifeline: Mutex<Lifeline>,
}

#[derive(Debug)]
enum Lifeline {
    Open(Option<std::process::ChildStdin>),
    Closed,
}

impl Default for Lifeline {
    fn default() -> Self {
        Self::Open(None)
    }
}

impl RfcServer {
    /// Starts the server on a free port of loopback. Blocks until it answers.
    pub fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (child, address) = shared.spawn(0)?;
        let keeper = Arc::clone(&shared);
        thread::Builder::new()
            .name("rfc-server".to_owned())
            .spawn(move || keeper.keep(child, address.port()))?;
        Ok(Self { address, shared })
    }

    /// Returns the address that the server listens at.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the process id of the server, unless it is just being started again.
    pub fn pid(&self) -> Option<u32> {
        Some(self.shared.pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }
}

impl Drop for RfcServer {
    fn drop(&mut self) {
        *self.shared.lifeline() = Lifeline::Closed;
    }
}

impl Shared {
    fn lifeline(&self) -> std::sync::MutexGuard<'_, Lifeline> {
        self.lifeline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the process, and waits until it has told its address.
    fn spawn(&self, port: u16) -> io::Result<(Child, SocketAddr)> {
        let mut child = Command::new(THIS_PROGRAM)
            .args([ARGUMENT, &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C reaches the service alone, which may still have calls to end.
            .process_group(0)
            .spawn()?;
        match &mut *self.lifeline() {
            Lifeline::Open(lifeline) => *lifeline = child.stdin.take(),
            // The process ends as soon as it reads.
            Lifeline::Closed => drop(child.stdin.take()),
        }
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let Ok(address) = line.trim_end().parse() else {
            let status = child.wait()?;
            return Err(io::Error::other(format!("the embedded RFC server did not start: {status}")));
        };
        self.pid.store(child.id(), Ordering::Relaxed);
        Ok((child, address))
    }

    /// Starts the server again whenever it has ended, until the service ends it for good.
    fn keep(&self, mut child: Child, port: u16) {
        loop {
            let status = child.wait();
            self.pid.store(0, Ordering::Relaxed);
            if matches!(*self.lifeline(), Lifeline::Closed) {
                return;
            }
            tracing::warn!(status = ?status.ok(), "the embedded RFC server has ended and is started again");
            child = loop {
                match self.spawn(port) {
                    Ok((child, _)) => break child,
                    Err(error) => tracing::error!(%error, "the embedded RFC server was not started"),
                }
                if matches!(*self.lifeline(), Lifeline::Closed) {
                    return;
                }
                thread::sleep(Duration::from_millis(100));
            };
        }
    }
}

/// Serves until standard input ends. For the child process.
pub fn serve(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let running = AtomicUsize::new(0);
    let functions =
        move |name: &str, sent: rfc::Parameters, caller: &TcpStream| perform(name, &sent, caller, &running);
    let server = rfc::Server::start_with(listener, Box::new(functions))?;
    println!("{}", server.address());
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

type Outcome<T> = Result<T, (&'static str, String)>;

fn perform(
    name: &str,
    sent: &rfc::Parameters,
    caller: &TcpStream,
    running: &AtomicUsize,
) -> Outcome<rfc::Parameters> {
    let function = Function::ALL.into_iter().find(|function| function.name().to_uppercase() == name);
    let function = function.ok_or_else(|| ("FUNCTION_NOT_FOUND", format!("there is no function {name}")))?;
    let arguments = arguments(function, sent)?;
    function.check(&arguments).map_err(|problem| ("PARAMETER_INVALID", problem))?;
    let result = match (function, arguments.as_slice()) {
        (Function::Slow, [ms]) => {
            running.fetch_add(1, Ordering::SeqCst);
            let waited = wait_for(Duration::from_millis(ms.as_u64().unwrap_or_default()), caller);
            running.fetch_sub(1, Ordering::SeqCst);
            waited.map_err(|error| ("FUNCTION_FAILED", error.to_string()))?;
            ms.clone()
        }
        (Function::Running, _) => json!(running.load(Ordering::SeqCst)),
        (function, arguments) => {
            function.answer(arguments).map_err(|problem| ("FUNCTION_FAILED", problem))?
        }
    };
    Ok(rfc::parameters([(RESULT, &result.to_string())]))
}

fn arguments(function: Function, sent: &rfc::Parameters) -> Outcome<Vec<Value>> {
    let argument = |name: &&str| {
        let name = name.to_uppercase();
        let text = sent.get(&name).ok_or_else(|| ("PARAMETER_INVALID", format!("{name} is missing")))?;
        serde_json::from_str(text).map_err(|error| ("PARAMETER_INVALID", format!("{name}: {error}")))
    };
    let known = |name: &String| {
        name == MESSAGE || function.parameters().iter().any(|known| known.to_uppercase() == *name)
    };
    if let Some(name) = sent.keys().find(|name| !known(name)) {
        return Err(("PARAMETER_INVALID", format!("there is no parameter {name}")));
    }
    function.parameters().iter().map(argument).collect()
}

/// Blocks for `time`, and no longer than the caller is there.
fn wait_for(time: Duration, caller: &TcpStream) -> io::Result<()> {
    if time.is_zero() {
        return Ok(());
    }
    caller.set_read_timeout(Some(time))?;
    let peeked = caller.peek(&mut [0]);
    caller.set_read_timeout(None)?;
    match peeked {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Ok(()),
        Ok(0) => Err(io::Error::other("the caller has hung up")),
        Ok(_) => Err(io::Error::other("the caller sent something during the call")),
        Err(error) => Err(error),
    }
}
