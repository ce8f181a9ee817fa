//! The arena: shared memory that carries large payloads between processes without a pipe in between.
//!
//! Each process writes to one arena, its own, and lends it read-only to those it speaks with: a parent to its
//! workers (arguments), a worker to its parent (results). An arena is one sealed, anonymous, sparse memory file
//! (memfd): it has no name that could be left behind, cannot shrink under a reader, and takes memory only where
//! it was written. Blocks are cut from it by size class and used again, last freed first, as memory that was
//! touched before is about ten times as fast as fresh pages.
//!
//! Only the owner allocates and frees; readers tell it what they have done with. So no lock is shared between
//! processes, and whoever dies leaves nothing locked.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use rustix::process::Resource;

use crate::base::fork::{Generation, PerProcess};
use crate::base::sync::Mutex;
use crate::metrics::ArenaBytes;

/// The smallest block, in bytes: a page.
const SMALLEST: usize = 4096;

/// Blocks are of `SMALLEST << class` bytes.
const CLASSES: usize = 24;

/// The address space that an arena reserves where it may. It costs nothing until it is written to.
const RESERVE: usize = 64 << 30;

/// How much freed memory is kept for the next payloads, unless it is told otherwise.
const RETAINED: usize = 256 << 20;

/// A sealed memory file: it can neither shrink under a reader nor grow.
pub(crate) fn memory_file(name: &str, size: usize) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create(name, flags)?;
    rustix::fs::ftruncate(&file, size as u64)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

/// A shared mapping of the beginning of a memory file.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    size: usize,
    /// The file, if parts of it are to be mapped privately; and which one it is, as a job gone mad may close it.
    file: Option<(OwnedFd, Identity)>,
}

/// A file's device and number.
type Identity = (u64, u64);

fn identity_of(file: BorrowedFd<'_>) -> io::Result<Identity> {
    let status = rustix::fs::fstat(file)?;
    Ok((status.st_dev, status.st_ino))
}

// SAFETY: a mapping is plain memory that belongs to no thread; whoever reads or writes through its raw pointers
// answers for the order in which that happens.
unsafe impl Send for Mapping {}
// SAFETY: as above; the type itself only hands out pointers.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `size` bytes of `file`, which must be sealed at that size or a larger one: a memory file that
    /// shrinks under its mapping ends the process.
    pub(crate) fn new(file: BorrowedFd<'_>, size: usize, writable: bool) -> io::Result<Self> {
        let seals = rustix::fs::fcntl_get_seals(file)?;
        let actual = rustix::fs::fstat(file)?.st_size;
        if !seals.contains(SealFlags::SHRINK)
            || u64::try_from(actual).is_ok_and(|actual| actual < size as u64)
        {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a memory file that is not sealed"));
        }
        let protection = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: the kernel chooses the address, so no mapping of ours is replaced.
        let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), size, protection, flags, file, 0) }?;
        let start = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::InvalidData)?;
        // Sixty gigabytes of holes are of no use in a core dump.
        // SAFETY: the range is the mapping that was just made, and the advice changes no bytes.
        let _ = unsafe { rustix::mm::madvise(start.as_ptr().cast(), size, Advice::LinuxDontDump) };
        Ok(Self { start, size, file: None })
    }

    /// Keeps `file`, of which it is a mapping, so that parts of it can be mapped privately.
    pub(crate) fn keep(mut self, file: BorrowedFd<'_>) -> io::Result<Self> {
        self.file = Some((rustix::io::fcntl_dupfd_cloexec(file, 3)?, identity_of(file)?));
        Ok(self)
    }

    /// A private, writable mapping of `length` bytes from `start` on, which is an address in this one: what is written
    /// to it is copied, page by page. `None` if there can be none.
    pub(crate) fn private(&self, start: NonNull<u8>, length: usize) -> Option<Private> {
        let (file, identity) = self.file.as_ref()?;
        let offset = (start.as_ptr() as usize).checked_sub(self.start.as_ptr() as usize)?;
        let is_inside = offset.checked_add(length).is_some_and(|end| end <= self.size);
        if !is_inside || length == 0 || identity_of(file.as_fd()).ok()? != *identity {
            return None;
        }
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: the kernel chooses the address, so no mapping of ours is replaced.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, protection, flags, file, offset as u64) };
        Some(Private { start: NonNull::new(start.ok()?.cast())?, length })
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// The address of `range`, if that is part of the mapping.
    pub(crate) fn at(&self, range: &Range<u64>) -> Option<NonNull<u8>> {
        let (start, end) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
        if start > end || end > self.size {
            return None;
        }
        // SAFETY: `start` is not beyond the end of the mapping.
        Some(unsafe { self.start.add(start) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and the pointers it gave out are not used after it.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.size) };
    }
}

