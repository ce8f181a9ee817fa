//! Plain values as bytes, for results that come from a worker which is not trusted: reading them runs no code.
//!
//! Each value is a tag and what belongs to it; numbers are little-endian, and a length is a `u32`. Long byte strings
//! travel beside the bytes, in the order of their tags. The reader believes nothing: it checks each length against what
//! has come, limits the depth, and refuses what is left over.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{
    IntoPyDict, PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PyMemoryView,
    PySet, PyString, PyTuple, PyType,
};

/// The deepest nesting of containers.
const DEPTH: usize = 128;

/// The length in bytes from which byte strings travel beside the rest.
const LONG: usize = 16 * 1024;

/// The formats of elements for which Python can make a view of plain bytes.
const FORMATS: &str = "cbB?hHiIlLqQnNfd";

mod tag {
    pub(super) const NONE: u8 = b'N';
    pub(super) const TRUE: u8 = b'T';
    pub(super) const FALSE: u8 = b'F';
    /// An `i64`.
    pub(super) const INT: u8 = b'i';
    /// A longer integer: its bytes, in two's complement.
    pub(super) const LONG_INT: u8 = b'I';
    pub(super) const FLOAT: u8 = b'f';
    /// UTF-8, in which surrogates may stand alone.
    pub(super) const STR: u8 = b's';
    pub(super) const BYTES: u8 = b'b';
    pub(super) const BYTEARRAY: u8 = b'a';
    /// The same two, beside the rest.
    pub(super) const LONG_BYTES: u8 = b'B';
    pub(super) const LONG_BYTEARRAY: u8 = b'A';
    /// A format, a number of dimensions and the length of each, as `u64`; the bytes are beside the rest.
    pub(super) const MEMORYVIEW: u8 = b'm';
    pub(super) const LIST: u8 = b'l';
    pub(super) const TUPLE: u8 = b't';
    pub(super) const DICT: u8 = b'd';
    pub(super) const SET: u8 = b'S';
    pub(super) const FROZENSET: u8 = b'Z';
}

/// Returns a plain value as bytes, and the long byte strings and views in it that travel beside them: none unless
/// `beside`. Raises `TypeError` for a value that is not plain, and `ValueError` for one that is nested too deeply.
#[pyfunction]
pub(crate) fn encode_data<'py>(
    value: &Bound<'py, PyAny>,
    beside: bool,
) -> PyResult<(Bound<'py, PyBytes>, Vec<Bound<'py, PyAny>>)> {
    let mut writer = Writer { bytes: Vec::new(), buffers: Vec::new(), beside };
    writer.value(value, 0)?;
    Ok((PyBytes::new(value.py(), &writer.bytes), writer.buffers))
}

/// Returns the value that `encode_data` was given. Raises `ValueError` for anything else. Runs no code but its own.
#[pyfunction]
#[expect(clippy::needless_pass_by_value, reason = "a sequence of Python becomes a vector")]
pub(crate) fn decode_data<'py>(
    body: &Bound<'py, PyBytes>,
    buffers: Vec<Bound<'py, PyBytes>>,
) -> PyResult<Bound<'py, PyAny>> {
    let mut reader = Reader { py: body.py(), bytes: body.as_bytes(), buffers: buffers.iter() };
    let value = reader.value(0)?;
    if reader.bytes.is_empty() && reader.buffers.next().is_none() {
        return Ok(value);
    }
    Err(malformed("there is more than one value"))
}

fn malformed(what: &str) -> PyErr {
    PyValueError::new_err(format!("a worker sent malformed data: {what}"))
}

struct Writer<'py> {
    bytes: Vec<u8>,
    buffers: Vec<Bound<'py, PyAny>>,
    /// Long byte strings travel beside the rest.
    beside: bool,
}

impl<'py> Writer<'py> {
    fn value(&mut self, value: &Bound<'py, PyAny>, depth: usize) -> PyResult<()> {
        // Only the types themselves: a subclass would arrive as something else.
        if value.is_none() {
            self.bytes.push(tag::NONE);
        } else if let Ok(value) = value.cast_exact::<PyBool>() {
            self.bytes.push(if value.is_true() { tag::TRUE } else { tag::FALSE });
        } else if let Ok(value) = value.cast_exact::<PyInt>() {
            self.int(value)?;
        } else if let Ok(value) = value.cast_exact::<PyFloat>() {
            self.bytes.push(tag::FLOAT);
            self.bytes.extend_from_slice(&value.value().to_le_bytes());
        } else if let Ok(value) = value.cast_exact::<PyString>() {
            if let Ok(text) = value.to_cow() {
                self.counted(tag::STR, text.as_bytes())?;
            } else {
                let text = value.call_method1("encode", ("utf-8", "surrogatepass"))?;
                self.counted(tag::STR, text.cast::<PyBytes>()?.as_bytes())?;
            }
        } else if let Ok(value) = value.cast_exact::<PyBytes>() {
            if self.beside && value.as_bytes().len() >= LONG {
                self.buffer(tag::LONG_BYTES, value);
            } else {
                self.counted(tag::BYTES, value.as_bytes())?;
            }
        } else if let Ok(value) = value.cast_exact::<PyByteArray>() {
            if self.beside && value.len() >= LONG {
                self.buffer(tag::LONG_BYTEARRAY, value);
            } else {
                self.counted(tag::BYTEARRAY, &value.to_vec())?;
            }
        } else if value.is_exact_instance_of::<PyMemoryView>() && self.beside {
            self.view(value)?;
        } else {
            self.container(value, depth)?;
        }
        Ok(())
    }

