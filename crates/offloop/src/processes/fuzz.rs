//! The entries for a fuzzer: an answer or an item of any bits, on the way from the link to its reader. The entries for
//! other messages are in `messages`.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::de::DeserializeOwned;

use super::link::{Answer, AnswerBody, DATA, Frame, FrameBody, Link, SlotHeader, Span, decode_frame, state};
use super::pool::results;
use crate::wire::arena;
use crate::wire::blob::Blob;
use crate::wire::decode;
use crate::wire::payload::PARTS;

/// The size of the worker's arena here, in bytes. It is small, so that ranges which fit are not too rare.
const ARENA: usize = 64 << 10;

/// The largest payload here, in bytes. It is less than the arena has, so that this bound is met too.
const LIMIT: u64 = 48 << 10;

/// The job whose answer is expected.
const JOB: u64 = 1;

/// Takes the first bytes for an answer's header, and the rest for the data of its slot and for the beginning of the
/// worker's arena. Panics if anything is wrong with what becomes of it.
pub fn answer(bytes: &[u8]) {
    examine(bytes);
}

/// Does the same with an item, which a job sends before its answer.
pub fn item(bytes: &[u8]) {
    examine_in(state::ITEM, bytes);
}

/// Splits an input into a header and the rest.
fn split(bytes: &[u8]) -> Option<(SlotHeader, &[u8])> {
    let (header, rest) = bytes.split_at_checked(size_of::<SlotHeader>())?;
    // SAFETY: it has the size of a header, for which all bits are valid. It need not be aligned.
    Some((unsafe { header.as_ptr().cast::<SlotHeader>().read_unaligned() }, rest))
}

/// Returns the number of types of which a value could be decoded.
fn examine(bytes: &[u8]) -> usize {
    examine_in(state::ANSWERED, bytes)
}

/// Does the same with a slot in this state.
fn examine_in(state: u32, bytes: &[u8]) -> usize {
    let Some((header, rest)) = split(bytes) else { return 0 };
    check_decode(&header, rest);
    // One for each thread, since it costs more to make than all the rest.
    thread_local! {
        static LINK: OnceCell<Arc<Link>> = const { OnceCell::new() };
    }
    LINK.with(|link| check_take(link.get_or_init(link_to_fuzzer), state, &header, rest))
}

/// Checks that every decoded frame lies within its bounds, in an arena of any size.
fn check_decode(header: &SlotHeader, data: &[u8]) {
    let arena = header.nanos >> 7;
    for limit in [LIMIT, u64::MAX] {
        let Ok(Frame { body, mut parts }) = decode_frame(header, data.to_vec(), arena, limit) else {
            continue;
        };
        assert!(parts.len() <= PARTS);
        let mut size = 0;
        match body {
            FrameBody::Inline(bytes) => size += bytes.len() as u128,
            FrameBody::Far(span) => parts.push(span),
        }
        for Span { offset, length } in parts {
            assert!(u128::from(offset) + u128::from(length) <= u128::from(arena));
            size += u128::from(length);
        }
        assert!(size <= u128::from(limit));
    }
}

/// Goes the whole way: out of the slot, to a result, to values. Checks that all memory that was lent is given back.
fn check_take(link: &Arc<Link>, state: u32, header: &SlotHeader, rest: &[u8]) -> usize {
    let slot = link.ring.slot(0);
    let data = &rest[..rest.len().min(DATA)];
    let memory = &rest[..rest.len().min(ARENA)];
    // SAFETY: both ranges are within mappings that only this thread has, and no blob in the arena is alive.
    unsafe {
        slot.header.with_mut(|slot| slot.write(*header));
        slot.data.with_mut(|slot| slot.cast::<u8>().copy_from_nonoverlapping(data.as_ptr(), data.len()));
        link.results.start().as_ptr().copy_from_nonoverlapping(memory.as_ptr(), memory.len());
    }
    slot.state.store(state, Ordering::SeqCst);
    let (taken, left_in) = match state {
        state::ITEM => (link.take_item(0, JOB), state::CLAIMED),
        _ => (link.take(0, JOB), state::EMPTY),
    };
    assert_eq!(link.state(0), left_in);
    let (mut lent, mut decoded) = (0, 0);
    if let Ok(answer) = taken {
        lent = answer.parts.len() + usize::from(matches!(answer.body, AnswerBody::Far(_)));
        let size = answer.body().len() + answer.parts.iter().map(|part| part.len()).sum::<usize>();
        assert!(size as u64 <= LIMIT);
        decoded = decode_all(&answer);
    }
    let returned = link.ring.shared().returns.put.0.swap(0, Ordering::SeqCst);
    assert_eq!(returned as usize, lent);
    decoded
}

/// Decodes several results that a task could have, as the pool does. Returns the number of those that succeed.
fn decode_all(answer: &Answer) -> usize {
    let blobs = decode::<(Blob, Vec<Blob>)>(answer);
    for blob in blobs.iter().flat_map(|(first, others)| std::iter::once(first).chain(others)) {
        let is_part = answer.parts.iter().any(|part| part.as_ptr() == blob.as_ptr());
        assert!(is_part || blob.len() <= answer.body().len(), "its bytes have come from nowhere");
    }
    let decoded = [
        blobs.is_some(),
        decode::<()>(answer).is_some(),
        decode::<Vec<u8>>(answer).is_some(),
        decode::<Result<(u32, f64, char), String>>(answer).is_some(),
        decode::<Vec<Option<Box<str>>>>(answer).is_some(),
        decode::<BTreeMap<String, (bool, i128)>>(answer).is_some(),
    ];
    decoded.into_iter().filter(|it| *it).count()
}

fn decode<T: DeserializeOwned + 'static>(answer: &Answer) -> Option<T> {
    decode::decode(results::into_result(answer, "fuzz").ok()?).ok()
}

/// Makes the pool's end of a link at whose other end is the fuzzer.
fn link_to_fuzzer() -> Arc<Link> {
    let (mut link, _) = Link::create(LIMIT).expect("the system makes links");
    let (_, results) = arena::create(ARENA, true).expect("the system gives memory");
    link.results = Arc::new(results);
    Arc::new(link)
}

pub(crate) mod messages;
#[cfg(all(test, not(any(shuttle, weak_memory)), not(miri)))]
mod tests;