/// A private mapping of a part of a memory file.
#[derive(Debug)]
pub(crate) struct Private {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: it is plain memory of this value's own.
unsafe impl Send for Private {}
// SAFETY: as above; it is written to through exclusive references only.
unsafe impl Sync for Private {}

impl Private {
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is ours for as long as this value; whoever could write to the file does not.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nobody else has a reference to it.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and the references that it gave out have ended.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// A large part of the address space, unless that or the size of files is limited; then a part that leaves room
/// for the rest.
pub(crate) fn reserve() -> usize {
    let limit = |resource, share| {
        let limit = rustix::process::getrlimit(resource).current.map(|limit| limit / share);
        limit.map_or(RESERVE, |limit| usize::try_from(limit).unwrap_or(RESERVE))
    };
    let share = limit(Resource::As, 16).min(limit(Resource::Fsize, 1)).clamp(SMALLEST, RESERVE);
    1 << share.ilog2()
}

/// Makes the memory for an arena of `reserve` bytes, or of less if the address space does not allow it.
pub(crate) fn create(mut reserve: usize, writable: bool) -> io::Result<(OwnedFd, Mapping)> {
    loop {
        let file = memory_file("offloop-arena", reserve)?;
        match Mapping::new(file.as_fd(), reserve, writable) {
            Ok(mapping) => {
                let mapping = mapping.keep(file.as_fd())?;
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
    /// The file, opened for reading only: what others get, and all that a job gone mad can find among the
    /// descriptors.
    file: OwnedFd,
    mapping: Mapping,
    shelves: Mutex<Shelves>,
    /// Bytes in free blocks that were written to and not given back.
    retained: AtomicUsize,
    /// The bound on `retained`.
    allowance: AtomicUsize,
    /// How many there are that give freed memory back by and by: pools, or the one worker.
    pools: AtomicUsize,
    /// Counts blocks that were taken or freed: an arena whose count stands still is idle.
    uses: AtomicUsize,
    born: Generation,
}

#[derive(Debug)]
struct Shelves {
    free: [Vec<Free>; CLASSES],
    /// Everything from here on has never been used.
    fresh: usize,
}

/// A free block.
#[derive(Debug, Clone, Copy)]
struct Free {
    offset: usize,
    /// How much of its beginning has been written since its memory was last given back, in bytes.
    touched: usize,
}

/// The class of the smallest block that has so many bytes, if there is one.
fn class_of(size: usize) -> Option<usize> {
    let size = size.max(SMALLEST).checked_next_power_of_two()?;
    Some((size.ilog2() - SMALLEST.ilog2()) as usize).filter(|class| *class < CLASSES)
}

impl Arena {
    /// An arena in `mapping`, which is all of `file` and writable.
    pub(crate) fn new(file: &OwnedFd, mapping: Mapping) -> io::Result<Self> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self {
            file,
            mapping,
            shelves: Mutex::new(Shelves { free: [const { Vec::new() }; CLASSES], fresh: 0 }),
            retained: AtomicUsize::new(0),
            allowance: AtomicUsize::new(RETAINED),
            uses: AtomicUsize::new(0),
            pools: AtomicUsize::new(0),
            born: Generation::now(),
        })
    }

    /// The arena of this process, made when it is first needed. `None` where the system refuses.
    pub(crate) fn of_this_process() -> Option<&'static Self> {
        let make = || {
            let (file, mapping) = create(reserve(), true)?;
            Self::new(&file, mapping)
        };
        OUTGOING.try_get(make).ok()
    }

    /// Makes a given arena that of this process: a worker's, which its parent has mapped. To be called before any other
    /// use.
    pub(crate) fn adopt(file: &OwnedFd, mapping: Mapping) -> io::Result<&'static Self> {
        let arena = OUTGOING.set(Self::new(file, mapping)?);
        arena.enter();
        Ok(arena)
    }

    /// There is one more who gives freed memory back by and by.
    pub(crate) fn enter(&self) {
        self.pools.fetch_add(1, Ordering::Relaxed);
    }

    /// There is one less. When there is none freed memory is not kept.
    pub(crate) fn leave(&self) {
        if self.pools.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.shrink_to(0);
        }
    }

    /// How much freed memory may be kept for later payloads, in bytes.
    pub(crate) fn allow(&self, bytes: usize) {
        self.allowance.store(bytes, Ordering::Relaxed);
    }

