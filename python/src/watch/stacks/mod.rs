//! Stacks of threads, read from the interpreter's memory by a thread that does not need the interpreter.
//!
//! The thread whose stack is read takes no part in it: it is not stopped, gets no signal, and runs no code for it. So
//! what is read may change meanwhile. All reads go through the system ([`memory`]), for which a wrong address is an
//! error; types, lengths and the number of steps are checked; and a stack counts as far as it was the same twice in a
//! row ([`walk`]). What was freed and used again in between can at worst be named wrongly in one report.

mod image;
mod layout;
mod lines;
mod memory;
mod walk;

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;

use offloop::embed::JobFrame;
use offloop::watch::StallPlace;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use self::layout::Layout;
use self::memory::Memory;
use self::walk::{Described, Walker};
pub(crate) use self::walk::{ThreadIds, ThreadKey};
use super::clocks;
use crate::interpreter::detach;

/// The number of frames that are compared with what the interpreter says about them.
const COMPARED: usize = 20;

/// Reads the stacks of this process's threads.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct Stacks(pub(crate) Arc<StackReader>);

pub(crate) struct StackReader(Walker);

/// One frame of a stack that was read.
#[pyclass(frozen, get_all, module = "offloop._offloop")]
#[derive(Debug, Clone)]
pub(crate) struct StackFrame {
    file: String,
    /// The line, or the first line of the function if it is at no line.
    line: i32,
    name: String,
    qualname: String,
    first_line: i32,
    /// The flags of the code object.
    flags: i32,
    /// The expression: its first and last line, and the columns of its begin and after its end.
    span: Option<(i32, i32, i32, i32)>,
    /// Numbers that tell this call from another call of the same function.
    call: (usize, usize, usize),
}

impl StackFrame {
    /// Returns the frame's line as a place of a stall.
    pub(super) fn place(&self) -> StallPlace {
        StallPlace::new(self.qualname.clone()).line(self.file.clone(), u32::try_from(self.line).ok())
    }

    /// Returns the function, the file and the line.
    pub(crate) fn to_job_frame(&self) -> JobFrame {
        JobFrame::new(self.qualname.clone(), Some(self.file.clone()), u32::try_from(self.line).ok())
    }

    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    pub(crate) fn qualname(&self) -> &str {
        &self.qualname
    }
}

impl From<Described> for StackFrame {
    fn from(frame: Described) -> Self {
        let Described { file, name, qualname, first_line, flags, position, call } = frame;
        let line = position.map_or(first_line, |position| position.line);
        let span = position.and_then(|it| it.range.map(|(end, begin, after)| (it.line, end, begin, after)));
        Self { file, line, name, qualname, first_line, flags, span, call }
    }
}

#[pymethods]
impl Stacks {
    /// Finds out where the interpreter has its frames. Raises `RuntimeError` if that is not known, or if this thread's
    /// own stack is not found there.
    #[new]
    fn new(py: Python<'_>) -> PyResult<Self> {
        let memory = Memory::open()?;
        let layout = Layout::find(py, &memory)?;
        let reader = StackReader(Walker { memory, layout });
        reader.check(py)?;
        Ok(Self(Arc::new(reader)))
    }

    /// Returns the stack of a thread by its id in `threading`, the outermost frame first; None if it cannot be read. Blocks
    /// for microseconds.
    fn take(&self, py: Python<'_>, ident: u64) -> PyResult<Option<Vec<StackFrame>>> {
        let reader = Arc::clone(&self.0);
        detach(py, move || reader.take(ThreadKey::Ident(ident)))
    }
}

impl StackReader {
    /// Returns the stack of a thread, the outermost frame first.
    pub(crate) fn take(&self, key: ThreadKey) -> Option<Vec<StackFrame>> {
        Some(self.0.stack(key)?.into_iter().map(StackFrame::from).collect())
    }

    /// Returns the stack of the main thread of another process that runs the same interpreter, such as a worker. Fails if the
    /// system refuses it, or if the process runs something else.
    pub(crate) fn of_process(&self, pid: i32) -> io::Result<Vec<StackFrame>> {
        let Walker { memory, layout } = &self.0;
        let other = || io::Error::other("it does not run the interpreter that this process runs");
        let by = image::distance(layout.code_address, pid)?.ok_or_else(other)?;
        let reader = Self(Walker { memory: memory.of(pid)?, layout: layout.moved(by) });
        reader.take(ThreadKey::Main).ok_or_else(|| io::Error::other("its memory cannot be read"))
    }

    /// Returns the thread that has the interpreter.
    pub(super) fn holder(&self) -> Option<ThreadIds> {
        self.0.holder()
    }

    /// Compares this thread's stack with what the interpreter says about it.
    fn check(&self, py: Python<'_>) -> PyResult<()> {
        let (ident, _) = clocks::this_thread();
        let read = self.take(ThreadKey::Ident(ident)).unwrap_or_default();
        let mut frame = py.import("sys")?.call_method0("_getframe")?;
        // A name that is no valid text cannot be compared.
        let is_text = |code: &Bound<'_, PyAny>, name: &str, read: &str| {
            PyResult::Ok(code.getattr(name)?.extract::<String>().map_or(true, |text| text == read))
        };
        let is_number = |code: &Bound<'_, PyAny>, name: &str, read: i32| {
            PyResult::Ok(code.getattr(name)?.extract::<i32>()? == read)
        };
        let mut is_right = self.holder().is_some_and(|holder| holder.ident == ident);
        for read in read.iter().rev().take(COMPARED) {
            if frame.is_none() {
                is_right = false;
                break;
            }
            let code = frame.getattr("f_code")?;
            is_right &= is_text(&code, "co_filename", &read.file)?
                && is_text(&code, "co_name", &read.name)?
                && is_text(&code, "co_qualname", &read.qualname)?
                && is_number(&code, "co_firstlineno", read.first_line)?
                && is_number(&code, "co_flags", read.flags)?
                && frame.getattr("f_lineno")?.extract::<Option<i32>>()?.is_none_or(|line| line == read.line);
            frame = frame.getattr("f_back")?;
        }
        if is_right && !read.is_empty() {
            return Ok(());
        }
        Err(PyRuntimeError::new_err(
            "stacks cannot be read: this interpreter keeps its frames in another way",
        ))
    }
}

/// Returns a stack as text, the innermost frame first.
pub(super) fn text_of(stack: &[StackFrame]) -> String {
    let mut text = String::new();
    for frame in stack.iter().rev() {
        let _ = writeln!(text, "  File \"{}\", line {} in {}", frame.file, frame.line, frame.qualname);
    }
    text
}
