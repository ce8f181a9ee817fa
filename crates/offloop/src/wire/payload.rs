//! Payloads: the encoded values that a call or an answer carries.
//!
//! A payload has a body and parts. A body of up to [`INLINE`] bytes is a small vector, which is copied into the link.
//! A longer one is encoded straight into a block of the memory that its readers see. Blobs are not encoded: they become
//! parts, and the body only has their numbers. Those that are in other memory are copied first.

use std::any::type_name;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::sync::Arc;

use postcard::de_flavors;
use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::arena::{Arena, Block};
use super::blob::Blob;
use super::pool_memory::Memory;

/// The longest body that is copied into the link, in bytes.
pub(crate) const INLINE: usize = 1408;

/// At most this many blobs of one payload become parts. Further ones are copied into the body.
pub(crate) const PARTS: usize = 32;

/// Smaller blobs are copied into the body, in bytes.
const SMALL_BLOB: usize = 1024;

/// Encoded values that are to be sent.
#[derive(Debug)]
pub(crate) struct Payload {
    body: Body,
    parts: Vec<Blob>,
}

#[derive(Debug)]
enum Body {
    Inline(Vec<u8>),
    /// The bytes at the start of a block, and their number.
    InArena(Block, usize),
}

/// The location of the bytes of a payload's body.
pub(crate) enum BodyLocation<'a> {
    Inline(&'a [u8]),
    /// In shared memory, `length` bytes from this address on.
    InArena {
        address: u64,
        length: usize,
    },
}

/// The reason why a value could not be encoded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EncodeError {
    #[error("{0}")]
    Value(postcard::Error),
    #[error("there is no more shared memory for it: {0}")]
    NoMemory(io::Error),
}

impl Payload {
    /// Encodes a value for the parent of this worker. In a process that is no worker, the payload stays in the process.
    pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Self, EncodeError> {
        Self::encode_to(value, Arena::of_this_worker().map(|arena| arena as &dyn Memory))
    }

    /// Encodes a value for the workers of a pool.
    pub(crate) fn encode_for<T>(value: &T, memory: &dyn Memory) -> Result<Self, EncodeError>
    where
        T: Serialize + ?Sized,
    {
        Self::encode_to(value, Some(memory))
    }

    fn encode_to<T>(value: &T, memory: Option<&dyn Memory>) -> Result<Self, EncodeError>
    where
        T: Serialize + ?Sized,
    {
        let scope = Encoding::begin();
        let refusal = Cell::new(None);
        let writer = Writer { body: Body::Inline(Vec::new()), memory, refusal: &refusal };
        let body = postcard::serialize_with_flavor(value, writer).map_err(|error| match refusal.take() {
            Some(refusal) => EncodeError::NoMemory(refusal),
            None => EncodeError::Value(error),
        })?;
        let mut parts = ENCODING.take().unwrap_or_default();
        drop(scope);
        if let Some(memory) = memory {
            for part in &mut parts {
                if !part.is_in(memory) {
                    *part = part.copy_to(memory).map_err(EncodeError::NoMemory)?;
                }
            }
        }
        Ok(Self { body, parts })
    }

    /// Makes a payload of a text, which is not encoded. It is cut to the length of an inline body.
    pub(crate) fn text(text: &str) -> Self {
        let mut end = text.len().min(INLINE);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self { body: Body::Inline(text.as_bytes()[..end].to_vec()), parts: Vec::new() }
    }

    pub(crate) fn location(&self) -> BodyLocation<'_> {
        match &self.body {
            Body::Inline(bytes) => BodyLocation::Inline(bytes),
            Body::InArena(block, length) => {
                BodyLocation::InArena { address: block.address(), length: *length }
            }
        }
    }

    pub(crate) fn body(&self) -> &[u8] {
        match &self.body {
            Body::Inline(bytes) => bytes,
            Body::InArena(block, length) => block.bytes(*length),
        }
    }

    pub(crate) fn parts(&self) -> &[Blob] {
        &self.parts
    }

    /// Returns the arenas that it lies in.
    pub(crate) fn arenas(&self) -> impl Iterator<Item = &Arc<Arena>> {
        let body = match &self.body {
            Body::Inline(_) => None,
            Body::InArena(block, _) => Some(block.arena()),
        };
        body.into_iter().chain(self.parts.iter().filter_map(Blob::arena))
    }

    /// Returns what of it is in this process's arena, and so must be kept while another process reads it.
    pub(crate) fn into_blobs(self) -> impl Iterator<Item = Blob> {
        let body = match self.body {
            Body::Inline(_) => None,
            Body::InArena(block, length) => Some(Blob::own(block, length)),
        };
        body.into_iter().chain(self.parts)
    }

    /// Returns the size of body and parts together, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.body().len() + self.parts.iter().map(|part| part.len()).sum::<usize>()
    }
}