    /// The file as others get it: they can map it to read, not to write.
    pub(crate) fn for_readers(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(crate) fn size(&self) -> usize {
        self.mapping.size()
    }

    /// A block of at least `size` bytes with arbitrary contents. `None` if the arena is used up.
    pub(crate) fn take(&'static self, size: usize) -> Option<Block> {
        let class = class_of(size)?;
        self.uses.fetch_add(1, Ordering::Relaxed);
        let mut shelves = self.shelves.lock();
        // A somewhat larger block that was used before is better than fresh pages.
        for class in class..CLASSES.min(class + 3) {
            if let Some(Free { offset, touched }) = shelves.free[class].pop() {
                self.retained.fetch_sub(touched, Ordering::Relaxed);
                return Some(Block { arena: self, offset, class, touched });
            }
        }
        let offset = shelves.fresh;
        let end = offset.checked_add(SMALLEST << class)?;
        if end > self.mapping.size() {
            // Rather a block that is too large by far than none.
            let class = (class..CLASSES).find(|&class| !shelves.free[class].is_empty())?;
            let Free { offset, touched } = shelves.free[class].pop()?;
            self.retained.fetch_sub(touched, Ordering::Relaxed);
            return Some(Block { arena: self, offset, class, touched });
        }
        shelves.fresh = end;
        Some(Block { arena: self, offset, class, touched: 0 })
    }

    fn put_back(&self, block: &Block) {
        if self.born.is_past() {
            return;
        }
        self.uses.fetch_add(1, Ordering::Relaxed);
        self.retained.fetch_add(block.touched, Ordering::Relaxed);
        let free = Free { offset: block.offset, touched: block.touched };
        self.shelves.lock().free[block.class].push(free);
        if self.pools.load(Ordering::Relaxed) == 0 {
            self.shrink_to(0);
        }
    }

    /// Whether more freed memory is kept than is allowed. One atomic load.
    pub(crate) fn is_over(&self) -> bool {
        self.retained.load(Ordering::Relaxed) > self.allowance.load(Ordering::Relaxed)
    }

    /// Whether freed memory is kept.
    pub(crate) fn retains(&self) -> bool {
        self.retained.load(Ordering::Relaxed) > 0
    }

    /// How much is in use, and how much is kept for later.
    pub(crate) fn bytes(&self) -> ArenaBytes {
        let shelves = self.shelves.lock();
        let free = (0..CLASSES).map(|class| shelves.free[class].len() * (SMALLEST << class)).sum();
        let used = shelves.fresh.saturating_sub(free);
        ArenaBytes { used: used as u64, kept: self.retained.load(Ordering::Relaxed) as u64 }
    }

    /// How often blocks were taken and freed.
    pub(crate) fn uses(&self) -> usize {
        self.uses.load(Ordering::Relaxed)
    }

    /// Gives freed memory back to the system until no more is kept than is allowed.
    pub(crate) fn tidy(&self) {
        self.shrink_to(self.allowance.load(Ordering::Relaxed));
    }

    /// Gives freed memory back to the system until at most `bound` bytes of it are kept. Blocks for as long as
    /// the system takes, about 50 µs a MiB.
    pub(crate) fn shrink_to(&self, bound: usize) {
        if self.born.is_past() {
            return;
        }
        while self.retained.load(Ordering::Relaxed) > bound {
            // The least recently freed of the largest class that has one; out of the shelf while it is at it.
            let mut shelves = self.shelves.lock();
            let found = (0..CLASSES).rev().find_map(|class| {
                let at = shelves.free[class].iter().position(|free| free.touched > 0)?;
                Some((class, shelves.free[class].remove(at)))
            });
            drop(shelves);
            let Some((class, Free { offset, touched })) = found else { return };
            self.retained.fetch_sub(touched, Ordering::Relaxed);
            // SAFETY: the range is a block that is on no shelf, so nobody has a reference to its bytes, which
            // become zeros.
            let start = unsafe { self.mapping.start().as_ptr().add(offset) };
            // If the system cannot, the memory is only kept.
            // SAFETY: as above.
            let _ = unsafe { rustix::mm::madvise(start.cast(), SMALLEST << class, Advice::LinuxRemove) };
            // At the end of the line: the others have their pages.
            self.shelves.lock().free[class].insert(0, Free { offset, touched: 0 });
        }
    }
}

/// The arena of this process.
static OUTGOING: PerProcess<Arena> = PerProcess::new();

/// A part of this process's arena, owned: it goes back on its shelf when it is dropped.
#[derive(Debug)]
pub(crate) struct Block {
    arena: &'static Arena,
    offset: usize,
    class: usize,
    touched: usize,
}

impl Block {
    pub(crate) fn capacity(&self) -> usize {
        SMALLEST << self.class
    }

    /// A private mapping of its first bytes.
    pub(crate) fn private(&self, length: usize) -> Option<Private> {
        self.arena.mapping.private(NonNull::new(self.start())?, length)
    }

    /// Where it begins in the arena, in bytes.
    pub(crate) fn offset(&self) -> u64 {
        self.offset as u64
    }

    fn start(&self) -> *mut u8 {
        // SAFETY: a block lies within its arena's mapping.
        unsafe { self.arena.mapping.start().as_ptr().add(self.offset) }
    }

    /// The first `length` bytes.
    pub(crate) fn bytes(&self, length: usize) -> &[u8] {
        assert!(length <= self.capacity());
        // SAFETY: the range lies within the block, which is this value's own. Memory of a file is always
        // initialised, and nobody else writes to it: other processes have it read-only.
        unsafe { std::slice::from_raw_parts(self.start(), length) }
    }

    /// The first `length` bytes, to write to.
    pub(crate) fn bytes_mut(&mut self, length: usize) -> &mut [u8] {
        assert!(length <= self.capacity());
        self.touched = self.touched.max(length);
        // SAFETY: as for `bytes`; `&mut self` makes this the only access in this process. Another process reads
        // it only between the block's offer to it and its answer, while its owner does not give `&mut` out.
        unsafe { std::slice::from_raw_parts_mut(self.start(), length) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.arena.put_back(self);
    }
}

#[cfg(all(test, not(shuttle), not(miri)))]
mod tests;
