//! Counts the keys of JSON documents in other processes. This small library shows how to test code that uses a process
//! pool; the README lists the lines to copy.

use std::collections::BTreeMap;

use offloop::{Handle, ProcessPool};
use serde_json::Value;

/// The number of times that each key occurs in a document, at any depth.
pub type KeyCounts = BTreeMap<String, u64>;

/// Counts the keys of a JSON document on `pool`. The inner result is an error if the document is not valid JSON.
///
/// ```
/// offloop::init(); // a doctest has a `main` of its own
/// let pool = offloop::ProcessPool::builder().max_workers(1).build()?;
///
/// let counts = offloop_example_testing::count(&pool, r#"{"a": [{"b": 1}, {"b": 2}]}"#).wait()??;
/// assert_eq!(counts["b"], 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[track_caller]
pub fn count(pool: &ProcessPool, json: &str) -> Handle<Result<KeyCounts, String>> {
    pool.run(count_keys.with(json))
}

/// Counts the keys of a JSON document on the calling thread.
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

    /// A task that exists only in the tests.
    #[offloop::task]
    fn process_id() -> u32 {
        std::process::id()
    }

    fn pool() -> ProcessPool {
        ProcessPool::builder().max_workers(1).build().unwrap()
    }

    #[test]
    fn a_worker_returns_the_same_counts_as_a_direct_call() {
        let json = r#"{"name": "x", "parts": [{"name": "y"}, {"name": "z", "parts": []}]}"#;
        let counts = count(&pool(), json).wait().unwrap().unwrap();
        assert_eq!(counts, KeyCounts::from([("name".to_owned(), 3), ("parts".to_owned(), 2)]));
        assert_eq!(count_keys(json), Ok(counts));
    }

    #[test]
    fn the_error_of_an_invalid_document_is_returned() {
        let error = count(&pool(), "{\"a\": }").wait().unwrap().unwrap_err();
        assert!(error.contains("expected value at line 1"), "{error}");
    }

    #[test]
    fn the_pool_works_in_another_process() {
        let pool = pool();
        let worker = pool.run(process_id.with()).wait().unwrap();
        assert_ne!(worker, std::process::id());
        assert_eq!(pool.worker_pids(), [worker]);
    }
}
