//! The command `offloop`, which is shipped with the package.

use std::ffi::OsString;

use pyo3::prelude::*;

use crate::interpreter::detach;

/// Runs the command line, whose first word is the program's name, and returns the exit code.
#[pyfunction]
pub(crate) fn run_command(py: Python<'_>, arguments: Vec<OsString>) -> PyResult<u8> {
    detach(py, || offloop_cli::main(arguments))
}
