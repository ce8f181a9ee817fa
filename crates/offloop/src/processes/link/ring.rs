//! A link: a ring of calls in memory that a pool and one worker share, and a socket by which they wake each other.
//!
//! ```text
//!            pool                          worker                        pool
//! Empty ──────────▶ Offered ──────────▶ Claimed ──────────▶ Answered ──────────▶ Empty
//!                      │ pool                                                     ▲
//!                      └────────▶ Withdrawn ─────────────── worker ───────────────┘
//! ```
//!
//! A job may send items before its answer: `Claimed ─worker─▶ Item ─pool─▶ Claimed`.
//!
//! Both sides go round the ring in the same order. A slot belongs to whoever's turn it is by its state; only
//! `Offered` is contended, and both leave it by compare-and-swap: a call is claimed or withdrawn, never both.
//! What the states mean for each side, who sleeps when, and who dies where, is in the README beside this file.

use std::cell::UnsafeCell;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, AtomicU64};

use rustix::net::RecvFlags;
use serde::{Deserialize, Serialize};

use crate::wire::memfd::Mapping;
use crate::wire::payload::{BodyLocation, INLINE, PARTS, Payload};

/// How many calls a link holds.
pub(crate) const SLOTS: u32 = 32;

/// How many bytes of a slot are for a payload: the list of its parts, then its body.
pub(crate) const DATA: usize = PARTS * SPAN + INLINE;

/// The size of a part's entry in the list: offset and length.
pub(crate) const SPAN: usize = 16;

/// How many freed blocks may be under way back to the worker.
pub(crate) const RETURNS: u32 = 256;

/// The states of a slot.
pub(crate) mod state {
    pub(crate) const EMPTY: u32 = 0;
    pub(crate) const OFFERED: u32 = 1;
    pub(crate) const CLAIMED: u32 = 2;
    pub(crate) const ANSWERED: u32 = 3;
    pub(crate) const WITHDRAWN: u32 = 4;
    pub(crate) const ITEM: u32 = 5;
}

/// The states of a pool's listener, as far as one worker is concerned; 0 is none.
pub(crate) mod ear {
    /// It wants to be told of answers.
    pub(crate) const OPEN: u32 = 1;
    /// It was told, and has not looked yet.
    pub(crate) const TOLD: u32 = 2;
}

/// What both sides see. It begins as zeros, which is right for all of it.
#[repr(C)]
pub(crate) struct Shared {
    /// The worker's fingerprint, once it is up.
    pub(crate) greeting: AtomicU64,
    /// The worker is about to sleep, or does: wake it.
    pub(crate) worker_sleeps: Line<AtomicU32>,
    /// The supervisor is about to sleep, or does: ring for it.
    pub(crate) pool_waits: Line<AtomicU32>,
    /// What the pool's listener has been told: see [`ear`].
    pub(crate) listener: Line<AtomicU32>,
    /// The core that each side was last seen on. Who shares one gains nothing by spinning for the other.
    pub(crate) worker_core: Line<AtomicU32>,
    pub(crate) pool_core: Line<AtomicU32>,
    /// Blocks of the worker's arena that the pool has done with: a queue from the pool to the worker.
    pub(crate) returns: Returns,
    pub(crate) slots: [Slot; SLOTS as usize],
}

/// Something on a cache line of its own.
#[repr(C, align(64))]
pub(crate) struct Line<T>(pub(crate) T);

#[repr(C)]
pub(crate) struct Returns {
    /// How many the pool has put in.
    pub(crate) put: Line<AtomicU32>,
    /// How many the worker has taken out.
    pub(crate) taken: Line<AtomicU32>,
    pub(crate) offsets: [AtomicU64; RETURNS as usize],
}

#[repr(C, align(64))]
pub(crate) struct Slot {
    pub(crate) state: AtomicU32,
    /// Somebody sleeps until the state is `Answered`.
    pub(crate) awaited: AtomicU32,
    /// The worker sleeps until the state is not `Item` any more.
    pub(crate) blocked: AtomicU32,
    pub(crate) header: UnsafeCell<SlotHeader>,
    pub(crate) data: UnsafeCell<[u8; DATA]>,
}

/// What precedes a payload. All zero is valid, and so is any other pattern of bits: it comes from another process.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SlotHeader {
    /// The job, or 0 for the initializer.
    pub(crate) job: u64,
    /// Of an offer: the index of the task. Of an answer: its [`AnswerTag`].
    pub(crate) tag: u32,
    /// Of an offer: what to do beside running it. Of an answer: which parts of the offer are still in use, a bit each.
    pub(crate) flags: u32,
    /// When the job began, by the monotonic clock, and how long it took, in nanoseconds.
    pub(crate) began: u64,
    pub(crate) nanos: u64,
    /// For how much of that it was on a core, one more than that in nanoseconds; 0 if that was not measured.
    pub(crate) on_core: u64,
    /// And for how much of it others had the cores.
    pub(crate) run_delay: u64,
    /// How many parts are listed.
    pub(crate) parts: u32,
    /// How many bytes the body has in the slot, or [`FAR`].
    pub(crate) inline: u32,
    /// Where the body is in the sender's arena otherwise, in bytes.
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// An offer's flag: what the job prints is captured.
pub(crate) const CAPTURE: u32 = 1;

/// An offer's flag: the job may send items before its answer.
pub(crate) const STREAM: u32 = 2;

/// An offer's flag: what the job is called and carries precedes its arguments.
pub(crate) const CONTEXT: u32 = 4;

/// For a futex: it takes a signed number.
pub(crate) const EVERYBODY: u32 = i32::MAX as u32;

