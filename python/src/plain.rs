//! Plain values in MessagePack, for calls between languages and between machines: None, bool, integers of 64 bits, float,
//! str, bytes, lists and dicts. Reading them runs no code.
//!
//! The format is the one in which the engine encodes calls: arguments follow each other without a head, and an empty
//! body is None. A tuple arrives as a list, and a bytearray as bytes. The reader believes nothing: it checks each length
//! against what has come, and limits the depth.

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple, PyType};
use rmp::{Marker, encode};

/// The deepest nesting of containers, as that of the engine's encoding.
const DEPTH: usize = 128;

/// The type of the extension that stands for a nil within optional values of Rust.
const SOME: u8 = 1;

/// The type of the extension whose content is bytes.
const BLOB: u8 = 3;

/// Returns one plain value in MessagePack. Raises `TypeError` for a value that is not plain, `OverflowError` for an integer
/// of more than 64 bits, and `ValueError` for a value that is nested too deeply.
#[pyfunction]
pub(crate) fn encode_plain<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let mut writer = Writer(Vec::new());
    writer.value(value, 0)?;
    Ok(PyBytes::new(value.py(), &writer.0))
}

/// Returns the arguments of a call in MessagePack, one after the other.
#[pyfunction]
pub(crate) fn encode_plain_arguments<'py>(arguments: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyBytes>> {
    let mut writer = Writer(Vec::new());
    arguments.iter().try_for_each(|argument| writer.value(&argument, 0))?;
    Ok(PyBytes::new(arguments.py(), &writer.0))
}

/// Returns the value that these bytes hold. Raises `ValueError` if they are something else.
#[pyfunction]
pub(crate) fn decode_plain<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    if bytes.is_empty() {
        return Ok(py.None().into_bound(py));
    }
    let mut reader = Reader { py, bytes };
    let value = reader.value(0)?;
    if reader.bytes.is_empty() { Ok(value) } else { Err(malformed("there is more than one value")) }
}

/// Returns the arguments that these bytes hold, one after the other. Raises `ValueError` if they are something else.
#[pyfunction]
pub(crate) fn decode_plain_arguments<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyTuple>> {
    let mut reader = Reader { py, bytes };
    let mut arguments = Vec::new();
    while !reader.bytes.is_empty() {
        arguments.push(reader.value(0)?);
    }
    PyTuple::new(py, arguments)
}

fn malformed(what: &str) -> PyErr {
    PyValueError::new_err(format!("this is no plain data: {what}"))
}

struct Writer(Vec<u8>);

impl Writer {
    fn value(&mut self, value: &Bound<'_, PyAny>, depth: usize) -> PyResult<()> {
        // Only the types themselves: a subclass would arrive as something else.
        if value.is_none() {
            written(encode::write_nil(&mut self.0))?;
        } else if let Ok(value) = value.cast_exact::<PyBool>() {
            written(encode::write_bool(&mut self.0, value.is_true()))?;
        } else if let Ok(value) = value.cast_exact::<PyInt>() {
            self.int(value)?;
        } else if let Ok(value) = value.cast_exact::<PyFloat>() {
            written(encode::write_f64(&mut self.0, value.value()))?;
        } else if let Ok(value) = value.cast_exact::<PyString>() {
            let text = value.to_cow()?;
            written(encode::write_str_len(&mut self.0, length(text.len())?))?;
            self.0.extend(text.as_bytes());
        } else if let Ok(value) = value.cast_exact::<PyBytes>() {
            self.bytes(value.as_bytes())?;
        } else if let Ok(value) = value.cast_exact::<PyByteArray>() {
            self.bytes(&value.to_vec())?;
        } else {
            self.container(value, depth)?;
        }
        Ok(())
    }

