//! A short run of the fuzzer's entry without the fuzzer: on its corpus, and on random changes of it.

#![allow(clippy::cast_possible_truncation, reason = "the numbers only tell things apart")]

use std::path::PathBuf;

use super::*;
use crate::processes::link::{AnswerTag, FAR, PanicNote, SPAN};
use crate::wire::blob::BlobMut;
use crate::wire::payload::Payload;
use serde::Serialize;

/// The number of changed inputs that are tried.
const INPUTS: usize = 200_000;

/// Returns the folder of the fuzzer's inputs. It is not part of the published crate.
fn corpus() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/answer"))
}

pub(super) fn input(header: SlotHeader, rest: &[u8]) -> Vec<u8> {
    let SlotHeader { job, tag, flags, began, nanos, on_core, run_delay, parts, inline, offset, length } =
        header;
    let mut bytes = Vec::new();
    bytes.extend(job.to_ne_bytes());
    bytes.extend([tag, flags].into_iter().flat_map(u32::to_ne_bytes));
    bytes.extend([began, nanos, on_core, run_delay].into_iter().flat_map(u64::to_ne_bytes));
    bytes.extend([parts, inline].into_iter().flat_map(u32::to_ne_bytes));
    bytes.extend([offset, length].into_iter().flat_map(u64::to_ne_bytes));
    bytes.extend(rest);
    assert_eq!(bytes.len(), size_of::<SlotHeader>() + rest.len());
    bytes
}

/// Makes an input of a value as a task's result, with its parts at the beginning of the arena.
fn result<T: Serialize>(value: &T) -> Vec<u8> {
    let payload = Payload::encode(value).unwrap();
    let mut list = Vec::new();
    for part in payload.parts() {
        list.extend((list.len() as u64).to_le_bytes());
        list.extend((part.len() as u64).to_le_bytes());
    }
    let header =
        SlotHeader { job: JOB, tag: AnswerTag::Done as u32, nanos: 12_345_678, ..SlotHeader::default() };
    let header = SlotHeader { parts: u32::try_from(payload.parts().len()).unwrap(), ..header };
    let inline = u32::try_from(payload.body().len()).unwrap();
    input(SlotHeader { inline, ..header }, &[&list, payload.body()].concat())
}

/// Makes an input whose body is said to be in the arena.
fn far(tag: AnswerTag, offset: u64, body: &[u8]) -> Vec<u8> {
    let length = body.len() as u64;
    let header = SlotHeader {
        job: JOB,
        tag: tag as u32,
        nanos: u64::MAX,
        inline: FAR,
        offset,
        length,
        ..SlotHeader::default()
    };
    input(header, body)
}

/// The number of seeds, the first ones, that are well-formed.
const WELL_FORMED: usize = 10;

/// Returns the inputs that the fuzzer begins with: well-formed answers of each kind, and malformed ones of each kind.
fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let blob = |length: usize| BlobMut::zeroed(length).freeze();
    let many: Vec<Blob> = (0..PARTS - 1).map(|_| blob(1024)).collect();
    let note = PanicNote { message: "no".to_owned(), location: Some("a.rs:1".to_owned()), backtrace: None };
    let note = Payload::encode(&note).unwrap().body().to_vec();
    let bytes = Payload::encode(&crate::wire::payload::Bytes(&[7; 3000])).unwrap().body().to_vec();
    let done = SlotHeader { job: JOB, tag: AnswerTag::Done as u32, nanos: 1 << 30, ..SlotHeader::default() };
    let text = |tag: AnswerTag| input(SlotHeader { tag: tag as u32, inline: 6, ..done }, "reason".as_bytes());
    vec![
        ("unit", result(&())),
        ("bytes", result(&vec![1_u8, 2, 3])),
        ("tuple", result(&Ok::<_, String>((7_u32, 1.5_f64, 'x')))),
        ("error", result(&Err::<(u32, f64, char), _>("a reason"))),
        ("texts", result(&vec![Some("some"), None, Some("")])),
        ("table", result(&BTreeMap::from([("key".to_owned(), (true, i128::MIN))]))),
        ("blob-small", result(&(Blob::from(vec![9; 10]), Vec::<Blob>::new()))),
        ("blob-part", result(&(blob(1024), Vec::<Blob>::new()))),
        ("blob-many", result(&(blob(1024), many))),
        ("far", far(AnswerTag::Done, 0, &bytes)),
        ("far-outside", far(AnswerTag::Done, ARENA as u64, &bytes)),
        ("far-overflow", far(AnswerTag::Done, u64::MAX - 10, &bytes)),
        ("panicked", input(SlotHeader { tag: AnswerTag::Panicked as u32, inline: 12, ..done }, &note)),
        ("panicked-far", far(AnswerTag::Panicked, 0, &note)),
        ("bad-arguments", text(AnswerTag::BadArguments)),
        ("bad-result", text(AnswerTag::BadResult)),
        ("kind", input(SlotHeader { tag: 9, ..done }, &[])),
        ("job", input(SlotHeader { job: 2, ..done }, &[])),
        ("parts-claimed", input(SlotHeader { parts: 33, ..done }, &[0; 64])),
        ("inline-claimed", input(SlotHeader { inline: 5000, ..done }, &[0; 64])),
        ("size", input(SlotHeader { inline: FAR, length: LIMIT + 1, ..done }, &[])),
    ]
}

