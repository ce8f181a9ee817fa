//! A link: a ring of calls in memory that a pool and one worker share, and a socket by which they wake each other.
//!
//! ```text
//!            pool                          worker                        pool
//! Empty ──────────▶ Offered ──────────▶ Claimed ──────────▶ Answered ──────────▶ Empty
//!                      │ pool                                                     ▲
//!                      └────────▶ Withdrawn ─────────────── worker ───────────────┘
//! ```
//!
//! Both sides go round the ring in the same order. A slot belongs to whoever's turn it is by its state; only
//! `Offered` is contended, and both leave it by compare-and-swap: a call is claimed or withdrawn, never both.
//! What the states mean for each side, who sleeps when, and who dies where, is in the README beside this file.

use std::cell::UnsafeCell;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags};
use rustix::thread::futex;
use rustix::time::Timespec;
use serde::{Deserialize, Serialize};

use super::sys;
use crate::arena::{self, Mapping};
use crate::blob::{Blob, Foreign};
use crate::payload::{INLINE, PARTS, Payload, Place};
use crate::sync::Mutex;

/// How many calls a link holds.
pub(super) const SLOTS: u32 = 32;

/// How many bytes of a slot are for a payload: the list of its parts, then its body.
pub(super) const DATA: usize = PARTS * SPAN + INLINE;

/// The size of a part's entry in the list: offset and length.
const SPAN: usize = 16;

/// How many freed blocks may be under way back to the worker.
const RETURNS: u32 = 256;

/// The states of a slot.
pub(super) mod state {
    pub(in super::super) const EMPTY: u32 = 0;
    pub(in super::super) const OFFERED: u32 = 1;
    pub(in super::super) const CLAIMED: u32 = 2;
    pub(in super::super) const ANSWERED: u32 = 3;
    pub(in super::super) const WITHDRAWN: u32 = 4;
}

/// What both sides see. It begins as zeros, which is right for all of it.
#[repr(C)]
struct Shared {
    /// The worker's fingerprint, once it is up.
    greeting: AtomicU64,
    /// The worker is about to sleep, or does: wake it.
    worker_sleeps: Line<AtomicU32>,
    /// The supervisor is about to sleep, or does: ring for it.
    pool_waits: Line<AtomicU32>,
    /// The core that each side was last seen on. Who shares one gains nothing by spinning for the other.
    worker_core: Line<AtomicU32>,
    pool_core: Line<AtomicU32>,
    /// Blocks of the worker's arena that the pool has done with: a queue from the pool to the worker.
    returns: Returns,
    slots: [Slot; SLOTS as usize],
}

/// Something on a cache line of its own.
#[repr(C, align(64))]
struct Line<T>(T);

#[repr(C)]
struct Returns {
    /// How many the pool has put in.
    put: Line<AtomicU32>,
    /// How many the worker has taken out.
    taken: Line<AtomicU32>,
    offsets: [AtomicU64; RETURNS as usize],
}

#[repr(C, align(64))]
struct Slot {
    state: AtomicU32,
    /// Somebody sleeps until the state is `Answered`.
    awaited: AtomicU32,
    header: UnsafeCell<Header>,
    data: UnsafeCell<[u8; DATA]>,
}

/// What precedes a payload. All zero is valid, and so is any other pattern of bits: it comes from another process.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Header {
    /// The job, or 0 for the initializer.
    pub(super) job: u64,
    /// Of an offer: the index of the task. Of an answer: its [`Kind`].
    pub(super) tag: u32,
    /// Of an offer: what to do beside running it. Of an answer: which parts of the offer are still in use, a bit each.
    pub(super) flags: u32,
    /// How long the job took, in nanoseconds.
    pub(super) nanos: u64,
    /// How many parts are listed.
    pub(super) parts: u32,
    /// How many bytes the body has in the slot, or [`FAR`].
    pub(super) inline: u32,
    /// Where the body is in the sender's arena otherwise, in bytes.
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// An offer's flag: what the job prints is captured.
pub(super) const CAPTURE: u32 = 1;

