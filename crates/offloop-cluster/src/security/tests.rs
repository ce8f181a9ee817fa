use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::Ulid;
use crate::records::{Codec, End, Job, Outcome, State};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const HERE: Scope<'_> = Scope::Job { namespace: "default", queue: "mail" };

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// Returns a job that is submitted now.
fn job(task: &str) -> Job {
    let mut job = Job::new(Ulid::new(), Ulid::new(), task, vec![1, 2, 3]);
    job.issued = u64::try_from(now().as_millis()).unwrap();
    job
}

/// Returns the record of a job whose arguments are a pickle.
fn pickled(task: &str) -> Vec<u8> {
    let mut job = job(task);
    job.codec = Codec::Pickle;
    job.encode().unwrap()
}

fn end(body: Vec<u8>) -> Vec<u8> {
    let end = End { by: Ulid::from_bits(7), attempt: 1, outcome: Outcome::Returned, body };
    State::End(Box::new(end)).encode().unwrap()
}

/// Returns the reason why a worker with this trust does not run a job whose record is this one.
fn refusal(trust: &Trust, place: Scope<'_>, record: &[u8]) -> Option<String> {
    let job = Job::decode(record).expect("a signed record can be decoded");
    trust.admit_job(place, record, &job, DAY).err().map(|refusal| refusal.to_string())
}

fn is_refused_for(refusal: Option<String>, reason: &str) -> bool {
    let Some(text) = refusal else { panic!("it is admitted, and should be refused because {reason}") };
    assert!(text.contains(reason), "{text}");
    true
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_signed_record_with_any_changed_byte_is_refused(
        arguments in vec(any::<u8>(), 0..300), carry in vec(any::<u8>(), 0..9), at: prop::sample::Index, change in 1_u8..,
    ) {
        let key = SigningKey::generate();
        let trust = Trust::none().key(key.public().clone());
        let mut unsigned = job("app.tasks:resize");
        (unsigned.arguments, unsigned.carry) = (arguments.clone(), carry);
        let mut record = key.seal(HERE, &unsigned.encode().unwrap()).unwrap();
        prop_assert_eq!(&Job::decode(&record).unwrap(), &Job::decode(&unsigned.encode().unwrap()).unwrap());
        prop_assert_eq!(trust.admit_job(HERE, &record, &unsigned, DAY), Ok(()));
        let at_job = at.index(record.len());
        record[at_job] ^= change;
        // It is refused even by a worker that decodes it to the job as it was.
        prop_assert!(trust.admit_job(HERE, &record, &unsigned, DAY).is_err());

        let id = Ulid::new();
        let mut record = key.seal(Scope::End { namespace: "default", job: id }, &end(arguments)).unwrap();
        prop_assert!(State::decode(&record).is_ok());
        prop_assert_eq!(trust.admit_end("default", id, &record), Ok(false));
        let at_end = at.index(record.len());
        record[at_end] ^= change;
        prop_assert!(trust.admit_end("default", id, &record).is_err());
    }

    #[test]
    fn a_signature_of_one_job_is_none_of_another(
        field in 0..16_usize, number in 1_u8.., text in "[a-z]{1,9}", id: u128,
    ) {
        let key = SigningKey::generate();
        let trust = Trust::none().key(key.public().clone());
        let first = job("app.tasks:resize");
        let signed = key.seal(HERE, &first.encode().unwrap()).unwrap();
        let mut other = first.clone();
        match field {
            0 => other.id = Ulid::from_bits(id),
            1 => other.task = text,
            2 => other.signature.push(number),
            3 => other.codec = Codec::Pickle,
            4 => other.arguments.push(number),
            5 => other.name = text,
            6 => other.priority ^= 1,
            7 => other.set_queue_timeout(Some(Duration::from_millis(number.into()))),
            8 => other.set_run_timeout(Some(Duration::from_millis(number.into()))),
            9 => other.retry += u32::from(number),
            10 => other.set_backoff(Duration::from_millis(number.into())),
            11 => other.on_failure = true,
            12 => other.exclusive = true,
            13 => other.carry.push(number),
            14 => other.client = Ulid::from_bits(id),
            _ => other.issued -= u64::from(number),
        }
        // The signature of the first, behind the fields of the other.
        let mut record = key.seal(HERE, &other.encode().unwrap()).unwrap();
        let (at, length) = (record.len() - 64, signed.len());
        record[at..].copy_from_slice(&signed[length - 64..]);
        prop_assert!(trust.admit_job(HERE, &record, &other, DAY).is_err());
    }

    #[test]
    fn no_bytes_are_signed_by_a_trusted_key_by_chance(record in vec(any::<u8>(), 0..400), id: u128) {
        let trust = Trust::none().key(SigningKey::generate().public().clone()).accept_pickles();
        prop_assert!(trust.admit_job(HERE, &record, &job("task"), DAY).is_err());
        prop_assert!(trust.admit_end("default", Ulid::from_bits(id), &record).is_err());
    }
}

#[test]
fn a_signature_counts_in_its_own_place_only() {
    let key = SigningKey::generate();
    let trust = Trust::none().key(key.public().clone());
    let record = key.seal(HERE, &job("task").encode().unwrap()).unwrap();
    assert_eq!(refusal(&trust, HERE, &record), None);
    for (namespace, queue) in
        [("other", "mail"), ("default", "other"), ("defaultm", "ail"), ("", "defaultmail")]
    {
        let place = Scope::Job { namespace, queue };
        assert!(is_refused_for(refusal(&trust, place, &record), "copied from elsewhere"));
    }
    let (one, two) = (Ulid::new(), Ulid::new());
    let record = key.seal(Scope::End { namespace: "default", job: one }, &end(vec![1])).unwrap();
    assert_eq!(trust.admit_end("default", one, &record), Ok(false));
    assert!(trust.admit_end("default", two, &record).is_err());
    assert!(trust.admit_end("other", one, &record).is_err());
}

