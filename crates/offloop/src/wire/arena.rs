//! Arenas: allocators in shared memory, which carry large payloads between processes without a pipe.
//!
//! An arena is one large, sparse memory file, which takes memory only where it was written. One process writes to it,
//! and others read it. A worker has one arena for its results, which its parent reads. A pool has some for its calls, the
//! segments of its [memory](super::pool_memory), which its workers read.
//!
//! Blocks are cut from an arena by size class. Freed blocks are used again, the last one first: memory that was touched
//! before is about ten times as fast as fresh pages.
//!
//! Only the owner allocates and frees; readers tell it when they are done with a block. So no lock is shared between
//! processes, and a process that dies leaves nothing locked.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::mm::Advice;
use rustix::process::Resource;

use super::fork_copy::{ForkFile, ForkRange};
use super::memfd::{Mapping, MemoryFile, PrivateMapping, largest_file};
use crate::base::fork::{OwnProcess, PerProcess};
use crate::base::sync::Mutex;
use crate::base::sync::atomic::{AtomicUsize, Ordering};
use crate::metrics::ArenaBytes;

/// The smallest block, in bytes: a page.
pub(super) const SMALLEST: usize = 4096;

/// The number of size classes. The blocks of a class have `SMALLEST << class` bytes.
const CLASSES: usize = 24;

/// The address space that a worker's arena reserves if there are no limits, in bytes. It costs nothing until it is
/// written to. No arena is larger.
pub(super) const RESERVE: usize = 1 << RESERVE_BITS;

/// The number of bits of an offset in an arena. In an address, the bits above are the arena's number.
const RESERVE_BITS: u32 = 36;

/// The freed memory that is kept for the next payloads by default, in bytes.
pub(super) const RETAINED: usize = 256 << 20;

/// Splits an address within the memory of another process: into the number of the arena and the offset there.
pub(crate) fn split_address(address: u64) -> (u32, u64) {
    let number = u32::try_from(address >> RESERVE_BITS).expect("28 bits fit");
    (number, address & (RESERVE as u64 - 1))
}

/// Returns the size for a worker's arena in bytes. It is large, unless the address space or the size of files is limited:
/// then it leaves room for the rest of the process.
pub(crate) fn reserve() -> usize {
    let space = rustix::process::getrlimit(Resource::As).current;
    let space = space.map_or(RESERVE, |limit| usize::try_from(limit / 16).unwrap_or(RESERVE));
    let share = space.min(largest_file().unwrap_or(RESERVE)).clamp(SMALLEST, RESERVE);
    1 << share.ilog2()
}

/// Makes the memory for a worker's arena of `reserve` bytes, or of fewer if the address space does not allow it.
pub(crate) fn create(mut reserve: usize, writable: bool) -> io::Result<(OwnedFd, Mapping)> {
    loop {
        let file = MemoryFile::new("offloop-results", reserve)?.sealed()?;
        match Mapping::new(file.as_fd(), reserve, writable) {
            Ok(mapping) => {
                let mapping = mapping.keep_copy_of(file.as_fd())?;
                return Ok((file, mapping));
            }
            Err(_) if reserve > SMALLEST => reserve /= 2,
            Err(error) => return Err(error),
        }
    }
}

/// An allocator in one memory file.
#[derive(Debug)]
pub(crate) struct Arena {
    /// The file, for processes that are to read it. `None` for a worker's own arena, whose reader has it already. In a
    /// forked child it is closed.
    file: Option<ForkFile>,
    mapping: Mapping,
    /// Identifies the memory that the arena is a part of.
    owner: u64,
    /// The address of its first byte, as readers know it: see [`split_address`].
    base: u64,
    /// In a forked child there are none: the blocks are its parent's.
    blocks: OwnProcess<Mutex<FreeLists>>,
    /// The bytes of free blocks that have memory: they were written to, and not given back to the system since.
    retained: AtomicUsize,
    /// The number of bytes to which `retained` is trimmed. Exceeded until the next trim.
    retained_limit: AtomicUsize,
    /// Counts the blocks that were taken or freed. An arena whose count does not change is idle.
    uses: AtomicUsize,
}

/// The blocks that can be taken.
#[derive(Debug)]
struct FreeLists {
    /// Freed blocks by class. The last freed block is at the end, blocks without memory are at the start.
    free: [Vec<FreeBlock>; CLASSES],
    /// The offset from which on no block was ever cut, in bytes.
    fresh: usize,
}

#[derive(Debug, Clone, Copy)]
struct FreeBlock {
    offset: usize,
    /// The number of bytes at its start that were written since its memory was last given back.
    touched: usize,
}

/// Returns the class of the smallest blocks that have `size` bytes. `None` if there are none so large.
fn class_of(size: usize) -> Option<usize> {
    let size = size.max(SMALLEST).checked_next_power_of_two()?;
    Some((size.ilog2() - SMALLEST.ilog2()) as usize).filter(|class| *class < CLASSES)
}

impl Arena {
    /// Makes an arena of a worker in `mapping`, which is writable.
    pub(crate) fn new(mapping: Mapping) -> Self {
        Self::in_mapping(None, mapping, 0, 0)
    }

