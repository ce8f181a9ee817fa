//! Writes values.

use std::any::type_name;

use serde::{Serialize, Serializer, ser};

use super::{
    ARRAY, BIN, BLOB, BLOB_NAME, DEPTH, EXT1, EXT4, EXT32, Error, F32, F64, FALSE, Family, I8, I16, I32, I64,
    MAP, NIL, PART, SOME, STR, TRUE, U8, U16, U32, U64,
};

/// The number of bytes of a list that are written at a time.
const RUN: usize = 4096;

/// The place for the encoded bytes.
pub(crate) trait Output {
    /// Appends bytes.
    fn put(&mut self, bytes: &[u8]) -> Result<(), Error>;

    /// Returns the number of bytes that were appended.
    fn len(&self) -> usize;

    /// Replaces bytes that were appended.
    fn replace(&mut self, at: usize, bytes: [u8; 4]);
}

/// A serialiser that writes to `O`.
pub(crate) struct Encoder<O> {
    out: O,
    /// The number of levels that may still be entered.
    levels: u16,
    /// Counts the `Some`s of which nothing is written yet: it depends on whether their content is a nil.
    somes: u8,
    /// The next value is that of a blob: the number of a part, or bytes.
    is_blob: bool,
    /// The next tuple is a call's arguments, which are written without the tuple's header.
    is_bare: bool,
    /// The last bytes of the list of bytes that is being written.
    run: Option<Vec<u8>>,
}

impl<O: Output> Encoder<O> {
    pub(crate) fn new(out: O) -> Self {
        Self { out, levels: DEPTH, somes: 0, is_blob: false, is_bare: false, run: None }
    }

    /// Appends the arguments of a call.
    pub(crate) fn arguments<T: Serialize>(&mut self, arguments: &T) -> Result<(), Error> {
        self.is_bare = true;
        arguments.serialize(&mut *self)?;
        self.is_bare = false;
        Ok(())
    }

    /// Appends values that are encoded already.
    pub(crate) fn append(&mut self, encoded: &[u8]) -> Result<(), Error> {
        self.put(encoded)
    }

    pub(crate) fn into_output(self) -> O {
        self.out
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.somes = 0;
        self.out.put(bytes)
    }

    /// Appends a marker and a number.
    fn marked<const N: usize>(&mut self, marker: u8, number: [u8; N]) -> Result<(), Error> {
        let mut bytes = [0; 9];
        bytes[0] = marker;
        bytes[1..=N].copy_from_slice(&number);
        self.put(&bytes[..=N])
    }

    fn nil(&mut self) -> Result<(), Error> {
        match self.somes {
            0 if self.levels == DEPTH && self.out.len() == 0 => Ok(()),
            0 => self.put(&[NIL]),
            somes => self.put(&[EXT1, SOME, somes]),
        }
    }

    fn unsigned(&mut self, value: u64) -> Result<(), Error> {
        if let Ok(value) = u8::try_from(value) {
            if value < 0x80 { self.put(&[value]) } else { self.put(&[U8, value]) }
        } else if let Ok(value) = u16::try_from(value) {
            self.marked(U16, value.to_be_bytes())
        } else if let Ok(value) = u32::try_from(value) {
            self.marked(U32, value.to_be_bytes())
        } else {
            self.marked(U64, value.to_be_bytes())
        }
    }

    fn signed(&mut self, value: i64) -> Result<(), Error> {
        if let Ok(value) = u64::try_from(value) {
            self.unsigned(value)
        } else if let Ok(value) = i8::try_from(value) {
            let [byte] = value.to_be_bytes();
            if value >= -32 { self.put(&[byte]) } else { self.put(&[I8, byte]) }
        } else if let Ok(value) = i16::try_from(value) {
            self.marked(I16, value.to_be_bytes())
        } else if let Ok(value) = i32::try_from(value) {
            self.marked(I32, value.to_be_bytes())
        } else {
            self.marked(I64, value.to_be_bytes())
        }
    }

    fn length(&mut self, family: &Family, length: usize) -> Result<(), Error> {
        let (first, count) = family.fix;
        match (u8::try_from(length), family.short) {
            (Ok(length), _) if length < count => self.put(&[first + length]),
            (Ok(length), Some(marker)) => self.put(&[marker, length]),
            _ => {
                if let Ok(length) = u16::try_from(length) {
                    return self.marked(family.long[0], length.to_be_bytes());
                }
                let length = u32::try_from(length).map_err(|_| Error::TooLong)?;
                self.marked(family.long[1], length.to_be_bytes())
            }
        }
    }

    fn text(&mut self, text: &str) -> Result<(), Error> {
        self.length(&STR, text.len())?;
        self.put(text.as_bytes())
    }

