//! Values that are made once in the life of the process, without waiting for another thread.
//!
//! `PyOnceLock` and `intern!` of `PyO3`, and `OnceLock` of `std`, hold a lock while the value is set, and some while they
//! wait for the interpreter. If another thread forks at that moment, the lock stays held in the child forever, and the
//! child hangs where it needs the value. Here there is no lock: two threads may both make the value, and the first one
//! is kept.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::prelude::*;
use pyo3::types::PyString;

/// A value that is made at its first use and never dropped. It is for statics.
pub(crate) struct Once<T> {
    /// Null until the value is set; from then on a pointer to it, which changes only by `replace`.
    value: AtomicPtr<T>,
}

// Threads share the value, so it must be of a type that they may share.
impl<T: Send + Sync> Once<T> {
    pub(crate) const fn new() -> Self {
        Self { value: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Returns the value, if there is one.
    pub(crate) fn peek(&self) -> Option<&T> {
        // SAFETY: `set` stores a pointer to a value on the heap, which is neither changed nor freed after that. Its
        // release store and this acquire load order the making of the value before its use.
        unsafe { self.value.load(Ordering::Acquire).as_ref() }
    }

    /// Sets the value, unless there is one.
    pub(crate) fn set(&self, value: T) {
        let made = Box::into_raw(Box::new(value));
        let set = self.value.compare_exchange(ptr::null_mut(), made, Ordering::AcqRel, Ordering::Acquire);
        if set.is_err() {
            // SAFETY: the pointer is the box's, and was not stored.
            drop(unsafe { Box::from_raw(made) });
        }
    }

    /// Sets the value, whether or not there is one. The one before lives on, since there may be references to it.
    pub(crate) fn replace(&self, value: T) {
        self.value.store(Box::into_raw(Box::new(value)), Ordering::Release);
    }

    /// Returns the value. If there is none yet, makes it with `make`.
    pub(crate) fn get(&self, make: impl FnOnce() -> PyResult<T>) -> PyResult<&T> {
        if self.peek().is_none() {
            self.set(make()?);
        }
        Ok(self.peek().expect("it was set"))
    }
}

impl Once<Py<PyAny>> {
    /// Returns an attribute of a module, which is imported and looked up at the first call.
    pub(crate) fn attribute<'py>(
        &self,
        py: Python<'py>,
        module: &str,
        name: &str,
    ) -> PyResult<&Bound<'py, PyAny>> {
        let found = self.get(|| py.import(module)?.getattr(name).map(Bound::unbind))?;
        Ok(found.bind(py))
    }
}

impl Once<Py<PyString>> {
    /// Returns the interned string.
    pub(crate) fn interned<'py>(&self, py: Python<'py>, text: &str) -> &Bound<'py, PyString> {
        let found = self.get(|| Ok(PyString::intern(py, text).unbind()));
        found.expect("interning raises nothing").bind(py)
    }
}

/// Returns an interned string: `intern!(py, "name")`.
macro_rules! intern {
    ($py:expr, $text:literal) => {{
        static NAME: $crate::once::Once<pyo3::Py<pyo3::types::PyString>> = $crate::once::Once::new();
        NAME.interned($py, $text)
    }};
}

pub(crate) use intern;
