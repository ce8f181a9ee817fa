//! Large byte strings that cross process borders without being copied.

use std::fmt;
use std::io::{self, Read, Write};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::wire::arena::{Arena, Block, Mapping, Private};
use crate::wire::payload;

/// Bytes in shared memory: as an argument or a result of a task they are handed over, not copied.
///
/// Clones share the same bytes. A task that takes a `Blob` reads the memory that its caller filled, and who
/// gets one as a result reads the memory that the task filled; [`BlobMut`] is how to fill it. Memory is used
/// again when the last clone is gone.
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
///     let bytes = BlobMut::read_from(std::fs::File::open("/proc/self/exe")?)?.freeze();
///     let reversed = pool.run(reverse.with(bytes.clone())).wait()?;
///     assert_eq!(reversed.first(), bytes.last());
///     Ok(())
/// }
/// ```
///
/// With other serialisers than offloop's a blob is a byte string. A blob that a task keeps beyond its job
/// (in a static, say) stays valid; its memory is used again only when that worker is gone.
#[derive(Clone)]
pub struct Blob(Arc<Memory>);

enum Memory {
    Heap(Vec<u8>),
    /// In this process's arena.
    Own(Block, usize),
    /// In another process's arena.
    Foreign(Foreign),
}

/// Bytes that another process has written for us to read.
pub(crate) struct Foreign {
    start: NonNull<u8>,
    length: usize,
    /// Keeps the mapping and, if there is more to do at the end, does it when dropped.
    keeper: Box<dyn Keeper>,
}

/// Keeps another process's memory mapped.
pub(crate) trait Keeper: Send + Sync {
    fn mapping(&self) -> &Mapping;
}

impl Keeper for &'static Mapping {
    fn mapping(&self) -> &Mapping {
        self
    }
}

// SAFETY: the memory is only read, and stays for as long as the keeper.
unsafe impl Send for Foreign {}
// SAFETY: as above.
unsafe impl Sync for Foreign {}

impl Foreign {
    /// # Safety
    ///
    /// `length` bytes from `start` are mapped, and not written to, for as long as `keeper` lives.
    pub(crate) unsafe fn new(start: NonNull<u8>, length: usize, keeper: Box<dyn Keeper>) -> Self {
        Self { start, length, keeper }
    }
}

impl Blob {
    pub(crate) fn foreign(foreign: Foreign) -> Self {
        Self(Arc::new(Memory::Foreign(foreign)))
    }

    pub(crate) fn own(block: Block, length: usize) -> Self {
        Self(Arc::new(Memory::Own(block, length)))
    }

    /// Where it is in this process's arena, if it is in there: offset and length in bytes.
    pub(crate) fn place(&self) -> Option<(u64, usize)> {
        match &*self.0 {
            Memory::Own(block, length) => Some((block.offset(), *length)),
            _ => None,
        }
    }

    /// The same bytes to write to, privately: nobody else sees what is written. Memory is copied only page by page as
    /// it is written to, unless there is little of it.
    pub fn to_private(&self) -> PrivateBlob {
        let mapped = match &*self.0 {
            _ if self.len() < SMALL => None,
            Memory::Heap(_) => None,
            Memory::Own(block, length) => block.private(*length),
            Memory::Foreign(it) => it.keeper.mapping().private(it.start, it.length),
        };
        PrivateBlob(match mapped {
            Some(mapped) => Writable::Mapped(mapped, self.clone()),
            None => Writable::Heap(self.to_vec()),
        })
    }

    /// Whether somebody else holds the same bytes.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &*self.0 {
            Memory::Heap(bytes) => bytes,
            Memory::Own(block, length) => block.bytes(*length),
            // SAFETY: `Foreign::new` was promised that the bytes are there and at rest.
            Memory::Foreign(it) => unsafe { std::slice::from_raw_parts(it.start.as_ptr(), it.length) },
        }
    }
}

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for Blob {
    /// Takes the bytes as they are: they are copied to shared memory when they are sent.
    fn from(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Memory::Heap(bytes)))
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

/// Less is copied at once, in bytes: to map memory costs about as much.
const SMALL: usize = 64 * 1024;

/// A writable, private view of a [`Blob`], made by [`Blob::to_private`].
pub struct PrivateBlob(Writable);

