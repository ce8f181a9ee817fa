use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A value of any type that MessagePack has and a later build may put into a record.
#[derive(Serialize, Clone, Debug)]
#[serde(untagged)]
enum Value {
    Number(i64),
    Text(String),
    Bytes(#[serde(with = "serde_bytes")] Vec<u8>),
    List(Vec<Value>),
    Map(BTreeMap<String, Value>),
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(Value::Number),
        ".{0,40}".prop_map(Value::Text),
        vec(any::<u8>(), 0..300).prop_map(Value::Bytes),
    ];
    leaf.prop_recursive(4, 20, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::List),
            proptest::collection::btree_map(".{0,5}", inner, 0..4).prop_map(Value::Map),
        ]
    })
}

fn any_id() -> impl Strategy<Value = Ulid> {
    any::<u128>().prop_map(Ulid::from_bits)
}

prop_compose! {
    fn any_job()(
        (id, client) in (any_id(), any_id()),
        (task, name) in (".{0,80}", ".{0,20}"),
        (signature, arguments, carry) in (vec(any::<u8>(), 0..40), vec(any::<u8>(), 0..600), vec(any::<u8>(), 0..9)),
        pickle: bool,
        (priority, retry, backoff, issued) in any::<(i8, u32, u64, u64)>(),
        (queue_timeout, run_timeout) in any::<(Option<u64>, Option<u64>)>(),
        (on_failure, exclusive, keyed, capture, stream, blob) in
            any::<(bool, bool, bool, Option<u64>, Option<u32>, Option<(u64, [u8; 32])>)>(),
    ) -> Job {
        let codec = if pickle { Codec::Pickle } else { Codec::MessagePack };
        Job {
            v: VERSION, id, task, signature, codec, arguments, name, priority, queue_timeout, run_timeout, retry,
            backoff, on_failure, exclusive, carry, capture, client, issued, keyed, stream,
            blob: blob.map(|(size, sha256)| BlobRef { size, sha256 }),
            ..Job::default()
        }
    }
}

fn any_state() -> impl Strategy<Value = State> {
    use Outcome::{Cancelled, Expired, Failed, Lost, NoSuchTask, QueueTimeout, Returned};
    let outcome =
        prop::sample::select(&[Returned, Failed, Cancelled, QueueTimeout, Lost, NoSuchTask, Expired][..]);
    let delay = any::<u32>().prop_map(|delay| Duration::from_millis(delay.into()));
    prop_oneof![
        any_id().prop_map(|by| State::Queued { by }),
        (any_id(), any::<u32>()).prop_map(|(by, attempt)| State::Claim { by, attempt }),
        (any_id(), any::<u32>(), delay).prop_map(|(by, attempt, delay)| State::Release {
            by,
            attempt,
            delay
        }),
        (any_id(), any::<u32>(), outcome, vec(any::<u8>(), 0..600)).prop_map(
            |(by, attempt, outcome, body)| State::End(Box::new(End { by, attempt, outcome, body }))
        ),
    ]
}

