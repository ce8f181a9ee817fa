//! Values that are made once in the life of the interpreter, without waiting for another thread.
//!
//! `PyOnceLock` and `intern!` of `PyO3` hold a lock while they wait for the interpreter. If another thread forks at
//! that moment, the lock stays held in the child forever, and the child hangs where it needs the value. Here two
//! threads may both make the value, and the first one is kept.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;

/// A value that is made at its first use.
pub(crate) struct Once<T>(PyOnceLock<T>);

impl<T> Once<T> {
    pub(crate) const fn new() -> Self {
        Self(PyOnceLock::new())
    }

    /// Returns the value. If there is none yet, makes it with `make`.
    pub(crate) fn get(&self, py: Python<'_>, make: impl FnOnce() -> PyResult<T>) -> PyResult<&T> {
        if self.0.get(py).is_none() {
            let value = make()?;
            // The interpreter is not released while the value is set, so no other thread forks meanwhile.
            let _ = self.0.set(py, value);
        }
        Ok(self.0.get(py).expect("it was set"))
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
        let found = self.get(py, || py.import(module)?.getattr(name).map(Bound::unbind))?;
        Ok(found.bind(py))
    }
}

impl Once<Py<PyString>> {
    /// Returns the interned string.
    pub(crate) fn interned<'py>(&self, py: Python<'py>, text: &str) -> &Bound<'py, PyString> {
        let found = self.get(py, || Ok(PyString::intern(py, text).unbind()));
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
