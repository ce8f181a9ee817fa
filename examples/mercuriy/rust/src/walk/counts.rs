//! What a walk finds out.

use std::collections::HashMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::frame::Frame;

/// The number of keys in [`Counts::frequent`].
const FREQUENT: usize = 10;

/// The longest value that is answered whole, in bytes. Of a longer one it is the beginning.
const LONGEST_VALUE: usize = 1024;

/// The longest key or path that is answered whole, in bytes. Of a longer one it is the beginning.
const LONGEST_KEY: usize = 64 * 1024;

/// The result of a walk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// The bytes of the document.
    pub bytes: usize,
    /// The members of all objects.
    pub keys: u64,
    /// The values of any kind, arrays and objects included.
    pub values: u64,
    /// The first of the values that are in the most arrays and objects.
    pub deepest: Deepest,
    /// The most frequent keys, the most frequent first, and those that are equally frequent by the alphabet.
    pub frequent: Vec<Frequent>,
    /// The value that was looked for.
    pub found: Option<Found>,
}

/// The deepest value of a document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deepest {
    /// The number of arrays and objects around it.
    pub depth: usize,
    /// The keys and indices that lead to it, joined by dots.
    pub path: String,
}

/// A key and how often it occurs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frequent {
    /// The key.
    pub key: String,
    /// The number of objects that have it.
    pub count: u64,
}

/// The value that was looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// The whole value, as the document writes it.
    Value(String),
    /// The beginning of a longer one, or a number that a double cannot hold.
    Text(String),
}

/// Counts what the walk meets.
#[derive(Default)]
pub(super) struct Counter {
    keys: u64,
    values: u64,
    deepest: Deepest,
    by_key: HashMap<String, u64>,
}

impl Counter {
    pub(super) fn keys(&self) -> u64 {
        self.keys
    }

    pub(super) fn count_key(&mut self, key: &str) {
        self.keys += 1;
        match self.by_key.get_mut(key) {
            Some(count) => *count += 1,
            None => drop(self.by_key.insert(key.to_owned(), 1)),
        }
    }

    /// Counts the value that the innermost frame is at.
    pub(super) fn count_value(&mut self, stack: &[Frame]) {
        self.values += 1;
        if stack.len() > self.deepest.depth {
            self.deepest.depth = stack.len();
            self.deepest.path = path(stack);
        }
    }

    pub(super) fn finish(self, text: &str, bytes: usize, search: Search) -> Counts {
        let mut frequent: Vec<_> =
            self.by_key.into_iter().map(|(key, count)| Frequent { key, count }).collect();
        frequent.sort_unstable_by(|a, b| b.count.cmp(&a.count).then_with(|| a.key.cmp(&b.key)));
        frequent.truncate(FREQUENT);
        for Frequent { key, .. } in &mut frequent {
            key.truncate(beginning(key, LONGEST_KEY).len());
        }
        Counts {
            bytes,
            keys: self.keys,
            values: self.values,
            deepest: self.deepest,
            frequent,
            found: search.found.map(|range| Found::new(&text[range])),
        }
    }
}

/// Returns the path of the member that the innermost frame is at. Copies no more than is answered: a hostile document has
/// long keys.
fn path(stack: &[Frame]) -> String {
    let mut path = String::new();
    for (at, frame) in stack.iter().enumerate() {
        if at > 0 {
            path.push('.');
        }
        path.push_str(beginning(&frame.segment(), LONGEST_KEY));
        if path.len() >= LONGEST_KEY {
            break;
        }
    }
    path.truncate(beginning(&path, LONGEST_KEY).len());
    path
}

/// Returns the first characters of a text, at most `limit` bytes.
fn beginning(text: &str, limit: usize) -> &str {
    let cut = (0..=limit.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..cut.unwrap_or_default()]
}

impl Found {
    fn new(value: &str) -> Self {
        if value.len() <= LONGEST_VALUE && serde_json::from_str::<Value>(value).is_ok() {
            Self::Value(value.to_owned())
        } else {
            Self::Text(beginning(value, LONGEST_VALUE).to_owned())
        }
    }
}

/// Looks for the value at a path. If an object has a key twice, the last one counts, as for most parsers.
pub(super) struct Search {
    /// The segments of the path. `None` if nothing is looked for.
    path: Option<Vec<String>>,
    /// The number of frames, from the outermost on, that are at their segment of the path. Up to date for the frames that
    /// the innermost one is in.
    begun: Option<usize>,
    /// The place of the value in the document.
    found: Option<Range<usize>>,
}

impl Search {
    pub(super) fn new(path: Option<&str>) -> Self {
        // The empty path is that of the document.
        let segments = |path: &str| match path {
            "" => Vec::new(),
            path => path.split('.').map(str::to_owned).collect(),
        };
        let path = path.map(segments);
        Self { path, begun: None, found: None }
    }

    /// Returns whether the value that begins at `start` is the one.
    pub(super) fn begin(&mut self, stack: &[Frame], start: usize) -> bool {
        let Some(path) = &self.path else { return false };
        // The last segments differ most often.
        let is_it = path.len() == stack.len()
            && stack.iter().zip(path).rev().all(|(frame, segment)| frame.is_at(segment));
        if is_it {
            self.begun = Some(start);
        }
        is_it
    }

    /// Notes that a value with `depth` frames around it has ended before `end`.
    pub(super) fn end(&mut self, depth: usize, end: usize) {
        if self.path.as_ref().is_some_and(|path| path.len() == depth)
            && let Some(start) = self.begun.take()
        {
            self.found = Some(start..end);
        }
    }
}
