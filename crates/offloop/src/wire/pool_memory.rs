//! The shared memory of one pool: the arenas that its calls are encoded to, and that its workers read.
//!
//! It consists of segments, which are made when they are needed. A worker is given a segment with the first call that lies
//! in it, so it reaches what was sent to its own pool and nothing else. It cannot write there: segments are sealed before
//! others get them. The seal also keeps everybody from giving parts of a segment back to the system. So a segment goes
//! back as a whole, when no block of it is in use; and the segments are small at first and grow with the memory in use, so
//! that a block which is held for long keeps little else.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::arena::{Arena, Block, RESERVE, RETAINED, SMALLEST};
use super::memfd::largest_file;
use crate::base::fork::OwnProcess;
use crate::base::sync::Mutex;
use crate::base::sync::atomic::{AtomicUsize, Ordering};
use crate::metrics::ArenaBytes;

/// The size of the first segments, in bytes. It is address space, of which only what is written to takes memory.
const SEGMENT: usize = 64 << 20;

/// Memory for payloads.
pub(crate) trait Memory: Sync {
    /// Takes a block of at least `size` bytes with arbitrary contents. The error says what limits the memory.
    fn take(&self, size: usize) -> io::Result<Block>;

    /// Returns whether a block is a part of this memory, so that its readers can read it.
    fn has(&self, block: &Block) -> bool;
}

impl Memory for Arc<Arena> {
    fn take(&self, size: usize) -> io::Result<Block> {
        Arena::take(self, size).ok_or_else(|| {
            let text =
                format!("the {} bytes that a worker shares are used up; are results kept?", self.size());
            io::Error::new(io::ErrorKind::OutOfMemory, text)
        })
    }

    fn has(&self, block: &Block) -> bool {
        Arc::ptr_eq(self, block.arena())
    }
}

/// The shared memory of one pool.
#[derive(Debug)]
pub(crate) struct PoolMemory {
    /// Distinguishes it from all others of this process.
    identity: u64,
    /// A forked child has none: they are its parent's.
    segments: OwnProcess<Mutex<Segments>>,
    /// Counts the blocks that were taken. A memory whose count does not change is idle.
    taken: AtomicUsize,
}

#[derive(Debug, Default)]
struct Segments {
    /// The oldest first.
    all: Vec<Arc<Arena>>,
    /// The number of the next segment. Numbers are not used again.
    next: u32,
    /// The pool has ended. A segment lives only as long as its blocks.
    closed: bool,
}

impl PoolMemory {
    pub(crate) fn new() -> Self {
        static IDENTITIES: AtomicU64 = AtomicU64::new(1);
        Self {
            identity: IDENTITIES.fetch_add(1, Ordering::Relaxed),
            segments: OwnProcess::new(Mutex::default()),
            taken: AtomicUsize::new(0),
        }
    }

    /// Gives free segments back to the system until no more freed memory is kept than is allowed. Returns the numbers of
    /// those segments, so that the workers let go of them too.
    pub(crate) fn tidy(&self) -> Vec<u32> {
        self.shrink_to(RETAINED)
    }

    /// Gives free segments back to the system, the oldest first, until at most `bound` bytes of freed memory are kept, or
    /// until all segments have blocks in use. Returns their numbers.
    pub(crate) fn shrink_to(&self, bound: usize) -> Vec<u32> {
        let Some(segments) = self.segments.get() else { return Vec::new() };
        let mut segments = segments.lock();
        let mut kept: usize = segments.all.iter().map(|segment| segment.retained()).sum();
        if kept <= bound {
            return Vec::new();
        }
        // Blocks keep their segment, and are taken under this lock.
        let (free, used) = std::mem::take(&mut segments.all).into_iter().partition::<Vec<_>, _>(|segment| {
            let goes = kept > bound && Arc::strong_count(segment) == 1;
            if goes {
                kept -= segment.retained();
            }
            goes
        });
        segments.all = used;
        drop(segments);
        free.iter().map(|segment| segment.number()).collect()
    }

    /// Gives all memory back to the system that is not in use, and the rest when it is not in use any more. Blocks that are
    /// taken from now on, for a call that the pool will refuse, have a segment each.
    pub(crate) fn close(&self) {
        if let Some(segments) = self.segments.get() {
            let mut segments = segments.lock();
            segments.closed = true;
            let all = std::mem::take(&mut segments.all);
            drop(segments);
            drop(all);
        }
    }

    /// Returns whether freed memory is kept.
    pub(crate) fn retains(&self) -> bool {
        self.bytes().kept > 0
    }

    /// Returns the memory in use, and the freed memory that is kept.
    pub(crate) fn bytes(&self) -> ArenaBytes {
        let Some(segments) = self.segments.get() else { return ArenaBytes::default() };
        segments
            .lock()
            .all
            .iter()
            .map(|segment| segment.bytes())
            .fold(ArenaBytes::default(), ArenaBytes::plus)
    }

    /// Returns the number of blocks that were taken or freed.
    pub(crate) fn uses(&self) -> usize {
        let freed = |segments: &Mutex<Segments>| {
            segments.lock().all.iter().map(|segment| segment.uses()).fold(0, usize::wrapping_add)
        };
        self.taken.load(Ordering::Relaxed).wrapping_add(self.segments.get().map_or(0, freed))
    }
}

impl Segments {
    /// Makes a segment with room for a block of `size` bytes.
    fn add(&mut self, size: usize, owner: u64) -> io::Result<Arc<Arena>> {
        let needed = size.max(SMALLEST).checked_next_power_of_two().filter(|needed| *needed <= RESERVE);
        let needed = needed.ok_or_else(|| {
            let text = format!("{size} bytes are more than a payload can have");
            io::Error::new(io::ErrorKind::OutOfMemory, text)
        })?;
        let all: usize = self.all.iter().map(|segment| segment.size()).sum();
        let preferred = SEGMENT.max(all / 8).min(RESERVE).min(largest_file().unwrap_or(RESERVE));
        let mut size = needed.max(1 << preferred.max(SMALLEST).ilog2());
        let segment = loop {
            match Arena::segment(size, owner, self.next) {
                Ok(segment) => break segment,
                // The address space may be limited.
                Err(_) if size > needed => size /= 2,
                Err(error) => return Err(error),
            }
        };
        let segment = Arc::new(segment);
        self.next += 1;
        if !self.closed {
            self.all.push(Arc::clone(&segment));
        }
        Ok(segment)
    }
}

impl Memory for PoolMemory {
    fn take(&self, size: usize) -> io::Result<Block> {
        let forked =
            || io::Error::new(io::ErrorKind::NotFound, "the pool's memory is its parent's".to_owned());
        let mut segments = self.segments.get().ok_or_else(forked)?.lock();
        self.taken.fetch_add(1, Ordering::Relaxed);
        let used = segments.all.iter().find_map(|segment| segment.take_used(size));
        let fresh = || segments.all.iter().find_map(|segment| segment.take_fresh(size));
        if let Some(block) = used.or_else(fresh) {
            return Ok(block);
        }
        let added = segments.add(size, self.identity).map(|segment| segment.take_fresh(size));
        // A block that is much too large is better than none.
        let any = || segments.all.iter().find_map(|segment| segment.take_any(size));
        match added {
            Ok(block) => block.or_else(any).ok_or_else(|| io::ErrorKind::OutOfMemory.into()),
            Err(error) => any().ok_or(error),
        }
    }

    fn has(&self, block: &Block) -> bool {
        block.arena().owner() == self.identity
    }
}

#[cfg(all(test, not(any(shuttle, weak_memory)), not(miri)))]
mod tests;