/// `cargo test -p offloop --lib -- --ignored the_corpus_is_written`
#[test]
#[ignore = "writes to the source tree"]
fn the_corpus_is_written() {
    std::fs::create_dir_all(corpus()).unwrap();
    for (name, bytes) in seeds() {
        std::fs::write(corpus().join(name), bytes).unwrap();
    }
}

#[test]
fn well_formed_seeds_are_decoded_and_the_others_are_refused() {
    for (at, (name, bytes)) in seeds().into_iter().enumerate() {
        let decoded = examine(&bytes);
        assert_eq!(decoded > 0, at < WELL_FORMED, "{name}: {decoded}");
    }
}

/// Changes an input in a few places, as a fuzzer would.
pub(super) fn change(bytes: &mut Vec<u8>, roll: &mut impl FnMut(usize) -> usize) {
    const HEADER: usize = size_of::<SlotHeader>();
    const NUMBERS: [u64; 8] = [0, 1, 32, 1024, LIMIT, ARENA as u64, u64::MAX >> 1, u64::MAX];
    for _ in 0..=roll(3) {
        let end = bytes.len();
        match roll(6) {
            0 if end > 0 => bytes[roll(end)] ^= 1 << roll(8),
            1 if end > 0 => bytes[roll(end)] = roll(256) as u8,
            2 => bytes.truncate(roll(end + 1)),
            3 => bytes.extend((0..roll(40)).map(|_| roll(256) as u8)),
            // One of the header's numbers, or one of the list behind it.
            4 if end >= HEADER => {
                let at = 4 * roll(end.min(HEADER + 8 * SPAN) / 4);
                let number = NUMBERS[roll(NUMBERS.len())].wrapping_add(roll(5) as u64).wrapping_sub(2);
                let number = number.to_ne_bytes();
                let count = if roll(2) == 0 { 4 } else { 8 }.min(end - at);
                bytes[at..at + count].copy_from_slice(&number[..count]);
            }
            _ if end > HEADER => {
                let (from, to) = (HEADER + roll(end - HEADER), HEADER + roll(end - HEADER));
                let count = roll(end - from.max(to)) + 1;
                bytes.copy_within(from..from + count, to);
            }
            _ => {}
        }
    }
}

#[test]
fn no_answer_or_item_of_any_bits_does_harm() {
    let mut inputs: Vec<Vec<u8>> = seeds().into_iter().map(|(_, bytes)| bytes).collect();
    let seeds = inputs.len();
    let files = std::fs::read_dir(corpus()).into_iter().flatten();
    inputs.extend(files.map(|file| std::fs::read(file.unwrap().path()).unwrap()));
    for bytes in &inputs {
        answer(bytes);
        item(bytes);
    }
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut roll = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % bound as u64).unwrap()
    };
    let mut bytes = Vec::new();
    let mut decoded = 0;
    for at in 0..INPUTS {
        // Most of what a fuzzer finds is far from valid.
        let among = if at % 2 == 0 { seeds } else { inputs.len() };
        bytes.clone_from(&inputs[roll(among)]);
        change(&mut bytes, &mut roll);
        decoded += usize::from(examine(&bytes) > 0);
        // It takes the same way but for the slot's state.
        if at % 8 == 0 {
            item(&bytes);
        }
    }
    assert!(decoded > INPUTS / 20, "{decoded}: hardly any input comes far");
}
