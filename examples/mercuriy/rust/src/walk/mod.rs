//! Walks a JSON document once: counts its keys and values, finds its deepest path and one value by its path.
//!
//! The walk borrows the bytes and keeps a stack of its own, so a hostile document costs an error and no stack. The
//! tokens are read by `jiter`, the parser of pydantic.

mod counts;
mod frame;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;

use jiter::{Jiter, JiterError, JiterErrorType, JsonErrorType, Peek};
use serde::{Deserialize, Serialize};

use self::counts::{Counter, Search};
pub use self::counts::{Counts, Deepest, Found, Frequent};
use self::frame::Frame;

/// The number of arrays and objects that may be nested.
pub const MAX_DEPTH: usize = 128;

/// The number of bytes between two reports of progress.
const REPORT_EVERY: usize = 1024 * 1024;

/// How far a walk has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The bytes that have been read.
    pub bytes_done: usize,
    /// The bytes of the document.
    pub bytes: usize,
    /// The keys that have been counted.
    pub keys: u64,
}

/// The reason why a document was not walked to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason} at byte {at}")]
pub struct WalkError {
    /// The kind of error, for programs.
    pub kind: WalkErrorKind,
    /// The offset of the byte at which the walk ended.
    pub at: usize,
    /// The description, for people.
    pub reason: String,
}

/// The kinds of [`WalkError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WalkErrorKind {
    /// A byte that JSON does not have there.
    NotJson,
    /// A byte that UTF-8 does not have there.
    NotUtf8,
    /// The document ends within a value.
    Truncated,
    /// More than [`MAX_DEPTH`] arrays and objects are nested.
    TooDeep,
    /// The report of progress has asked for the end.
    Stopped,
}