    fn enter(&mut self) -> Result<(), Error> {
        self.levels = self.levels.checked_sub(1).ok_or(Error::TooDeep)?;
        Ok(())
    }

    fn leave(&mut self) {
        self.levels += 1;
    }

    /// Writes a value that is one level deeper.
    fn nested<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.enter()?;
        value.serialize(&mut *self)?;
        self.leave();
        Ok(())
    }

    /// Begins a list or a table, whose length may become known at its end.
    fn begin(&mut self, family: &Family, length: Option<usize>) -> Result<Compound<'_, O>, Error> {
        self.enter()?;
        let announced = if let Some(length) = length {
            self.length(family, length)?;
            Announced::Length(length)
        } else {
            self.marked(family.long[1], [0; 4])?;
            Announced::Later { at: self.out.len() - 4 }
        };
        Ok(Compound { encoder: self, announced, written: 0, levels: 1 })
    }

    /// Writes a list of bytes as one block, from which it can be borrowed.
    fn run<T: Serialize>(&mut self, bytes: impl Iterator<Item = T>, length: usize) -> Result<(), Error> {
        self.length(&BIN, length)?;
        let mut written = 0;
        let mut run = Vec::with_capacity(length.min(RUN));
        for byte in bytes {
            self.run = Some(run);
            byte.serialize(&mut *self)?;
            run = self.run.take().unwrap_or_default();
            written += 1;
            if run.len() == RUN {
                self.put(&run)?;
                run.clear();
            }
        }
        self.put(&run)?;
        if written == length { Ok(()) } else { Err(Error::Announced { announced: length, written }) }
    }

    /// Begins a table with one entry: the name of a variant, and its content.
    fn variant(&mut self, name: &str) -> Result<(), Error> {
        self.length(&MAP, 1)?;
        self.text(name)
    }

    /// Begins a variant whose content is a list or a table. They are two levels.
    fn begin_variant(
        &mut self,
        name: &str,
        family: &Family,
        length: usize,
    ) -> Result<Compound<'_, O>, Error> {
        self.variant(name)?;
        self.enter()?;
        Ok(Compound { levels: 2, ..self.begin(family, Some(length))? })
    }
}

/// A list or a table that is being written.
pub(crate) struct Compound<'e, O> {
    encoder: &'e mut Encoder<O>,
    announced: Announced,
    /// Counts the elements that were written.
    written: usize,
    /// The number of levels that are left at its end.
    levels: u16,
}

enum Announced {
    Length(usize),
    /// Nothing. The four bytes of the length are written at the end.
    Later {
        at: usize,
    },
}

impl<O: Output> Compound<'_, O> {
    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.written += 1;
        value.serialize(&mut *self.encoder)
    }

    fn field<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), Error> {
        self.written += 1;
        self.encoder.text(name)?;
        value.serialize(&mut *self.encoder)
    }

    fn finish(self) -> Result<(), Error> {
        self.encoder.levels += self.levels;
        match self.announced {
            Announced::Length(announced) if announced != self.written => {
                Err(Error::Announced { announced, written: self.written })
            }
            Announced::Length(_) => Ok(()),
            Announced::Later { at } => {
                let length = u32::try_from(self.written).map_err(|_| Error::TooLong)?;
                self.encoder.out.replace(at, length.to_be_bytes());
                Ok(())
            }
        }
    }
}

