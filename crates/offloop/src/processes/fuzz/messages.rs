//! The entries for a fuzzer of what a worker and a template read, what a template reports, and values of recursive types.

use std::collections::BTreeMap;
use std::fmt::Debug;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{ARENA, split};
use crate::processes::handshake::decode_orders;
use crate::processes::link::template::{Notice, Order};
use crate::processes::link::{CONTEXT, Frame, FrameBody, Span, decode_frame};
use crate::wire::blob::Blob;
use crate::wire::call::CallContext;
use crate::wire::payload::{Incoming, Payload};

/// Takes the first bytes for the header of a call, and the rest for the data of its slot and for the beginning of the
/// pool's arena. Decodes the context and arguments of several types, as a worker does.
pub fn request(bytes: &[u8]) {
    examine_request(bytes);
}

/// Returns the number of types of which arguments could be decoded.
fn examine_request(bytes: &[u8]) -> usize {
    let Some((header, rest)) = split(bytes) else { return 0 };
    let Ok(Frame { body, parts }) = decode_frame(&header, rest.to_vec(), ARENA as u64, u64::MAX) else {
        return 0;
    };
    let mut memory = rest.to_vec();
    memory.resize(ARENA, 0);
    let at = |span: Span| {
        let start = usize::try_from(span.offset).expect("it was checked");
        &memory[start..start + usize::try_from(span.length).expect("it was checked")]
    };
    let body = match &body {
        FrameBody::Inline(bytes) => bytes,
        FrameBody::Far(span) => at(*span),
    };
    let parts: Vec<Blob> = parts.into_iter().map(|span| Blob::from(at(span).to_vec())).collect();
    let mut incoming = Incoming { body, parts: &parts };
    if header.flags & CONTEXT != 0 {
        let Ok((context, arguments)) = CallContext::take(incoming) else { return 0 };
        assert!(context.name.is_none_or(|name| name.len() <= body.len()));
        incoming = arguments;
    }
    let decoded = [
        incoming.decode_arguments::<(u64, u64)>().is_ok(),
        incoming.decode_arguments::<(&str, Option<&str>)>().is_ok(),
        incoming.decode_arguments::<(Blob, Vec<Blob>, bool)>().is_ok(),
        incoming.decode_arguments::<(Tree,)>().is_ok(),
    ];
    decoded.into_iter().filter(|it| *it).count()
}

/// Takes the bytes for the first message to a worker.
pub fn handshake(bytes: &[u8]) {
    if let Ok(orders) = decode_orders(bytes) {
        check_again(&orders);
    }
}

/// Takes the bytes for an order to a template, and for a notice from one.
pub fn template(bytes: &[u8]) {
    if let Ok(order) = postcard::from_bytes::<Order>(bytes) {
        check_again(&order);
    }
    if let Ok(notice) = postcard::from_bytes::<Notice>(bytes) {
        check_again(&notice);
    }
}

/// Checks that a decoded message is the same when it is sent once more. Its bytes may differ: numbers have several forms.
fn check_again<T: Serialize + DeserializeOwned>(message: &T) {
    let bytes = postcard::to_stdvec(message).expect("it was decoded");
    let again: T = postcard::from_bytes(&bytes).expect("it was just encoded");
    assert_eq!(postcard::to_stdvec(&again).expect("it was decoded"), bytes);
}

/// Takes the bytes for a result of a type that contains itself. Checks that a decoded value comes back as the same.
pub fn nested(bytes: &[u8]) {
    check_nested::<Tree>(bytes);
    check_nested::<Chain>(bytes);
}

fn check_nested<T: Serialize + DeserializeOwned + PartialEq + Debug>(body: &[u8]) -> bool {
    let Ok(value) = (Incoming { body, parts: &[] }).decode::<T>() else { return false };
    let payload = Payload::encode(&value).expect("what can be decoded can be encoded");
    let again: T = Incoming::from(&payload).decode().expect("it was just encoded");
    assert_eq!(again, value);
    true
}

/// A type that contains itself in each of serde's forms.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Tree {
    Nothing,
    Number(Option<i64>),
    Text(String),
    List(Vec<Tree>),
    Boxed(Box<Tree>),
    Pair(Box<Tree>, Box<Tree>),
    Named { name: String, inner: Option<Box<Tree>> },
    Map(BTreeMap<String, Tree>),
}

/// A type of which each level takes as little as it can.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Chain(Option<Box<Chain>>);

#[cfg(all(test, not(any(shuttle, weak_memory)), not(miri)))]
mod tests;
