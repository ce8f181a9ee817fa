//! Misuse that must not compile, with the advice that the compiler prints.

// The compiler's messages list all executors, so they are compared in a build with all features that add one.
#![cfg(all(feature = "process", feature = "rayon", feature = "tokio"))]

#[test]
fn misuse_does_not_compile_and_says_what_to_do() {
    let tests = trybuild::TestCases::new();
    tests.compile_fail("tests/ui/*.rs");
    tests.pass("tests/ui_pass/*.rs");
}