    fn container(&mut self, value: &Bound<'py, PyAny>, depth: usize) -> PyResult<()> {
        if depth == DEPTH {
            let text = format!("data is nested more than {DEPTH} levels deep, or contains itself");
            return Err(PyValueError::new_err(text));
        }
        if let Ok(value) = value.cast_exact::<PyList>() {
            self.head(tag::LIST, value.len())?;
            value.iter().try_for_each(|item| self.value(&item, depth + 1))
        } else if let Ok(value) = value.cast_exact::<PyTuple>() {
            self.head(tag::TUPLE, value.len())?;
            value.iter().try_for_each(|item| self.value(&item, depth + 1))
        } else if let Ok(value) = value.cast_exact::<PyDict>() {
            self.head(tag::DICT, value.len())?;
            value.iter().try_for_each(|(key, item)| {
                self.value(&key, depth + 1)?;
                self.value(&item, depth + 1)
            })
        } else if let Ok(value) = value.cast_exact::<PySet>() {
            self.head(tag::SET, value.len())?;
            value.iter().try_for_each(|item| self.value(&item, depth + 1))
        } else if let Ok(value) = value.cast_exact::<PyFrozenSet>() {
            self.head(tag::FROZENSET, value.len())?;
            value.iter().try_for_each(|item| self.value(&item, depth + 1))
        } else {
            Err(not_plain(&value.get_type()))
        }
    }

    fn int(&mut self, value: &Bound<'py, PyInt>) -> PyResult<()> {
        if let Ok(value) = value.extract::<i64>() {
            self.bytes.push(tag::INT);
            self.bytes.extend_from_slice(&value.to_le_bytes());
            return Ok(());
        }
        let length = value.call_method0("bit_length")?.extract::<usize>()? / 8 + 1;
        let signed = [("signed", true)].into_py_dict(value.py())?;
        let bytes = value.call_method("to_bytes", (length, "little"), Some(&signed))?;
        self.counted(tag::LONG_INT, bytes.cast::<PyBytes>()?.as_bytes())
    }

    fn view(&mut self, value: &Bound<'py, PyAny>) -> PyResult<()> {
        let format: String = value.getattr("format")?.extract()?;
        let format = format.strip_prefix('@').unwrap_or(&format);
        let shape: Vec<u64> = value.getattr("shape")?.extract()?;
        let is_contiguous: bool = value.getattr("c_contiguous")?.extract()?;
        let dimensions = u8::try_from(shape.len()).unwrap_or(0);
        let is_simple = dimensions == 1 || (dimensions > 1 && !shape.contains(&0));
        if format.len() != 1 || !FORMATS.contains(format) || !is_contiguous || !is_simple {
            return Err(PyTypeError::new_err(format!(
                "results=\"data\" cannot send a memoryview of format {format:?} and shape {shape:?}; it must be \
                 contiguous, with elements of a native type"
            )));
        }
        self.buffer(tag::MEMORYVIEW, value);
        self.bytes.extend_from_slice(format.as_bytes());
        self.bytes.push(dimensions);
        self.bytes.extend(shape.iter().flat_map(|length| length.to_le_bytes()));
        Ok(())
    }

    fn head(&mut self, tag: u8, length: usize) -> PyResult<()> {
        let length = u32::try_from(length).map_err(|_| PyValueError::new_err("data is longer than 4 GiB"))?;
        self.bytes.push(tag);
        self.bytes.extend_from_slice(&length.to_le_bytes());
        Ok(())
    }

