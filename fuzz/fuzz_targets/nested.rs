//! A result of a recursive type, of any bytes: see `offloop::__fuzz::nested`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| offloop::__fuzz::nested(bytes));
