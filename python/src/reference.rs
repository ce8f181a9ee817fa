//! References to functions, which stand before a pickle of their arguments.
//!
//! Most calls are of functions at the top level of modules that both sides have imported. Plain pickle sends the names of
//! such a function, too, but to check and to find it takes longer than everything else about a short call.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::interpreter;
use crate::pickle;

/// The first byte. A pickle begins with another one, and so does what may precede a call: see `perform`.
const BY_NAME: u8 = 1;

/// Returns the reference to a function; none if its names are too long.
pub(crate) fn write(module: &str, name: &str) -> Vec<u8> {
    let lengths = [module, name].map(|text| u16::try_from(text.len()));
    let [Ok(module_length), Ok(name_length)] = lengths else { return Vec::new() };
    let mut bytes = Vec::with_capacity(5 + module.len() + name.len());
    bytes.push(BY_NAME);
    bytes.extend(module_length.to_le_bytes());
    bytes.extend(name_length.to_le_bytes());
    bytes.extend(module.as_bytes());
    bytes.extend(name.as_bytes());
    bytes
}

/// Returns the names in a reference, and its length, if the bytes begin with one.
pub(crate) fn read(bytes: &[u8]) -> Option<(&str, &str, usize)> {
    let (head, texts) = bytes.split_first_chunk::<5>()?;
    let [BY_NAME, module @ .., _, _] = *head else { return None };
    let module_length = usize::from(u16::from_le_bytes(module));
    let name_length = usize::from(u16::from_le_bytes([head[3], head[4]]));
    let (module, texts) = texts.split_at_checked(module_length)?;
    let name = texts.get(..name_length)?;
    let text = |bytes| std::str::from_utf8(bytes).ok();
    Some((text(module)?, text(name)?, 5 + module_length + name_length))
}

/// Returns the function that a reference names. Imports its module if need be. Raises what unpickling would raise.
pub(crate) fn find<'py>(py: Python<'py>, module: &str, name: &str) -> PyResult<Bound<'py, PyAny>> {
    let found = interpreter::imported(&PyString::new(py, module))
        .map(|module| module.getattr_opt(PyString::new(py, name)))
        .transpose()?
        .flatten();
    if let Some(function) = found {
        return Ok(function);
    }
    let pickled = [b"\x80\x05c", module.as_bytes(), b"\n", name.as_bytes(), b"\n."].concat();
    pickle::loads(PyBytes::new(py, &pickled).as_any(), None)
}
