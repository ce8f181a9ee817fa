//! The Python face: a thin binding.

use pyo3::prelude::*;

/// What the package `offloop` is made of.
#[pymodule(gil_used = false)]
mod _offloop {
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
}