    fn container(&mut self, value: &Bound<'_, PyAny>, depth: usize) -> PyResult<()> {
        if depth == DEPTH {
            let text = format!("plain data is nested more than {DEPTH} levels deep, or contains itself");
            return Err(PyValueError::new_err(text));
        }
        if let Ok(value) = value.cast_exact::<PyList>() {
            self.list_head(value.len())?;
            value.iter().try_for_each(|item| self.value(&item, depth + 1))
        } else if let Ok(value) = value.cast_exact::<PyTuple>() {
            self.list_head(value.len())?;
            value.iter().try_for_each(|item| self.value(&item, depth + 1))
        } else if let Ok(value) = value.cast_exact::<PyDict>() {
            written(encode::write_map_len(&mut self.0, length(value.len())?))?;
            value.iter().try_for_each(|(key, item)| {
                self.value(&key, depth + 1)?;
                self.value(&item, depth + 1)
            })
        } else {
            Err(not_plain(&value.get_type()))
        }
    }

    fn int(&mut self, value: &Bound<'_, PyInt>) -> PyResult<()> {
        if let Ok(value) = value.extract::<i64>() {
            written(encode::write_sint(&mut self.0, value))
        } else if let Ok(value) = value.extract::<u64>() {
            written(encode::write_uint(&mut self.0, value))
        } else {
            Err(PyOverflowError::new_err(
                "plain data has integers of up to 64 bits; send a longer one as bytes (`int.to_bytes`)",
            ))
        }
    }

    fn bytes(&mut self, bytes: &[u8]) -> PyResult<()> {
        written(encode::write_bin_len(&mut self.0, length(bytes.len())?))?;
        self.0.extend(bytes);
        Ok(())
    }

    fn list_head(&mut self, items: usize) -> PyResult<()> {
        written(encode::write_array_len(&mut self.0, length(items)?))
    }
}

/// Writing to memory does not fail.
fn written<T, E: std::fmt::Display>(result: Result<T, E>) -> PyResult<()> {
    result.map(drop).map_err(|error| PyValueError::new_err(error.to_string()))
}

fn length(length: usize) -> PyResult<u32> {
    u32::try_from(length).map_err(|_| PyValueError::new_err("plain data is longer than 4 GiB"))
}

fn not_plain(class: &Bound<'_, PyType>) -> PyErr {
    let module = class.module().map(|it| it.to_string()).unwrap_or_default();
    let name = class.qualname().map(|it| it.to_string()).unwrap_or_default();
    PyTypeError::new_err(format!(
        "calls by name take and return None, bool, int, float, str, bytes, bytearray, list, tuple and dict, but the value \
         has a {module}.{name}; make it one of these, or let both sides accept pickles"
    ))
}

struct Reader<'a, 'py> {
    py: Python<'py>,
    /// The bytes that were not read yet.
    bytes: &'a [u8],
}

