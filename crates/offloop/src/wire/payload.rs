//! Payloads: the encoded values that a call or an answer carries.
//!
//! A payload has a body and parts. A body of up to [`INLINE`] bytes is a small vector, which is copied into the link.
//! A longer one is encoded straight into a block of the memory that its readers see. Blobs are not encoded: they become
//! parts, and the body only has their numbers. Those that are in other memory are copied first.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::arena::{Arena, Block};
use super::blob::Blob;
use super::copies::copied;
use super::msgpack::{BLOB_NAME, Decoder, Encoder, Error, Output, is_ours};
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

/// The memory that a worker's answers go to. `None` in a process that is no worker: there a payload stays in the process.
fn memory_of_this_worker() -> Option<&'static dyn Memory> {
    Arena::of_this_worker().map(|arena| arena as &dyn Memory)
}

impl Payload {
    /// Encodes a value for the parent of this worker. In a process that is no worker, the payload stays in the process.
    pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Self, Error> {
        Self::encode_with(memory_of_this_worker(), parts_of_answers(), |encoder| value.serialize(encoder))
    }

    /// Encodes two values for the parent of this worker, the one after the other. The first is not `()` or `None`.
    pub(crate) fn encode_pair<A: Serialize + ?Sized, B: Serialize + ?Sized>(
        first: &A,
        second: &B,
    ) -> Result<Self, Error> {
        Self::encode_with(memory_of_this_worker(), parts_of_answers(), |encoder| {
            first.serialize(&mut *encoder)?;
            second.serialize(encoder)
        })
    }

    /// Encodes the arguments of a call, a tuple, for the workers that read `memory`. If there is something else for the
    /// worker, it precedes them.
    pub(crate) fn encode_call<C: Serialize, A: Serialize>(
        context: Option<&C>,
        arguments: &A,
        memory: &dyn Memory,
    ) -> Result<Self, Error> {
        Self::encode_with(Some(memory), PARTS, |encoder| {
            if let Some(context) = context {
                context.serialize(&mut *encoder)?;
            }
            encoder.arguments(arguments)
        })
    }

    /// Makes the same of arguments that are encoded already, in a [whole](Self::encode_whole_call) body.
    pub(crate) fn copy_call<C: Serialize>(
        context: Option<&C>,
        arguments: &[u8],
        memory: &dyn Memory,
    ) -> Result<Self, Error> {
        Self::encode_with(Some(memory), 0, |encoder| {
            if let Some(context) = context {
                context.serialize(&mut *encoder)?;
            }
            encoder.append(arguments)
        })
    }

    /// Encodes the arguments of a call, a tuple, into bytes that are complete by themselves: blobs are copied into them.
    pub(crate) fn encode_whole_call<A: Serialize>(arguments: &A) -> Result<Vec<u8>, Error> {
        Self::encode_with(None, 0, |encoder| encoder.arguments(arguments)).map(Self::into_body)
    }

    /// Encodes a value into such bytes.
    pub(crate) fn encode_whole<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Error> {
        Self::encode_with(None, 0, |encoder| value.serialize(encoder)).map(Self::into_body)
    }

    fn into_body(self) -> Vec<u8> {
        match self.body {
            Body::Inline(bytes) => bytes,
            Body::InArena(block, length) => block.bytes(length).to_vec(),
        }
    }

