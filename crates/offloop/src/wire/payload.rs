//! What a call or an answer carries: encoded values, in memory that suits their size.
//!
//! Up to [`INLINE`] bytes are a small vector that is copied into the link. More goes, while it is encoded, straight
//! into a block of this process's arena. Blobs are not encoded at all: they are parts beside the body.

use std::any::type_name;
use std::cell::RefCell;

use postcard::de_flavors;
use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::wire::arena::{Arena, Block};
use crate::wire::blob::Blob;

/// The longest body that travels within the link itself, in bytes.
pub(crate) const INLINE: usize = 1408;

/// So many blobs of one payload travel as parts; further ones are copied into the body.
pub(crate) const PARTS: usize = 32;

/// Smaller blobs are copied into the body, in bytes.
const SMALL_BLOB: usize = 1024;

/// Not public API: encoded values on their way.
#[derive(Debug)]
pub struct Payload {
    body: Body,
    parts: Vec<Blob>,
}

#[derive(Debug)]
enum Body {
    Inline(Vec<u8>),
    Far(Block, usize),
}

/// Where a payload's body is.
pub(crate) enum Place<'a> {
    Inline(&'a [u8]),
    /// In this process's arena, from here on.
    Far {
        offset: u64,
        length: usize,
    },
}

/// Why a value could not be encoded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EncodeError {
    #[error("{0}")]
    Value(postcard::Error),
    #[error("the shared memory of this process is used up; are results kept, or are too many calls queued?")]
    NoMemory,
}

impl Payload {
    pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Self, EncodeError> {
        let scope = Encoding::begin();
        let body =
            postcard::serialize_with_flavor(value, Writer::default()).map_err(|error| match error {
                postcard::Error::SerializeBufferFull => EncodeError::NoMemory,
                error => EncodeError::Value(error),
            })?;
        let parts = ENCODING.take().unwrap_or_default();
        drop(scope);
        Ok(Self { body, parts })
    }

    /// A short text as it is.
    pub(crate) fn text(text: &str) -> Self {
        let mut end = text.len().min(INLINE);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self { body: Body::Inline(text.as_bytes()[..end].to_vec()), parts: Vec::new() }
    }

    pub(crate) fn place(&self) -> Place<'_> {
        match &self.body {
            Body::Inline(bytes) => Place::Inline(bytes),
            Body::Far(block, length) => Place::Far { offset: block.offset(), length: *length },
        }
    }

    pub(crate) fn body(&self) -> &[u8] {
        match &self.body {
            Body::Inline(bytes) => bytes,
            Body::Far(block, length) => block.bytes(*length),
        }
    }

    pub(crate) fn parts(&self) -> &[Blob] {
        &self.parts
    }

    /// All of it that is in this process's arena.
    pub(crate) fn into_blobs(self) -> impl Iterator<Item = Blob> {
        let body = match self.body {
            Body::Inline(_) => None,
            Body::Far(block, length) => Some(Blob::own(block, length)),
        };
        body.into_iter().chain(self.parts)
    }

    /// All in all, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.body().len() + self.parts.iter().map(|part| part.len()).sum::<usize>()
    }
}

/// Puts encoded bytes into a vector while they are few, and into a block when they become more.
struct Writer {
    body: Body,
}

impl Default for Writer {
    fn default() -> Self {
        Self { body: Body::Inline(Vec::new()) }
    }
}

impl Writer {
    /// Moves to a block that has room for `additional` more bytes.
    #[cold]
    fn grow(&mut self, additional: usize) -> postcard::Result<()> {
        let written = match &self.body {
            Body::Inline(bytes) => bytes.as_slice(),
            Body::Far(block, length) => block.bytes(*length),
        };
        let needed = written.len().checked_add(additional).ok_or(postcard::Error::SerializeBufferFull)?;
        let arena = Arena::of_this_process().ok_or(postcard::Error::SerializeBufferFull)?;
        // At least twice of what there was, so that all the moves together cost no more than one.
        let size = needed.max(2 * written.len());
        let mut block = arena.take(size).ok_or(postcard::Error::SerializeBufferFull)?;
        block.bytes_mut(written.len()).copy_from_slice(written);
        let length = written.len();
        self.body = Body::Far(block, length);
        Ok(())
    }
}

impl Flavor for Writer {
    type Output = Body;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        loop {
            match &mut self.body {
                Body::Inline(body) if body.len() + bytes.len() <= INLINE => {
                    body.extend_from_slice(bytes);
                    return Ok(());
                }
                Body::Far(block, length) if bytes.len() <= block.capacity() - *length => {
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

/// While it lives, blobs that are serialised on this thread become parts.
struct Encoding {
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

/// Whether this serialiser is the one that encodes a payload on this thread, and not one that a value uses for itself.
/// A wrong answer would cost that blob its meaning, not its memory.
pub(crate) fn is_encoding_with<S>() -> bool {
    is_encoding() && type_name::<S>() == type_name::<&mut postcard::Serializer<Writer>>()
}

fn is_encoding() -> bool {
    ENCODING.with_borrow(Option::is_some)
}

/// Makes a blob a part of the payload that is being encoded; says which. `None` if it is to be copied.
pub(crate) fn attach(blob: &Blob) -> Option<u32> {
    if blob.len() < SMALL_BLOB || blob.place().is_none() {
        return None;
    }
    ENCODING.with_borrow_mut(|parts| {
        let parts = parts.as_mut().filter(|parts| parts.len() < PARTS)?;
        parts.push(blob.clone());
        u32::try_from(parts.len() - 1).ok()
    })
}

/// Not public API: encoded values as they have arrived.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    pub(crate) body: &'a [u8],
    pub(crate) parts: &'a [Blob],
}

impl<'a> Incoming<'a> {
    /// Decodes with the parts at hand, which blobs in the body refer to.
    pub(crate) fn decode<T: Deserialize<'a>>(self) -> postcard::Result<T> {
        struct Restore(Option<Vec<Blob>>);

        impl Drop for Restore {
            fn drop(&mut self) {
                let ours = DECODING.replace(self.0.take());
                drop(ours);
            }
        }

        let _restore = Restore(DECODING.replace(Some(self.parts.to_vec())));
        T::deserialize(&mut postcard::Deserializer::from_flavor(Reader(self.body)))
    }
}

/// Reads a body in place. A type of its own, by which blobs know whose hands they are in.
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

/// Whether this deserialiser is the one that decodes a payload on this thread.
pub(crate) fn is_decoding_with<D>() -> bool {
    is_decoding() && type_name::<D>() == type_name::<&mut postcard::Deserializer<'_, Reader<'_>>>()
}

fn is_decoding() -> bool {
    DECODING.with_borrow(Option::is_some)
}

pub(crate) fn part(number: u32) -> Option<Blob> {
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

/// Not public API: the same for bytes that are owned.
#[derive(Debug)]
pub struct ByteBuf(pub Vec<u8>);

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

#[cfg(all(test, not(shuttle), not(miri)))]
mod tests;
