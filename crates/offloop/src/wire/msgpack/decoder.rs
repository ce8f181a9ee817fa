//! Reads values.

use std::any::type_name;

use serde::de::value::{
    BorrowedBytesDeserializer, BorrowedStrDeserializer, SeqDeserializer, U32Deserializer,
};
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::{
    ARRAY, BIN, BLOB, BLOB_NAME, DEPTH, EXT1, EXT4, EXT32, Error, F32, F64, FALSE, Family, I8, I16, I32, I64,
    MAP, NIL, PART, SOME, STR, TRUE, U8, U16, U32, U64,
};

/// A deserialiser that reads from bytes, from which the values may borrow.
///
/// It believes nothing that the bytes say: no length is used before as many bytes have come.
pub(crate) struct Decoder<'de> {
    rest: &'de [u8],
    /// The number of levels that may still be entered.
    levels: u16,
    /// The next value is no longer in the bytes: it is a nil in this number of `Some`s.
    somes: Option<u8>,
    /// The body was empty, and the nil that it stands for has not been read.
    is_empty: bool,
    /// The next tuple is a call's arguments, which have no header.
    is_bare: bool,
}

/// The beginning of a value.
enum Head<'de> {
    Nil,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    F32(f32),
    F64(f64),
    Text(&'de str),
    Bytes(&'de [u8]),
    Array(usize),
    Map(usize),
    /// A nil in this number of `Some`s, at least one.
    Some(u8),
    Blob(BlobDeserializer<'de>),
}

impl<'de> Decoder<'de> {
    pub(crate) fn new(body: &'de [u8]) -> Self {
        Self { rest: body, levels: DEPTH, somes: None, is_empty: body.is_empty(), is_bare: false }
    }

    /// Reads the next value.
    pub(crate) fn value<T: Deserialize<'de>>(&mut self) -> Result<T, Error> {
        T::deserialize(&mut *self)
    }

    /// Reads the arguments of a call.
    pub(crate) fn arguments<T: Deserialize<'de>>(&mut self) -> Result<T, Error> {
        self.is_bare = true;
        let arguments = T::deserialize(&mut *self)?;
        self.is_bare = false;
        Ok(arguments)
    }

    /// Returns the bytes that have not been read.
    pub(crate) fn rest(&self) -> &'de [u8] {
        self.rest
    }

    /// Checks that all bytes have been read.
    pub(crate) fn finish(self) -> Result<(), Error> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(Error::Left(count)),
        }
    }

    fn take(&mut self, count: usize) -> Result<&'de [u8], Error> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Error::End)?;
        self.rest = rest;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Error::End)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Returns whether the next value is a nil.
    fn is_nil(&self) -> bool {
        match self.somes {
            Some(somes) => somes == 0,
            None => self.rest.first().map_or(self.is_empty, |marker| *marker == NIL),
        }
    }

    /// Returns the length of a value of this family, if the marker belongs to it.
    fn length(&mut self, family: &Family, marker: u8) -> Result<Option<usize>, Error> {
        let (first, count) = family.fix;
        Ok(Some(if marker.wrapping_sub(first) < count {
            usize::from(marker - first)
        } else if family.short == Some(marker) {
            usize::from(self.number::<1>()?[0])
        } else if marker == family.long[0] {
            usize::from(u16::from_be_bytes(self.number()?))
        } else if marker == family.long[1] {
            usize::try_from(u32::from_be_bytes(self.number()?)).map_err(|_| Error::End)?
        } else {
            return Ok(None);
        }))
    }

    /// Reads the next value, or the beginning of a list or a table.
    fn head(&mut self) -> Result<Head<'de>, Error> {
        match self.somes.take() {
            Some(0) => return Ok(Head::Nil),
            Some(somes) => return Ok(Head::Some(somes)),
            None => {}
        }
        if self.rest.is_empty() && std::mem::take(&mut self.is_empty) {
            return Ok(Head::Nil);
        }
        let [marker] = self.number()?;
        Ok(match marker {
            0..0x80 => Head::Unsigned(marker.into()),
            0xe0..=0xff => Head::Signed(i8::from_be_bytes([marker]).into()),
            NIL => Head::Nil,
            FALSE => Head::Bool(false),
            TRUE => Head::Bool(true),
            F32 => Head::F32(f32::from_be_bytes(self.number()?)),
            F64 => Head::F64(f64::from_be_bytes(self.number()?)),
            U8 => Head::Unsigned(u8::from_be_bytes(self.number()?).into()),
            U16 => Head::Unsigned(u16::from_be_bytes(self.number()?).into()),
            U32 => Head::Unsigned(u32::from_be_bytes(self.number()?).into()),
            U64 => Head::Unsigned(u64::from_be_bytes(self.number()?)),
            I8 => Head::Signed(i8::from_be_bytes(self.number()?).into()),
            I16 => Head::Signed(i16::from_be_bytes(self.number()?).into()),
            I32 => Head::Signed(i32::from_be_bytes(self.number()?).into()),
            I64 => Head::Signed(i64::from_be_bytes(self.number()?)),
            EXT1 | EXT4 => match (marker, self.number()?) {
                (EXT1, [SOME]) => match self.number()? {
                    [0] => return Err(Error::Marker(EXT1)),
                    [somes] => Head::Some(somes),
                },
                (EXT4, [PART]) => Head::Blob(BlobDeserializer::Part(u32::from_be_bytes(self.number()?))),
                _ => return Err(Error::Marker(marker)),
            },
            EXT32 => {
                let length = usize::try_from(u32::from_be_bytes(self.number()?)).map_err(|_| Error::End)?;
                match self.number()? {
                    [BLOB] => Head::Blob(BlobDeserializer::Bytes(self.take(length)?)),
                    _ => return Err(Error::Marker(marker)),
                }
            }
            _ => {
                if let Some(length) = self.length(&STR, marker)? {
                    Head::Text(std::str::from_utf8(self.take(length)?).map_err(|_| Error::Utf8)?)
                } else if let Some(length) = self.length(&BIN, marker)? {
                    Head::Bytes(self.take(length)?)
                } else if let Some(length) = self.length(&ARRAY, marker)? {
                    Head::Array(length)
                } else if let Some(length) = self.length(&MAP, marker)? {
                    Head::Map(length)
                } else {
                    return Err(Error::Marker(marker));
                }
            }
        })
    }

    fn enter(&mut self) -> Result<(), Error> {
        self.levels = self.levels.checked_sub(1).ok_or(Error::TooDeep)?;
        Ok(())
    }

    fn leave(&mut self) {
        self.levels += 1;
    }

    /// Visits `Some`, whose content is next.
    fn some<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Error> {
        self.enter()?;
        let value = visitor.visit_some(&mut *self)?;
        self.leave();
        Ok(value)
    }

    /// Visits the elements of a list.
    fn list<V: Visitor<'de>>(&mut self, length: usize, visitor: V) -> Result<V::Value, Error> {
        self.enter()?;
        let mut elements = Elements { decoder: self, left: length };
        let value = visitor.visit_seq(&mut elements)?;
        let left = elements.left;
        self.leave();
        if left == 0 { Ok(value) } else { Err(Error::Untaken(left)) }
    }

    /// Visits the entries of a table.
    fn table<V: Visitor<'de>>(&mut self, length: usize, visitor: V) -> Result<V::Value, Error> {
        self.enter()?;
        let mut entries = Elements { decoder: self, left: length };
        let value = visitor.visit_map(&mut entries)?;
        let left = entries.left;
        self.leave();
        if left == 0 { Ok(value) } else { Err(Error::Untaken(left)) }
    }

    fn visit<V: Visitor<'de>>(&mut self, head: Head<'de>, visitor: V) -> Result<V::Value, Error> {
        match head {
            Head::Nil => visitor.visit_unit(),
            Head::Bool(value) => visitor.visit_bool(value),
            Head::Unsigned(value) => visitor.visit_u64(value),
            Head::Signed(value) => visitor.visit_i64(value),
            Head::F32(value) => visitor.visit_f32(value),
            Head::F64(value) => visitor.visit_f64(value),
            Head::Text(text) => visitor.visit_borrowed_str(text),
            // They may have been a `Vec<u8>`, which serde's buffer gives back as a list only. And as bytes it would give
            // them to a `String` that comes first in an untagged enum.
            Head::Bytes(bytes) if is_buffer::<V>() => visitor.visit_seq(list_of(bytes)),
            Head::Bytes(bytes) => visitor.visit_borrowed_bytes(bytes),
            Head::Array(length) => self.list(length, visitor),
            Head::Map(length) => self.table(length, visitor),
            Head::Some(somes) => {
                self.somes = Some(somes - 1);
                self.some(visitor)
            }
            Head::Blob(blob) => visitor.visit_newtype_struct(blob),
        }
    }

    /// Reads over a value. Uses no more stack for a deep one.
    fn skip(&mut self) -> Result<(), Error> {
        let mut left: u64 = 1;
        while let Some(others) = left.checked_sub(1) {
            let inner = match self.head()? {
                Head::Array(length) => length as u64,
                Head::Map(length) => 2 * length as u64,
                _ => 0,
            };
            left = others.saturating_add(inner);
        }
        Ok(())
    }
}