    /// Encodes what `write` writes. At most `most` blobs become parts.
    fn encode_with(
        memory: Option<&dyn Memory>,
        most: usize,
        write: impl FnOnce(&mut Encoder<Writer<'_>>) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let scope = Encoding::begin(most);
        let mut encoder = Encoder::new(Writer { body: Body::Inline(Vec::new()), memory });
        write(&mut encoder)?;
        let body = encoder.into_output().body;
        let mut parts = ENCODING.take().map(|parts| parts.blobs).unwrap_or_default();
        drop(scope);
        if let Some(memory) = memory {
            for part in &mut parts {
                if !part.is_in(memory) {
                    *part =
                        part.copy_to(memory).map_err(|error| Error::NoMemory(error.to_string().into()))?;
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
}

impl Writer<'_> {
    /// Moves to a block that has room for `additional` more bytes.
    #[cold]
    fn grow(&mut self, additional: usize) -> Result<(), Error> {
        let written = match &self.body {
            Body::Inline(bytes) => bytes.as_slice(),
            Body::InArena(block, length) => block.bytes(*length),
        };
        let no_memory = |reason: &dyn fmt::Display| Error::NoMemory(reason.to_string().into());
        let needed = written.len().checked_add(additional).ok_or_else(|| no_memory(&"it is too large"))?;
        let memory = self.memory.ok_or_else(|| no_memory(&"this process has none"))?;
        // The size at least doubles, so all moves together copy less than twice the final length.
        let size = needed.max(2 * written.len());
        let mut block = memory.take(size).map_err(|error| no_memory(&error))?;
        block.bytes_mut(written.len()).copy_from_slice(written);
        let length = written.len();
        self.body = Body::InArena(block, length);
        Ok(())
    }
}

impl Output for Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
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

    fn len(&self) -> usize {
        match &self.body {
            Body::Inline(bytes) => bytes.len(),
            Body::InArena(_, length) => *length,
        }
    }

    fn replace(&mut self, at: usize, bytes: [u8; 4]) {
        let range = at..at + bytes.len();
        match &mut self.body {
            Body::Inline(body) => body[range].copy_from_slice(&bytes),
            Body::InArena(block, _) => block.bytes_mut(range.end)[range.start..].copy_from_slice(&bytes),
        }
    }
}

/// The parts of a payload that is being encoded.
struct Parts {
    blobs: Vec<Blob>,
    /// The largest number of them. Further blobs are copied into the body.
    most: usize,
}

thread_local! {
    /// The parts of the payload that is being encoded on this thread.
    static ENCODING: RefCell<Option<Parts>> = const { RefCell::new(None) };
    /// True while the job of this thread answers to another machine, so that its answers have no parts.
    static IS_WHOLE: Cell<bool> = const { Cell::new(false) };
    /// The parts of the payload that is being decoded on this thread.
    static DECODING: RefCell<Option<Vec<Blob>>> = const { RefCell::new(None) };
}

/// The scope in which blobs that are serialised on this thread become parts. One may lie within another.
struct Encoding {
    /// The parts of the payload whose encoding this one interrupts.
    outer: Option<Parts>,
}

impl Encoding {
    fn begin(most: usize) -> Self {
        Self { outer: ENCODING.replace(Some(Parts { blobs: Vec::new(), most })) }
    }
}

impl Drop for Encoding {
    fn drop(&mut self) {
        ENCODING.set(self.outer.take());
    }
}

/// Makes the results and items that this thread encodes complete by themselves, without parts, or not. Returns what was
/// set before.
pub(crate) fn answer_whole(is_whole: bool) -> bool {
    IS_WHOLE.replace(is_whole)
}

/// Returns the largest number of parts that a result or an item of this thread's job may have.
fn parts_of_answers() -> usize {
    if IS_WHOLE.get() { 0 } else { PARTS }
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
        let parts = parts.as_mut().filter(|parts| parts.blobs.len() < parts.most)?;
        parts.blobs.push(blob.clone());
        u32::try_from(parts.blobs.len() - 1).ok()
    })
}

/// Encoded values that have arrived, in memory that does not change while they are read.
///
/// Values may borrow from the body, and a text that was found to be UTF-8 stays UTF-8. Two kinds of memory will do. The
/// one is private to this process: what was copied out of the link, or what [`Received`] copies. The other is the arena
/// of a worker's parent, which holds the worker's arguments. Only the parent can write there, a worker trusts its parent,
/// and the parent does not use the memory again before the worker has answered. A worker's own arena will not do: any
/// thread of the worker may still write to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Incoming<'a> {
    pub(crate) body: &'a [u8],
    pub(crate) parts: &'a [Blob],
}

impl<'a> Incoming<'a> {
    /// Decodes a value, which may borrow from the body. Fails if anything is left over.
    pub(crate) fn decode<T: Deserialize<'a>>(self) -> Result<T, Error> {
        self.read(Decoder::value)?.whole()
    }

    /// Decodes the arguments of a call. Fails if anything is left over.
    pub(crate) fn decode_arguments<T: Deserialize<'a>>(self) -> Result<T, Error> {
        self.read(Decoder::arguments)?.whole()
    }

    /// Decodes the first of two values. Returns the second one as it has arrived.
    pub(crate) fn split<T: Deserialize<'a>>(self) -> Result<(T, Self), Error> {
        let Read { value, decoder } = self.read(Decoder::value)?;
        Ok((value, Self { body: decoder.rest(), ..self }))
    }

    fn read<T>(self, read: impl FnOnce(&mut Decoder<'a>) -> Result<T, Error>) -> Result<Read<'a, T>, Error> {
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
        let mut decoder = Decoder::new(self.body);
        let value = read(&mut decoder)?;
        Ok(Read { value, decoder })
    }
}

/// A value, and what follows it.
struct Read<'a, T> {
    value: T,
    decoder: Decoder<'a>,
}

