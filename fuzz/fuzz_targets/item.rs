//! A worker's item of any bits: see `offloop::__fuzz::item`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| offloop::__fuzz::item(bytes));
