//! What workers print: passed on to this process's standard error, its tail kept for the error of a crash, and
//! captured for the jobs that ask for it.
//!
//! Standard output is inherited and costs nothing. Standard error is a pipe that one thread of the pool reads and
//! passes on; only that thread ever waits for whoever reads *our* standard error. For a captured job the worker
//! turns both into two further pipes for as long as it runs.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::PollFd;

use crate::base::sync::atomic::{AtomicBool, Ordering};
use crate::base::sync::{Mutex, thread};
use crate::core::captured::{Captured, Stream};
use crate::processes::os::process::{self as sys, Bell};

/// How much may wait to be passed on for one worker, in bytes; then the worker waits.
const WAITING: usize = 64 * 1024;

/// Reads what the workers of one pool print.
#[derive(Debug)]
pub(crate) struct Output {
    sinks: Mutex<Vec<Arc<Sink>>>,
    /// Wakes the thread: the list has changed, or something is to be passed on.
    bell: Bell,
    /// How much of the end of each worker's standard error is kept, in bytes; 0: it is inherited.
    tail: usize,
    /// The last worker is gone.
    closed: AtomicBool,
}

/// The reading ends of a worker's pipes.
#[derive(Debug)]
pub(crate) struct Sink {
    stderr: Option<OwnedFd>,
    captured: [OwnedFd; 2],
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Read, and to be passed on.
    waiting: Vec<u8>,
    tail: VecDeque<u8>,
    /// The line that is being written, as far as it matters how it begins.
    line: Vec<u8>,
    /// The line that says that memory could not be had. A backtrace follows, which may be longer than the tail.
    refusal: Option<Vec<u8>>,
    /// Where the current job's output goes.
    capture: Option<Captured>,
    /// The worker is gone.
    is_over: bool,
    /// Which of the pipes are at their end.
    ended: [bool; 3],
}

impl Output {
    /// Opens the pool's output and starts its thread.
    pub(crate) fn open(tail: usize) -> io::Result<Arc<Self>> {
        let closed = AtomicBool::new(false);
        let output = Arc::new(Self { sinks: Mutex::new(Vec::new()), bell: Bell::new()?, tail, closed });
        let reader = Arc::clone(&output);
        thread::Builder::new().name("offloop-output".into()).spawn(move || reader.run())?;
        Ok(output)
    }

    /// There is nothing more to come.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.bell.ring();
    }

    /// Makes the pipes of a new worker: the reading ends, and the writing ends for standard error, if it is not to
    /// be inherited, and for captured output and errors.
    pub(crate) fn connect(&self) -> io::Result<(Arc<Sink>, Option<OwnedFd>, [OwnedFd; 2])> {
        let (stderr, stderr_of_worker) = if self.tail > 0 { sys::pipe().map(split)? } else { (None, None) };
        let (out, out_of_worker) = sys::pipe()?;
        let (err, err_of_worker) = sys::pipe()?;
        let sink = Arc::new(Sink { stderr, captured: [out, err], state: Mutex::default() });
        Ok((sink, stderr_of_worker, [out_of_worker, err_of_worker]))
    }

    /// Reads a worker's pipes from now on.
    pub(crate) fn add(&self, sink: Arc<Sink>) {
        self.sinks.lock().push(sink);
        self.bell.ring();
    }

    /// The worker is dead: reads what it left, and returns the tail of its standard error.
    pub(crate) fn finish(&self, sink: &Sink) -> String {
        sink.read(self.tail, usize::MAX);
        let mut state = sink.state.lock();
        state.is_over = true;
        let tail = match &state.capture {
            Some(captured) => captured.stderr(),
            None => state.tail.iter().copied().collect(),
        };
        let refusal = state.refusal.take();
        drop(state);
        self.bell.ring();
        let from = tail.len().saturating_sub(self.tail);
        let text = String::from_utf8_lossy(&tail[from..]).trim_end().to_owned();
        match refusal.as_deref().map(String::from_utf8_lossy) {
            Some(line) if !text.contains(&*line) => format!("{line}\n…\n{text}"),
            _ => text,
        }
    }
}