impl<'a, 'py> Reader<'a, 'py> {
    fn value(&mut self, depth: usize) -> PyResult<Bound<'py, PyAny>> {
        let py = self.py;
        let [marker] = self.take()?;
        Ok(match Marker::from_u8(marker) {
            Marker::Null => py.None().into_bound(py),
            Marker::True => PyBool::new(py, true).to_owned().into_any(),
            Marker::False => PyBool::new(py, false).to_owned().into_any(),
            Marker::F32 => PyFloat::new(py, f32::from_be_bytes(self.take()?).into()).into_any(),
            Marker::F64 => PyFloat::new(py, f64::from_be_bytes(self.take()?)).into_any(),
            Marker::FixPos(number) => int(py, number)?,
            Marker::FixNeg(number) => int(py, number)?,
            Marker::U8 => int(py, u8::from_be_bytes(self.take()?))?,
            Marker::U16 => int(py, u16::from_be_bytes(self.take()?))?,
            Marker::U32 => int(py, u32::from_be_bytes(self.take()?))?,
            Marker::U64 => int(py, u64::from_be_bytes(self.take()?))?,
            Marker::I8 => int(py, i8::from_be_bytes(self.take()?))?,
            Marker::I16 => int(py, i16::from_be_bytes(self.take()?))?,
            Marker::I32 => int(py, i32::from_be_bytes(self.take()?))?,
            Marker::I64 => int(py, i64::from_be_bytes(self.take()?))?,
            Marker::FixExt1 => match self.take()? {
                [SOME, _] => py.None().into_bound(py),
                _ => return Err(malformed("an extension of it is not known")),
            },
            Marker::Ext32 => {
                let length = self.length32()?;
                let [kind] = self.take()?;
                let content = self.slice(length)?;
                match kind {
                    BLOB => PyBytes::new(py, content).into_any(),
                    _ => return Err(malformed("an extension of it is not known")),
                }
            }
            Marker::FixStr(length) => self.text(length.into())?,
            Marker::Str8 => self.length8().and_then(|length| self.text(length))?,
            Marker::Str16 => self.length16().and_then(|length| self.text(length))?,
            Marker::Str32 => self.length32().and_then(|length| self.text(length))?,
            Marker::Bin8 => self.length8().and_then(|length| self.block(length))?,
            Marker::Bin16 => self.length16().and_then(|length| self.block(length))?,
            Marker::Bin32 => self.length32().and_then(|length| self.block(length))?,
            Marker::FixArray(length) => self.list(length.into(), depth)?,
            Marker::Array16 => self.length16().and_then(|length| self.list(length, depth))?,
            Marker::Array32 => self.length32().and_then(|length| self.list(length, depth))?,
            Marker::FixMap(length) => self.dict(length.into(), depth)?,
            Marker::Map16 => self.length16().and_then(|length| self.dict(length, depth))?,
            Marker::Map32 => self.length32().and_then(|length| self.dict(length, depth))?,
            _ => return Err(malformed("a byte begins no value")),
        })
    }

    fn block(&mut self, length: usize) -> PyResult<Bound<'py, PyAny>> {
        Ok(PyBytes::new(self.py, self.slice(length)?).into_any())
    }

    fn text(&mut self, length: usize) -> PyResult<Bound<'py, PyAny>> {
        let text = std::str::from_utf8(self.slice(length)?).map_err(|_| malformed("a text is not UTF-8"))?;
        Ok(PyString::new(self.py, text).into_any())
    }

    fn list(&mut self, length: usize, depth: usize) -> PyResult<Bound<'py, PyAny>> {
        self.check(length, depth)?;
        let items = (0..length).map(|_| self.value(depth + 1)).collect::<PyResult<Vec<_>>>()?;
        Ok(PyList::new(self.py, items)?.into_any())
    }

    fn dict(&mut self, length: usize, depth: usize) -> PyResult<Bound<'py, PyAny>> {
        self.check(length.saturating_mul(2), depth)?;
        let dict = PyDict::new(self.py);
        for _ in 0..length {
            let (key, item) = (self.value(depth + 1)?, self.value(depth + 1)?);
            dict.set_item(key, item).map_err(|_| malformed("a key has no hash"))?;
        }
        Ok(dict.into_any())
    }

    /// Checks a container before memory is taken for it. Each of its values has at least one byte.
    fn check(&self, values: usize, depth: usize) -> PyResult<()> {
        if depth >= DEPTH {
            Err(malformed("it is nested too deeply"))
        } else if values > self.bytes.len() {
            Err(malformed("a length is larger than what has come"))
        } else {
            Ok(())
        }
    }

    fn length8(&mut self) -> PyResult<usize> {
        Ok(u8::from_be_bytes(self.take()?).into())
    }

    fn length16(&mut self) -> PyResult<usize> {
        Ok(u16::from_be_bytes(self.take()?).into())
    }

    fn length32(&mut self) -> PyResult<usize> {
        Ok(u32::from_be_bytes(self.take()?) as usize)
    }

    fn slice(&mut self, length: usize) -> PyResult<&'a [u8]> {
        let cut = || malformed("a length is larger than what has come");
        let (slice, rest) = self.bytes.split_at_checked(length).ok_or_else(cut)?;
        self.bytes = rest;
        Ok(slice)
    }

    fn take<const N: usize>(&mut self) -> PyResult<[u8; N]> {
        let (bytes, rest) = self.bytes.split_first_chunk().ok_or_else(|| malformed("it ends too early"))?;
        self.bytes = rest;
        Ok(*bytes)
    }
}

fn int<'py, T: IntoPyObject<'py, Target = PyInt, Output = Bound<'py, PyInt>>>(
    py: Python<'py>,
    number: T,
) -> PyResult<Bound<'py, PyAny>> {
    Ok(number.into_pyobject(py).map_err(Into::into)?.into_any())
}
