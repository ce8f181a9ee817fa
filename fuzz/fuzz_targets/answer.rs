//! A worker's answer of any bits: see `offloop::__fuzz::answer`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| offloop::__fuzz::answer(bytes));