/// Returns a record with these entries.
fn map(entries: &[(&str, Value)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmp::encode::write_map_len(&mut bytes, u32::try_from(entries.len()).unwrap()).unwrap();
    for (key, value) in entries {
        rmp::encode::write_str(&mut bytes, key).unwrap();
        bytes.extend(rmp_serde::to_vec_named(value).unwrap());
    }
    bytes
}

fn malformed(bytes: &[u8]) -> bool {
    matches!(Job::decode(bytes), Err(RecordError::Malformed(_)))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_record_is_the_same_after_encoding(job in any_job(), state in any_state()) {
        prop_assert_eq!(&Job::decode(&job.encode().unwrap()).unwrap(), &job);
        prop_assert_eq!(&State::decode(&state.encode().unwrap()).unwrap(), &state);
    }

    #[test]
    fn a_record_is_the_same_with_unknown_keys(job in any_job(), extra in vec(("[A-Z]{1,9}", any_value()), 0..4)) {
        let mut bytes = job.encode().unwrap();
        let entries = rmp::decode::read_map_len(&mut &bytes[..]).unwrap();
        let added = map(&extra.iter().map(|(key, value)| (&**key, value.clone())).collect::<Vec<_>>());
        // Either map has fewer than 65,536 entries; the head of the first is one or three bytes, that of the second one.
        let head = if entries < 16 { 1 } else { 3 };
        let mut changed = Vec::new();
        rmp::encode::write_map_len(&mut changed, entries + u32::try_from(extra.len()).unwrap()).unwrap();
        changed.extend(bytes.drain(head..));
        changed.extend(&added[1..]);
        prop_assert_eq!(&Job::decode(&changed).unwrap(), &job);
    }

    #[test]
    fn bytes_that_are_a_record_can_be_encoded_again(mut bytes in vec(any::<u8>(), 0..200), job in any_job(), at: u16) {
        check_any(&bytes);
        // The same with a record in which some bytes are others.
        let mut record = job.encode().unwrap();
        let at = usize::from(at) % record.len();
        let end = (at + bytes.len()).min(record.len());
        bytes.truncate(end - at);
        record[at..end].copy_from_slice(&bytes);
        check_any(&record);
        check_any(&record[..at]);
    }
}

/// Checks that bytes of any origin are either refused or a record that can be encoded again.
fn check_any(bytes: &[u8]) {
    if let Ok(job) = Job::decode(bytes) {
        assert_eq!(Job::decode(&job.encode().unwrap()).unwrap(), Job { v: VERSION, ..job });
    }
    if let Ok(state) = State::decode(bytes) {
        assert_eq!(State::decode(&state.encode().unwrap()).unwrap(), state);
    }
}

#[test]
fn the_version_comes_first() {
    for bytes in [
        Job::new(Ulid::new(), Ulid::new(), "task", vec![]).encode().unwrap(),
        State::Queued { by: Ulid::new() }.encode().unwrap(),
    ] {
        assert_eq!(shape::version(&bytes), Ok(u64::from(VERSION)));
    }
    assert!(malformed(&map(&[])));
    assert!(malformed(&map(&[("task", Value::Text("t".into())), ("v", Value::Number(1))])));
    assert!(malformed(&map(&[("v", Value::Text("1".into()))])));
    assert!(malformed(&map(&[("v", Value::Number(-1))])));
    assert!(malformed(&[0xc0]));
}

#[test]
fn a_newer_record_is_refused_with_both_versions() {
    // The meaning of its other keys is not known, so they are not even looked at.
    let bytes = map(&[("v", Value::Number(7)), ("task", Value::Number(1)), ("kind", Value::List(vec![]))]);
    for error in [Job::decode(&bytes).unwrap_err(), State::decode(&bytes).unwrap_err()] {
        assert_eq!(error, RecordError::Newer { found: 7, known: VERSION });
        assert!(error.to_string().contains("version 7") && error.to_string().contains("up to 1"), "{error}");
    }
}

#[test]
fn a_missing_key_has_its_default() {
    let job = Job::decode(&map(&[("v", Value::Number(1)), ("task", Value::Text("t".into()))])).unwrap();
    assert_eq!(job, Job { v: 1, task: "t".into(), ..Job::default() });
    let state =
        State::decode(&map(&[("v", Value::Number(1)), ("kind", Value::Text("claim".into()))])).unwrap();
    assert_eq!(state, State::Claim { by: Ulid::default(), attempt: 0 });
    let end = State::decode(&map(&[("v", Value::Number(1)), ("kind", Value::Text("end".into()))]));
    assert!(matches!(end, Err(RecordError::Malformed(reason)) if reason.contains("outcome")));
}

#[test]
fn sizes_and_depths_are_limited() {
    let fits = |size: usize| Job::new(Ulid::new(), Ulid::new(), "task", vec![0; size]).encode();
    let size = fits(0).unwrap().len();
    // The head of longer arguments has three bytes more.
    assert_eq!(fits(MAX_RECORD - size - 3).unwrap().len(), MAX_RECORD);
    let limit = RecordError::TooLarge { size: MAX_RECORD + 1, limit: MAX_RECORD };
    assert_eq!(fits(MAX_RECORD - size - 2), Err(limit.clone()));
    assert_eq!(Job::decode(&vec![0; MAX_RECORD + 1]), Err(limit));

    let nested = |levels| (0..levels).fold(Value::Number(1), |inner, _| Value::List(vec![inner]));
    let record = |levels| map(&[("v", Value::Number(1)), ("later", nested(levels))]);
    assert!(Job::decode(&record(MAX_DEPTH - 1)).is_ok());
    assert_eq!(Job::decode(&record(MAX_DEPTH)), Err(RecordError::TooDeep { limit: MAX_DEPTH }));
}

#[test]
fn a_length_of_bytes_that_are_not_there_is_refused() {
    let long: [&[u8]; 7] = [
        &[0xc6, 0xff, 0xff, 0xff, 0xff],
        &[0xdb, 0xff, 0xff, 0xff, 0xff],
        &[0xdd, 0xff, 0xff, 0xff, 0xff],
        &[0xdf, 0xff, 0xff, 0xff, 0xff],
        &[0xc9, 0xff, 0xff, 0xff, 0xff, 1],
        &[0xc1],
        &[],
    ];
    for value in long {
        let mut bytes = vec![0x82, 0xa1, b'v', 1, 0xa1, b'x'];
        bytes.extend(value);
        assert!(malformed(&bytes), "{value:x?}");
    }
    let mut longer = Job::default().encode().unwrap();
    longer.push(0xc0);
    assert!(malformed(&longer));
}

/// Returns the seeds of the fuzz target `record`, with the names of their files.
fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let (one, two) = (Ulid::from_bits(1), Ulid::from_bits(2));
    let mut job = Job::new(one, two, "app.tasks:resize", vec![0x93, 1, 2, 3]);
    job.set_queue_timeout(Some(Duration::from_secs(5)));
    job.set_run_timeout(Some(Duration::from_secs(60)));
    let end = |outcome| State::End(Box::new(End { by: two, attempt: 1, outcome, body: vec![7; 20] }));
    vec![
        ("job", job.encode().unwrap()),
        ("queued", State::Queued { by: two }.encode().unwrap()),
        ("claim", State::Claim { by: two, attempt: 3 }.encode().unwrap()),
        ("release", State::Release { by: two, attempt: 1, delay: Duration::from_secs(1) }.encode().unwrap()),
        ("end", end(Outcome::Returned).encode().unwrap()),
        ("lost", end(Outcome::Lost).encode().unwrap()),
        ("newer", map(&[("v", Value::Number(2))])),
    ]
}

