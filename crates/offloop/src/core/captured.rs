//! The output of a job, kept for its caller.

use std::fmt;
use std::sync::Arc;

use crate::base::sync::Mutex;

/// The output of one job in a worker process. Give it to [`Prepared::capture`](crate::Prepared::capture), and read it
/// after the job's end.
///
/// The standard output and standard error of the job, and of programs that it starts, go here and nowhere else. Each is
/// kept up to a limit. What exceeds the limit is dropped, and [`is_truncated`](Self::is_truncated) returns true. Used
/// for several jobs, it keeps the output of all of them.
///
/// ```
/// #[offloop::task]
/// fn greet(name: &str) {
///     println!("hello, {name}");
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     offloop::init();
///     let pool = offloop::ProcessPool::builder().max_workers(1).build()?;
///     let printed = offloop::Captured::new(4096);
///     pool.run(offloop::prepare(greet.with("you")).capture(&printed)).wait()?;
///     assert_eq!(printed.stdout(), b"hello, you\n");
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Captured(Arc<Mutex<Streams>>);

struct Streams {
    bytes: [Vec<u8>; 2],
    limit: usize,
    is_truncated: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Stream {
    Out,
    Err,
}

impl Captured {
    /// Makes a capture that keeps up to `limit` bytes of each stream.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(Streams { bytes: [Vec::new(), Vec::new()], limit, is_truncated: false })))
    }

    /// Returns the number of bytes of each stream that it keeps.
    pub(crate) fn limit(&self) -> usize {
        self.0.lock().limit
    }

    /// Returns the standard output so far.
    pub fn stdout(&self) -> Vec<u8> {
        self.0.lock().bytes[Stream::Out as usize].clone()
    }

    /// Returns the standard error so far.
    pub fn stderr(&self) -> Vec<u8> {
        self.0.lock().bytes[Stream::Err as usize].clone()
    }

    /// Returns whether output was dropped because of the limit.
    pub fn is_truncated(&self) -> bool {
        self.0.lock().is_truncated
    }

    /// Records that output was dropped elsewhere because of the limit.
    pub(crate) fn truncate(&self) {
        self.0.lock().is_truncated = true;
    }

    pub(crate) fn append(&self, stream: Stream, bytes: &[u8]) {
        let mut streams = self.0.lock();
        let room = streams.limit.saturating_sub(streams.bytes[stream as usize].len());
        let (kept, dropped) = bytes.split_at(room.min(bytes.len()));
        streams.bytes[stream as usize].extend_from_slice(kept);
        streams.is_truncated |= !dropped.is_empty();
    }
}

impl fmt::Debug for Captured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let streams = self.0.lock();
        f.debug_struct("Captured")
            .field("stdout", &streams.bytes[0].len())
            .field("stderr", &streams.bytes[1].len())
            .field("is_truncated", &streams.is_truncated)
            .finish_non_exhaustive()
    }
}
