//! One call on a stack, as reports show it.

use std::fmt;

/// One call on a stack. A function that was inlined has a frame of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StackFrame {
    /// The address of the current instruction, or of the one to return to.
    pub address: usize,
    /// The name of the function, if the program has symbols.
    pub function: Option<String>,
    /// The source file, if the program has debug information.
    pub file: Option<String>,
    /// The line in that file.
    pub line: Option<u32>,
}

impl fmt::Display for StackFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.function {
            Some(function) => f.write_str(function)?,
            None => write!(f, "{:#x}", self.address)?,
        }
        if let Some(file) = &self.file {
            write!(f, " at {file}:{}", self.line.unwrap_or(0))?;
        }
        Ok(())
    }
}
