//! A record of a job, of its state or of its end, of any bits.

#![no_main]

use offloop_cluster::records::{Job, Report, State};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(job) = Job::decode(bytes) {
        let again = Job::decode(&job.encode().expect("a record that was read can be written"));
        assert_eq!(again.map(|job| job.encode()), Ok(job.encode()));
    }
    if let Ok(state) = State::decode(bytes) {
        let again = State::decode(&state.encode().expect("a record that was read can be written"));
        assert_eq!(again, Ok(state));
    }
    if let Ok(report) = Report::decode(bytes) {
        let again = Report::decode(&report.encode().expect("a record that was read can be written"));
        assert_eq!(again.map(|report| report.encode()), Ok(report.encode()));
    }
});