fn corpus() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/record")
}

#[test]
#[ignore = "writes files into the repository"]
fn the_corpus_of_records_is_written() {
    std::fs::create_dir_all(corpus()).unwrap();
    for (name, bytes) in seeds() {
        std::fs::write(corpus().join(name), bytes).unwrap();
    }
}

#[test]
fn no_record_that_the_fuzzer_knows_does_harm() {
    // The package of the crate has no corpus.
    let Ok(files) = std::fs::read_dir(corpus()) else { return };
    let count = files.map(|file| check_any(&std::fs::read(file.unwrap().path()).unwrap())).count();
    assert!(count >= seeds().len());
}

#[test]
fn the_other_records_are_the_same_after_encoding() {
    let (one, two) = (Ulid::from_bits(1), Ulid::new());
    for ask in [
        Ask::Has { id: two },
        Ask::Cancel { id: one },
        Ask::Drain,
        Ask::Credit { id: two, attempt: 1, next: u64::MAX, room: 7 },
        Ask::Logs,
    ] {
        let bytes = ask.encode().unwrap();
        assert_eq!(shape::version(&bytes), Ok(u64::from(VERSION)));
        assert_eq!(Ask::decode(&bytes), Ok(ask));
    }
    let blob = Some(BlobRef { size: 3, sha256: [9; 32] });
    let report = Report { answer: vec![1], stdout: vec![2], blob, ..Report::default() };
    assert_eq!(Report::decode(&report.encode().unwrap()).unwrap(), Report { v: VERSION, ..report });
    let item = Item { blob, ..Item::new(1, 2, vec![3]) };
    assert_eq!(Item::decode(&item.encode().unwrap()).unwrap(), item);
    let presence = Presence {
        worker: two,
        tasks: vec![("t".into(), None)],
        running: vec![(one, "t".into())],
        ..Presence::default()
    };
    assert_eq!(Presence::decode(&presence.encode().unwrap()).unwrap(), Presence { v: VERSION, ..presence });
}