enum Writable {
    Heap(Vec<u8>),
    /// And what keeps the memory from being used again. In this order: the mapping goes first.
    Mapped(Private, #[allow(dead_code, reason = "it is kept for its drop")] Blob),
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

/// How a blob travels in a payload.
#[derive(Serialize, Deserialize)]
enum Travelling<'a> {
    Inline(#[serde(borrow)] payload::Bytes<'a>),
    /// The number of a part of the payload.
    Part(u32),
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !payload::is_encoding_with::<S>() {
            return serializer.serialize_bytes(self);
        }
        match payload::attach(self) {
            Some(number) => Travelling::Part(number).serialize(serializer),
            None => Travelling::Inline(payload::Bytes(self)).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !payload::is_decoding_with::<D>() {
            return deserializer.deserialize_byte_buf(AnyBytes);
        }
        match Travelling::deserialize(deserializer)? {
            Travelling::Inline(bytes) => Ok(Self::from(bytes.0.to_vec())),
            Travelling::Part(number) => {
                payload::part(number).ok_or_else(|| de::Error::custom("it names a part that did not come"))
            }
        }
    }
}

/// Takes bytes in whatever form a foreign format has them.
struct AnyBytes;

impl<'de> de::Visitor<'de> for AnyBytes {
    type Value = Blob;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Blob, E> {
        Ok(bytes.to_vec().into())
    }

    fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Blob, E> {
        Ok(bytes.into())
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut sequence: A) -> Result<Blob, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = sequence.next_element()? {
            bytes.push(byte);
        }
        Ok(bytes.into())
    }
}

/// A [`Blob`] in the making: bytes in shared memory that can be written to.
///
/// It grows as it is written to, like a `Vec`; [`with_capacity`](Self::with_capacity) spares it the moves.
/// Where the system gives no shared memory it uses the heap, and the bytes are copied when they are sent.
pub struct BlobMut {
    memory: Growing,
    length: usize,
}

enum Growing {
    Heap(Vec<u8>),
    Block(Block),
}

impl BlobMut {
    /// An empty one with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        let block = Arena::of_this_process().and_then(|arena| arena.take(capacity));
        let memory = block.map_or_else(|| Growing::Heap(vec![0; capacity]), Growing::Block);
        Self { memory, length: 0 }
    }

    /// So many zeros.
    pub fn zeroed(length: usize) -> Self {
        let mut blob = Self::with_capacity(length);
        blob.resize(length, 0);
        blob
    }

    /// All that `source` has to give, read in place.
    pub fn read_from(mut source: impl Read) -> io::Result<Self> {
        let mut blob = Self::with_capacity(64 * 1024);
        loop {
            if blob.capacity() == blob.length {
                blob.reserve(blob.length.max(1));
            }
            let room = blob.capacity() - blob.length;
            match source.read(blob.room(room)) {
                Ok(0) => return Ok(blob),
                Ok(count) => blob.length += count.min(room),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes it `length` bytes long: cuts it, or appends `value` as often as needed.
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

    /// Appends bytes.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.append(bytes);
    }

    /// Makes room for `additional` more bytes.
    pub fn reserve(&mut self, additional: usize) {
        // More than the address space fails below, as it does where memory is short.
        let needed = self.length.saturating_add(additional);
        if needed <= self.capacity() {
            return;
        }
        // At least twice of what it was, so that all the moves together cost no more than one.
        let mut larger = Self::with_capacity(needed.max(self.length.saturating_mul(2)));
        larger.append(self);
        *self = larger;
    }

    /// How long it can become without moving, in bytes.
    pub fn capacity(&self) -> usize {
        match &self.memory {
            Growing::Heap(bytes) => bytes.len(),
            Growing::Block(block) => block.capacity(),
        }
    }

    /// Ends the writing: from now on it can be shared and sent.
    pub fn freeze(self) -> Blob {
        Blob(Arc::new(match self.memory {
            Growing::Heap(mut bytes) => {
                bytes.truncate(self.length);
                Memory::Heap(bytes)
            }
            Growing::Block(block) => Memory::Own(block, self.length),
        }))
    }

    /// Appends; the room is there.
    fn append(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
        self.length += bytes.len();
    }

    /// The next `count` bytes after the last one, whatever they are; they are within the capacity.
    fn room(&mut self, count: usize) -> &mut [u8] {
        let range = self.length..self.length + count;
        match &mut self.memory {
            Growing::Heap(bytes) => &mut bytes[range],
            Growing::Block(block) => &mut block.bytes_mut(range.end)[range.start..],
        }
    }
}

impl Deref for BlobMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.memory {
            Growing::Heap(bytes) => &bytes[..self.length],
            Growing::Block(block) => block.bytes(self.length),
        }
    }
}

impl DerefMut for BlobMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Growing::Heap(bytes) => &mut bytes[..self.length],
            Growing::Block(block) => block.bytes_mut(self.length),
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

#[cfg(all(test, not(shuttle), not(miri)))]
mod tests;
