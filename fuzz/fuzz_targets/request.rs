//! A call of any bits, as a worker reads it: see `offloop::__fuzz::request`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| offloop::__fuzz::request(bytes));