/// The body is in the arena.
pub(crate) const FAR: u32 = u32::MAX;

/// What an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum AnswerTag {
    /// The result. Body: as encoded by the task.
    Done = 1,
    /// The task panicked. Body: a `PanicNote`.
    Panicked = 2,
    /// The arguments did not decode. Body: the reason, UTF-8.
    BadArguments = 3,
    /// The result did not encode. Body: the reason, UTF-8.
    BadResult = 4,
    /// The result of a job that says itself that it has failed. Body: as encoded by the task.
    Failed = 5,
}

impl AnswerTag {
    pub(crate) fn from_tag(tag: u32) -> Option<Self> {
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
pub(crate) struct PanicNote {
    pub(crate) message: String,
    pub(crate) location: Option<String>,
    pub(crate) backtrace: Option<String>,
}

/// An answer that cannot be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Malformed {
    #[error("a slot in the state {0}, where that cannot be")]
    State(u32),
    #[error("an answer of the unknown kind {0}")]
    AnswerTag(u32),
    #[error("an answer for job {said} where job {asked} was asked")]
    Job { said: u64, asked: u64 },
    #[error("an answer with {0} parts")]
    Parts(u32),
    #[error("an answer that claims {0} bytes in the link")]
    Inline(u32),
    #[error("an answer that claims bytes {offset}+{length} of an arena of {size}")]
    Far { offset: u64, length: u64, size: u64 },
    #[error("an answer of {size} bytes where at most {limit} are allowed")]
    Size { size: u64, limit: u64 },
}

/// A range of the sender's arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// A payload as the link has it, checked: everything that it refers to is there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) body: FrameBody,
    pub(crate) parts: Vec<Span>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FrameBody {
    Inline(Vec<u8>),
    Far(Span),
}

/// Makes sense of what a slot holds, whoever wrote it. It believes nothing: each length and each range is checked
/// before it is used, and it allocates only what has really come.
///
/// `arena` is the size of the sender's arena; `limit` what the payload may have in bytes.
pub(crate) fn open(
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

/// One side's hold on the shared memory.
#[derive(Debug)]
pub(crate) struct Ring(pub(crate) Mapping);

impl Ring {
    pub(crate) fn shared(&self) -> &Shared {
        // SAFETY: the mapping is at least as large as `Shared` (both constructors see to it), aligned to a page,
        // and every pattern of bits is a valid `Shared`: it consists of atomics and of cells that are only
        // accessed through raw pointers, as the other process may write to them.
        unsafe { self.0.start().cast().as_ref() }
    }

    pub(crate) fn slot(&self, at: u32) -> &Slot {
        &self.shared().slots[(at % SLOTS) as usize]
    }

    /// Writes a payload into a slot whose turn is the caller's.
    pub(crate) fn write(&self, at: u32, mut header: SlotHeader, payload: &Payload) {
        let slot = self.slot(at);
        let data = slot.data.get().cast::<u8>();
        let mut used = 0;
        let mut put = |bytes: &[u8]| {
            assert!(bytes.len() <= DATA - used, "payloads are made to fit");
            // SAFETY: the range lies within the slot's data, and by the slot's state only we access it now.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), data.add(used), bytes.len()) };
            used += bytes.len();
        };
        header.parts = 0;
        for part in payload.parts() {
            let (offset, length) = part.location().expect("only blobs of this process's arena are attached");
            put(&offset.to_le_bytes());
            put(&(length as u64).to_le_bytes());
            header.parts += 1;
        }
        match payload.location() {
            BodyLocation::Inline(bytes) => {
                header.inline = u32::try_from(bytes.len()).expect("inline bodies are small");
                put(bytes);
            }
            BodyLocation::InArena { offset, length } => {
                (header.inline, header.offset, header.length) = (FAR, offset, length as u64);
            }
        }
        // SAFETY: as above.
        unsafe { slot.header.get().write(header) };
    }

    /// Copies a slot's header and the used part of its data.
    pub(crate) fn read(&self, at: u32) -> (SlotHeader, Vec<u8>) {
        let slot = self.slot(at);
        // SAFETY: the pointer is to mapped memory in which any bits are a valid header. If a worker gone mad
        // writes meanwhile we may see nonsense, which is checked as any other.
        let header = unsafe { slot.header.get().read_volatile() };
        let inline = if header.inline == FAR { 0 } else { header.inline as usize };
        let used = (header.parts as usize).saturating_mul(SPAN).saturating_add(inline).min(DATA);
        let mut data: Vec<u8> = Vec::with_capacity(used);
        // SAFETY: `used` bytes are within the slot's data and within the vector's capacity, and are initialised
        // after the copy.
        unsafe {
            std::ptr::copy_nonoverlapping(slot.data.get().cast::<u8>(), data.as_mut_ptr(), used);
            data.set_len(used);
        }
        (header, data)
    }
}

pub(crate) fn this_core() -> u32 {
    u32::try_from(rustix::thread::sched_getcpu()).unwrap_or(u32::MAX)
}

/// Reads away the bytes on a socket, which mean nothing but "look". The first read is by `flags`. False if the socket
/// has ended.
pub(crate) fn empty(socket: &UnixStream, mut flags: RecvFlags) -> bool {
    let mut bytes = [0; 64];
    loop {
        match rustix::net::recv(socket, &mut bytes, flags) {
            Ok((0, _)) => return false,
            Ok((count, _)) if count < bytes.len() => return true,
            Ok(_) => flags = RecvFlags::DONTWAIT,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return true,
            Err(_) => return false,
        }
    }
}
