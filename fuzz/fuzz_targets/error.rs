//! The reason why a job elsewhere has no result, of any bytes: see `offloop::__fuzz::error`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| offloop::__fuzz::error(bytes));
