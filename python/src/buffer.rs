//! Python's buffer protocol in both directions: memory that an object exports, and objects that export shared memory.
//!
//! The protocol belongs to the limited API only since Python 3.11, and `PyO3` declares it from that version on. Python
//! 3.10 has the same functions and slots and exports them, so they are declared here.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::{self, NonNull};

use offloop::{Blob, BlobMut, PrivateBlob};
use pyo3::exceptions::PyMemoryError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::interpreter::detach;
use crate::once::Once;

/// `Py_buffer`, as it has been since Python 3.3.
#[repr(C)]
struct View {
    buf: *mut c_void,
    obj: *mut ffi::PyObject,
    len: ffi::Py_ssize_t,
    itemsize: ffi::Py_ssize_t,
    readonly: c_int,
    ndim: c_int,
    format: *mut c_char,
    shape: *mut ffi::Py_ssize_t,
    strides: *mut ffi::Py_ssize_t,
    suboffsets: *mut ffi::Py_ssize_t,
    internal: *mut c_void,
}

unsafe extern "C" {
    fn PyObject_GetBuffer(object: *mut ffi::PyObject, view: *mut View, flags: c_int) -> c_int;
    fn PyBuffer_Release(view: *mut View);
    fn PyBuffer_FillInfo(
        view: *mut View,
        object: *mut ffi::PyObject,
        start: *mut c_void,
        length: ffi::Py_ssize_t,
        readonly: c_int,
        flags: c_int,
    ) -> c_int;
}

/// Any contiguous memory, in C's or Fortran's order; its shape does not matter.
const ANY_CONTIGUOUS: c_int = 0x0080 | STRIDES;
const STRIDES: c_int = 0x0010 | 0x0008;

/// The slots' numbers, which are those of 3.10 too.
const BF_GETBUFFER: c_int = 1;
const BF_RELEASEBUFFER: c_int = 2;

/// Memory that an object exports, until this is dropped. As with any buffer, the object's owner may write to it
/// meanwhile.
struct Exported(Box<View>);

impl Exported {
    fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        // SAFETY: an all-zero `View` is a valid value of this plain C struct.
        let mut view: Box<View> = Box::new(unsafe { std::mem::zeroed() });
        // SAFETY: both pointers are valid, and the interpreter is attached.
        let failed = unsafe { PyObject_GetBuffer(object.as_ptr(), &raw mut *view, ANY_CONTIGUOUS) };
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
        unsafe { PyBuffer_Release(&raw mut *self.0) };
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
pub(crate) fn from_blob<'py>(py: Python<'py>, blob: &Blob) -> PyResult<Bound<'py, PyAny>> {
    let mut content = Box::new(blob.to_private());
    let (start, length) = (content.as_mut_ptr(), content.len());
    let content = Box::new(Content::Private(content));
    // SAFETY: the private copy owns this memory, and only the object uses it. Moving the box does not move the memory.
    unsafe { make(py, start, length, false, content) }
}

/// Returns an object that exports a blob as memory that is only read. The object, and whatever has a view of it, keep
/// the memory.
pub(crate) fn view_of<'py>(py: Python<'py>, blob: &Blob) -> PyResult<Bound<'py, PyAny>> {
    let content = Box::new(Content::Shared(blob.clone()));
    // SAFETY: each clone of a blob keeps its bytes, which are not written to since the object is read-only.
    unsafe { make(py, blob.as_ptr().cast_mut(), blob.len(), true, content) }
}

