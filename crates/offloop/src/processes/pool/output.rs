//! What workers print: passed on to this process's standard error, kept for the error of a crash, and captured for the
//! jobs that ask for it.
//!
//! Standard output is inherited and costs nothing. Standard error is a pipe. One thread of the pool reads it and writes
//! to our own standard error. If nobody reads *that*, only this thread waits. For a captured job the worker redirects
//! both streams into two further pipes for as long as the job runs.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::PollFd;

use crate::base::spawn::spawn;
use crate::base::sync::atomic::{AtomicBool, Ordering};
use crate::base::sync::{Mutex, thread};
use crate::core::captured::{Captured, Stream};
use crate::processes::os::fd::{self, EventFd};

/// The number of bytes that may wait to be passed on for one worker. When more wait, the worker waits.
const WAITING: usize = 64 * 1024;

/// The beginning of the line that Rust's allocation error handler prints before it aborts.
const ALLOCATION_FAILED: &[u8] = b"memory allocation of ";

/// The number of bytes that are kept of a line, to recognise it.
const LINE: usize = 100;

/// Reads what the workers of one pool print.
#[derive(Debug)]
pub(super) struct Output {
    /// The pipes of the workers that print, or have printed something that was not passed on. The supervisor adds to
    /// them; the reading thread removes those that are over.
    workers: Mutex<Vec<Arc<WorkerPipes>>>,
    /// Wakes the reading thread: the list has changed, or something is to be passed on.
    event: EventFd,
    /// The length of the end of each worker's standard error that is kept, in bytes. 0: standard error is inherited.
    tail: usize,
    /// The last worker is gone. Set once, by the supervisor.
    closed: AtomicBool,
}

/// The reading ends of a worker's pipes.
#[derive(Debug)]
pub(super) struct WorkerPipes {
    /// `None` if standard error is inherited.
    stderr: Option<OwnedFd>,
    /// Standard output and standard error of captured jobs.
    captured: [OwnedFd; 2],
    state: Mutex<PipeState>,
}

#[derive(Debug, Default)]
struct PipeState {
    /// Bytes that were read from standard error and are to be passed on. Taken by the reading thread.
    waiting: Vec<u8>,
    /// The end of what was read from standard error.
    tail: VecDeque<u8>,
    /// The beginning of the current line of standard error.
    line: Vec<u8>,
    /// The line which reports that an allocation failed. A backtrace that is longer than the tail may follow it.
    allocation_failed: Option<Vec<u8>>,
    /// The destination of the current job's output. Set when the worker is given a captured job, cleared at the job's end.
    capture: Option<Captured>,
    /// The worker is gone. Set once, by the supervisor.
    is_over: bool,
    /// Which of the pipes are at their end: those of captured jobs, then standard error.
    ended: [bool; 3],
}

impl Output {
    /// Starts the thread that reads what the workers print.
    pub(super) fn open(tail: usize) -> io::Result<Arc<Self>> {
        let closed = AtomicBool::new(false);
        let output = Arc::new(Self { workers: Mutex::new(Vec::new()), event: EventFd::new()?, tail, closed });
        let reader = Arc::clone(&output);
        spawn(thread::Builder::new().name("offloop-output".into()), move || reader.run())?;
        Ok(output)
    }

    /// Lets the thread end when it has passed on what has come.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.event.notify();
    }

    /// Makes the pipes of a new worker. Returns the reading ends, the writing end for standard error unless that is
    /// inherited, and the writing ends for captured output and errors.
    pub(super) fn connect(&self) -> io::Result<(Arc<WorkerPipes>, Option<OwnedFd>, [OwnedFd; 2])> {
        let (stderr, stderr_of_worker) = if self.tail > 0 { fd::pipe().map(split)? } else { (None, None) };
        let (out, out_of_worker) = fd::pipe()?;
        let (err, err_of_worker) = fd::pipe()?;
        let pipes = Arc::new(WorkerPipes { stderr, captured: [out, err], state: Mutex::default() });
        Ok((pipes, stderr_of_worker, [out_of_worker, err_of_worker]))
    }

    /// Reads a worker's pipes from now on.
    pub(super) fn add(&self, pipes: Arc<WorkerPipes>) {
        self.workers.lock().push(pipes);
        self.event.notify();
    }

    /// Reads what a dead worker left. Returns the end of its standard error.
    pub(super) fn finish(&self, pipes: &WorkerPipes) -> String {
        pipes.read(self.tail, usize::MAX);
        let mut state = pipes.state.lock();
        state.is_over = true;
        let tail = match &state.capture {
            Some(captured) => captured.stderr(),
            None => state.tail.iter().copied().collect(),
        };
        let allocation_failed = state.allocation_failed.take();
        drop(state);
        self.event.notify();
        let from = tail.len().saturating_sub(self.tail);
        let text = String::from_utf8_lossy(&tail[from..]).trim_end().to_owned();
        match allocation_failed.as_deref().map(String::from_utf8_lossy) {
            Some(line) if !text.contains(&*line) => format!("{line}\n…\n{text}"),
            _ => text,
        }
    }

    /// Reads and passes on until the output is closed.
    fn run(&self) {
        loop {
            let is_last = self.closed.load(Ordering::Acquire);
            let workers = self.workers.lock().clone();
            for pipes in &workers {
                pipes.read(self.tail, WAITING);
                pass_on(pipes);
            }
            if is_last {
                return;
            }
            self.workers.lock().retain(|pipes| !pipes.state.lock().is_over);
            let mut descriptors = vec![fd::readable(self.event.as_fd())];
            descriptors.extend(workers.iter().flat_map(|pipes| pipes.descriptors()));
            // It fails only for lack of memory. The next round may succeed.
            let _ = fd::poll(&mut descriptors, None);
            self.event.drain();
        }
    }
}

