//! The arena: an allocator in shared memory, which carries large payloads between processes without a pipe.
//!
//! Each process writes to one arena, its own, and shares it read-only with the processes at the other ends of its
//! links: a parent with its workers (arguments), a worker with its parent (results). An arena is one large, sparse
//! memory file, which takes memory only where it was written. Blocks are cut from it by size class. Freed blocks are
//! used again, the last one first: memory that was touched before is about ten times as fast as fresh pages.
//!
//! Only the owner allocates and frees; readers tell it when they are done with a block. So no lock is shared between
//! processes, and a process that dies leaves nothing locked.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{Mode, OFlags};
use rustix::mm::Advice;
use rustix::process::Resource;

use super::fork_copy::ForkRange;
use super::memfd::{Mapping, PrivateMapping, largest_file, memory_file};
use crate::base::fork::{OwnProcess, PerProcess};
use crate::base::sync::Mutex;
use crate::base::sync::atomic::{AtomicUsize, Ordering};
use crate::base::syscall::NameCall;
use crate::metrics::ArenaBytes;

/// The smallest block, in bytes: a page.
const SMALLEST: usize = 4096;

/// The number of size classes. The blocks of a class have `SMALLEST << class` bytes.
const CLASSES: usize = 24;

/// The address space that an arena reserves if there are no limits, in bytes. It costs nothing until it is written to.
const RESERVE: usize = 64 << 30;

/// The freed memory that is kept for the next payloads by default, in bytes.
const RETAINED: usize = 256 << 20;

/// Returns the size for an arena in bytes. It is large, unless the address space or the size of files is limited:
/// then it leaves room for the rest of the process.
pub(crate) fn reserve() -> usize {
    let space = rustix::process::getrlimit(Resource::As).current;
    let space = space.map_or(RESERVE, |limit| usize::try_from(limit / 16).unwrap_or(RESERVE));
    let share = space.min(largest_file().unwrap_or(RESERVE)).clamp(SMALLEST, RESERVE);
    1 << share.ilog2()
}

/// Makes the memory for an arena of `reserve` bytes, or of fewer if the address space does not allow it.
pub(crate) fn create(mut reserve: usize, writable: bool) -> io::Result<(OwnedFd, Mapping)> {
    loop {
        let file = memory_file("offloop-arena", reserve)?;
        match Mapping::new(file.as_fd(), reserve, writable) {
            Ok(mapping) => {
                let mapping = mapping.keep_file(file.as_fd())?;
                return Ok((file, mapping));
            }
            Err(_) if reserve > SMALLEST => reserve /= 2,
            Err(error) => return Err(error),
        }
    }
}

