//! What is made once in the life of the interpreter, and never waited for.
//!
//! The `PyOnceLock` and `intern!` of `PyO3` keep a lock while they wait for the interpreter. If another thread forks
//! just then, the child has that lock for ever, and hangs where it wants the value. Here two threads may make the
//! value, and the one that comes first stays.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;

/// A value that is made when it is first wanted.
pub(crate) struct Once<T>(PyOnceLock<T>);

impl<T> Once<T> {
    pub(crate) const fn new() -> Self {
        Self(PyOnceLock::new())
    }

    /// The value, made with `make` if there is none yet.
    pub(crate) fn get(&self, py: Python<'_>, make: impl FnOnce() -> PyResult<T>) -> PyResult<&T> {
        if self.0.get(py).is_none() {
            let value = make()?;
            // Nothing here lets the interpreter go, so nobody forks meanwhile.
            let _ = self.0.set(py, value);
        }
        Ok(self.0.get(py).expect("it was set"))
    }
}

impl Once<Py<PyString>> {
    /// The interned string.
    pub(crate) fn interned<'py>(&self, py: Python<'py>, text: &str) -> &Bound<'py, PyString> {
        let found = self.get(py, || Ok(PyString::intern(py, text).unbind()));
        found.expect("interning raises nothing").bind(py)
    }
}

/// An interned string: `intern!(py, "name")`.
macro_rules! intern {
    ($py:expr, $text:literal) => {{
        static NAME: $crate::once::Once<pyo3::Py<pyo3::types::PyString>> = $crate::once::Once::new();
        NAME.interned($py, $text)
    }};
}

pub(crate) use intern;