/// For a futex: it takes a signed number.
const EVERYBODY: u32 = i32::MAX as u32;

/// The body is in the arena.
pub(super) const FAR: u32 = u32::MAX;

/// What an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    /// The result. Body: as encoded by the task.
    Done = 1,
    /// The task panicked. Body: a `PanicNote`.
    Panicked = 2,
    /// The arguments did not decode. Body: the reason, UTF-8.
    BadArguments = 3,
    /// The result did not encode. Body: the reason, UTF-8.
    BadResult = 4,
}

impl Kind {
    fn from_tag(tag: u32) -> Option<Self> {
        Some(match tag {
            1 => Self::Done,
            2 => Self::Panicked,
            3 => Self::BadArguments,
            4 => Self::BadResult,
            _ => return None,
        })
    }
}

/// A panic as it travels.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PanicNote {
    pub(super) message: String,
    pub(super) place: Option<String>,
    pub(super) backtrace: Option<String>,
}

/// An answer that cannot be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Malformed {
    #[error("a slot in the state {0}, where that cannot be")]
    State(u32),
    #[error("an answer of the unknown kind {0}")]
    Kind(u32),
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
pub(super) struct Span {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// A payload as the link has it, checked: everything that it refers to is there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) body: LetterBody,
    pub(super) parts: Vec<Span>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum LetterBody {
    Inline(Vec<u8>),
    Far(Span),
}

/// Makes sense of what a slot holds, whoever wrote it. It believes nothing: each length and each range is checked
/// before it is used, and it allocates only what has really come.
///
/// `arena` is the size of the sender's arena; `limit` what the payload may have in bytes.
pub(super) fn open(header: &Header, mut data: Vec<u8>, arena: u64, limit: u64) -> Result<Letter, Malformed> {
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
        LetterBody::Far(check(Span { offset: header.offset, length: header.length })?)
    } else {
        data.drain(..count * SPAN);
        if data.len() < header.inline as usize {
            return Err(Malformed::Inline(header.inline));
        }
        data.truncate(header.inline as usize);
        LetterBody::Inline(data)
    };
    let own = match &body {
        LetterBody::Inline(bytes) => bytes.len() as u64,
        LetterBody::Far(span) => span.length,
    };
    let size = parts.iter().fold(own, |size, part| size.saturating_add(part.length));
    if size > limit {
        return Err(Malformed::Size { size, limit });
    }
    Ok(Letter { body, parts })
}

/// One side's hold on the shared memory.
#[derive(Debug)]
struct Ring(Mapping);

impl Ring {
    fn shared(&self) -> &Shared {
        // SAFETY: the mapping is at least as large as `Shared` (both constructors see to it), aligned to a page,
        // and every pattern of bits is a valid `Shared`: it consists of atomics and of cells that are only
        // accessed through raw pointers, as the other process may write to them.
        unsafe { self.0.start().cast().as_ref() }
    }

    fn slot(&self, at: u32) -> &Slot {
        &self.shared().slots[(at % SLOTS) as usize]
    }

