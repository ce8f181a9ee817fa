//! A test without the usual harness (`harness = false`). Its `main` begins like that of any program.

use offloop::ProcessPool;
use offloop_example_testing::count;

fn main() {
    // In a worker, this call does not return.
    offloop::init();
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    // nextest asks each test binary for the list of its tests, and then for the list of ignored tests.
    if arguments.iter().any(|it| it == "--list") {
        if !arguments.iter().any(|it| it == "--ignored") {
            println!("keys_are_counted: test");
        }
        return;
    }
    let pool = ProcessPool::builder().max_workers(1).build().unwrap();
    assert_eq!(count(&pool, r#"{"a": {"a": 1}}"#).wait().unwrap().unwrap()["a"], 2);
}
