//! A record of a job or of its state, of any bits.

#![no_main]

use offloop_cluster::records::{Job, State};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(job) = Job::decode(bytes) {
        let again = Job::decode(&job.encode().expect("a record that was read can be written"));
        assert_eq!(again.map(|job| job.encode()), Ok(job.encode()));
    }
    if let Ok(state) = State::decode(bytes) {
        let again = State::decode(&state.encode().expect("a record that was read can be written"));
        assert_eq!(again, Ok(state));
    }
});
