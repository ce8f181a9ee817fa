//! The Python face: a thin binding. What the interpreter sees of the engine is here; what it makes of it is in the
//! package's Python code.
//!
//! | module | what it is |
//! | --- | --- |
//! | `mailbox` | the way of results into the interpreter: ended jobs of one loop |
//! | `errors` | the engine's errors as exceptions |

mod errors;
mod mailbox;

use pyo3::prelude::*;

/// What the package `offloop` is made of.
#[pymodule(gil_used = false)]
mod _offloop {
    #[pymodule_export]
    use crate::mailbox::{Job, Mailbox};

    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
}
