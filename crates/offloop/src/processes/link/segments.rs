//! The segments of the pool's memory that a worker has been given, and the messages by which it gets them.
//!
//! ```text
//! pool ── look ───────────────────────────────────────▶ worker
//!      ── attach: the segment's number, its size; its file ──▶
//!      ── detach: the segment's number ──────────────────────▶
//! ```
//!
//! They go over the link's socket. A segment is attached before the first call that lies in it is offered.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::net::RecvFlags;
use rustix::process::Resource;

use super::message::Span;
use crate::processes::os::fd;
use crate::wire::arena::{Arena, split_address};
use crate::wire::memfd::Mapping;

/// A message without content: the worker is to look at its ring.
const LOOK: u8 = 0;

/// The message that a segment comes with. Its number and its size follow.
const ATTACH: u8 = 1;

/// The message that a segment is used no more. Its number follows.
const DETACH: u8 = 2;

/// Gives a segment to the worker at the other end of a socket. Does not block.
pub(super) fn attach(socket: BorrowedFd<'_>, segment: &Arena) -> io::Result<()> {
    let Some(file) = segment.for_readers() else { return Ok(()) };
    let mut message = vec![ATTACH];
    message.extend_from_slice(&segment.number().to_le_bytes());
    message.extend_from_slice(&(segment.size() as u64).to_le_bytes());
    fd::send_with_files(socket, &message, &[file])
}

/// Tells the worker at the other end of a socket that a segment is used no more. Does not block.
pub(super) fn detach(socket: BorrowedFd<'_>, number: u32) -> io::Result<()> {
    let mut message = vec![DETACH];
    message.extend_from_slice(&number.to_le_bytes());
    fd::send_with_files(socket, &message, &[])
}

/// The segments that a worker has.
#[derive(Debug, Default)]
pub(super) struct Segments {
    /// By number. A blob that a job keeps holds its segment too.
    mapped: HashMap<u32, Arc<Mapping>>,
    /// The beginning of a message of which the rest has not come.
    unread: Vec<u8>,
    /// The file that has come with that message.
    file: Option<OwnedFd>,
    /// The reason why a segment is missing.
    failure: Option<String>,
}

impl Segments {
    /// Reads the messages that have come. The first read is made with `flags`. Returns false if the socket has ended.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>, mut flags: RecvFlags) -> bool {
        loop {
            let received = match fd::receive_some(socket, flags) {
                Ok(received) => received,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return error == rustix::io::Errno::AGAIN,
            };
            if received.bytes.is_empty() {
                return false;
            }
            // One read brings one file at most, with the last message of the read.
            self.unread.extend_from_slice(&received.bytes);
            self.file = received.file.or(self.file.take());
            self.follow();
            if !received.may_be_more {
                return true;
            }
            flags = RecvFlags::DONTWAIT;
        }
    }

    /// Follows the messages that have come as a whole.
    fn follow(&mut self) {
        let mut unread = std::mem::take(&mut self.unread);
        let mut rest = unread.as_slice();
        while let Some(after) = self.follow_first(rest) {
            rest = after;
        }
        let read = unread.len() - rest.len();
        unread.drain(..read);
        self.unread = unread;
    }

    /// Follows the first message. Returns what comes after it, or `None` if it is not complete.
    fn follow_first<'a>(&mut self, unread: &'a [u8]) -> Option<&'a [u8]> {
        let (tag, rest) = unread.split_first()?;
        if *tag == LOOK {
            return Some(rest);
        }
        let (number, rest) = rest.split_first_chunk()?;
        let number = u32::from_le_bytes(*number);
        if *tag == DETACH {
            self.mapped.remove(&number);
            return Some(rest);
        }
        let (size, rest) = rest.split_first_chunk()?;
        match self.map(u64::from_le_bytes(*size)) {
            Ok(mapping) => drop(self.mapped.insert(number, Arc::new(mapping))),
            Err(error) => self.failure = Some(error.to_string()),
        }
        Some(rest)
    }

    fn map(&mut self, size: u64) -> io::Result<Mapping> {
        let file = self.file.take().ok_or_else(|| {
            io::Error::other("this process has no descriptor left for it; do its jobs leave files open?")
        })?;
        let size = usize::try_from(size).map_err(|_| io::ErrorKind::InvalidData)?;
        let mapping = Mapping::new(file.as_fd(), size, false)?;
        // The file is worth a descriptor only where there are many: it makes private views cheaper.
        let limit = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let is_cheap = u64::try_from(file.as_raw_fd()).is_ok_and(|descriptor| descriptor < limit / 2);
        if is_cheap { mapping.keep_file(file) } else { Ok(mapping) }
    }

    #[cfg(all(test, not(any(shuttle, weak_memory)), not(miri)))]
    pub(super) fn insert(&mut self, number: u32, mapping: Mapping) {
        self.mapped.insert(number, Arc::new(mapping));
    }

    /// Returns where a range of the pool's memory is mapped. `None` if its segment was not attached.
    pub(super) fn find(&self, span: Span) -> Option<(NonNull<u8>, usize, &Arc<Mapping>)> {
        let (number, offset) = split_address(span.offset);
        let mapping = self.mapped.get(&number)?;
        let start = mapping.at(&(offset..offset.checked_add(span.length)?))?;
        Some((start, usize::try_from(span.length).ok()?, mapping))
    }

    /// Returns the reason why a segment is missing.
    pub(super) fn failure(&self) -> &str {
        self.failure.as_deref().unwrap_or("the pool has not sent it")
    }
}