/// Collects encoded bytes: in a vector up to the length of an inline body, in a block of the memory beyond. Without a
/// memory, all of them in a vector.
struct Writer<'a> {
    body: Body,
    memory: Option<&'a dyn Memory>,
    /// The reason why there was no block, since the format's errors have no room for it.
    refusal: &'a Cell<Option<io::Error>>,
}

impl Writer<'_> {
    /// Moves to a block that has room for `additional` more bytes.
    #[cold]
    fn grow(&mut self, additional: usize) -> postcard::Result<()> {
        let written = match &self.body {
            Body::Inline(bytes) => bytes.as_slice(),
            Body::InArena(block, length) => block.bytes(*length),
        };
        let needed = written.len().checked_add(additional).ok_or(postcard::Error::SerializeBufferFull)?;
        let memory = self.memory.ok_or(postcard::Error::SerializeBufferFull)?;
        // The size at least doubles, so all moves together copy less than twice the final length.
        let size = needed.max(2 * written.len());
        let mut block = memory.take(size).map_err(|error| {
            self.refusal.set(Some(error));
            postcard::Error::SerializeBufferFull
        })?;
        block.bytes_mut(written.len()).copy_from_slice(written);
        let length = written.len();
        self.body = Body::InArena(block, length);
        Ok(())
    }
}

impl Flavor for Writer<'_> {
    type Output = Body;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        loop {
            match &mut self.body {
                Body::Inline(body) if self.memory.is_none() || body.len() + bytes.len() <= INLINE => {
                    body.extend_from_slice(bytes);
                    return Ok(());
                }
                Body::InArena(block, length) if bytes.len() <= block.capacity() - *length => {
                    let end = *length + bytes.len();
                    block.bytes_mut(end)[*length..].copy_from_slice(bytes);
                    *length = end;
                    return Ok(());
                }
                _ => self.grow(bytes.len())?,
            }
        }
    }

    fn finalize(self) -> postcard::Result<Body> {
        Ok(self.body)
    }
}

thread_local! {
    /// The parts of the payload that is being encoded on this thread.
    static ENCODING: RefCell<Option<Vec<Blob>>> = const { RefCell::new(None) };
    /// The parts of the payload that is being decoded on this thread.
    static DECODING: RefCell<Option<Vec<Blob>>> = const { RefCell::new(None) };
}

/// The scope in which blobs that are serialised on this thread become parts. One may lie within another.
struct Encoding {
    /// The parts of the payload whose encoding this one interrupts.
    outer: Option<Vec<Blob>>,
}

impl Encoding {
    fn begin() -> Self {
        Self { outer: ENCODING.replace(Some(Vec::new())) }
    }
}

impl Drop for Encoding {
    fn drop(&mut self) {
        ENCODING.set(self.outer.take());
    }
}

/// Returns whether this serialiser is the one that encodes a payload on this thread, and not one that a value uses for
/// itself. With a wrong answer the blob would be decoded as other bytes, but memory stays safe.
fn is_encoding_with<S>() -> bool {
    is_encoding() && type_name::<S>() == type_name::<&mut postcard::Serializer<Writer<'_>>>()
}

fn is_encoding() -> bool {
    ENCODING.with_borrow(Option::is_some)
}

/// Makes a blob a part of the payload that is being encoded. Returns the part's number, and `None` if the blob must
/// be copied into the body.
fn attach(blob: &Blob) -> Option<u32> {
    if blob.len() < SMALL_BLOB {
        return None;
    }
    ENCODING.with_borrow_mut(|parts| {
        let parts = parts.as_mut().filter(|parts| parts.len() < PARTS)?;
        parts.push(blob.clone());
        u32::try_from(parts.len() - 1).ok()
    })
}