/// How the line begins with which Rust's allocation error handler says what has happened.
const REFUSAL: &[u8] = b"memory allocation of ";

/// What is kept of a line.
const LINE: usize = 100;

impl State {
    /// Looks for the line that says that memory could not be had.
    fn read_lines(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.go_on_with_line(&bytes[..end]);
            if self.line.starts_with(REFUSAL) {
                self.refusal = Some(std::mem::take(&mut self.line));
            }
            self.line.clear();
            bytes = &bytes[end + 1..];
        }
        self.go_on_with_line(bytes);
    }

    fn go_on_with_line(&mut self, bytes: &[u8]) {
        let room = LINE - self.line.len();
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

fn split((ours, theirs): (OwnedFd, OwnedFd)) -> (Option<OwnedFd>, Option<OwnedFd>) {
    (Some(ours), Some(theirs))
}

impl Sink {
    /// Captures from now on: the worker is given a job that asks for it.
    pub(crate) fn begin(&self, captured: Captured) {
        self.state.lock().capture = Some(captured);
    }

    /// The captured job has ended: takes what it printed last.
    pub(crate) fn end(&self) {
        self.read(0, 0);
        self.state.lock().capture = None;
    }

    /// Reads whatever is there, without waiting. Standard error is left alone while more than `limit` bytes wait to be
    /// passed on.
    fn read(&self, tail: usize, limit: usize) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let mut buffer = [0; 8192];
        for (at, stream) in [Stream::Out, Stream::Err].into_iter().enumerate() {
            while let Some(bytes) = sys::read_now(&self.captured[at], &mut buffer, &mut state.ended[at]) {
                if let Some(captured) = &state.capture {
                    captured.append(stream, bytes);
                }
            }
        }
        let Some(stderr) = &self.stderr else { return };
        while state.waiting.len() < limit {
            let Some(bytes) = sys::read_now(stderr, &mut buffer, &mut state.ended[2]) else { break };
            state.waiting.extend_from_slice(bytes);
            state.read_lines(bytes);
            state.tail.extend(bytes);
            let excess = state.tail.len().saturating_sub(tail);
            state.tail.drain(..excess);
        }
    }

    /// The pipes that may have something to read.
    fn descriptors(&self) -> impl Iterator<Item = PollFd<'_>> {
        let ended = self.state.lock().ended;
        let pipes = self.captured.iter().chain(&self.stderr);
        pipes.zip(ended).filter(|(_, ended)| !ended).map(|(pipe, _)| sys::watch(pipe.as_fd()))
    }
}

impl Output {
    /// Reads and passes on until there is nothing more to come.
    fn run(&self) {
        loop {
            let is_last = self.closed.load(Ordering::Acquire);
            let sinks = self.sinks.lock().clone();
            for sink in &sinks {
                sink.read(self.tail, WAITING);
                pass_on(sink);
            }
            if is_last {
                return;
            }
            self.sinks.lock().retain(|sink| !sink.state.lock().is_over);
            let mut descriptors = vec![sys::watch(self.bell.as_fd())];
            descriptors.extend(sinks.iter().flat_map(|sink| sink.descriptors()));
            // An error is want of memory; the next round may have it.
            let _ = sys::poll(&mut descriptors, None);
            self.bell.silence();
        }
    }
}

/// Writes what a worker wrote to our own standard error. May block for as long as nobody reads that.
fn pass_on(sink: &Sink) {
    let waiting = std::mem::take(&mut sink.state.lock().waiting);
    if !waiting.is_empty() {
        // If it cannot be written there is nobody to tell.
        let _ = io::stderr().write_all(&waiting);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_about_memory_is_found_wherever_reads_divide_it() {
        let text = b"hello\nmemory allocation of 1073741824 bytes failed\nstack backtrace:\n   0: main";
        for at in 0..text.len() {
            let mut state = State::default();
            state.read_lines(&text[..at]);
            state.read_lines(&text[at..]);
            let line = state.refusal.expect("it is there");
            assert_eq!(line, b"memory allocation of 1073741824 bytes failed");
        }
        let mut state = State::default();
        state.read_lines(b"no memory allocation of ours\n");
        assert!(state.refusal.is_none());
    }
}
