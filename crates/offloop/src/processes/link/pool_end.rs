//! The pool's end of a link.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags};

use super::message::{AnswerTag, FrameBody, Malformed, SlotHeader, Span, decode_frame};
use super::ring::{RETURNS, Ring, Shared, listener, state};
use super::segments;
use crate::base::clock::Moment;
use crate::base::sync::Mutex;
use crate::base::sync::atomic::Ordering;
use crate::base::syscall::NameCall;
use crate::metrics::cpu::Usage;
use crate::metrics::stats::Timing;
use crate::processes::os::fd::{drain_socket, end_sending, send_byte};
use crate::processes::os::futex;
use crate::processes::os::process::this_core;
use crate::wire::arena::{self, Arena};
use crate::wire::blob::{Blob, Foreign, Keeper};
use crate::wire::memfd::{Mapping, MemoryFile};
use crate::wire::payload::{Payload, Received};

/// The descriptors that a new worker is given.
pub(in crate::processes) struct Handout {
    /// The worker's end of the socket.
    pub(in crate::processes) socket: OwnedFd,
    /// The ring, and the arena that is to be the worker's own.
    pub(in crate::processes) files: [OwnedFd; 2],
}

/// The pool's end.
#[derive(Debug)]
pub(in crate::processes) struct Link {
    pub(in crate::processes) ring: Ring,
    pub(super) socket: UnixStream,
    /// The worker's arena, mapped for reading: the worker writes its results there.
    pub(in crate::processes) results: Arc<Mapping>,
    /// Freed blocks for which there was no room in the ring's queue of returns.
    pub(super) returns: Mutex<Vec<u64>>,
    /// The numbers of the segments of the pool's memory that the worker has been given.
    attached: Mutex<HashSet<u32>>,
    /// The largest payload that is accepted from the worker, in bytes.
    max_payload: u64,
}

impl Link {
    /// Makes a link for a new worker.
    pub(in crate::processes) fn create(max_payload: u64) -> io::Result<(Self, Handout)> {
        let (ours, theirs) = UnixStream::pair().of_call("socketpair")?;
        ours.set_nonblocking(true).of_call("ioctl(FIONBIO)")?;
        let ring_file = MemoryFile::new("offloop-link", size_of::<Shared>())?.sealed()?;
        let ring = Ring::map(ring_file.as_fd())?;
        let (arena_file, results) = arena::create(arena::reserve(), false)?;
        let link = Self::over(ring, ours, Arc::new(results), max_payload);
        Ok((link, Handout { socket: theirs.into(), files: [ring_file, arena_file] }))
    }

    /// Makes the end of a link whose memory is mapped.
    pub(super) fn over(ring: Ring, socket: UnixStream, results: Arc<Mapping>, max_payload: u64) -> Self {
        let (returns, attached) = (Mutex::new(Vec::new()), Mutex::new(HashSet::new()));
        Self { ring, socket, results, returns, attached, max_payload }
    }

    pub(in crate::processes) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Returns the size of the worker's arena, in bytes.
    pub(in crate::processes) fn arena_size(&self) -> u64 {
        self.results.size() as u64
    }

    /// Returns the worker's fingerprint; 0 until the worker is up.
    pub(in crate::processes) fn greeting(&self) -> u64 {
        self.ring.shared().greeting.load(Ordering::Relaxed)
    }

    /// Returns whether the worker has more memory than it may have between two jobs.
    pub(in crate::processes) fn is_worn(&self) -> bool {
        self.ring.shared().worn.load(Ordering::Relaxed) != 0
    }

    /// Returns the state of a slot.
    pub(in crate::processes) fn state(&self, at: u32) -> u32 {
        self.ring.slot(at).state.load(Ordering::SeqCst)
    }

    /// Offers a call in a slot, which is empty. Callers take turns. Gives the worker the segments that the call lies in.
    pub(in crate::processes) fn offer(&self, at: u32, job: u64, task: u32, flags: u32, payload: &Payload) {
        for segment in payload.arenas() {
            self.attach(segment);
        }
        let header = SlotHeader { job, tag: task, flags, ..SlotHeader::default() };
        self.ring.write(at, header, payload);
        self.ring.shared().pool_core.0.store(this_core(), Ordering::Relaxed);
        self.ring.slot(at).began.store(0, Ordering::Relaxed);
        self.ring.slot(at).state.store(state::OFFERED, Ordering::SeqCst);
    }

    /// Returns when the worker began with the function of the call in a slot, if it has said so.
    pub(in crate::processes) fn began(&self, at: u32) -> Option<Moment> {
        let began = self.ring.slot(at).began.load(Ordering::Relaxed);
        (began != 0).then(|| Moment::from_nanos(began))
    }

    fn attach(&self, segment: &Arena) {
        if self.attached.lock().insert(segment.number()) {
            // If this fails, the worker has ended, or it has not read its socket for very long. Then it answers the call
            // with the reason.
            let _ = segments::attach(self.socket.as_fd(), segment);
        }
    }

