//! Counts the keys of JSON documents in other processes: a small library to show how one that uses a process
//! pool is tested. What to copy is in the README beside it.

use std::collections::BTreeMap;

use offloop::{Handle, ProcessPool};
use serde_json::Value;

/// How often each key occurs in a document, at any depth.
pub type KeyCounts = BTreeMap<String, u64>;

/// Counts the keys of a JSON document on `pool`. The error of the handle's value is that of the document.
///
/// ```
/// offloop::init(); // a doctest has a `main` of its own
/// let pool = offloop::ProcessPool::builder().workers(1).build()?;
///
/// let counts = offloop_example_testing::count(&pool, r#"{"a": [{"b": 1}, {"b": 2}]}"#).wait()??;
/// assert_eq!(counts["b"], 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[track_caller]
pub fn count(pool: &ProcessPool, json: &str) -> Handle<Result<KeyCounts, String>> {
    pool.run(count_keys.with(json))
}

/// Counts the keys of a JSON document here and now.
#[offloop::task]
pub fn count_keys(json: &str) -> Result<KeyCounts, String> {
    let document: Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let mut counts = KeyCounts::new();
    add_keys(&document, &mut counts);
    Ok(counts)
}

fn add_keys(value: &Value, counts: &mut KeyCounts) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                *counts.entry(key.clone()).or_default() += 1;
                add_keys(value, counts);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| add_keys(item, counts)),
        _ => {}
    }
}

#[cfg(test)]
offloop::init_tests!();

#[cfg(test)]
mod tests {
    use super::*;

    /// A task that only the tests have.
    #[offloop::task]
    fn process_id() -> u32 {
        std::process::id()
    }

    fn pool() -> ProcessPool {
        ProcessPool::builder().workers(1).build().unwrap()
    }

    #[test]
    fn a_worker_counts_as_an_ordinary_call_does() {
        let json = r#"{"name": "x", "parts": [{"name": "y"}, {"name": "z", "parts": []}]}"#;
        let counts = count(&pool(), json).wait().unwrap().unwrap();
        assert_eq!(counts, KeyCounts::from([("name".to_owned(), 3), ("parts".to_owned(), 2)]));
        assert_eq!(count_keys(json), Ok(counts));
    }

    #[test]
    fn the_error_of_a_document_comes_back() {
        let error = count(&pool(), "{\"a\": }").wait().unwrap().unwrap_err();
        assert!(error.contains("expected value at line 1"), "{error}");
    }

    #[test]
    fn the_pool_works_in_another_process() {
        let pool = pool();
        let worker = pool.run(process_id.with()).wait().unwrap();
        assert_ne!(worker, std::process::id());
        assert_eq!(pool.workers(), [worker]);
    }
}
