//! Lints that a crate forbids cannot be allowed by a macro.

#![forbid(nonstandard_style, non_camel_case_types, non_upper_case_globals, unsafe_code, unused, missing_docs)]
#![deny(warnings, unreachable_pub, missing_debug_implementations, clippy::pedantic)]

/// Doubles it.
#[offloop::task]
pub fn double(x: u64) -> u64 {
    2 * x
}

/// Joins them.
#[offloop::task]
#[deprecated = "use `concat`"]
#[must_use]
pub fn join(a: &str, b: &str, c: Vec<u8>) -> String {
    [a, b, &String::from_utf8_lossy(&c)].concat()
}

fn main() {
    assert_eq!(double(2), 4);
    assert_eq!(offloop::run(double.with(2)).wait().unwrap(), 4);
}
