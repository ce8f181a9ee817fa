//! A request and a response of any bits, as the live view reads them: see `offloop::__fuzz::view`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| offloop::__fuzz::view(bytes));