impl<'e, O: Output> Serializer for &'e mut Encoder<O> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Compound<'e, O>;
    type SerializeTuple = Compound<'e, O>;
    type SerializeTupleStruct = Compound<'e, O>;
    type SerializeTupleVariant = Compound<'e, O>;
    type SerializeMap = Compound<'e, O>;
    type SerializeStruct = Compound<'e, O>;
    type SerializeStructVariant = Compound<'e, O>;

    fn serialize_bool(self, value: bool) -> Result<(), Error> {
        self.put(&[if value { TRUE } else { FALSE }])
    }

    fn serialize_i8(self, value: i8) -> Result<(), Error> {
        self.signed(value.into())
    }

    fn serialize_i16(self, value: i16) -> Result<(), Error> {
        self.signed(value.into())
    }

    fn serialize_i32(self, value: i32) -> Result<(), Error> {
        self.signed(value.into())
    }

    fn serialize_i64(self, value: i64) -> Result<(), Error> {
        self.signed(value)
    }

    fn serialize_i128(self, value: i128) -> Result<(), Error> {
        self.serialize_bytes(&value.to_be_bytes())
    }

    fn serialize_u8(self, value: u8) -> Result<(), Error> {
        if let Some(run) = &mut self.run {
            run.push(value);
            return Ok(());
        }
        self.unsigned(value.into())
    }

    fn serialize_u16(self, value: u16) -> Result<(), Error> {
        self.unsigned(value.into())
    }

    fn serialize_u32(self, value: u32) -> Result<(), Error> {
        if std::mem::take(&mut self.is_blob) {
            self.put(&[EXT4, PART])?;
            return self.put(&value.to_be_bytes());
        }
        self.unsigned(value.into())
    }

    fn serialize_u64(self, value: u64) -> Result<(), Error> {
        self.unsigned(value)
    }

    fn serialize_u128(self, value: u128) -> Result<(), Error> {
        self.serialize_bytes(&value.to_be_bytes())
    }

    fn serialize_f32(self, value: f32) -> Result<(), Error> {
        self.marked(F32, value.to_be_bytes())
    }

    fn serialize_f64(self, value: f64) -> Result<(), Error> {
        self.marked(F64, value.to_be_bytes())
    }

    fn serialize_char(self, value: char) -> Result<(), Error> {
        self.text(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<(), Error> {
        self.text(value)
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), Error> {
        if std::mem::take(&mut self.is_blob) {
            let length = u32::try_from(value.len()).map_err(|_| Error::TooLong)?;
            self.marked(EXT32, length.to_be_bytes())?;
            self.put(&[BLOB])?;
        } else {
            self.length(&BIN, value.len())?;
        }
        self.put(value)
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.nil()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        // There are fewer levels than a byte can count.
        self.somes += 1;
        self.nested(value)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        self.nil()
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Error> {
        // Not an empty list, as which serde's buffers would not give it back.
        self.nil()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), Error> {
        self.text(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        self.is_blob = name == BLOB_NAME;
        self.nested(value)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        self.variant(variant)?;
        self.nested(value)
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<Compound<'e, O>, Error> {
        self.begin(&ARRAY, length)
    }

    fn collect_seq<I>(self, items: I) -> Result<(), Error>
    where
        I: IntoIterator<Item: Serialize>,
    {
        let items = items.into_iter();
        let length = match items.size_hint() {
            (least, most) if most == Some(least) => Some(least),
            _ => None,
        };
        // A `[u8]` and a `Vec<u8>` come here. Their elements have no other sign.
        let item = type_name::<I::Item>();
        if let Some(length) = length.filter(|_| item == type_name::<&u8>() || item == type_name::<u8>()) {
            return self.run(items, length);
        }
        let mut list = self.begin(&ARRAY, length)?;
        for item in items {
            list.element(&item)?;
        }
        list.finish()
    }

    fn serialize_tuple(self, length: usize) -> Result<Compound<'e, O>, Error> {
        if std::mem::take(&mut self.is_bare) {
            self.enter()?;
            return Ok(Compound {
                encoder: self,
                announced: Announced::Length(length),
                written: 0,
                levels: 1,
            });
        }
        self.begin(&ARRAY, Some(length))
    }

    fn serialize_tuple_struct(self, _: &'static str, length: usize) -> Result<Compound<'e, O>, Error> {
        self.begin(&ARRAY, Some(length))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Compound<'e, O>, Error> {
        self.begin_variant(variant, &ARRAY, length)
    }

    fn serialize_map(self, length: Option<usize>) -> Result<Compound<'e, O>, Error> {
        self.begin(&MAP, length)
    }

    fn serialize_struct(self, _: &'static str, length: usize) -> Result<Compound<'e, O>, Error> {
        self.begin(&MAP, Some(length))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Compound<'e, O>, Error> {
        self.begin_variant(variant, &MAP, length)
    }
}

/// Implements serde's traits of lists, which differ in their names alone.
macro_rules! write_elements {
    ($($list:ident: $method:ident),*) => {
        $(impl<O: Output> ser::$list for Compound<'_, O> {
            type Ok = ();
            type Error = Error;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
                self.element(value)
            }

            fn end(self) -> Result<(), Error> {
                self.finish()
            }
        })*
    };
}

write_elements!(
    SerializeSeq: serialize_element,
    SerializeTuple: serialize_element,
    SerializeTupleStruct: serialize_field,
    SerializeTupleVariant: serialize_field
);

impl<O: Output> ser::SerializeMap for Compound<'_, O> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.element(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        value.serialize(&mut *self.encoder)
    }

    fn end(self) -> Result<(), Error> {
        self.finish()
    }
}

/// Implements serde's traits of named fields, which differ in their names alone.
macro_rules! write_fields {
    ($($fields:ident),*) => {
        $(impl<O: Output> ser::$fields for Compound<'_, O> {
            type Ok = ();
            type Error = Error;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), Error> {
                self.field(name, value)
            }

            fn end(self) -> Result<(), Error> {
                self.finish()
            }
        })*
    };
}

write_fields!(SerializeStruct, SerializeStructVariant);