    fn counted(&mut self, tag: u8, bytes: &[u8]) -> PyResult<()> {
        self.head(tag, bytes.len())?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn buffer(&mut self, tag: u8, value: &Bound<'py, PyAny>) {
        self.bytes.push(tag);
        self.buffers.push(value.clone());
    }
}

fn not_plain(class: &Bound<'_, PyType>) -> PyErr {
    let module = class.module().map(|it| it.to_string()).unwrap_or_default();
    let name = class.qualname().map(|it| it.to_string()).unwrap_or_default();
    PyTypeError::new_err(format!(
        "results=\"data\" takes None, bool, int, float, str, bytes, bytearray, memoryview, list, tuple, dict, set and \
         frozenset, but the value has a {module}.{name}; make it one of these before it is returned"
    ))
}

struct Reader<'a, 'py> {
    py: Python<'py>,
    /// What was not read yet.
    bytes: &'a [u8],
    /// The byte strings beside it that were not read yet.
    buffers: std::slice::Iter<'a, Bound<'py, PyBytes>>,
}

impl<'a, 'py> Reader<'a, 'py> {
    fn value(&mut self, depth: usize) -> PyResult<Bound<'py, PyAny>> {
        let py = self.py;
        Ok(match self.take::<1>()?[0] {
            tag::NONE => py.None().into_bound(py),
            tag::TRUE => PyBool::new(py, true).to_owned().into_any(),
            tag::FALSE => PyBool::new(py, false).to_owned().into_any(),
            tag::INT => i64::from_le_bytes(self.take()?).into_pyobject(py)?.into_any(),
            tag::LONG_INT => {
                let bytes = PyBytes::new(py, self.counted()?);
                let signed = [("signed", true)].into_py_dict(py)?;
                py.get_type::<PyInt>().call_method("from_bytes", (bytes, "little"), Some(&signed))?
            }
            tag::FLOAT => PyFloat::new(py, f64::from_le_bytes(self.take()?)).into_any(),
            tag::STR => {
                let bytes = self.counted()?;
                match std::str::from_utf8(bytes) {
                    Ok(text) => PyString::new(py, text).into_any(),
                    Err(_) => PyBytes::new(py, bytes)
                        .call_method1("decode", ("utf-8", "surrogatepass"))
                        .map_err(|_| malformed("a text is not UTF-8"))?,
                }
            }
            tag::BYTES => PyBytes::new(py, self.counted()?).into_any(),
            tag::BYTEARRAY => PyByteArray::new(py, self.counted()?).into_any(),
            tag::LONG_BYTES => self.buffer()?.clone().into_any(),
            tag::LONG_BYTEARRAY => PyByteArray::new(py, self.buffer()?.as_bytes()).into_any(),
            tag::MEMORYVIEW => self.view()?,
            container => {
                if depth == DEPTH {
                    return Err(malformed("it is nested too deeply"));
                }
                self.container(container, depth + 1)?
            }
        })
    }

    fn container(&mut self, container: u8, depth: usize) -> PyResult<Bound<'py, PyAny>> {
        let py = self.py;
        // A set or a dict refuses what has no hash, such as a list.
        let unhashable = |_| malformed("a key has no hash");
        Ok(match container {
            tag::LIST => PyList::new(py, self.items(depth)?)?.into_any(),
            tag::TUPLE => PyTuple::new(py, self.items(depth)?)?.into_any(),
            tag::SET => {
                let set = PySet::empty(py)?;
                self.items(depth)?.into_iter().try_for_each(|item| set.add(item)).map_err(unhashable)?;
                set.into_any()
            }
            tag::FROZENSET => PyFrozenSet::new(py, self.items(depth)?).map_err(unhashable)?.into_any(),
            tag::DICT => {
                let dict = PyDict::new(py);
                for _ in 0..self.length(2)? {
                    let (key, item) = (self.value(depth)?, self.value(depth)?);
                    dict.set_item(key, item).map_err(unhashable)?;
                }
                dict.into_any()
            }
            _ => return Err(malformed("there is no such type")),
        })
    }

    fn items(&mut self, depth: usize) -> PyResult<Vec<Bound<'py, PyAny>>> {
        (0..self.length(1)?).map(|_| self.value(depth)).collect()
    }

    fn view(&mut self) -> PyResult<Bound<'py, PyAny>> {
        let [format, dimensions] = self.take()?;
        let shape =
            (0..dimensions).map(|_| self.take().map(u64::from_le_bytes)).collect::<PyResult<Vec<u64>>>()?;
        if !format.is_ascii() || !FORMATS.contains(char::from(format)) || shape.is_empty() {
            return Err(malformed("there is no such view"));
        }
        let format = char::from(format).to_string();
        let view = PyMemoryView::from(&PyByteArray::new(self.py, self.buffer()?.as_bytes()))?;
        // Checks that the shape has as many elements as there are.
        let cast = if shape.len() == 1 {
            view.call_method1("cast", (format,))
        } else {
            view.call_method1("cast", (format, shape.clone()))
        };
        let cast = cast.map_err(|_| malformed("a view has another shape than its bytes"))?;
        if shape.len() == 1 && cast.len()? as u64 != shape[0] {
            return Err(malformed("a view has another length than its bytes"));
        }
        Ok(cast)
    }

    /// Reads the number of entries of a container, each of which has at least `least` bytes.
    fn length(&mut self, least: usize) -> PyResult<usize> {
        let length = u32::from_le_bytes(self.take()?) as usize;
        if length > self.bytes.len() / least {
            return Err(malformed("a length is larger than what has come"));
        }
        Ok(length)
    }

    fn counted(&mut self) -> PyResult<&'a [u8]> {
        let length = self.length(1)?;
        let (bytes, rest) = self.bytes.split_at(length);
        self.bytes = rest;
        Ok(bytes)
    }

    fn buffer(&mut self) -> PyResult<&'a Bound<'py, PyBytes>> {
        self.buffers.next().ok_or_else(|| malformed("a byte string has not come"))
    }

    fn take<const N: usize>(&mut self) -> PyResult<[u8; N]> {
        let (bytes, rest) = self.bytes.split_first_chunk().ok_or_else(|| malformed("it ends too early"))?;
        self.bytes = rest;
        Ok(*bytes)
    }
}
