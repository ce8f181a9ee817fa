//! Large byte strings that other processes can read without a copy.

use std::fmt;
use std::io::{self, Read, Write};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use super::arena::{Arena, Block};
use super::fork_copy::ForkRange;
use super::memfd::{Mapping, PrivateMapping};
use super::pool_memory::{Memory, PoolMemory};
use crate::base::fork::OwnProcess;

/// A byte string that tasks and their callers pass to each other without needless copies.
///
/// Clones share the same bytes. A caller that gets a `Blob` as a result reads the memory that the task has filled, as a
/// [`BlobMut`]. A task that takes one reads the memory of its pool. If the caller has filled that memory itself, by
/// [`ProcessPool::blob`](crate::ProcessPool::blob), nothing is copied. All other bytes are copied there once for each call:
/// those of the caller's own, results, and those of another pool, whose memory the workers of this one cannot read. The
/// memory is used again when the last clone is dropped.
///
/// ```
/// use offloop::{Blob, BlobMut};
///
/// #[offloop::task]
/// fn reverse(bytes: Blob) -> Blob {
///     let mut reversed = BlobMut::zeroed(bytes.len());
///     reversed.iter_mut().zip(bytes.iter().rev()).for_each(|(to, from)| *to = *from);
///     reversed.freeze()
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     offloop::init();
///     let pool = offloop::ProcessPool::builder().max_workers(1).build()?;
///     let mut bytes = pool.blob(1 << 20);
///     bytes.fill_from(std::fs::File::open("/proc/self/exe")?)?;
///     let bytes = bytes.freeze();
///     let reversed = pool.run(reverse.with(bytes.clone())).wait()?;
///     assert_eq!(reversed.first(), bytes.last());
///     Ok(())
/// }
/// ```
///
/// # The bytes are those of another process
///
/// Safe code of a task cannot change a blob that it has frozen. But a worker maps the memory of its results for
/// writing, and it may misbehave: with `unsafe` code that is wrong, or because somebody has taken it over. Then the bytes
/// of its results may change while you read them, and a check of them holds for the moment of the check only. Where that
/// would matter (before the bytes are taken as UTF-8, or before a length in them is used), copy first and check the copy:
/// `String::from_utf8(blob.to_vec())`. Every other type of result is copied before it is decoded, so its promises hold
/// whatever the worker does. The arguments of a task are in memory that only its caller's process can write to.
///
/// With other serialisers than offloop's a blob is a byte string. A blob that a task keeps beyond its job (in a
/// static, for instance) stays valid. Its memory is then used again only when that worker has ended.
#[derive(Clone)]
pub struct Blob(Arc<Storage>);

enum Storage {
    Heap(Vec<u8>),
    /// In shared memory of this process: what forked children get, the block and the length. Children get nothing of a blob that is
    /// only kept for another process. The range is dropped before the block.
    Own(#[allow(dead_code, reason = "it is kept for its drop")] Option<ForkRange>, Block, usize),
    /// In another process's arena.
    Foreign(Foreign),
}

/// Bytes in another process's arena.
pub(crate) struct Foreign {
    start: NonNull<u8>,
    length: usize,
    /// Gives forked children a copy. Dropped before the keeper, which may release the memory.
    _in_child: ForkRange,
    /// Keeps the bytes valid until it is dropped. A forked child has a copy of the bytes, and releases nothing.
    keeper: OwnProcess<Box<dyn Keeper>>,
}

/// Keeps another process's memory mapped and unchanged. Its drop may release the memory there.
pub(crate) trait Keeper: Send + Sync {
    fn mapping(&self) -> &Mapping;
}

impl Keeper for Arc<Mapping> {
    fn mapping(&self) -> &Mapping {
        self
    }
}

// SAFETY: the memory is only read, and the keeper, which is `Send` and `Sync` itself, keeps it valid.
unsafe impl Send for Foreign {}
// SAFETY: as above.
unsafe impl Sync for Foreign {}

impl Foreign {
    /// # Safety
    ///
    /// `length` bytes from `start` on are mapped for as long as `keeper` lives. Meanwhile no process writes to them that
    /// keeps to the protocol: see the documentation of [`Blob`].
    pub(crate) unsafe fn new(start: NonNull<u8>, length: usize, keeper: Box<dyn Keeper>) -> Self {
        let in_child = ForkRange::copied(start, length);
        Self { start, length, _in_child: in_child, keeper: OwnProcess::new(keeper) }
    }
}

impl Blob {
    pub(crate) fn foreign(foreign: Foreign) -> Self {
        Self(Arc::new(Storage::Foreign(foreign)))
    }

