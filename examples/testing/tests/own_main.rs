//! A test without the usual harness (`harness = false`): its `main` is its own, and begins like any other.

use offloop::ProcessPool;
use offloop_example_testing::count;

fn main() {
    // A worker never gets past this line.
    offloop::init();
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    // nextest asks each test binary for its tests, and then for the ignored ones.
    if arguments.iter().any(|it| it == "--list") {
        if !arguments.iter().any(|it| it == "--ignored") {
            println!("keys_are_counted: test");
        }
        return;
    }
    let pool = ProcessPool::builder().workers(1).build().unwrap();
    assert_eq!(count(&pool, r#"{"a": {"a": 1}}"#).wait().unwrap().unwrap()["a"], 2);
}