    /// Tells the worker that segments of the pool's memory are used no more.
    pub(in crate::processes) fn detach(&self, numbers: &[u32]) {
        for number in numbers {
            if self.attached.lock().remove(number) {
                // If this fails, the worker keeps the memory until it ends.
                let _ = segments::detach(self.socket.as_fd(), *number);
            }
        }
    }

    /// Withdraws an offer. Returns false if the worker has claimed it.
    pub(in crate::processes) fn withdraw(&self, at: u32) -> bool {
        let state = &self.ring.slot(at).state;
        let change =
            state.compare_exchange(state::OFFERED, state::WITHDRAWN, Ordering::Relaxed, Ordering::Relaxed);
        if change.is_ok() {
            self.wake_sleepers(at);
        }
        change.is_ok()
    }

    /// Takes the answer out of a slot in the state `Answered`, and empties the slot.
    pub(in crate::processes) fn take(self: &Arc<Self>, at: u32, job: u64) -> Result<Answer, Malformed> {
        let (header, data) = self.ring.read(at);
        // The slot stays on this side, so this publishes nothing.
        self.ring.slot(at).state.store(state::EMPTY, Ordering::Relaxed);
        self.decode_answer(&header, data, job)
    }

    /// Takes an item out of a slot in the state `Item`, and lets the worker go on.
    pub(in crate::processes) fn take_item(self: &Arc<Self>, at: u32, job: u64) -> Result<Answer, Malformed> {
        let (header, data) = self.ring.read(at);
        let item = self.decode_answer(&header, data, job);
        let slot = self.ring.slot(at);
        slot.state.store(state::CLAIMED, Ordering::SeqCst);
        if slot.blocked.load(Ordering::SeqCst) != 0 {
            futex::wake_all(&slot.state);
        }
        item
    }

    fn decode_answer(
        self: &Arc<Self>,
        header: &SlotHeader,
        data: Vec<u8>,
        job: u64,
    ) -> Result<Answer, Malformed> {
        let tag = AnswerTag::from_tag(header.tag).ok_or(Malformed::AnswerTag(header.tag))?;
        if header.job != job {
            return Err(Malformed::Job { said: header.job, asked: job });
        }
        let frame = decode_frame(header, data, self.results.size() as u64, self.max_payload)?;
        let body = match frame.body {
            FrameBody::Inline(bytes) => AnswerBody::Inline(bytes),
            FrameBody::Far(span) => AnswerBody::Far(self.lend(span)),
        };
        let parts = frame.parts.into_iter().map(|span| self.lend(span)).collect();
        let ran = Timing {
            began: Moment::from_nanos(header.began),
            took: Duration::from_nanos(header.nanos),
            usage: header.on_core.checked_sub(1).map(|on_core| Usage {
                on_core: Duration::from_nanos(on_core),
                run_delay: Duration::from_nanos(header.run_delay),
            }),
        };
        Ok(Answer { tag, body, parts, ran, kept: header.flags })
    }

    /// Returns a view of the worker's arena. The block is given back when the view is dropped.
    fn lend(self: &Arc<Self>, span: Span) -> Blob {
        let range = span.offset..span.offset + span.length;
        let start = self.results.at(&range).expect("`decode_frame` has checked the range");
        let length = usize::try_from(span.length).expect("`decode_frame` has checked the range");
        let keeper = Box::new(Lease { link: Arc::clone(self), offset: span.offset });
        // SAFETY: the lease keeps the mapping. The worker does not reuse the block before the lease is returned. A
        // worker that violates the protocol could, but it runs as the same user and could do as much by other means.
        Blob::foreign(unsafe { Foreign::new(start, length, keeper) })
    }

    /// Returns whether the worker sleeps or is about to, and no other thread has undertaken to wake it. If so, the
    /// caller has to [`wake`](Self::wake) it.
    pub(in crate::processes) fn must_wake(&self) -> bool {
        let sleeps = &self.ring.shared().worker_sleeps.0;
        sleeps.load(Ordering::SeqCst) != 0 && sleeps.swap(0, Ordering::Relaxed) != 0
    }

    /// Wakes the worker. A system call; does not block.
    ///
    /// It uses the socket and not a futex. Then the kernel lets the worker run on the core whose thread is about to
    /// sleep, and need not wake another core.
    pub(in crate::processes) fn wake(&self) {
        // If the socket is full, the worker has bytes to wake up for. If it is closed, the worker is gone.
        send_byte(&self.socket, SendFlags::DONTWAIT);
    }

    /// Returns whether the worker was last seen on another core than the caller's.
    pub(in crate::processes) fn is_elsewhere(&self) -> bool {
        self.ring.shared().worker_core.0.load(Ordering::Relaxed) != this_core()
    }