    /// Keeps a block of this process for another one that reads it.
    pub(crate) fn own(block: Block, length: usize) -> Self {
        Self(Arc::new(Storage::Own(None, block, length)))
    }

    /// Returns the address and the length of the bytes in shared memory of this process. `None` if they are elsewhere.
    pub(crate) fn location(&self) -> Option<(u64, usize)> {
        self.block().map(|block| (block.address(), self.len()))
    }

    fn block(&self) -> Option<&Block> {
        match &*self.0 {
            Storage::Own(_, block, _) => Some(block),
            _ => None,
        }
    }

    /// Returns the arena of this process that the bytes are in, if they are in one.
    pub(crate) fn arena(&self) -> Option<&Arc<Arena>> {
        self.block().map(Block::arena)
    }

    /// Returns whether the readers of `memory` can read the bytes.
    pub(crate) fn is_in(&self, memory: &dyn Memory) -> bool {
        self.block().is_some_and(|block| memory.has(block))
    }

    /// Copies the bytes for the readers of `memory`.
    pub(crate) fn copy_to(&self, memory: &dyn Memory) -> io::Result<Self> {
        let mut block = memory.take(self.len())?;
        block.bytes_mut(self.len()).copy_from_slice(self);
        Ok(Self::own(block, self.len()))
    }

    /// Returns a writable view of the same bytes. Writes to it are not seen through the blob or its clones.
    ///
    /// Each page is copied when it is first written to. Blobs below 64 KiB and those on the heap are copied at once.
    pub fn to_private(&self) -> PrivateBlob {
        let mapped = match &*self.0 {
            _ if self.len() < SMALL => None,
            Storage::Heap(_) => None,
            Storage::Own(_, block, length) => block.map_private(*length),
            Storage::Foreign(it) => {
                it.keeper.get().and_then(|keeper| keeper.mapping().map_private(it.start, it.length))
            }
        };
        PrivateBlob(match mapped {
            Some(mapped) => Writable::Mapped(mapped, self.clone()),
            None => Writable::Heap(self.to_vec()),
        })
    }

    /// Returns whether there are other clones, or views, of the same bytes.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &*self.0 {
            Storage::Heap(bytes) => bytes,
            Storage::Own(_, block, length) => block.bytes(*length),
            // SAFETY: the caller of `Foreign::new` has promised that the bytes are mapped, and that they do not change
            // unless the other process violates the protocol. `Blob` documents what that would mean.
            Storage::Foreign(it) => unsafe { std::slice::from_raw_parts(it.start.as_ptr(), it.length) },
        }
    }
}

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for Blob {
    /// Takes over the bytes, which stay on the heap. They are copied when they are sent to another process.
    fn from(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Storage::Heap(bytes)))
    }
}

impl Default for Blob {
    fn default() -> Self {
        Self::from(Vec::new())
    }
}

impl PartialEq for Blob {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Blob {}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.len())
    }
}

/// Smaller blobs are copied at once, in bytes: a mapping costs about as much.
const SMALL: usize = 64 * 1024;

/// A writable, private view of a [`Blob`], made by [`Blob::to_private`].
pub struct PrivateBlob(Writable);

enum Writable {
    Heap(Vec<u8>),
    /// The mapping, and the blob that keeps its memory from being used again. The mapping is dropped first.
    Mapped(PrivateMapping, #[allow(dead_code, reason = "it is kept for its drop")] Blob),
}

impl Deref for PrivateBlob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Writable::Heap(bytes) => bytes,
            Writable::Mapped(mapped, _) => mapped.bytes(),
        }
    }
}

impl DerefMut for PrivateBlob {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Writable::Heap(bytes) => bytes,
            Writable::Mapped(mapped, _) => mapped.bytes_mut(),
        }
    }
}

impl fmt::Debug for PrivateBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateBlob({} bytes)", self.len())
    }
}

/// A growable byte string, which [`freeze`](Self::freeze) makes a [`Blob`].
///
/// It grows as it is written to, like a `Vec`; [`with_capacity`](Self::with_capacity) avoids the moves. In a worker process
/// it is in shared memory, so that a result is not copied. Elsewhere it is on the heap, unless a pool has made it:
/// [`ProcessPool::blob`](crate::ProcessPool::blob). If the system refuses shared memory it uses the heap, and the bytes are
/// copied when they are sent to another process.
pub struct BlobMut {
    memory: Growing,
    length: usize,
    /// The memory of the pool that has made it.
    pool: Option<Arc<PoolMemory>>,
}

enum Growing {
    Heap(Vec<u8>),
    /// The range is dropped before the block.
    Block(ForkRange, Block),
}

