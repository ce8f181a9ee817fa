//! What a fuzzer calls: an answer of any bits, on the way that answers take from the link to their caller.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::de::DeserializeOwned;

use crate::processes::link::*;
use crate::processes::pool::results as outcome;
use crate::wire::arena;
use crate::wire::blob::Blob;
use crate::wire::payload::PARTS;
use crate::wire::task;

/// The size of the worker's arena here: small, so that spans which fit are not too rare. In bytes.
pub(crate) const ARENA: usize = 64 << 10;

/// Less than the arena has, so that this bound is met too.
pub(crate) const LIMIT: u64 = 48 << 10;

/// The job that was asked.
pub(crate) const JOB: u64 = 1;

/// Takes the first bytes for an answer's header, and what follows for the data of its slot and for what the
/// worker's arena begins with. Panics if anything is wrong with what becomes of it.
pub fn answer(bytes: &[u8]) {
    examine(bytes);
}

/// Says how many values of different types could be made of it.
fn examine(bytes: &[u8]) -> usize {
    let Some((header, rest)) = bytes.split_at_checked(size_of::<SlotHeader>()) else { return 0 };
    // SAFETY: it has the size of a header, for which all bits are valid; it need not be aligned.
    let header = unsafe { header.as_ptr().cast::<SlotHeader>().read_unaligned() };
    check_open(&header, rest);
    // One for each thread: it is costlier to make than all the rest.
    thread_local! {
        static LINK: OnceCell<Arc<Link>> = const { OnceCell::new() };
    }
    LINK.with(|link| check_take(link.get_or_init(link_of_a_liar), &header, rest))
}

/// Whatever `open` lets through lies within its bounds, in an arena of any size.
fn check_open(header: &SlotHeader, data: &[u8]) {
    let arena = header.nanos >> 7;
    for limit in [LIMIT, u64::MAX] {
        let Ok(Frame { body, mut parts }) = open(header, data.to_vec(), arena, limit) else { continue };
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

/// The whole way: out of the slot, to a verdict, to values. All memory that was lent is given back.
fn check_take(link: &Arc<Link>, header: &SlotHeader, rest: &[u8]) -> usize {
    let slot = link.ring.slot(0);
    let data = &rest[..rest.len().min(DATA)];
    let memory = &rest[..rest.len().min(ARENA)];
    // SAFETY: both ranges are there, in mappings that only this thread has; nobody holds a blob in the arena.
    unsafe {
        slot.header.get().write(*header);
        slot.data.get().cast::<u8>().copy_from_nonoverlapping(data.as_ptr(), data.len());
        link.results.start().as_ptr().copy_from_nonoverlapping(memory.as_ptr(), memory.len());
    }
    slot.state.store(state::ANSWERED, Ordering::SeqCst);
    let taken = link.take(0, JOB);
    assert_eq!(link.state(0), state::EMPTY);
    let (mut lent, mut decoded) = (0, 0);
    if let Ok(answer) = taken {
        lent = answer.parts.len() + usize::from(matches!(answer.body, AnswerBody::Far(_)));
        let size = answer.body().len() + answer.parts.iter().map(|part| part.len()).sum::<usize>();
        assert!(size as u64 <= LIMIT);
        decoded = decode_all(&answer);
    }
    let returns = &link.ring.shared().returns;
    let given_back = returns.put.0.swap(0, Ordering::SeqCst);
    assert_eq!(given_back as usize, lent);
    decoded
}

/// As `outcome` does, for several results that a task could have. Says for how many of them it works.
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
    task::decode(outcome::verdict(answer, "fuzz").ok()?).ok()
}

/// The pool's end of a link, whose other end is the fuzzer.
fn link_of_a_liar() -> Arc<Link> {
    let (mut link, _) = Link::create(LIMIT).expect("the system makes links");
    let (_, results) = arena::create(ARENA, true).expect("the system gives memory");
    link.results = Arc::new(results);
    Arc::new(link)
}

#[cfg(all(test, not(shuttle), not(miri)))]
mod tests;
