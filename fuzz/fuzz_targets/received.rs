//! A call from elsewhere, of any bytes: see `offloop::__fuzz::received`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| offloop::__fuzz::received(bytes));
