//! The first message to a worker, of any bytes: see `offloop::__fuzz::handshake`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| offloop::__fuzz::handshake(bytes));
