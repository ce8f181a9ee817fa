//! A child of this same program that answers bytes over a pair of pipes or sockets, with no pool around it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Contender, check, make, pages};
use crate::support::Spread;

pub(crate) const BARE_PIPE: &str = "bare pipe";
pub(crate) const SOCKETPAIR: &str = "bare socketpair";

const ECHO: &str = "--echo";

/// A no-op. The answer is the same byte.
const NOTHING: u8 = b'.';
/// Followed by a length and that number of bytes. The answer is the number of their pages.
const ARGUMENT: u8 = b'<';
/// Followed by a length. The answer is that number of bytes.
const RESULT: u8 = b'>';

type Number = [u8; size_of::<usize>()];

/// A child process that answers one request at a time.
pub(crate) struct Bare {
    name: &'static str,
    child: Child,
    to: File,
    from: File,
    /// The buffer for results. It is reused, as a program without a pool would do.
    bytes: Vec<u8>,
}

impl Bare {
    pub(crate) fn over_pipes() -> Self {
        let mut child = spawn(Stdio::piped(), Stdio::piped()).expect("the bench starts itself");
        let to = OwnedFd::from(child.stdin.take().expect("it is piped"));
        let from = OwnedFd::from(child.stdout.take().expect("it is piped"));
        for pipe in [&to, &from] {
            // The largest size for users without privileges. If it is refused, the default stays.
            let _ = rustix::pipe::fcntl_setpipe_size(pipe, 1 << 20);
        }
        Self { name: BARE_PIPE, child, to: to.into(), from: from.into(), bytes: Vec::new() }
    }

    pub(crate) fn over_a_socketpair() -> Self {
        let pair = || -> io::Result<Self> {
            let (here, there) = UnixStream::pair()?;
            let child = spawn(OwnedFd::from(there.try_clone()?).into(), OwnedFd::from(there).into())?;
            let (to, from) = (OwnedFd::from(here.try_clone()?), OwnedFd::from(here));
            Ok(Self { name: SOCKETPAIR, child, to: to.into(), from: from.into(), bytes: Vec::new() })
        };
        pair().expect("the bench starts itself")
    }

    fn trip(&mut self) -> io::Result<()> {
        self.to.write_all(&[NOTHING])?;
        self.from.read_exact(&mut [0])
    }

    fn count_pages(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.ask(ARGUMENT, bytes.len())?;
        self.to.write_all(bytes)?;
        read_number(&mut self.from)
    }

    fn make(&mut self, length: usize) -> io::Result<usize> {
        self.ask(RESULT, length)?;
        read_bytes(&mut self.from, &mut self.bytes, length).map(pages)
    }

    fn ask(&mut self, what: u8, length: usize) -> io::Result<()> {
        let mut request = vec![what];
        request.extend(length.to_ne_bytes());
        self.to.write_all(&request)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Contender for Bare {
    fn name(&self) -> &'static str {
        self.name
    }

    fn round_trips(&mut self, trips: usize) -> Option<Spread> {
        let times = (0..trips).map(|_| {
            let begin = Instant::now();
            self.trip().expect("the child answers");
            begin.elapsed()
        });
        Some(Spread::of(times.collect()))
    }

    fn argument(&mut self, bytes: &[u8]) -> Option<Duration> {
        let begin = Instant::now();
        let pages = self.count_pages(bytes).expect("the child answers");
        let time = begin.elapsed();
        check(pages, bytes.len());
        Some(time)
    }

    fn result(&mut self, length: usize) -> Option<Duration> {
        let begin = Instant::now();
        let pages = self.make(length).expect("the child answers");
        let time = begin.elapsed();
        check(pages, length);
        Some(time)
    }
}

fn spawn(stdin: Stdio, stdout: Stdio) -> io::Result<Child> {
    Command::new(std::env::current_exe()?).arg(ECHO).stdin(stdin).stdout(stdout).spawn()
}

/// Answers until standard input ends, if this process is a child of [`Bare`]. Returns whether it is.
pub(crate) fn echo_if_asked() -> bool {
    let asked = std::env::args().nth(1).is_some_and(|argument| argument == ECHO);
    if asked {
        echo().expect("the parent listens");
    }
    asked
}

fn echo() -> io::Result<()> {
    // `File` has no buffer, unlike `Stdin` and `Stdout`.
    let mut from = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut to = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut request = [0];
    let mut bytes = Vec::new();
    while from.read(&mut request)? == 1 {
        match request[0] {
            ARGUMENT => {
                let length = read_number(&mut from)?;
                let pages = pages(read_bytes(&mut from, &mut bytes, length)?);
                to.write_all(&pages.to_ne_bytes())?;
            }
            RESULT => {
                let length = read_number(&mut from)?;
                to.write_all(&make(length))?;
            }
            _ => to.write_all(&request)?,
        }
    }
    Ok(())
}

fn read_number(from: &mut File) -> io::Result<usize> {
    let mut number = Number::default();
    from.read_exact(&mut number)?;
    Ok(usize::from_ne_bytes(number))
}

/// Reads into the beginning of `bytes`, which never shrinks.
fn read_bytes<'a>(from: &mut File, bytes: &'a mut Vec<u8>, length: usize) -> io::Result<&'a [u8]> {
    if bytes.len() < length {
        bytes.resize(length, 0);
    }
    from.read_exact(&mut bytes[..length])?;
    Ok(&bytes[..length])
}