fn split((ours, theirs): (OwnedFd, OwnedFd)) -> (Option<OwnedFd>, Option<OwnedFd>) {
    (Some(ours), Some(theirs))
}

/// Writes what a worker wrote to our own standard error. May block for as long as nobody reads that.
fn pass_on(pipes: &WorkerPipes) {
    let waiting = std::mem::take(&mut pipes.state.lock().waiting);
    if !waiting.is_empty() {
        // If standard error cannot be written to, there is no other place to report that.
        let _ = io::stderr().write_all(&waiting);
    }
}

impl WorkerPipes {
    /// Captures from now on: the worker is given a job that asks for it.
    pub(super) fn begin_capture(&self, captured: Captured) {
        self.state.lock().capture = Some(captured);
    }

    /// Reads what the captured job, which has ended, printed last. Captures no more.
    pub(super) fn end_capture(&self) {
        self.read(0, 0);
        self.state.lock().capture = None;
    }

    /// Reads what has come, without waiting. Leaves standard error alone while at least `limit` bytes wait to be passed
    /// on.
    fn read(&self, tail: usize, limit: usize) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let mut buffer = [0; 8192];
        for (at, stream) in [Stream::Out, Stream::Err].into_iter().enumerate() {
            while let Some(bytes) = fd::read_now(&self.captured[at], &mut buffer, &mut state.ended[at]) {
                if let Some(captured) = &state.capture {
                    captured.append(stream, bytes);
                }
            }
        }
        let Some(stderr) = &self.stderr else { return };
        while state.waiting.len() < limit {
            let Some(bytes) = fd::read_now(stderr, &mut buffer, &mut state.ended[2]) else { break };
            state.waiting.extend_from_slice(bytes);
            state.read_lines(bytes);
            state.tail.extend(bytes);
            let excess = state.tail.len().saturating_sub(tail);
            state.tail.drain(..excess);
        }
    }

    /// Returns the poll entries of the pipes that are not at their end.
    fn descriptors(&self) -> impl Iterator<Item = PollFd<'_>> {
        let ended = self.state.lock().ended;
        let pipes = self.captured.iter().chain(&self.stderr);
        pipes.zip(ended).filter(|(_, ended)| !ended).map(|(pipe, _)| fd::readable(pipe.as_fd()))
    }
}

impl PipeState {
    /// Looks for the line which reports that an allocation failed.
    fn read_lines(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.extend_line(&bytes[..end]);
            if self.line.starts_with(ALLOCATION_FAILED) {
                self.allocation_failed = Some(std::mem::take(&mut self.line));
            }
            self.line.clear();
            bytes = &bytes[end + 1..];
        }
        self.extend_line(bytes);
    }

    fn extend_line(&mut self, bytes: &[u8]) {
        let room = LINE - self.line.len();
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_about_a_failed_allocation_is_found_however_reads_divide_it() {
        let text = b"hello\nmemory allocation of 1073741824 bytes failed\nstack backtrace:\n   0: main";
        for at in 0..text.len() {
            let mut state = PipeState::default();
            state.read_lines(&text[..at]);
            state.read_lines(&text[at..]);
            let line = state.allocation_failed.expect("it is there");
            assert_eq!(line, b"memory allocation of 1073741824 bytes failed");
        }
        let mut state = PipeState::default();
        state.read_lines(b"no memory allocation of ours\n");
        assert!(state.allocation_failed.is_none());
    }
}
