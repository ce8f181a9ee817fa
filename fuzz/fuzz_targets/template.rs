//! A template's orders and notices, of any bytes: see `offloop::__fuzz::template`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| offloop::__fuzz::template(bytes));