    /// Makes an arena of `size` bytes, the part of a larger memory with this number. Others can read its file, but not
    /// write to it.
    pub(super) fn segment(size: usize, owner: u64, number: u32) -> io::Result<Self> {
        let file = MemoryFile::new("offloop-calls", size)?;
        let mapping = file.map()?;
        let file = file.sealed_against_writers()?;
        Ok(Self::in_mapping(Some(ForkFile::new(file)?), mapping, owner, u64::from(number) << RESERVE_BITS))
    }

    fn in_mapping(file: Option<ForkFile>, mapping: Mapping, owner: u64, base: u64) -> Self {
        Self {
            file,
            mapping,
            owner,
            base,
            blocks: OwnProcess::new(Mutex::new(FreeLists {
                free: [const { Vec::new() }; CLASSES],
                fresh: 0,
            })),
            retained: AtomicUsize::new(0),
            retained_limit: AtomicUsize::new(RETAINED),
            uses: AtomicUsize::new(0),
        }
    }

    /// Returns the arena of this process, if it is a worker.
    pub(crate) fn of_this_worker() -> Option<&'static Arc<Self>> {
        THIS_WORKER.existing()
    }

    /// Makes `mapping` the arena of this process, which is a worker and whose parent has the same file mapped. To be
    /// called before any other use.
    pub(crate) fn adopt(mapping: Mapping) -> &'static Arc<Self> {
        THIS_WORKER.set(Arc::new(Self::new(mapping)))
    }

    /// Sets the freed memory that may be kept for later payloads, in bytes.
    pub(crate) fn allow(&self, bytes: usize) {
        self.retained_limit.store(bytes, Ordering::Relaxed);
    }

    /// Returns the file of a segment for its readers. `None` for other arenas, and in a forked child.
    pub(crate) fn for_readers(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref()?.get()
    }

    pub(crate) fn size(&self) -> usize {
        self.mapping.size()
    }

    /// Returns the number of the segment, as its readers know it.
    pub(crate) fn number(&self) -> u32 {
        split_address(self.base).0
    }

    /// Returns the identity of the memory that the arena is a part of.
    pub(super) fn owner(&self) -> u64 {
        self.owner
    }

    /// Takes a block of at least `size` bytes with arbitrary contents. `None` if the arena is used up, or another
    /// process's.
    pub(crate) fn take(self: &Arc<Self>, size: usize) -> Option<Block> {
        // A block that is much too large is better than none.
        self.take_used(size).or_else(|| self.take_fresh(size)).or_else(|| self.take_any(size))
    }

    /// Takes a block that was used before, and is at most somewhat too large: that is better than fresh pages.
    pub(super) fn take_used(self: &Arc<Self>, size: usize) -> Option<Block> {
        let class = class_of(size)?;
        self.take_free(class..CLASSES.min(class + 3))
    }

    /// Takes any free block that is large enough.
    pub(super) fn take_any(self: &Arc<Self>, size: usize) -> Option<Block> {
        self.take_free(class_of(size)?..CLASSES)
    }

    fn take_free(self: &Arc<Self>, mut classes: Range<usize>) -> Option<Block> {
        let mut blocks = self.blocks.get()?.lock();
        let (class, FreeBlock { offset, touched }) =
            classes.find_map(|class| Some((class, blocks.free[class].pop()?)))?;
        drop(blocks);
        self.retained.fetch_sub(touched, Ordering::Relaxed);
        Some(self.block(offset, class, touched))
    }

    /// Takes a block that was never used.
    pub(super) fn take_fresh(self: &Arc<Self>, size: usize) -> Option<Block> {
        let class = class_of(size)?;
        let mut blocks = self.blocks.get()?.lock();
        let offset = blocks.fresh;
        blocks.fresh = offset.checked_add(SMALLEST << class).filter(|end| *end <= self.mapping.size())?;
        drop(blocks);
        Some(self.block(offset, class, 0))
    }

    fn block(self: &Arc<Self>, offset: usize, class: usize, touched: usize) -> Block {
        self.uses.fetch_add(1, Ordering::Relaxed);
        Block { arena: Arc::clone(self), offset, class, touched }
    }

    fn put_back(&self, block: &Block) {
        let Some(blocks) = self.blocks.get() else { return };
        self.uses.fetch_add(1, Ordering::Relaxed);
        self.retained.fetch_add(block.touched, Ordering::Relaxed);
        let free = FreeBlock { offset: block.offset, touched: block.touched };
        blocks.lock().free[block.class].push(free);
    }

    /// Returns whether more freed memory is kept than is allowed. Costs two atomic loads.
    pub(crate) fn is_over(&self) -> bool {
        self.retained.load(Ordering::Relaxed) > self.retained_limit.load(Ordering::Relaxed)
    }

    /// Returns whether freed memory is kept.
    pub(crate) fn retains(&self) -> bool {
        self.retained() > 0
    }

    /// Returns the freed memory that is kept, in bytes.
    pub(super) fn retained(&self) -> usize {
        self.retained.load(Ordering::Relaxed)
    }

    /// Returns the memory in use, and the freed memory that is kept.
    pub(crate) fn bytes(&self) -> ArenaBytes {
        let Some(blocks) = self.blocks.get().map(Mutex::lock) else { return ArenaBytes::default() };
        let free = (0..CLASSES).map(|class| blocks.free[class].len() * (SMALLEST << class)).sum();
        let used = blocks.fresh.saturating_sub(free);
        ArenaBytes { used: used as u64, kept: self.retained.load(Ordering::Relaxed) as u64 }
    }

    /// Returns the number of times that blocks were taken or freed.
    pub(crate) fn uses(&self) -> usize {
        self.uses.load(Ordering::Relaxed)
    }

    /// Gives freed memory back to the system until no more is kept than is allowed.
    pub(crate) fn tidy(&self) {
        self.shrink_to(self.retained_limit.load(Ordering::Relaxed));
    }

    /// Gives freed memory of a worker's arena back to the system until at most `bound` bytes of it are kept. Blocks for as
    /// long as the system takes, about 50 µs for each MiB. The system refuses that for a segment.
    pub(crate) fn shrink_to(&self, bound: usize) {
        let Some(lists) = self.blocks.get() else { return };
        while self.retained.load(Ordering::Relaxed) > bound {
            // The least recently freed block with memory in the largest class that has one. It leaves its list
            // meanwhile.
            let mut blocks = lists.lock();
            let found = (0..CLASSES).rev().find_map(|class| {
                let at = blocks.free[class].iter().position(|free| free.touched > 0)?;
                Some((class, blocks.free[class].remove(at)))
            });
            drop(blocks);
            let Some((class, FreeBlock { offset, touched })) = found else { return };
            self.retained.fetch_sub(touched, Ordering::Relaxed);
            // SAFETY: a block lies within its arena's mapping.
            let start = unsafe { self.mapping.start().as_ptr().add(offset) };
            // If the system refuses, the memory is only kept. SAFETY: the range is a block that is neither held nor
            // in a list, so there are no references to its bytes, which become zeros.
            let _ = unsafe { rustix::mm::madvise(start.cast(), SMALLEST << class, Advice::LinuxRemove) };
            // At the start of the list it is the last one to be taken: the others have their pages.
            lists.lock().free[class].insert(0, FreeBlock { offset, touched: 0 });
        }
    }
}

