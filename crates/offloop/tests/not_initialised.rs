//! A program that does not call `offloop::init()` gets an error, instead of starting copies of itself without end.

#![cfg(all(feature = "process", target_os = "linux"))]

use offloop::{BuildError, ProcessPool};

#[test]
fn a_pool_cannot_be_built_without_init() {
    let error = ProcessPool::builder().max_workers(1).build().unwrap_err();
    assert!(matches!(error, BuildError::NotInitialised), "{error}");
    assert!(error.to_string().contains("offloop::init();"), "{error}");
}
