//! The pool's end of a link.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags};
use rustix::thread::futex;
use rustix::time::Timespec;

use super::{
    AnswerTag, EVERYBODY, FrameBody, Malformed, RETURNS, Ring, Shared, SlotHeader, Span, ear, empty, open,
    state, this_core,
};
use crate::base::clock::Moment;
use crate::base::sync::Mutex;
use crate::metrics::cpu::Usage;
use crate::metrics::stats::Timing;
use crate::wire::arena::{self, Mapping};
use crate::wire::blob::{Blob, Foreign, Keeper};
use crate::wire::payload::Payload;

/// What the supervisor hands to a new worker.
pub(crate) struct Handout {
    /// The worker's end of the socket.
    pub(crate) socket: OwnedFd,
    /// The ring, and the arena that is to be the worker's own.
    pub(crate) files: [OwnedFd; 2],
}

/// The pool's end.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) ring: Ring,
    pub(crate) socket: UnixStream,
    /// What the worker writes its results to, for us to read.
    pub(crate) results: Arc<Mapping>,
    /// Freed blocks for which there was no room among the `returns`.
    pub(crate) returns: Mutex<Vec<u64>>,
    pub(crate) max_payload: u64,
}

impl Link {
    /// Makes a link for a new worker.
    pub(crate) fn create(max_payload: u64) -> io::Result<(Self, Handout)> {
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

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// How large the arena of the worker is, in bytes.
    pub(crate) fn arena_size(&self) -> u64 {
        self.results.size() as u64
    }

    /// What the worker said of itself; 0 until it has.
    pub(crate) fn greeting(&self) -> u64 {
        self.ring.shared().greeting.load(Ordering::Acquire)
    }

    pub(crate) fn state(&self, at: u32) -> u32 {
        self.ring.slot(at).state.load(Ordering::SeqCst)
    }

    /// Offers a call. The slot is empty, and callers take turns.
    pub(crate) fn offer(&self, at: u32, job: u64, task: u32, flags: u32, payload: &Payload) {
        let header = SlotHeader { job, tag: task, flags, ..SlotHeader::default() };
        self.ring.write(at, header, payload);
        self.ring.shared().pool_core.0.store(this_core(), Ordering::Relaxed);
        self.ring.slot(at).state.store(state::OFFERED, Ordering::SeqCst);
    }

    /// Takes an offer back. False if the worker has claimed it.
    pub(crate) fn withdraw(&self, at: u32) -> bool {
        let state = &self.ring.slot(at).state;
        state.compare_exchange(state::OFFERED, state::WITHDRAWN, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Takes the answer out of a slot in the state `Answered`, and empties it.
    pub(crate) fn take(self: &Arc<Self>, at: u32, job: u64) -> Result<Answer, Malformed> {
        let (header, data) = self.ring.read(at);
        self.ring.slot(at).state.store(state::EMPTY, Ordering::SeqCst);
        self.understand(&header, data, job)
    }

    /// Takes an item out of a slot in the state `Item`, and lets the worker go on.
    pub(crate) fn take_item(self: &Arc<Self>, at: u32, job: u64) -> Result<Answer, Malformed> {
        let (header, data) = self.ring.read(at);
        let item = self.understand(&header, data, job);
        let slot = self.ring.slot(at);
        slot.state.store(state::CLAIMED, Ordering::SeqCst);
        if slot.blocked.load(Ordering::SeqCst) != 0 {
            let _ = futex::wake(&slot.state, futex::Flags::empty(), EVERYBODY);
        }
        item
    }

    pub(crate) fn understand(
        self: &Arc<Self>,
        header: &SlotHeader,
        data: Vec<u8>,
        job: u64,
    ) -> Result<Answer, Malformed> {
        let kind = AnswerTag::from_tag(header.tag).ok_or(Malformed::AnswerTag(header.tag))?;
        if header.job != job {
            return Err(Malformed::Job { said: header.job, asked: job });
        }
        let letter = open(header, data, self.results.size() as u64, self.max_payload)?;
        let body = match letter.body {
            FrameBody::Inline(bytes) => AnswerBody::Inline(bytes),
            FrameBody::Far(span) => AnswerBody::Far(self.lend(span)),
        };
        let parts = letter.parts.into_iter().map(|span| self.lend(span)).collect();
        let ran = Timing {
            began: Moment::from_nanos(header.began),
            took: Duration::from_nanos(header.nanos),
            usage: header.on_core.checked_sub(1).map(|on_core| Usage {
                on_core: Duration::from_nanos(on_core),
                run_delay: Duration::from_nanos(header.run_delay),
            }),
        };
        Ok(Answer { kind, body, parts, ran, kept: header.flags })
    }

    /// A view of the worker's arena, which is given back when the view is dropped.
    pub(crate) fn lend(self: &Arc<Self>, span: Span) -> Blob {
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
    pub(crate) fn must_wake(&self) -> bool {
        let sleeps = &self.ring.shared().worker_sleeps.0;
        sleeps.load(Ordering::SeqCst) != 0 && sleeps.swap(0, Ordering::SeqCst) != 0
    }

    /// Wakes the worker. A system call; does not block.
    ///
    /// By the socket and not by a futex, as the kernel then lets the worker run where its caller is about to sleep,
    /// and needs not wake another core.
    pub(crate) fn wake(&self) {
        // If the socket is full the worker has enough to read; if it is closed the worker is gone.
        let _ = rustix::net::send(&self.socket, &[0], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    /// Whether the worker was last seen on another core than the caller's.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.ring.shared().worker_core.0.load(Ordering::Relaxed) != this_core()
    }

    /// Whether the worker looks out for calls, or runs one.
    pub(crate) fn is_awake(&self) -> bool {
        self.ring.shared().worker_sleeps.0.load(Ordering::Relaxed) == 0
    }

    /// Sleeps until the call in a slot is answered, at most for `limit`; may return early. Whoever has slept here
    /// takes all answers of this link after it: it may have been woken in the supervisor's place.
    pub(crate) fn await_answer(&self, at: u32, limit: Duration) {
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
    pub(crate) fn watch(&self) {
        self.ring.shared().pool_waits.0.store(1, Ordering::SeqCst);
    }

    /// Has the worker tell the listener of its next answer. Whoever says so looks at the slots after it.
    pub(crate) fn listen(&self) {
        self.ring.shared().listener.0.store(ear::OPEN, Ordering::SeqCst);
    }

    /// Empties the socket. False if the worker has closed it.
    pub(crate) fn silence(&self) -> bool {
        empty(&self.socket, RecvFlags::DONTWAIT)
    }

    /// Lets the worker go: it leaves when it finds nothing more to do.
    pub(crate) fn close(&self) {
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Tells the worker that a block of its arena is free.
    pub(crate) fn give_back(&self, offset: u64) {
        self.returns.lock().push(offset);
        self.pass_on_returns();
    }

    /// Tells the worker of as many freed blocks as there is room for now. Says whether that is all of them.
    pub(crate) fn pass_on_returns(&self) -> bool {
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
pub(crate) struct Lease {
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

/// A worker's answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) kind: AnswerTag,
    pub(crate) body: AnswerBody,
    pub(crate) parts: Vec<Blob>,
    pub(crate) ran: Timing,
    /// Which parts of the call the worker still uses, a bit each.
    pub(crate) kept: u32,
}

#[derive(Debug)]
pub(crate) enum AnswerBody {
    Inline(Vec<u8>),
    Far(Blob),
}

impl Answer {
    pub(crate) fn body(&self) -> &[u8] {
        match &self.body {
            AnswerBody::Inline(bytes) => bytes,
            AnswerBody::Far(blob) => blob,
        }
    }
}