/// Makes an object that exports the `length` bytes from `start` on.
///
/// # Safety
///
/// `content` keeps them valid. Unless the object is read-only, nothing else uses them.
unsafe fn make(
    py: Python<'_>,
    start: *mut u8,
    length: usize,
    is_read_only: bool,
    content: Box<Content>,
) -> PyResult<Bound<'_, PyAny>> {
    let class = class(py)?;
    // SAFETY: the class is the one that `make_class` has made. `PyType_GenericAlloc` returns an owned object of it, or
    // null with an exception set.
    let object = unsafe {
        let made = ffi::PyType_GenericAlloc(class.as_type_ptr(), 0);
        Bound::from_owned_ptr_or_err(py, made)?
    };
    // Memory is never longer than that.
    let length = ffi::Py_ssize_t::try_from(length).unwrap_or(ffi::Py_ssize_t::MAX);
    // SAFETY: the object is a `Shared`, whose fields are zero except for the head. This function has the only
    // reference.
    unsafe {
        let shared = object.as_ptr().cast::<Shared>();
        (*shared).start = start;
        (*shared).length = length;
        (*shared).is_read_only = c_int::from(is_read_only);
        (*shared).content = Box::into_raw(content);
    }
    Ok(object)
}

/// The layout of an object that exports a blob.
#[repr(C)]
struct Shared {
    head: ffi::PyObject,
    /// The start of the memory that it exports.
    start: *mut u8,
    length: ffi::Py_ssize_t,
    /// 1 if the memory must not be written to, otherwise 0.
    is_read_only: c_int,
    /// The owner of that memory, which belongs to this object. Null until `make` sets it.
    content: *mut Content,
}

/// The owner of exported memory. It is only kept.
enum Content {
    Private(#[expect(dead_code, reason = "kept for its drop")] Box<PrivateBlob>),
    Shared(#[expect(dead_code, reason = "kept for its drop")] Blob),
}

unsafe extern "C" fn export(object: *mut ffi::PyObject, view: *mut View, flags: c_int) -> c_int {
    // SAFETY: the interpreter calls this for objects of the class only. Their memory stays until they are freed, and
    // they are not freed as long as a view of theirs is in use.
    unsafe {
        let shared = object.cast::<Shared>();
        let Shared { start, length, is_read_only, .. } = *shared;
        PyBuffer_FillInfo(view, object, start.cast(), length, is_read_only, flags)
    }
}

unsafe extern "C" fn free(object: *mut ffi::PyObject) {
    // SAFETY: the interpreter calls this once for each object of the class, when there is no reference to it any more.
    // The content was made by `Box::into_raw`.
    unsafe {
        let content = (*object.cast::<Shared>()).content;
        if !content.is_null() {
            drop(Box::from_raw(content));
        }
        let class = ffi::Py_TYPE(object);
        ffi::PyObject_Free(object.cast());
        ffi::Py_DECREF(class.cast());
    }
}

/// Returns the class of these objects, which the first call makes.
fn class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: Once<Py<PyType>> = Once::new();
    CLASS.get(py, || make_class(py).map(Bound::unbind)).map(|class| class.bind(py))
}

fn make_class(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    let mut slots = [
        ffi::PyType_Slot { slot: BF_GETBUFFER, pfunc: export as *mut c_void },
        ffi::PyType_Slot { slot: BF_RELEASEBUFFER, pfunc: ptr::null_mut() },
        ffi::PyType_Slot { slot: ffi::Py_tp_dealloc, pfunc: free as *mut c_void },
        ffi::PyType_Slot {
            slot: ffi::Py_tp_doc,
            pfunc: c"Bytes that came from another process.".as_ptr().cast_mut().cast(),
        },
        ffi::PyType_Slot { slot: 0, pfunc: ptr::null_mut() },
    ];
    let mut spec = ffi::PyType_Spec {
        name: c"offloop._offloop.Shared".as_ptr(),
        basicsize: i32::try_from(size_of::<Shared>()).map_err(|_| PyMemoryError::new_err(()))?,
        itemsize: 0,
        flags: u32::try_from(ffi::Py_TPFLAGS_DEFAULT).unwrap_or(0),
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: the spec and its slots are complete, as `PyType_FromSpec` requires. It copies what it keeps, except for
    // the name and the doc, which are static.
    let class = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpec(&raw mut spec))? };
    Ok(class.cast_into::<PyType>()?)
}