/// The memory that this process writes its payloads to.
#[derive(Debug)]
pub(crate) struct Arena {
    /// The file, opened for reading only. Other processes get this descriptor, and it is the only one that faulty
    /// code in a job can find.
    file: OwnedFd,
    mapping: Mapping,
    /// In a forked child there are none: the blocks are its parent's.
    blocks: OwnProcess<Mutex<FreeLists>>,
    /// The bytes of free blocks that have memory: they were written to, and not given back to the system since.
    retained: AtomicUsize,
    /// The number of bytes to which `retained` is trimmed. Exceeded until the next trim.
    retained_limit: AtomicUsize,
    /// Counts the pools, or the one worker, that trim the arena regularly. While there is none, no freed memory is
    /// kept.
    pools: AtomicUsize,
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
    /// Makes an arena in `mapping`, which is a writable mapping of all of `file`.
    pub(crate) fn new(file: &OwnedFd, mapping: Mapping) -> io::Result<Self> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .of_call("open of a file of /proc/self/fd")?;
        Ok(Self {
            file,
            mapping,
            blocks: OwnProcess::new(Mutex::new(FreeLists {
                free: [const { Vec::new() }; CLASSES],
                fresh: 0,
            })),
            retained: AtomicUsize::new(0),
            retained_limit: AtomicUsize::new(RETAINED),
            uses: AtomicUsize::new(0),
            pools: AtomicUsize::new(0),
        })
    }

    /// Returns the arena of this process, made when it is first needed. `None` if the system refuses the memory.
    pub(crate) fn of_this_process() -> Option<&'static Self> {
        Self::try_of_this_process().ok()
    }

    /// Returns the arena of this process like [`of_this_process`](Self::of_this_process), or the system's reason.
    pub(crate) fn try_of_this_process() -> io::Result<&'static Self> {
        let make = || {
            let (file, mapping) = create(reserve(), true)?;
            Self::new(&file, mapping)
        };
        THIS_PROCESS.try_get(make)
    }

    /// Makes `mapping` the arena of this process, which is a worker and whose parent has the same file mapped. To be
    /// called before any other use.
    pub(crate) fn adopt(file: &OwnedFd, mapping: Mapping) -> io::Result<&'static Self> {
        let arena = THIS_PROCESS.set(Self::new(file, mapping)?);
        arena.enter();
        Ok(arena)
    }

    /// Records that a further pool or worker trims the arena regularly.
    pub(crate) fn enter(&self) {
        self.pools.fetch_add(1, Ordering::Relaxed);
    }

    /// Records that a pool has ended. After the last one, freed memory is given back at once.
    pub(crate) fn leave(&self) {
        if self.pools.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.shrink_to(0);
        }
    }

    /// Sets the freed memory that may be kept for later payloads, in bytes.
    pub(crate) fn allow(&self, bytes: usize) {
        self.retained_limit.store(bytes, Ordering::Relaxed);
    }

    /// Returns the file for other processes, which can map it to read, not to write.
    pub(crate) fn for_readers(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(crate) fn size(&self) -> usize {
        self.mapping.size()
    }

    /// Takes a block of at least `size` bytes with arbitrary contents. `None` if the arena is used up, or another
    /// process's.
    pub(crate) fn take(&'static self, size: usize) -> Option<Block> {
        let class = class_of(size)?;
        let mut blocks = self.blocks.get()?.lock();
        self.uses.fetch_add(1, Ordering::Relaxed);
        // A somewhat larger block that was used before is better than fresh pages.
        for class in class..CLASSES.min(class + 3) {
            if let Some(FreeBlock { offset, touched }) = blocks.free[class].pop() {
                self.retained.fetch_sub(touched, Ordering::Relaxed);
                return Some(Block { arena: self, offset, class, touched });
            }
        }
        let offset = blocks.fresh;
        let end = offset.checked_add(SMALLEST << class)?;
        if end > self.mapping.size() {
            // A block that is much too large is better than none.
            let class = (class..CLASSES).find(|&class| !blocks.free[class].is_empty())?;
            let FreeBlock { offset, touched } = blocks.free[class].pop()?;
            self.retained.fetch_sub(touched, Ordering::Relaxed);
            return Some(Block { arena: self, offset, class, touched });
        }
        blocks.fresh = end;
        Some(Block { arena: self, offset, class, touched: 0 })
    }

    fn put_back(&self, block: &Block) {
        let Some(blocks) = self.blocks.get() else { return };
        self.uses.fetch_add(1, Ordering::Relaxed);
        self.retained.fetch_add(block.touched, Ordering::Relaxed);
        let free = FreeBlock { offset: block.offset, touched: block.touched };
        blocks.lock().free[block.class].push(free);
        if self.pools.load(Ordering::Relaxed) == 0 {
            self.shrink_to(0);
        }
    }

    /// Returns whether more freed memory is kept than is allowed. Costs two atomic loads.
    pub(crate) fn is_over(&self) -> bool {
        self.retained.load(Ordering::Relaxed) > self.retained_limit.load(Ordering::Relaxed)
    }

    /// Returns whether freed memory is kept.
    pub(crate) fn retains(&self) -> bool {
        self.retained.load(Ordering::Relaxed) > 0
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

    /// Gives freed memory back to the system until at most `bound` bytes of it are kept. Blocks for as long as the
    /// system takes, about 50 µs for each MiB.
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

/// The arena of this process.
static THIS_PROCESS: PerProcess<Arena> = PerProcess::new();

/// A part of an arena, owned by this value. It returns to its free list when it is dropped.
#[derive(Debug)]
pub(crate) struct Block {
    arena: &'static Arena,
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

    /// Returns the offset of the block in the arena, in bytes.
    pub(crate) fn offset(&self) -> u64 {
        self.offset as u64
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
mod tests;

#[cfg(all(test, weak_memory))]
mod weak_model;