/// Returns the text or the bytes of a body that has nothing else. Looks at no byte of it twice, so it may be used on
/// memory that changes meanwhile. It does not check that a text is UTF-8.
pub(crate) fn whole_block(body: &[u8], is_text: bool) -> Option<&[u8]> {
    let mut copy = [0; 5];
    let known = body.len().min(copy.len());
    copy[..known].copy_from_slice(&body[..known]);
    let mut header = Decoder::new(&copy[1..known.max(1)]);
    let family = if is_text { &STR } else { &BIN };
    let length = header.length(family, copy[0]).ok()??;
    let begin = known - header.rest.len();
    (body.len().checked_sub(begin)? == length).then(|| &body[begin..])
}

impl<'de> Deserializer<'de> for &mut Decoder<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let head = self.head()?;
        self.visit(head, visitor)
    }

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.head()? {
            Head::Bytes(bytes) => visitor.visit_i128(i128::from_be_bytes(number_of(bytes)?)),
            head => self.visit(head, visitor),
        }
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.head()? {
            Head::Bytes(bytes) => visitor.visit_u128(u128::from_be_bytes(number_of(bytes)?)),
            head => self.visit(head, visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_nil() {
            self.head()?;
            return visitor.visit_none();
        }
        if self.somes.is_some() || self.rest.starts_with(&[EXT1, SOME]) {
            let head = self.head()?;
            return self.visit(head, visitor);
        }
        self.some(visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.head()? {
            Head::Array(0) => visitor.visit_unit(),
            head => self.visit(head, visitor),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        if name == BLOB_NAME {
            return self.deserialize_any(visitor);
        }
        self.enter()?;
        let value = visitor.visit_newtype_struct(&mut *self)?;
        self.leave();
        Ok(value)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.head()? {
            // A type may be written as bytes and read as a list of them.
            Head::Bytes(bytes) => visitor.visit_seq(list_of(bytes)),
            head => self.visit(head, visitor),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Error> {
        if std::mem::take(&mut self.is_bare) {
            return self.list(length, visitor);
        }
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.head()? {
            Head::Text(name) => visitor.visit_enum(BorrowedStrDeserializer::new(name)),
            Head::Map(1) => {
                self.enter()?;
                let value = visitor.visit_enum(Variant(&mut *self))?;
                self.leave();
                Ok(value)
            }
            _ => Err(Error::invalid_type(
                Unexpected::Other("another value"),
                &"the name of a variant, or a table of a name and its content",
            )),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.skip()?;
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf unit map struct identifier
    }
}

type ListOf<'a> = SeqDeserializer<std::iter::Copied<std::slice::Iter<'a, u8>>, Error>;

fn list_of(bytes: &[u8]) -> ListOf<'_> {
    SeqDeserializer::new(bytes.iter().copied())
}

/// Returns whether a visitor fills the buffer through which serde reads flattened, tagged and untagged types. If serde
/// gives it another name, lists of bytes in such types are refused.
fn is_buffer<V>() -> bool {
    let name = type_name::<V>();
    name.starts_with("serde") && name.contains("ContentVisitor")
}

/// Returns the bytes of a number of 128 bits.
fn number_of(bytes: &[u8]) -> Result<[u8; 16], Error> {
    bytes.try_into().map_err(|_| Error::invalid_length(bytes.len(), &"16 bytes"))
}

/// The elements of a list, or the entries of a table.
struct Elements<'d, 'de> {
    decoder: &'d mut Decoder<'de>,
    /// The number of those that were not read.
    left: usize,
}

impl Elements<'_, '_> {
    /// Returns the number of elements that may follow. Each has at least one byte.
    fn hint(&self) -> usize {
        self.left.min(self.decoder.rest.len())
    }

    fn next(&mut self) -> bool {
        let has_next = self.left > 0;
        self.left -= usize::from(has_next);
        has_next
    }
}

impl<'de> SeqAccess<'de> for Elements<'_, 'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        if self.next() { seed.deserialize(&mut *self.decoder).map(Some) } else { Ok(None) }
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.hint())
    }
}

impl<'de> MapAccess<'de> for Elements<'_, 'de> {
    type Error = Error;

    fn next_key_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        if self.next() { seed.deserialize(&mut *self.decoder).map(Some) } else { Ok(None) }
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(&mut *self.decoder)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.hint())
    }
}

/// A variant with content: its name is next, then its content.
struct Variant<'d, 'de>(&'d mut Decoder<'de>);

impl<'de> EnumAccess<'de> for Variant<'_, 'de> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), Error> {
        let name = seed.deserialize(&mut *self.0)?;
        Ok((name, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, 'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        self.0.value()
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(self.0)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.0.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.deserialize_any(visitor)
    }
}

/// A blob, as a newtype struct. In serde's buffers it is thus one in another one, which no value of a user is.
enum BlobDeserializer<'de> {
    /// The number of a part of the payload.
    Part(u32),
    Bytes(&'de [u8]),
}

impl<'de> Deserializer<'de> for BlobDeserializer<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Self::Part(number) => {
                let number: U32Deserializer<Error> = number.into_deserializer();
                visitor.visit_newtype_struct(number)
            }
            Self::Bytes(bytes) => {
                visitor.visit_newtype_struct(BorrowedBytesDeserializer::<Error>::new(bytes))
            }
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}