#[test]
fn without_trust_plain_data_runs_and_a_pickle_never_does() {
    let key = SigningKey::generate();
    let plain = job("task").encode().unwrap();
    let pickle = pickled("task");
    for trust in [Trust::none(), Trust::none().accept_pickles()] {
        assert_eq!(refusal(&trust, HERE, &plain), None);
        assert_eq!(refusal(&trust, HERE, &key.seal(HERE, &plain).unwrap()), None);
        for record in [&pickle, &key.seal(HERE, &pickle).unwrap()] {
            assert!(is_refused_for(refusal(&trust, HERE, record), "--trust KEY --accept pickle"));
        }
        // The body of an end may be used as plain data.
        assert_eq!(trust.admit_end("default", Ulid::new(), &end(vec![1])), Ok(false));
    }
}

#[test]
fn a_pickle_counts_if_it_is_signed_and_accepted() {
    let (key, stranger) = (SigningKey::generate(), SigningKey::generate());
    let pickle = pickled("task");
    let signed = key.seal(HERE, &pickle).unwrap();
    let trust = Trust::none().key(key.public().clone());
    assert!(is_refused_for(refusal(&trust, HERE, &signed), "--accept pickle"));
    let trust = trust.accept_pickles();
    assert_eq!(refusal(&trust, HERE, &signed), None);
    assert!(is_refused_for(refusal(&trust, HERE, &pickle), "not signed"));
    let signed = stranger.seal(HERE, &pickle).unwrap();
    assert!(is_refused_for(refusal(&trust, HERE, &signed), stranger.public().as_str()));

    // The same holds for what a submitter gets back.
    let id = Ulid::new();
    let place = Scope::End { namespace: "default", job: id };
    assert_eq!(trust.admit_end("default", id, &key.seal(place, &end(vec![1])).unwrap()), Ok(true));
    for record in [end(vec![1]), stranger.seal(place, &end(vec![1])).unwrap()] {
        assert!(trust.admit_end("default", id, &record).is_err());
    }
}

#[test]
fn a_key_may_call_the_tasks_of_its_list_only() {
    let key = SigningKey::generate();
    let trust = Trust::none().key_for(key.public().clone(), ["billing:*", "mail"]);
    let signed = |task| key.seal(HERE, &job(task).encode().unwrap()).unwrap();
    for task in ["billing:", "billing:invoice", "mail"] {
        assert_eq!(refusal(&trust, HERE, &signed(task)), None);
    }
    for task in ["billing", "mail2", "mai", "", "other:billing:invoice"] {
        assert!(is_refused_for(refusal(&trust, HERE, &signed(task)), "call other tasks only"));
    }
}

#[test]
fn a_copy_of_an_old_record_is_refused() {
    let key = SigningKey::generate();
    let trust = Trust::none().key(key.public().clone());
    let issued = now();
    let mut job = job("task");
    job.issued = u64::try_from(issued.as_millis()).unwrap();
    let record = key.seal(HERE, &job.encode().unwrap()).unwrap();
    let at = |now| trust.admit_job_at(HERE, &record, &job, DAY, now);
    let (below, above) = (Duration::from_secs(60 * 60 - 1), Duration::from_secs(60 * 60 + 1));
    for now in [issued, issued + DAY, issued + DAY + below, issued.saturating_sub(below)] {
        assert_eq!(at(now), Ok(()));
    }
    for now in [issued + DAY + above, issued.saturating_sub(above)] {
        assert!(at(now).unwrap_err().to_string().contains("set the clocks right"));
    }
}

#[test]
fn keys_have_texts() {
    let key = SigningKey::generate();
    let again: SigningKey = format!(" {}\n", key.to_secret()).parse().unwrap();
    assert_eq!(again.public(), key.public());
    assert_eq!(key.public().to_string().parse::<PublicKey>().as_ref(), Ok(key.public()));
    assert!(key.public().as_str().starts_with('U') && key.to_secret().starts_with("SU"));
    assert_ne!(SigningKey::generate().public(), key.public());

    // One wrong character is found.
    let mut wrong = key.public().as_str().to_owned().into_bytes();
    wrong[20] = if wrong[20] == b'A' { b'B' } else { b'A' };
    assert!(String::from_utf8(wrong).unwrap().parse::<PublicKey>().is_err());
    for text in ["", "U", "é", &key.to_secret(), &"é".repeat(28)] {
        assert!(text.parse::<PublicKey>().is_err(), "{text}");
    }
    for text in ["", "SU", &format!("SU{}", "é".repeat(28)), key.public().as_str()] {
        assert!(text.parse::<SigningKey>().is_err(), "{text}");
    }
    let account = nkeys::KeyPair::new_account();
    assert!(account.public_key().parse::<PublicKey>().is_err());
    assert!(account.seed().unwrap().parse::<SigningKey>().is_err());
}

#[test]
fn no_secret_is_shown() {
    let key = SigningKey::generate();
    let secret = key.to_secret();
    assert!(!format!("{key:?}").contains(&secret[2..]));
    let mistaken = secret.parse::<PublicKey>().unwrap_err().to_string();
    assert!(!mistaken.contains(&secret[2..]) && mistaken.contains("public half"), "{mistaken}");
    let wrong = format!("{}A", &secret[..57]);
    if let Err(error) = wrong.parse::<SigningKey>() {
        assert!(!error.to_string().contains(&secret[2..20]), "{error}");
    }
}
