//! The encoding of the user's values: MessagePack with field names.
//!
//! It is the format that the crate `rmp-serde` writes with named fields, and readers of MessagePack in any language can
//! read it. It is a codec of its own for what that crate does not give:
//!
//! - **One limit for the depth**, the same for writing and for reading: [`DEPTH`] levels. Each call that can lead into
//!   another one counts, a variant of an enum and the content of an `Option` included. So neither a deep value nor
//!   hostile bytes can exhaust a stack.
//! - **Each value keeps its meaning.** MessagePack has one `nil`, which would make `Some(None)` and `Some(())` the same as
//!   `None`. Here a `Some` around a nil is an extension of type [`SOME`], whose one byte counts the `Some`s.
//! - **Blobs** are extensions too: of type [`PART`] with the number of a part of the payload, or of type [`BLOB`] with the
//!   bytes. So an untagged enum takes a blob for nothing else, wherever its bytes are.
//! - **Bytes are one block**, also a `[u8]` or a `Vec<u8>` that serde writes as a list. A `&[u8]` can borrow from it.
//! - **Lengths are checked**: a value that writes more or fewer elements than it has announced is refused, and so is a
//!   body with bytes that belong to no value.
//!
//! Two shorter forms save the smallest calls an allocation each. An empty body is a nil. And the arguments of a call, a
//! tuple whose length both sides know, are written one after the other without the tuple's header.
//!
//! Types that have a form for people and one for machines use the former (`Uuid`, `IpAddr`). serde's own buffers, through
//! which flattened, tagged and untagged types are read, know that form only.

mod check;
mod decoder;
mod encoder;

use std::fmt;

pub(crate) use check::check;
pub(super) use decoder::{Decoder, whole_block};
pub(super) use encoder::{Encoder, Output};

/// The number of levels to which a value may be nested, both when it is encoded and when it is decoded.
///
/// A level takes up to 5 KiB of the stack in a debug build, for a type that serde reads through its own buffers. So a
/// third of the 2 MiB of an ordinary thread suffices.
pub(crate) const DEPTH: u16 = 128;

/// The type of the extension for `Some`s around a nil.
const SOME: u8 = 1;

/// The type of the extension for a blob that is a part of the payload.
const PART: u8 = 2;

/// The type of the extension for a blob whose bytes are here.
const BLOB: u8 = 3;

/// The name of the newtype struct that stands for a blob: of the number of a part, or of bytes. No Rust type can have
/// this name.
pub(super) const BLOB_NAME: &str = "offloop::blob";

const NIL: u8 = 0xc0;
const FALSE: u8 = 0xc2;
const TRUE: u8 = 0xc3;
const F32: u8 = 0xca;
const F64: u8 = 0xcb;
const U8: u8 = 0xcc;
const U16: u8 = 0xcd;
const U32: u8 = 0xce;
const U64: u8 = 0xcf;
const I8: u8 = 0xd0;
const I16: u8 = 0xd1;
const I32: u8 = 0xd2;
const I64: u8 = 0xd3;
const EXT1: u8 = 0xd4;
const EXT4: u8 = 0xd6;
/// Precedes an extension with a length of four bytes.
const EXT32: u8 = 0xc9;

/// The markers of a kind of values that have a length.
struct Family {
    /// The marker for the length 0, and the number of lengths that are added to it.
    fix: (u8, u8),
    /// The marker before a length of one byte.
    short: Option<u8>,
    /// The markers before a length of two and of four bytes.
    long: [u8; 2],
}

const STR: Family = Family { fix: (0xa0, 32), short: Some(0xd9), long: [0xda, 0xdb] };
const BIN: Family = Family { fix: (0, 0), short: Some(0xc4), long: [0xc5, 0xc6] };
const ARRAY: Family = Family { fix: (0x90, 16), short: None, long: [0xdc, 0xdd] };
const MAP: Family = Family { fix: (0x80, 16), short: None, long: [0xde, 0xdf] };

/// The reason why a value cannot be encoded or decoded.
///
/// Serialisers and deserialisers with this error, serde's buffers included, belong to this encoding: see
/// [`is_ours`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Error {
    /// The reason that a `Serialize` or `Deserialize` has given.
    Custom(Box<str>),
    /// It is nested deeper than [`DEPTH`].
    TooDeep,
    /// A text, a list or a table is longer than the encoding allows.
    TooLong,
    /// A `Serialize` has announced another number of elements than it wrote.
    Announced { announced: usize, written: usize },
    /// The system gives no shared memory, or all of it is in use, for this reason.
    NoMemory(Box<str>),
    /// The bytes end within a value.
    End,
    /// The bytes go on behind the value.
    Left(usize),
    /// A list or a table has more elements than its type takes.
    Untaken(usize),
    /// A text is not UTF-8.
    Utf8,
    /// A byte that begins no value of this encoding.
    Marker(u8),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Custom(reason) => f.write_str(reason),
            Self::TooDeep => write!(
                f,
                "it is nested deeper than {DEPTH} levels; make it flatter (a list with indices instead of links, for \
                 instance), or send bytes that you encode yourself"
            ),
            Self::TooLong => f.write_str("a text, a list or a table in it has more than 4294967295 elements"),
            Self::Announced { announced, written } => write!(
                f,
                "its `Serialize` announced {announced} elements and wrote {written}; the two must be equal"
            ),
            Self::NoMemory(reason) => write!(f, "there is no more shared memory for it: {reason}"),
            Self::End => f.write_str("its bytes end within a value"),
            Self::Left(count) => write!(
                f,
                "{count} bytes are left over; its `Serialize` writes more than its `Deserialize` reads"
            ),
            Self::Untaken(count) => write!(
                f,
                "{count} elements are left over; its `Serialize` writes more than its `Deserialize` reads"
            ),
            Self::Utf8 => f.write_str("a text in it is not UTF-8"),
            Self::Marker(marker) => write!(f, "the byte {marker:#04x} begins no value"),
        }
    }
}

impl std::error::Error for Error {}

impl serde::ser::Error for Error {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self::Custom(reason.to_string().into())
    }
}

impl serde::de::Error for Error {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self::Custom(reason.to_string().into())
    }
}

/// Returns whether a serialiser or deserialiser with the error `E` belongs to this encoding, and is not one that a value
/// uses for itself.
pub(super) fn is_ours<E>() -> bool {
    std::any::type_name::<E>() == std::any::type_name::<Error>()
}

#[cfg(all(test, not(any(shuttle, weak_memory)), not(miri)))]
mod tests;