/// Walks `document`. Looks for the value at the path `find`: keys and indices, joined by dots.
///
/// Calls `report` at the begin, about once a megabyte, and at the end; the walk ends when that breaks. Of several faults
/// the first one is returned.
/// Blocks: 30 MB take a fraction of a second with optimisation, and several without.
pub fn walk(
    document: &[u8],
    find: Option<&str>,
    report: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Counts, WalkError> {
    let bytes = document.len();
    let (text, fault) = utf8(document);
    let counts = walk_text(text, bytes, find, report).map_err(|error| match error.kind {
        // It shows where the document ends.
        WalkErrorKind::Truncated => WalkError { at: bytes, ..error },
        _ => error,
    });
    match (counts, fault) {
        (counts, None) => counts,
        // What is before the fault is right as far as it goes.
        (Ok(_) | Err(WalkError { kind: WalkErrorKind::Truncated, .. }), Some(fault)) => Err(fault),
        (Err(earlier), Some(_)) => Err(earlier),
    }
}

/// Walks `text`, the beginning of a document of `bytes` bytes.
fn walk_text(
    text: &str,
    bytes: usize,
    find: Option<&str>,
    mut report: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Counts, WalkError> {
    // A byte order mark is skipped, and counted in offsets.
    let json = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut walker = Walker {
        text,
        json: Jiter::new(json.as_bytes()),
        skipped: text.len() - json.len(),
        stack: Vec::new(),
        counter: Counter::default(),
        search: Search::new(find),
    };
    let mut report = |bytes_done, keys| match report(Progress { bytes_done, bytes, keys }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => {
            let reason = "the walk was stopped".to_owned();
            Err(WalkError { kind: WalkErrorKind::Stopped, at: bytes_done, reason })
        }
    };
    report(0, 0)?;
    let mut next_report = REPORT_EVERY;
    let first = walker.json.peek();
    let first = walker.checked(first)?;
    walker.enter(first)?;
    while walker.step()? {
        let bytes_done = walker.place();
        if bytes_done >= next_report {
            next_report = bytes_done + REPORT_EVERY;
            report(bytes_done, walker.counter.keys())?;
        }
    }
    let end = walker.json.finish();
    walker.checked(end)?;
    report(bytes, walker.counter.keys())?;
    Ok(walker.counter.finish(text, bytes, walker.search))
}

struct Walker<'d> {
    text: &'d str,
    json: Jiter<'d>,
    /// The bytes before those that the parser was given.
    skipped: usize,
    /// The arrays and objects around the next value, the outermost first.
    stack: Vec<Frame>,
    counter: Counter,
    search: Search,
}

impl Walker<'_> {
    /// Goes on to the next member of the innermost array or object, or leaves it. Returns false after the last value.
    fn step(&mut self) -> Result<bool, WalkError> {
        let Some(frame) = self.stack.last_mut() else { return Ok(false) };
        let next = match frame {
            Frame::Array(array) => {
                let next = if array.is_new() { self.json.known_array() } else { self.json.array_step() };
                array.advance();
                next.map_err(|error| fault(&error, self.skipped))?
            }
            Frame::Object(object) => {
                let key = if object.is_new() { self.json.known_object() } else { self.json.next_key() };
                match key.map_err(|error| fault(&error, self.skipped))? {
                    Some(key) => {
                        self.counter.count_key(key);
                        object.set_key(key);
                        Some(self.json.peek().map_err(|error| fault(&error, self.skipped))?)
                    }
                    None => None,
                }
            }
        };
        match next {
            Some(peek) => self.enter(peek)?,
            None => self.leave(),
        }
        Ok(true)
    }

    /// Reads a value without members.
    fn skip(&mut self, value: Peek) -> Result<(), WalkError> {
        match self.json.known_skip(value) {
            Err(error) if error.error_type == JiterErrorType::JsonError(JsonErrorType::NumberOutOfRange) => {
                // The parser refuses numbers of thousands of digits. So it gets such a number from its last digit on.
                let number = &self.text.as_bytes()[self.place()..];
                let is_digit = |byte: &&u8| byte.is_ascii_digit();
                let sign = usize::from(number.starts_with(b"-"));
                let digits = number[sign..].iter().take_while(is_digit).count();
                self.start_at(self.place() + sign + digits.saturating_sub(1));
                let rest = self.json.next_skip();
                self.checked(rest)
            }
            result => self.checked(result),
        }
    }

    /// Makes the parser go on at another place. It has no state but that.
    fn start_at(&mut self, place: usize) {
        self.skipped = place;
        self.json = Jiter::new(&self.text.as_bytes()[place..]);
    }

    /// Returns the offset of the next byte.
    fn place(&self) -> usize {
        self.skipped + self.json.current_index()
    }

    fn checked<T>(&self, result: Result<T, JiterError>) -> Result<T, WalkError> {
        result.map_err(|error| fault(&error, self.skipped))
    }

    /// Begins with a value: reads it whole, or puts it on the stack if it has members.
    fn enter(&mut self, value: Peek) -> Result<(), WalkError> {
        let depth = self.stack.len();
        self.counter.count_value(&self.stack);
        let start = self.place();
        let is_wanted = self.search.begin(&self.stack, start);
        let frame = match value {
            Peek::Array => Frame::array(),
            Peek::Object => Frame::object(),
            _ => {
                self.skip(value)?;
                if is_wanted {
                    self.search.end(depth, self.place());
                }
                return Ok(());
            }
        };
        if depth == MAX_DEPTH {
            return Err(WalkError {
                kind: WalkErrorKind::TooDeep,
                at: start,
                reason: format!("more than {MAX_DEPTH} arrays and objects are nested"),
            });
        }
        self.stack.push(frame);
        Ok(())
    }

    fn leave(&mut self) {
        self.stack.pop();
        self.search.end(self.stack.len(), self.place());
    }
}

/// Returns the part of a document that is UTF-8, and the fault that ends it.
fn utf8(document: &[u8]) -> (&str, Option<WalkError>) {
    let error = match std::str::from_utf8(document) {
        Ok(text) => return (text, None),
        Err(error) => error,
    };
    let valid = error.valid_up_to();
    let (kind, at, reason) = match error.error_len() {
        Some(_) => (WalkErrorKind::NotUtf8, valid, "the document is not UTF-8"),
        None => (WalkErrorKind::Truncated, document.len(), "the document ends within a character"),
    };
    let text = std::str::from_utf8(&document[..valid]).unwrap_or_default();
    (text, Some(WalkError { kind, at, reason: reason.to_owned() }))
}

/// Returns what an error of the parser means.
fn fault(error: &JiterError, skipped: usize) -> WalkError {
    let kind = match &error.error_type {
        JiterErrorType::JsonError(
            JsonErrorType::EofWhileParsingList
            | JsonErrorType::EofWhileParsingObject
            | JsonErrorType::EofWhileParsingString
            | JsonErrorType::EofWhileParsingValue,
        ) => WalkErrorKind::Truncated,
        _ => WalkErrorKind::NotJson,
    };
    WalkError { kind, at: error.index + skipped, reason: error.error_type.to_string() }
}
