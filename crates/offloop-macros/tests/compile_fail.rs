//! Misuse that must not compile, with the advice that the compiler prints.

#[test]
fn misuse_does_not_compile_and_says_what_to_do() {
    let tests = trybuild::TestCases::new();
    tests.compile_fail("tests/ui/*.rs");
    tests.pass("tests/ui_pass/*.rs");
}