impl<T> Read<'_, T> {
    /// Returns the value if nothing follows it.
    fn whole(self) -> Result<T, Error> {
        self.decoder.finish()?;
        Ok(self.value)
    }
}

/// An encoded value that a worker has sent.
///
/// Its body may be in the worker's arena. Any thread of the worker may still write there, even while it is read here, so
/// it is copied before it is decoded. Blobs are not copied: [`Blob`] says what that means.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received<'a> {
    pub(crate) body: &'a [u8],
    pub(crate) parts: &'a [Blob],
    /// The body is in the worker's arena.
    pub(crate) is_shared: bool,
}

impl<'a> Received<'a> {
    /// Returns the body, copied if that is needed, so that it does not change any more.
    pub(crate) fn settled(self) -> Cow<'a, [u8]> {
        if self.is_shared { Cow::Owned(copied(self.body)) } else { Cow::Borrowed(self.body) }
    }

    /// Returns the body as a text.
    pub(crate) fn text(self) -> String {
        String::from_utf8_lossy(&self.settled()).into_owned()
    }
}

impl<'a> From<&'a Payload> for Received<'a> {
    fn from(payload: &'a Payload) -> Self {
        Self { body: payload.body(), parts: payload.parts(), is_shared: false }
    }
}

impl<'a> From<&'a Payload> for Incoming<'a> {
    fn from(payload: &'a Payload) -> Self {
        Self { body: payload.body(), parts: payload.parts() }
    }
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
        // The task may have sent a list of single bytes.
        deserializer.deserialize_byte_buf(BytesVisitor).map(Self)
    }
}

/// Not public API: a text that borrows what has arrived, if it can. serde's own `Cow` never does.
#[derive(Debug)]
pub struct Text<'a>(pub Cow<'a, str>);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&'a str>::deserialize(deserializer).map(|text| Self(Cow::Borrowed(text)))
    }
}

/// Not public API: bytes that borrow what has arrived.
#[derive(Debug)]
pub struct CowBytes<'a>(pub Cow<'a, [u8]>);

impl Serialize for CowBytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for CowBytes<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&'a [u8]>::deserialize(deserializer).map(|bytes| Self(Cow::Borrowed(bytes)))
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // With a wrong answer the blob would be decoded as other bytes, but memory stays safe.
        if !is_encoding() || !is_ours::<S::Error>() {
            return serializer.serialize_bytes(self);
        }
        match attach(self) {
            Some(number) => serializer.serialize_newtype_struct(BLOB_NAME, &number),
            None => serializer.serialize_newtype_struct(BLOB_NAME, &Bytes(self)),
        }
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if is_decoding() && is_ours::<D::Error>() {
            return deserializer.deserialize_newtype_struct(BLOB_NAME, BlobVisitor { newtypes: 0 });
        }
        deserializer.deserialize_byte_buf(BytesVisitor).map(Self::from)
    }
}

/// Takes bytes in each form that a format may have for them.
struct BytesVisitor;

impl<'de> de::Visitor<'de> for BytesVisitor {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<u8>, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = sequence.next_element()? {
            bytes.push(byte);
        }
        Ok(bytes)
    }
}

/// Takes a blob of this encoding: within two newtype structs, the number of a part or bytes. Or plain bytes.
///
/// From one of serde's buffers each value comes within one newtype struct, and a number that is no part's must not be
/// taken for one.
struct BlobVisitor {
    /// Counts the newtype structs that were opened.
    newtypes: u8,
}

impl<'de> de::Visitor<'de> for BlobVisitor {
    type Value = Blob;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a blob")
    }

    fn visit_u32<E: de::Error>(self, number: u32) -> Result<Blob, E> {
        let part = if self.newtypes == 2 { part(number) } else { None };
        part.ok_or_else(|| E::custom("a number that is no part of the payload, expected a blob"))
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Blob, E> {
        Ok(bytes.to_vec().into())
    }

    fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Blob, E> {
        Ok(bytes.into())
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, sequence: A) -> Result<Blob, A::Error> {
        BytesVisitor.visit_seq(sequence).map(Blob::from)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, content: D) -> Result<Blob, D::Error> {
        content.deserialize_any(Self { newtypes: self.newtypes.saturating_add(1) })
    }
}

#[cfg(all(test, not(any(shuttle, weak_memory)), not(miri)))]
mod tests;