/// The arena of this process, if it is a worker.
static THIS_WORKER: PerProcess<Arc<Arena>> = PerProcess::new();

/// A part of an arena, owned by this value. It returns to its free list when it is dropped.
#[derive(Debug)]
pub(crate) struct Block {
    arena: Arc<Arena>,
    offset: usize,
    class: usize,
    /// The number of bytes at its start that may have been written. See [`FreeBlock`].
    touched: usize,
}

impl Block {
    pub(crate) fn capacity(&self) -> usize {
        SMALLEST << self.class
    }

    /// Gives forked children a copy of the block. To be dropped before it.
    pub(crate) fn in_forked_children(&self) -> ForkRange {
        ForkRange::copied(NonNull::new(self.start()).expect("a mapping has an address"), self.capacity())
    }

    /// Maps the first `length` bytes once more, privately. See [`Mapping::map_private`]. `None` in a forked child, which
    /// has a copy of them.
    pub(crate) fn map_private(&self, length: usize) -> Option<PrivateMapping> {
        self.arena.blocks.get()?;
        self.arena.mapping.map_private(NonNull::new(self.start())?, length)
    }

    /// Returns the arena that it is a part of.
    pub(crate) fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// Returns the address of the block for the processes that read it: see [`split_address`].
    pub(crate) fn address(&self) -> u64 {
        self.arena.base + self.offset as u64
    }

    fn start(&self) -> *mut u8 {
        // SAFETY: a block lies within its arena's mapping.
        unsafe { self.arena.mapping.start().as_ptr().add(self.offset) }
    }

    /// Returns the first `length` bytes.
    pub(crate) fn bytes(&self, length: usize) -> &[u8] {
        assert!(length <= self.capacity());
        // SAFETY: the range lies within the block, which this value owns. The memory of a file is always initialised.
        // Nothing else writes to it: other processes have mapped it read-only.
        unsafe { std::slice::from_raw_parts(self.start(), length) }
    }

    /// Returns the first `length` bytes, to be written.
    pub(crate) fn bytes_mut(&mut self, length: usize) -> &mut [u8] {
        assert!(length <= self.capacity());
        self.touched = self.touched.max(length);
        // SAFETY: as for `bytes`, and `&mut self` makes this the only access in this process. Another process reads
        // the block only from the time when it is sent there until the answer, and meanwhile there is no `&mut` to
        // it: it is within a `Payload` or a `Blob`.
        unsafe { std::slice::from_raw_parts_mut(self.start(), length) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.arena.put_back(self);
    }
}

#[cfg(all(test, not(any(shuttle, weak_memory)), not(miri)))]
pub(crate) mod tests;

#[cfg(all(test, weak_memory))]
mod weak_model;