impl BlobMut {
    /// Makes an empty byte string with room for at least `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self::in_memory(None, capacity)
    }

    /// Makes an empty byte string in the memory of a pool, or else where the results of this worker are.
    pub(crate) fn in_memory(pool: Option<Arc<PoolMemory>>, capacity: usize) -> Self {
        let block = match &pool {
            Some(pool) => pool.take(capacity).ok(),
            None => Arena::of_this_worker().and_then(|arena| arena.take(capacity)),
        };
        let memory = block.map_or_else(
            || Growing::Heap(vec![0; capacity]),
            |block| Growing::Block(block.in_forked_children(), block),
        );
        Self { memory, length: 0, pool }
    }

    /// Makes a byte string of `length` zeros.
    pub fn zeroed(length: usize) -> Self {
        let mut blob = Self::with_capacity(length);
        blob.resize(length, 0);
        blob
    }

    /// Reads all bytes of `source` until its end, straight into the memory. Reads that are interrupted are repeated.
    ///
    /// # Errors
    ///
    /// The first other error of `source`. The bytes that were read until then are lost.
    pub fn read_from(source: impl Read) -> io::Result<Self> {
        let mut blob = Self::with_capacity(64 * 1024);
        blob.fill_from(source)?;
        Ok(blob)
    }

    /// Appends all bytes of `source` until its end, which are read straight into the memory. Reads that are interrupted
    /// are repeated. Returns their number.
    ///
    /// # Errors
    ///
    /// The first other error of `source`. The bytes that were read until then are kept.
    pub fn fill_from(&mut self, mut source: impl Read) -> io::Result<usize> {
        let before = self.length;
        loop {
            if self.capacity() == self.length {
                self.reserve(self.length.max(64 * 1024));
            }
            let room = self.capacity() - self.length;
            match source.read(self.spare(room)) {
                Ok(0) => return Ok(self.length - before),
                Ok(count) => self.length += count.min(room),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sets the length to `length` bytes: cuts the end off, or appends bytes of `value`.
    pub fn resize(&mut self, length: usize, value: u8) {
        let before = self.length;
        if length > before {
            self.reserve(length - before);
            self.length = length;
            self[before..].fill(value);
        } else {
            self.length = length;
        }
    }

    /// Appends bytes. Moves the memory if there is not enough room.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.append(bytes);
    }

    /// Makes room for at least `additional` more bytes.
    ///
    /// # Panics
    ///
    /// If the capacity would exceed `isize::MAX` bytes.
    pub fn reserve(&mut self, additional: usize) {
        // If the sum does not fit, the allocation below fails, as it does when there is too little memory.
        let needed = self.length.saturating_add(additional);
        if needed <= self.capacity() {
            return;
        }
        // The capacity at least doubles, so all moves together copy less than twice the final length.
        let mut larger = Self::in_memory(self.pool.take(), needed.max(self.length.saturating_mul(2)));
        larger.append(self);
        *self = larger;
    }

    /// Returns the length that it can reach without a move, in bytes.
    pub fn capacity(&self) -> usize {
        match &self.memory {
            Growing::Heap(bytes) => bytes.len(),
            Growing::Block(_, block) => block.capacity(),
        }
    }

    /// Makes the bytes immutable, so that they can be shared and sent to other processes. Does not copy them.
    pub fn freeze(self) -> Blob {
        Blob(Arc::new(match self.memory {
            Growing::Heap(mut bytes) => {
                bytes.truncate(self.length);
                Storage::Heap(bytes)
            }
            Growing::Block(range, block) => Storage::Own(Some(range), block, self.length),
        }))
    }

    /// Appends bytes for which there is room.
    fn append(&mut self, bytes: &[u8]) {
        self.spare(bytes.len()).copy_from_slice(bytes);
        self.length += bytes.len();
    }

    /// Returns the next `count` bytes after the last one, which must be within the capacity. Their contents are
    /// arbitrary.
    fn spare(&mut self, count: usize) -> &mut [u8] {
        let range = self.length..self.length + count;
        match &mut self.memory {
            Growing::Heap(bytes) => &mut bytes[range],
            Growing::Block(_, block) => &mut block.bytes_mut(range.end)[range.start..],
        }
    }
}

impl Deref for BlobMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.memory {
            Growing::Heap(bytes) => &bytes[..self.length],
            Growing::Block(_, block) => block.bytes(self.length),
        }
    }
}

impl DerefMut for BlobMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Growing::Heap(bytes) => &mut bytes[..self.length],
            Growing::Block(_, block) => block.bytes_mut(self.length),
        }
    }
}

impl Write for BlobMut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for BlobMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobMut({} bytes)", self.length)
    }
}

#[cfg(all(test, not(any(shuttle, weak_memory)), not(miri)))]
mod tests;
