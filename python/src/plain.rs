//! Plain values in MessagePack, for calls between languages and between machines: None, bool, integers of 64 bits, float,
//! str, bytes, lists and dicts. Reading them runs no code.
//!
//! The format is the one in which the engine encodes calls: arguments follow each other without a head, and an empty
//! body is None. A tuple arrives as a list, and a bytearray as bytes. The reader believes nothing: it checks each length
//! against what has come, and limits the depth.

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple, PyType};

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
            self.0.push(0xc0);
        } else if let Ok(value) = value.cast_exact::<PyBool>() {
            self.0.push(if value.is_true() { 0xc3 } else { 0xc2 });
        } else if let Ok(value) = value.cast_exact::<PyInt>() {
            self.int(value)?;
        } else if let Ok(value) = value.cast_exact::<PyFloat>() {
            self.0.push(0xcb);
            self.0.extend(value.value().to_be_bytes());
        } else if let Ok(value) = value.cast_exact::<PyString>() {
            let text = value.to_cow()?;
            self.head(text.len(), 0xa0, 32, Some(0xd9), [0xda, 0xdb])?;
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
            self.head(value.len(), 0x80, 16, None, [0xde, 0xdf])?;
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
            match value {
                0..=0x7f => self.0.push(value.to_be_bytes()[7]),
                -0x20..=-1 => self.0.push(value.to_be_bytes()[7]),
                _ => {
                    self.0.push(0xd3);
                    self.0.extend(value.to_be_bytes());
                }
            }
        } else if let Ok(value) = value.extract::<u64>() {
            self.0.push(0xcf);
            self.0.extend(value.to_be_bytes());
        } else {
            return Err(PyOverflowError::new_err(
                "plain data has integers of up to 64 bits; send a longer one as bytes (`int.to_bytes`)",
            ));
        }
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> PyResult<()> {
        self.head(bytes.len(), 0, 0, Some(0xc4), [0xc5, 0xc6])?;
        self.0.extend(bytes);
        Ok(())
    }

    fn list_head(&mut self, length: usize) -> PyResult<()> {
        self.head(length, 0x90, 16, None, [0xdc, 0xdd])
    }

    /// Writes the head of a value with this length. `fix` is the marker of the length 0, to which up to `count` lengths
    /// are added; the other markers precede lengths of one, two and four bytes.
    fn head(
        &mut self,
        length: usize,
        fix: u8,
        count: usize,
        short: Option<u8>,
        long: [u8; 2],
    ) -> PyResult<()> {
        let number =
            u32::try_from(length).map_err(|_| PyValueError::new_err("plain data is longer than 4 GiB"))?;
        let bytes = number.to_be_bytes();
        match (length, short) {
            (length, _) if length < count => self.0.push(fix + bytes[3]),
            (0..=0xff, Some(short)) => self.0.extend([short, bytes[3]]),
            (0..=0xffff, _) => self.0.extend([long[0], bytes[2], bytes[3]]),
            _ => {
                self.0.push(long[1]);
                self.0.extend(bytes);
            }
        }
        Ok(())
    }
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
    /// What was not read yet.
    bytes: &'a [u8],
}

impl<'a, 'py> Reader<'a, 'py> {
    fn value(&mut self, depth: usize) -> PyResult<Bound<'py, PyAny>> {
        let py = self.py;
        let [marker] = self.take()?;
        Ok(match marker {
            0x00..=0x7f => int(py, marker)?,
            0xe0..=0xff => int(py, i8::from_be_bytes([marker]))?,
            0xc0 => py.None().into_bound(py),
            0xc2 | 0xc3 => PyBool::new(py, marker == 0xc3).to_owned().into_any(),
            0xca => PyFloat::new(py, f32::from_be_bytes(self.take()?).into()).into_any(),
            0xcb => PyFloat::new(py, f64::from_be_bytes(self.take()?)).into_any(),
            0xcc => int(py, u8::from_be_bytes(self.take()?))?,
            0xcd => int(py, u16::from_be_bytes(self.take()?))?,
            0xce => int(py, u32::from_be_bytes(self.take()?))?,
            0xcf => int(py, u64::from_be_bytes(self.take()?))?,
            0xd0 => int(py, i8::from_be_bytes(self.take()?))?,
            0xd1 => int(py, i16::from_be_bytes(self.take()?))?,
            0xd2 => int(py, i32::from_be_bytes(self.take()?))?,
            0xd3 => int(py, i64::from_be_bytes(self.take()?))?,
            0xd4 => match self.take()? {
                [SOME, _] => py.None().into_bound(py),
                _ => return Err(malformed("an extension of it is not known")),
            },
            0xc9 => {
                let length = self.length32()?;
                let [kind] = self.take()?;
                let content = self.slice(length)?;
                match kind {
                    BLOB => PyBytes::new(py, content).into_any(),
                    _ => return Err(malformed("an extension of it is not known")),
                }
            }
            0xa0..=0xbf => self.text(usize::from(marker & 0x1f))?,
            0xd9 => {
                let length = self.length8()?;
                self.text(length)?
            }
            0xda => {
                let length = self.length16()?;
                self.text(length)?
            }
            0xdb => {
                let length = self.length32()?;
                self.text(length)?
            }
            0xc4 => {
                let length = self.length8()?;
                PyBytes::new(py, self.slice(length)?).into_any()
            }
            0xc5 => {
                let length = self.length16()?;
                PyBytes::new(py, self.slice(length)?).into_any()
            }
            0xc6 => {
                let length = self.length32()?;
                PyBytes::new(py, self.slice(length)?).into_any()
            }
            0x90..=0x9f => self.list(usize::from(marker & 0x0f), depth)?,
            0xdc => {
                let length = self.length16()?;
                self.list(length, depth)?
            }
            0xdd => {
                let length = self.length32()?;
                self.list(length, depth)?
            }
            0x80..=0x8f => self.dict(usize::from(marker & 0x0f), depth)?,
            0xde => {
                let length = self.length16()?;
                self.dict(length, depth)?
            }
            0xdf => {
                let length = self.length32()?;
                self.dict(length, depth)?
            }
            _ => return Err(malformed("a byte begins no value")),
        })
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