/// Encoded values that have arrived.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Incoming<'a> {
    pub(crate) body: &'a [u8],
    pub(crate) parts: &'a [Blob],
}

impl<'a> Incoming<'a> {
    /// Decodes a value, which may borrow from the body.
    pub(crate) fn decode<T: Deserialize<'a>>(self) -> postcard::Result<T> {
        /// The scope in which blobs that are deserialised on this thread find their parts.
        struct Decoding {
            outer: Option<Vec<Blob>>,
        }

        impl Drop for Decoding {
            fn drop(&mut self) {
                // The parts are dropped after the thread-local is released, as their drop is code of other modules.
                let parts = DECODING.replace(self.outer.take());
                drop(parts);
            }
        }

        let _decoding = Decoding { outer: DECODING.replace(Some(self.parts.to_vec())) };
        T::deserialize(&mut postcard::Deserializer::from_flavor(Reader(self.body)))
    }
}

/// Reads a body in place. It is a type of its own, so that [`is_decoding_with`] can recognise the deserialiser.
struct Reader<'a>(&'a [u8]);

impl<'a> de_flavors::Flavor<'a> for Reader<'a> {
    type Remainder = &'a [u8];
    type Source = &'a [u8];

    fn pop(&mut self) -> postcard::Result<u8> {
        let (byte, rest) = self.0.split_first().ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
        self.0 = rest;
        Ok(*byte)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }

    fn try_take_n(&mut self, count: usize) -> postcard::Result<&'a [u8]> {
        let (taken, rest) =
            self.0.split_at_checked(count).ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
        self.0 = rest;
        Ok(taken)
    }

    fn finalize(self) -> postcard::Result<&'a [u8]> {
        Ok(self.0)
    }
}

impl<'a> From<&'a Payload> for Incoming<'a> {
    fn from(payload: &'a Payload) -> Self {
        Self { body: payload.body(), parts: payload.parts() }
    }
}

/// Returns whether this deserialiser is the one that decodes a payload on this thread.
fn is_decoding_with<D>() -> bool {
    is_decoding() && type_name::<D>() == type_name::<&mut postcard::Deserializer<'_, Reader<'_>>>()
}

fn is_decoding() -> bool {
    DECODING.with_borrow(Option::is_some)
}

/// Returns a part of the payload that is being decoded.
fn part(number: u32) -> Option<Blob> {
    DECODING.with_borrow(|parts| parts.as_ref()?.get(usize::try_from(number).ok()?).cloned())
}

/// Not public API: a byte slice that is encoded as one block, not byte by byte.
#[derive(Debug, Clone, Copy)]
pub struct Bytes<'a>(pub &'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Bytes<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&'a [u8]>::deserialize(deserializer).map(Bytes)
    }
}

/// A byte vector that is encoded as one block, not byte by byte.
#[derive(Debug)]
pub(crate) struct ByteBuf(pub(crate) Vec<u8>);

impl Serialize for ByteBuf {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for ByteBuf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Bytes::deserialize(deserializer).map(|bytes| Self(bytes.0.to_vec()))
    }
}

/// A blob in the body of a payload.
#[derive(Serialize, Deserialize)]
enum EncodedBlob<'a> {
    Inline(#[serde(borrow)] Bytes<'a>),
    /// The number of a part of the payload.
    Part(u32),
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !is_encoding_with::<S>() {
            return serializer.serialize_bytes(self);
        }
        match attach(self) {
            Some(number) => EncodedBlob::Part(number).serialize(serializer),
            None => EncodedBlob::Inline(Bytes(self)).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !is_decoding_with::<D>() {
            return deserializer.deserialize_byte_buf(BlobVisitor);
        }
        match EncodedBlob::deserialize(deserializer)? {
            EncodedBlob::Inline(bytes) => Ok(Self::from(bytes.0.to_vec())),
            EncodedBlob::Part(number) => part(number)
                .ok_or_else(|| de::Error::custom("a blob refers to a part that the payload does not have")),
        }
    }
}

/// Takes bytes in each form that a format may have for them.
struct BlobVisitor;

impl<'de> de::Visitor<'de> for BlobVisitor {
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

#[cfg(all(test, not(any(shuttle, weak_memory)), not(miri)))]
mod tests;
