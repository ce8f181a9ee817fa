//! Python's buffer protocol in both directions: memory that an object exports, and objects that export shared memory.

use std::ffi::c_int;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, Ordering};

use offloop::{Blob, BlobMut, PrivateBlob};
use pyo3::ffi;
use pyo3::prelude::*;

use crate::interpreter::detach;

/// Contiguous memory that an object exports, in C's or Fortran's order, until this is dropped. As with any buffer, the
/// object's owner may write to it meanwhile.
///
/// `PyO3`'s own type refuses memory without a shape, which arrays without dimensions export.
struct Exported(Box<ffi::Py_buffer>);

impl Exported {
    fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mut view = Box::new(ffi::Py_buffer::new());
        // SAFETY: both pointers are valid, and the interpreter is attached.
        let failed =
            unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &raw mut *view, ffi::PyBUF_ANY_CONTIGUOUS) };
        if failed == 0 { Ok(Self(view)) } else { Err(PyErr::fetch(object.py())) }
    }

    fn bytes(&self) -> &[u8] {
        let length = usize::try_from(self.0.len).unwrap_or(0);
        match NonNull::new(self.0.buf.cast::<u8>()) {
            // SAFETY: the object keeps `length` bytes there until the view is released.
            Some(start) if length > 0 => unsafe { std::slice::from_raw_parts(start.as_ptr(), length) },
            _ => &[],
        }
    }
}

impl Drop for Exported {
    fn drop(&mut self) {
        // SAFETY: `PyObject_GetBuffer` has filled the view in, and it is released only here. `to_blob`, the only user,
        // is attached to the interpreter when it drops the value.
        unsafe { ffi::PyBuffer_Release(&raw mut *self.0) };
    }
}

/// The length in bytes from which the interpreter is released while memory is copied.
const LONG: usize = 256 * 1024;

/// Makes a byte string with room for a number of bytes, where its readers see it.
pub(crate) type Reserve<'a> = &'a (dyn Fn(usize) -> BlobMut + Sync);

/// Copies what `object` exports to memory that `reserve` makes for a number of bytes.
pub(crate) fn to_blob(object: &Bound<'_, PyAny>, reserve: Reserve<'_>) -> PyResult<Blob> {
    let exported = Exported::of(object)?;
    let bytes = exported.bytes();
    let copy = || {
        let mut blob = reserve(bytes.len());
        blob.extend_from_slice(bytes);
        blob.freeze()
    };
    if bytes.len() >= LONG { detach(object.py(), copy) } else { Ok(copy()) }
}

/// Returns an object that exports a blob, as memory that may be written to without changing the blob. The object owns
/// it.
pub(crate) fn from_blob<'py>(py: Python<'py>, blob: &Blob) -> PyResult<Bound<'py, Shared>> {
    let mut content = Box::new(blob.to_private());
    // Moving the box does not move the memory.
    let (start, length) = (AtomicPtr::new(content.as_mut_ptr()), content.len());
    Bound::new(py, Shared { start, length, is_read_only: false, content: Content::Private(content) })
}

/// Returns an object that exports what a blob has from `start` on, as memory that is only read. The object, and whatever
/// has a view of it, keep the memory.
pub(crate) fn view_of<'py>(py: Python<'py>, blob: &Blob, start: usize) -> PyResult<Bound<'py, Shared>> {
    let bytes = &blob[start..];
    let (start, length) = (AtomicPtr::new(bytes.as_ptr().cast_mut()), bytes.len());
    Bound::new(py, Shared { start, length, is_read_only: true, content: Content::Shared(blob.clone()) })
}

/// Bytes that came from another process.
// The module exports the class, so that it is made at the import. `PyO3` would make it under a lock, which would stay
// held in a child that another thread forks meanwhile.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct Shared {
    /// The start of the memory that it exports. It never changes; it is atomic because a plain pointer cannot be shared
    /// with other threads.
    start: AtomicPtr<u8>,
    length: usize,
    is_read_only: bool,
    #[expect(dead_code, reason = "kept for its drop")]
    content: Content,
}

/// The owner of exported memory. It is only kept.
enum Content {
    Private(#[expect(dead_code, reason = "kept for its drop")] Box<PrivateBlob>),
    Shared(#[expect(dead_code, reason = "kept for its drop")] Blob),
}

#[pymethods]
impl Shared {
    // The argument is the one that the interpreter's slot gets.
    #[expect(clippy::needless_pass_by_value, reason = "the macro wants it")]
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let shared = slf.get();
        let start = shared.start.load(Ordering::Relaxed).cast();
        // Memory is never longer than that.
        let length = ffi::Py_ssize_t::try_from(shared.length).unwrap_or(ffi::Py_ssize_t::MAX);
        let is_read_only = c_int::from(shared.is_read_only);
        // SAFETY: the interpreter passes a `view` to be filled in, which gets a reference to the object. The object
        // keeps the memory, and nothing else writes to it: only this object uses a private copy, and the memory of a
        // blob is exported as read-only.
        let failed =
            unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, length, is_read_only, flags) };
        if failed == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}