    /// Writes a payload into a slot whose turn is the caller's.
    fn write(&self, at: u32, mut header: Header, payload: &Payload) {
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
            let (offset, length) = part.place().expect("only blobs of this process's arena are attached");
            put(&offset.to_le_bytes());
            put(&(length as u64).to_le_bytes());
            header.parts += 1;
        }
        match payload.place() {
            Place::Inline(bytes) => {
                header.inline = u32::try_from(bytes.len()).expect("inline bodies are small");
                put(bytes);
            }
            Place::Far { offset, length } => {
                (header.inline, header.offset, header.length) = (FAR, offset, length as u64);
            }
        }
        // SAFETY: as above.
        unsafe { slot.header.get().write(header) };
    }

    /// Copies a slot's header and the used part of its data.
    fn read(&self, at: u32) -> (Header, Vec<u8>) {
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

fn this_core() -> u32 {
    u32::try_from(rustix::thread::sched_getcpu()).unwrap_or(u32::MAX)
}

/// What the supervisor hands to a new worker.
pub(super) struct Handout {
    /// The worker's end of the socket.
    pub(super) socket: OwnedFd,
    /// The ring, and the arena that is to be the worker's own.
    pub(super) files: [OwnedFd; 2],
}

/// The pool's end.
#[derive(Debug)]
pub(super) struct Link {
    ring: Ring,
    socket: UnixStream,
    /// What the worker writes its results to, for us to read.
    results: Arc<Mapping>,
    /// Freed blocks for which there was no room among the `returns`.
    returns: Mutex<Vec<u64>>,
    max_payload: u64,
}

impl Link {
    /// Makes a link for a new worker.
    pub(super) fn create(max_payload: u64) -> io::Result<(Self, Handout)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let ring_file = arena::memory_file("offloop-link", size_of::<Shared>())?;
        let ring = Ring(Mapping::new(ring_file.as_fd(), size_of::<Shared>(), true)?);
        let (arena_file, results) = arena::create(arena::reserve(), false)?;
        let link = Self {
            ring,
            socket: ours,
            results: Arc::new(results),
            returns: Mutex::new(Vec::new()),
            max_payload,
        };
        Ok((link, Handout { socket: theirs.into(), files: [ring_file, arena_file] }))
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// How large the arena of the worker is, in bytes.
    pub(super) fn arena_size(&self) -> u64 {
        self.results.size() as u64
    }

    /// What the worker said of itself; 0 until it has.
    pub(super) fn greeting(&self) -> u64 {
        self.ring.shared().greeting.load(Ordering::Acquire)
    }

    pub(super) fn state(&self, at: u32) -> u32 {
        self.ring.slot(at).state.load(Ordering::SeqCst)
    }

    /// Offers a call. The slot is empty, and callers take turns.
    pub(super) fn offer(&self, at: u32, job: u64, task: u32, flags: u32, payload: &Payload) {
        let header = Header { job, tag: task, flags, ..Header::default() };
        self.ring.write(at, header, payload);
        self.ring.shared().pool_core.0.store(this_core(), Ordering::Relaxed);
        self.ring.slot(at).state.store(state::OFFERED, Ordering::SeqCst);
    }

    /// Takes an offer back. False if the worker has claimed it.
    pub(super) fn withdraw(&self, at: u32) -> bool {
        let state = &self.ring.slot(at).state;
        state.compare_exchange(state::OFFERED, state::WITHDRAWN, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Takes the answer out of a slot in the state `Answered`, and empties it.
    pub(super) fn take(self: &Arc<Self>, at: u32, job: u64) -> Result<Answer, Malformed> {
        self.pass_on_returns();
        let (header, data) = self.ring.read(at);
        self.ring.slot(at).state.store(state::EMPTY, Ordering::SeqCst);
        let kind = Kind::from_tag(header.tag).ok_or(Malformed::Kind(header.tag))?;
        if header.job != job {
            return Err(Malformed::Job { said: header.job, asked: job });
        }
        let letter = open(&header, data, self.results.size() as u64, self.max_payload)?;
        let body = match letter.body {
            LetterBody::Inline(bytes) => AnswerBody::Inline(bytes),
            LetterBody::Far(span) => AnswerBody::Far(self.lend(span)),
        };
        let parts = letter.parts.into_iter().map(|span| self.lend(span)).collect();
        Ok(Answer { kind, body, parts, nanos: header.nanos, kept: header.flags })
    }

    /// A view of the worker's arena, which is given back when the view is dropped.
    fn lend(self: &Arc<Self>, span: Span) -> Blob {
        let range = span.offset..span.offset + span.length;
        let start = self.results.at(&range).expect("`open` has checked it");
        let length = usize::try_from(span.length).expect("`open` has checked it");
        let keeper = Box::new(Lease { link: Arc::clone(self), offset: span.offset });
        // SAFETY: the lease keeps the mapping. The worker does not use the block again before the lease is
        // returned; one that has lost its mind might, as it might do anything else as the same user.
        Blob::foreign(unsafe { Foreign::new(start, length, keeper) })
    }

    /// Whether the worker sleeps or is about to, and nobody has undertaken to wake it yet: then the caller is to
    /// [`wake`](Self::wake) it.
    pub(super) fn must_wake(&self) -> bool {
        let sleeps = &self.ring.shared().worker_sleeps.0;
        sleeps.load(Ordering::SeqCst) != 0 && sleeps.swap(0, Ordering::SeqCst) != 0
    }

    /// Wakes the worker. A system call; does not block.
    ///
    /// By the socket and not by a futex, as the kernel then lets the worker run where its caller is about to sleep,
    /// and needs not wake another core.
    pub(super) fn wake(&self) {
        // If the socket is full the worker has enough to read; if it is closed the worker is gone.
        let _ = rustix::net::send(&self.socket, &[0], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    /// Whether the worker was last seen on another core than the caller's.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.ring.shared().worker_core.0.load(Ordering::Relaxed) != this_core()
    }

    /// Whether the worker looks out for calls, or runs one.
    pub(super) fn is_awake(&self) -> bool {
        self.ring.shared().worker_sleeps.0.load(Ordering::Relaxed) == 0
    }

    /// Sleeps until the call in a slot is answered, at most for `limit`; may return early. Whoever has slept here
    /// takes all answers of this link after it: it may have been woken in the supervisor's place.
    pub(super) fn await_answer(&self, at: u32, limit: Duration) {
        let slot = self.ring.slot(at);
        slot.awaited.store(1, Ordering::SeqCst);
        let state = slot.state.load(Ordering::SeqCst);
        if state != state::ANSWERED {
            let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(limit.subsec_nanos()) };
            let _ = futex::wait(&slot.state, futex::Flags::empty(), state, Some(&limit));
        }
        slot.awaited.store(0, Ordering::SeqCst);
    }

    /// Asks the worker to ring from now on. Whoever asks looks at the slots after it, and before it sleeps.
    pub(super) fn watch(&self) {
        self.ring.shared().pool_waits.0.store(1, Ordering::SeqCst);
    }

    /// Empties the socket. False if the worker has closed it.
    pub(super) fn silence(&self) -> bool {
        let mut bytes = [0; 64];
        loop {
            match rustix::net::recv(&self.socket, &mut bytes, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return false,
                Ok((count, _)) if count < bytes.len() => return true,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Lets the worker go: it leaves when it finds nothing more to do.
    pub(super) fn close(&self) {
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Tells the worker that a block of its arena is free.
    fn give_back(&self, offset: u64) {
        self.returns.lock().push(offset);
        self.pass_on_returns();
    }

    /// Tells the worker of as many freed blocks as there is room for now. Says whether that is all of them.
    pub(super) fn pass_on_returns(&self) -> bool {
        let mut waiting = self.returns.lock();
        let returns = &self.ring.shared().returns;
        while let Some(&offset) = waiting.last() {
            let put = returns.put.0.load(Ordering::Relaxed);
            if put.wrapping_sub(returns.taken.0.load(Ordering::Acquire)) >= RETURNS {
                return false;
            }
            returns.offsets[(put % RETURNS) as usize].store(offset, Ordering::Relaxed);
            returns.put.0.store(put.wrapping_add(1), Ordering::Release);
            waiting.pop();
        }
        true
    }
}

/// The pool's hold on a block of a worker's arena.
struct Lease {
    link: Arc<Link>,
    offset: u64,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.link.give_back(self.offset);
    }
}

/// A worker's answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) kind: Kind,
    body: AnswerBody,
    pub(super) parts: Vec<Blob>,
    pub(super) nanos: u64,
    /// Which parts of the call the worker still uses, a bit each.
    pub(super) kept: u32,
}

#[derive(Debug)]
enum AnswerBody {
    Inline(Vec<u8>),
    Far(Blob),
}

impl Answer {
    pub(super) fn body(&self) -> &[u8] {
        match &self.body {
            AnswerBody::Inline(bytes) => bytes,
            AnswerBody::Far(blob) => blob,
        }
    }
}

/// The worker's end.
#[derive(Debug)]
pub(super) struct WorkerEnd {
    ring: Ring,
    socket: UnixStream,
    /// What the pool writes its calls to, for us to read.
    calls: &'static Mapping,
    /// The slot whose turn is next.
    at: u32,
    /// The first slot whose answer was not announced.
    announced: u32,
    /// It has passed withdrawn calls since it announced something last: there is room, of which nobody knows.
    has_passed: bool,
    /// Which socket it is: its device and number.
    identity: (u64, u64),
}

/// A call as the worker has it.
pub(super) struct Request {
    pub(super) job: u64,
    pub(super) task: u32,
    pub(super) flags: u32,
    body: RequestBody,
    pub(super) parts: Vec<Blob>,
}

enum RequestBody {
    Inline(Vec<u8>),
    Far(NonNull<u8>, usize),
}

impl Request {
    /// The encoded arguments, in place.
    pub(super) fn body(&self) -> &[u8] {
        match &self.body {
            RequestBody::Inline(bytes) => bytes,
            // SAFETY: the pool has written these bytes before it offered the call, and leaves them alone until
            // the call is answered; the mapping stays for as long as this process.
            RequestBody::Far(start, length) => unsafe { std::slice::from_raw_parts(start.as_ptr(), *length) },
        }
    }
}

/// What a worker is to do after it has looked.
pub(super) enum Look {
    Call(Request),
    Nothing,
}

impl WorkerEnd {
    pub(super) fn new(socket: UnixStream, ring: BorrowedFd<'_>, calls: Mapping) -> io::Result<Self> {
        let ring = Ring(Mapping::new(ring, size_of::<Shared>(), true)?);
        let status = rustix::fs::fstat(&socket)?;
        let identity = (status.st_dev, status.st_ino);
        Ok(Self {
            ring,
            socket,
            calls: Box::leak(Box::new(calls)),
            at: 0,
            announced: 0,
            has_passed: false,
            identity,
        })
    }

    /// Says what this process is.
    pub(super) fn greet(&self, fingerprint: u64) {
        self.ring.shared().greeting.store(fingerprint, Ordering::SeqCst);
        self.ring();
    }

    /// Whether the last job has left the socket alone. A system call.
    pub(super) fn is_intact(&self) -> bool {
        rustix::fs::fstat(&self.socket).is_ok_and(|status| (status.st_dev, status.st_ino) == self.identity)
    }

    /// Whether there is something to do in the next slot. One atomic load.
    pub(super) fn is_due(&self) -> bool {
        // In a full ring the next slot is the one whose answer the pool has not taken for the longest time.
        matches!(self.ring.slot(self.at).state.load(Ordering::SeqCst), state::OFFERED | state::WITHDRAWN)
    }

    /// Whether whoever offered the last call was on another core than this process.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.ring.shared().pool_core.0.load(Ordering::Relaxed) != this_core()
    }

    /// Whether the pool has taken the last answer, and there is nothing else to tell.
    pub(super) fn is_heard(&self) -> bool {
        !self.has_passed
            && self.ring.slot(self.at.wrapping_sub(1)).state.load(Ordering::SeqCst) != state::ANSWERED
    }

    /// Claims the next call, if there is one.
    pub(super) fn look(&mut self) -> Look {
        loop {
            let state = &self.ring.slot(self.at).state;
            let claim =
                state.compare_exchange(state::OFFERED, state::CLAIMED, Ordering::SeqCst, Ordering::SeqCst);
            match claim {
                Ok(_) => {
                    self.ring.shared().worker_core.0.store(this_core(), Ordering::Relaxed);
                    return Look::Call(self.receive());
                }
                Err(state::WITHDRAWN) => {
                    state.store(state::EMPTY, Ordering::SeqCst);
                    self.at = self.at.wrapping_add(1);
                    self.has_passed = true;
                }
                Err(_) => return Look::Nothing,
            }
        }
    }

    fn receive(&self) -> Request {
        let (header, data) = self.ring.read(self.at);
        // The pool does not lie, but to check costs nothing.
        let letter =
            open(&header, data, self.calls.size() as u64, u64::MAX).expect("the pool's calls are sound");
        let find = |span: Span| {
            let start = self.calls.at(&(span.offset..span.offset + span.length)).expect("checked by `open`");
            (start, usize::try_from(span.length).expect("checked by `open`"))
        };
        let body = match letter.body {
            LetterBody::Inline(bytes) => RequestBody::Inline(bytes),
            LetterBody::Far(span) => {
                let (start, length) = find(span);
                RequestBody::Far(start, length)
            }
        };
        let lend = |span| {
            let (start, length) = find(span);
            // SAFETY: the mapping is never undone. The pool keeps the bytes as they are until it learns with the
            // answer that nobody here holds the blob any more.
            Blob::foreign(unsafe { Foreign::new(start, length, Box::new(())) })
        };
        let parts = letter.parts.into_iter().map(lend).collect();
        Request { job: header.job, task: header.tag, flags: header.flags, body, parts }
    }

    /// Answers the call that was claimed last. Nobody is woken for it before [`announce`](Self::announce).
    pub(super) fn answer(&mut self, header: Header, payload: &Payload) {
        self.ring.write(self.at, header, payload);
        self.ring.slot(self.at).state.store(state::ANSWERED, Ordering::SeqCst);
        self.at = self.at.wrapping_add(1);
    }

    /// Wakes whoever sleeps for one of the answers that were given since the last time: those who wait for just
    /// that one, or else the supervisor.
    pub(super) fn announce(&mut self) {
        self.has_passed = false;
        let mut is_told = false;
        while self.announced != self.at {
            let slot = self.ring.slot(self.announced);
            if slot.awaited.load(Ordering::SeqCst) != 0 {
                let _ = futex::wake(&slot.state, futex::Flags::empty(), EVERYBODY);
                is_told = true;
            }
            self.announced = self.announced.wrapping_add(1);
        }
        let waits = &self.ring.shared().pool_waits.0;
        if !is_told && waits.load(Ordering::SeqCst) != 0 && waits.swap(0, Ordering::SeqCst) != 0 {
            self.ring();
        }
    }

    /// Whether all answers were announced.
    pub(super) fn has_announced(&self) -> bool {
        self.announced == self.at
    }

    /// Takes note that the pool has taken all answers by itself.
    pub(super) fn need_not_announce(&mut self) {
        self.announced = self.at;
    }

    fn ring(&self) {
        let _ = rustix::net::send(&self.socket, &[0], SendFlags::NOSIGNAL);
    }

    /// Sleeps until the pool has something, at most for `limit` if there is one. False if the link has ended.
    pub(super) fn sleep(&self, limit: Option<Duration>) -> bool {
        let sleeps = &self.ring.shared().worker_sleeps.0;
        sleeps.store(1, Ordering::SeqCst);
        let goes_on = self.is_due() || {
            // What is read without waiting is what has come.
            let has_come = limit.is_some_and(|limit| sys::is_readable_within(self.socket.as_fd(), limit));
            self.read(if limit.is_none() || has_come { RecvFlags::empty() } else { RecvFlags::DONTWAIT })
        };
        sleeps.store(0, Ordering::SeqCst);
        goes_on
    }

    /// Empties the socket. False if it has ended.
    fn read(&self, flags: RecvFlags) -> bool {
        let mut bytes = [0; 64];
        loop {
            match rustix::net::recv(&self.socket, &mut bytes, flags) {
                Ok((count, _)) => return count > 0,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
    }

    /// The blocks that the pool has done with.
    pub(super) fn returned(&self) -> Option<u64> {
        let returns = &self.ring.shared().returns;
        let taken = returns.taken.0.load(Ordering::Relaxed);
        if taken == returns.put.0.load(Ordering::Acquire) {
            return None;
        }
        let offset = returns.offsets[(taken % RETURNS) as usize].load(Ordering::Relaxed);
        returns.taken.0.store(taken.wrapping_add(1), Ordering::Release);
        Some(offset)
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

#[cfg(all(test, not(shuttle), not(miri)))]
mod tests;
