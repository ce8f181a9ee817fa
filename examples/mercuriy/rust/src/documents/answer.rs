//! The result of a walk, as the client gets it.

use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::mode::Mode;
use crate::walk::{Counts, Deepest, Found, Frequent};

/// The answer of `POST /documents`.
#[derive(Debug, Serialize)]
pub(super) struct DocumentResult {
    bytes: usize,
    keys: u64,
    values: u64,
    deepest: Deepest,
    frequent: Vec<Frequent>,
    found: Option<FoundValue>,
    seconds: f64,
    on: Mode,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum FoundValue {
    /// JSON, as the document has it.
    Value(Box<RawValue>),
    Text(String),
}

impl DocumentResult {
    pub(super) fn new(counts: Counts, took: Duration, on: Mode) -> Self {
        let Counts { bytes, keys, values, deepest, frequent, found } = counts;
        let found = found.map(FoundValue::from);
        Self { bytes, keys, values, deepest, frequent, found, seconds: took.as_secs_f64(), on }
    }
}

impl From<Found> for FoundValue {
    fn from(found: Found) -> Self {
        match found {
            Found::Value(json) => match serde_json::from_str(&json) {
                Ok(value) => Self::Value(value),
                Err(_) => Self::Text(json),
            },
            Found::Text(text) => Self::Text(text),
        }
    }
}
