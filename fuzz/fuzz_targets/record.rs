//! A record of a job or of its state, of any bits: decoded, signed, and checked by parties that trust a key.

#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use offloop_cluster::Ulid;
use offloop_cluster::records::{Job, MAX_RECORD, State};
use offloop_cluster::security::{Scope, SigningKey, Trust};

static KEY: LazyLock<SigningKey> = LazyLock::new(SigningKey::generate);
static TRUST: LazyLock<Trust> = LazyLock::new(|| Trust::none().key(KEY.public().clone()).accept_pickles());

const FOREVER: Duration = Duration::MAX;
const SIGNATURE: usize = 200;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let place = Scope::Job { namespace: "default", queue: "default" };
    let (id, namespace) = (Ulid::from_bits(1), "default");
    assert!(TRUST.admit_job(place, bytes, &Job::default(), FOREVER).is_err());
    assert!(TRUST.admit_end(namespace, id, bytes).is_err());
    if let Ok(job) = Job::decode(bytes) {
        let again = Job::decode(&job.encode().expect("a record that was read can be written"));
        assert_eq!(again.map(|job| job.encode()), Ok(job.encode()));
        assert!(Trust::none().admit_job(place, bytes, &job, FOREVER).is_ok() == (job.codec == Default::default()));
    }
    if let Ok(state) = State::decode(bytes) {
        let again = State::decode(&state.encode().expect("a record that was read can be written"));
        assert_eq!(again, Ok(state));
    }
    // What is no record can be signed or refused. What is one is the same with a signature.
    if let Ok(sealed) = KEY.seal(Scope::End { namespace, job: id }, bytes) {
        assert_eq!(TRUST.admit_end(namespace, id, &sealed), Ok(true));
        if bytes.len() < MAX_RECORD - SIGNATURE {
            assert_eq!(State::decode(&sealed).ok(), State::decode(bytes).ok());
            assert_eq!(Job::decode(&sealed).ok(), Job::decode(bytes).ok());
        }
        let mut changed = sealed;
        let at = usize::from(bytes[bytes.len() / 2]) % changed.len();
        changed[at] ^= 1;
        assert!(TRUST.admit_end(namespace, id, &changed).is_err());
    }
});
