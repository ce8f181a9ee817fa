//! What a slot of the ring holds: a header and a payload, written by the one process and decoded by the other.
//!
//! Nothing that a worker has written is believed. [`decode_frame`] checks every number before it is used.

use serde::{Deserialize, Serialize};

use crate::wire::payload::PARTS;

/// The size of a part's entry in the list of parts, in bytes: an offset and a length.
pub(in crate::processes) const SPAN: usize = 16;

/// The header that precedes a payload. Every pattern of bits is a valid value, since another process writes it; all
/// zeros are one as well.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::processes) struct SlotHeader {
    /// The job's identity, or 0 for the initializer.
    pub(in crate::processes) job: u64,
    /// In an offer: the index of the task. In an answer: its [`AnswerTag`].
    pub(in crate::processes) tag: u32,
    /// In an offer: [`CAPTURE`], [`STREAM`], [`CONTEXT`] and [`WHOLE`]. In an answer: one bit for each part of the offer
    /// that the worker still uses.
    pub(in crate::processes) flags: u32,
    /// In an answer: when the job began, by the monotonic clock, in nanoseconds.
    pub(in crate::processes) began: u64,
    /// In an answer: how long the job took, in nanoseconds.
    pub(in crate::processes) nanos: u64,
    /// In an answer: the time that the job was on a core, in nanoseconds plus 1; 0 if it was not measured.
    pub(in crate::processes) on_core: u64,
    /// In an answer: the time that the job waited for a core which others had, in nanoseconds.
    pub(in crate::processes) run_delay: u64,
    /// The number of parts in the list at the beginning of the slot's data.
    pub(in crate::processes) parts: u32,
    /// The length of a body that is in the slot, in bytes; [`FAR`] for one that is in the sender's arena.
    pub(in crate::processes) inline: u32,
    /// The place of a body in the sender's arena, in bytes.
    pub(in crate::processes) offset: u64,
    /// The length of a body in the sender's arena, in bytes.
    pub(in crate::processes) length: u64,
}

/// A flag of an offer: the output of the job is captured.
pub(in crate::processes) const CAPTURE: u32 = 1;

/// A flag of an offer: the job may send items before its answer.
pub(in crate::processes) const STREAM: u32 = 2;

/// A flag of an offer: the job's context (its name, its parent span, what it carries) precedes its arguments.
pub(in crate::processes) const CONTEXT: u32 = 4;

/// A flag of an offer: the result and the items go on to another machine, so they have no parts.
pub(in crate::processes) const WHOLE: u32 = 8;

/// The value of `inline` for a body that is in the arena.
pub(in crate::processes) const FAR: u32 = u32::MAX;

/// The kind of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(in crate::processes) enum AnswerTag {
    /// The result. Body: as encoded by the task.
    Done = 1,
    /// The task panicked. Body: a [`PanicNote`].
    Panicked = 2,
    /// The arguments could not be decoded. Body: the reason, UTF-8.
    BadArguments = 3,
    /// The result could not be encoded. Body: the reason, UTF-8.
    BadResult = 4,
    /// The result of a job that declared itself failed. Body: as encoded by the task.
    Failed = 5,
}

impl AnswerTag {
    pub(super) fn from_tag(tag: u32) -> Option<Self> {
        Some(match tag {
            1 => Self::Done,
            2 => Self::Panicked,
            3 => Self::BadArguments,
            4 => Self::BadResult,
            5 => Self::Failed,
            _ => return None,
        })
    }
}

/// A panic as it travels.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::processes) struct PanicNote {
    pub(in crate::processes) message: String,
    pub(in crate::processes) location: Option<String>,
    pub(in crate::processes) backtrace: Option<String>,
}

/// The reason why what a worker has written violates the protocol.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(in crate::processes) enum Malformed {
    #[error("its worker set a slot of the link to state {0}, which is not allowed there")]
    State(u32),
    #[error("its worker sent an answer of the unknown kind {0}")]
    AnswerTag(u32),
    #[error("its worker answered job {said} where job {asked} was expected")]
    Job { said: u64, asked: u64 },
    #[error("its worker sent an answer with an invalid number of parts: {0}")]
    Parts(u32),
    #[error("its worker sent an answer of {0} bytes in the link, more than have come")]
    Inline(u32),
    #[error(
        "its worker sent an answer at offset {offset} with length {length}, outside of its arena of {size} bytes"
    )]
    Far { offset: u64, length: u64, size: u64 },
    #[error("its worker sent an answer of {size} bytes, more than the pool's max_payload of {limit}")]
    Size { size: u64, limit: u64 },
}

/// A range of the sender's arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::processes) struct Span {
    pub(in crate::processes) offset: u64,
    pub(in crate::processes) length: u64,
}

/// The decoded content of a slot. All ranges have been checked: they lie within the sender's arena.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::processes) struct Frame {
    pub(in crate::processes) body: FrameBody,
    pub(in crate::processes) parts: Vec<Span>,
}

#[derive(Debug, PartialEq, Eq)]
pub(in crate::processes) enum FrameBody {
    Inline(Vec<u8>),
    Far(Span),
}

/// Decodes what a slot holds. Checks each length and each range before it is used, and allocates no more than has come.
///
/// `arena` is the size of the sender's arena. `limit` is the largest size that the payload may have. Both in bytes.
pub(in crate::processes) fn decode_frame(
    header: &SlotHeader,
    mut data: Vec<u8>,
    arena: u64,
    limit: u64,
) -> Result<Frame, Malformed> {
    let count = header.parts as usize;
    if count > PARTS {
        return Err(Malformed::Parts(header.parts));
    }
    let check = |span: Span| match span.offset.checked_add(span.length) {
        Some(end) if end <= arena => Ok(span),
        _ => Err(Malformed::Far { offset: span.offset, length: span.length, size: arena }),
    };
    let list = data.get(..count * SPAN).ok_or(Malformed::Parts(header.parts))?;
    let parts = list
        .chunks_exact(SPAN)
        .map(|entry| {
            let number = |at: usize| {
                u64::from_le_bytes(entry[at..at + 8].try_into().expect("eight bytes are eight bytes"))
            };
            check(Span { offset: number(0), length: number(8) })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let body = if header.inline == FAR {
        FrameBody::Far(check(Span { offset: header.offset, length: header.length })?)
    } else {
        data.drain(..count * SPAN);
        if data.len() < header.inline as usize {
            return Err(Malformed::Inline(header.inline));
        }
        data.truncate(header.inline as usize);
        FrameBody::Inline(data)
    };
    let own = match &body {
        FrameBody::Inline(bytes) => bytes.len() as u64,
        FrameBody::Far(span) => span.length,
    };
    let size = parts.iter().fold(own, |size, part| size.saturating_add(part.length));
    if size > limit {
        return Err(Malformed::Size { size, limit });
    }
    Ok(Frame { body, parts })
}