    /// Returns whether the worker spins for calls or runs one.
    pub(in crate::processes) fn is_awake(&self) -> bool {
        self.ring.shared().worker_sleeps.0.load(Ordering::Relaxed) == 0
    }

    /// Sleeps until the call in a slot is answered or has been withdrawn, for at most `limit`. May return early. Returns
    /// false without a sleep if no worker is at that call any more: its answer was taken, it was withdrawn, or there is an
    /// item of it to take.
    ///
    /// The caller then takes all answers of this link: it may have been woken in the supervisor's place.
    pub(in crate::processes) fn await_answer(&self, at: u32, limit: Duration) -> bool {
        let slot = self.ring.slot(at);
        slot.awaited.fetch_add(1, Ordering::SeqCst);
        let state = slot.state.load(Ordering::SeqCst);
        let is_under_way = matches!(state, state::OFFERED | state::CLAIMED);
        if is_under_way {
            futex::wait(&slot.state, state, limit);
        }
        slot.awaited.fetch_sub(1, Ordering::Relaxed);
        is_under_way || state == state::ANSWERED
    }

    /// Wakes those that [sleep](Self::await_answer) until the call in a slot is answered. One that is about to sleep may be
    /// missed.
    pub(in crate::processes) fn wake_sleepers(&self, at: u32) {
        let slot = self.ring.slot(at);
        if slot.awaited.load(Ordering::Relaxed) != 0 {
            futex::wake_all(&slot.state);
        }
    }

    /// Asks the worker to notify the supervisor of its next answer. The supervisor looks at the slots after this,
    /// before it sleeps.
    pub(in crate::processes) fn request_wake_up(&self) {
        self.ring.shared().pool_waits.0.store(1, Ordering::SeqCst);
    }

    /// Asks the worker to notify the listener of its next answer. The listener looks at the slots after this.
    pub(in crate::processes) fn listen(&self) {
        self.ring.shared().listener.0.store(listener::OPEN, Ordering::SeqCst);
    }

    /// Reads away the worker's notifications. Returns false if the worker has closed the socket.
    pub(in crate::processes) fn drain(&self) -> bool {
        drain_socket(&self.socket, RecvFlags::DONTWAIT)
    }

    /// Ends the link: the worker leaves when it finds nothing more to do.
    pub(in crate::processes) fn close(&self) {
        end_sending(&self.socket);
    }

    /// Gives a block of the worker's arena back to the worker.
    pub(super) fn give_back(&self, offset: u64) {
        self.returns.lock().push(offset);
        self.pass_on_returns();
    }

    /// Puts freed blocks into the ring's queue, as far as there is room. Returns whether none is left.
    pub(in crate::processes) fn pass_on_returns(&self) -> bool {
        let mut waiting = self.returns.lock();
        let returns = &self.ring.shared().returns;
        while let Some(&offset) = waiting.last() {
            let put = returns.put.0.load(Ordering::Relaxed);
            if put.wrapping_sub(returns.taken.0.load(Ordering::Acquire)) >= RETURNS {
                return false;
            }
            returns.offsets[(put % RETURNS) as usize].with_mut(|slot| {
                // SAFETY: the pointer is to mapped memory. The worker does not read this entry until `put` counts it.
                unsafe { slot.write(offset) };
            });
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

impl Keeper for Lease {
    fn mapping(&self) -> &Mapping {
        &self.link.results
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.link.give_back(self.offset);
    }
}

/// A worker's answer, or an item.
#[derive(Debug)]
pub(in crate::processes) struct Answer {
    pub(in crate::processes) tag: AnswerTag,
    pub(in crate::processes) body: AnswerBody,
    pub(in crate::processes) parts: Vec<Blob>,
    pub(in crate::processes) ran: Timing,
    /// One bit for each part of the call that the worker still uses.
    pub(in crate::processes) kept: u32,
}

#[derive(Debug)]
pub(in crate::processes) enum AnswerBody {
    Inline(Vec<u8>),
    Far(Blob),
}

impl Answer {
    /// Makes an item that has come from elsewhere than from a link.
    pub(in crate::processes) fn of_bytes(bytes: Vec<u8>) -> Self {
        let ran = Timing { began: Moment::default(), took: Duration::ZERO, usage: None };
        Self { tag: AnswerTag::Done, body: AnswerBody::Inline(bytes), parts: Vec::new(), ran, kept: 0 }
    }

    /// Returns the encoded value.
    pub(in crate::processes) fn received(&self) -> Received<'_> {
        let is_shared = matches!(self.body, AnswerBody::Far(_));
        Received { body: self.body(), parts: &self.parts, is_shared }
    }

    pub(in crate::processes) fn body(&self) -> &[u8] {
        match &self.body {
            AnswerBody::Inline(bytes) => bytes,
            AnswerBody::Far(blob) => blob,
        }
    }
}
