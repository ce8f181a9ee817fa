//! What must not compile, with the advice that it gets.

// The compiler lists the executors that there are, so the messages are compared with all of them in.
#![cfg(all(feature = "process", feature = "rayon", feature = "tokio"))]

#[test]
fn misuse_does_not_compile_and_says_what_to_do() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
