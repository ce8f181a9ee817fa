//! The worker's end of a link.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags};
use rustix::thread::futex;
use rustix::time::Timespec;

use super::{
    EVERYBODY, FrameBody, RETURNS, Ring, Shared, SlotHeader, Span, ear, empty, open, state, this_core,
};
use crate::processes::os::process as sys;
use crate::wire::blob::{Blob, Foreign};
use crate::wire::memfd::Mapping;
use crate::wire::payload::Payload;

/// For so long a listener may not look for an answer; then the supervisor is told.
pub(crate) const UNHEARD: Duration = Duration::from_millis(1);

/// The worker's end.
#[derive(Debug)]
pub(crate) struct WorkerEnd {
    pub(crate) ring: Ring,
    pub(crate) socket: UnixStream,
    /// An eventfd that wakes the pool's listener.
    pub(crate) listener: OwnedFd,
    /// What the pool writes its calls to, for us to read.
    pub(crate) calls: &'static Mapping,
    /// The slot whose turn is next.
    pub(crate) at: u32,
    /// The first slot whose answer was not announced.
    pub(crate) announced: u32,
    /// It has passed withdrawn calls since it announced something last: there is room, of which nobody knows.
    pub(crate) has_passed: bool,
    /// Which socket it is: its device and number.
    pub(crate) identity: (u64, u64),
}

/// A call as the worker has it.
pub(crate) struct Request {
    pub(crate) job: u64,
    pub(crate) task: u32,
    pub(crate) flags: u32,
    body: RequestBody,
    pub(crate) parts: Vec<Blob>,
}

pub(crate) enum RequestBody {
    Inline(Vec<u8>),
    Far(NonNull<u8>, usize),
}

impl Request {
    /// The encoded arguments, in place.
    pub(crate) fn body(&self) -> &[u8] {
        match &self.body {
            RequestBody::Inline(bytes) => bytes,
            // SAFETY: the pool has written these bytes before it offered the call, and leaves them alone until
            // the call is answered; the mapping stays for as long as this process.
            RequestBody::Far(start, length) => unsafe { std::slice::from_raw_parts(start.as_ptr(), *length) },
        }
    }
}

impl WorkerEnd {
    pub(crate) fn new(
        socket: UnixStream,
        listener: OwnedFd,
        ring: BorrowedFd<'_>,
        calls: Mapping,
    ) -> io::Result<Self> {
        let ring = Ring(Mapping::new(ring, size_of::<Shared>(), true)?);
        let status = rustix::fs::fstat(&socket)?;
        let identity = (status.st_dev, status.st_ino);
        Ok(Self {
            ring,
            socket,
            listener,
            calls: Box::leak(Box::new(calls)),
            at: 0,
            announced: 0,
            has_passed: false,
            identity,
        })
    }

    /// Says what this process is.
    pub(crate) fn greet(&self, fingerprint: u64) {
        self.ring.shared().greeting.store(fingerprint, Ordering::SeqCst);
        self.ring();
    }

    /// Whether the last job has left the socket alone. A system call.
    pub(crate) fn is_intact(&self) -> bool {
        rustix::fs::fstat(&self.socket).is_ok_and(|status| (status.st_dev, status.st_ino) == self.identity)
    }

    /// Whether there is something to do in the next slot. One atomic load.
    pub(crate) fn is_due(&self) -> bool {
        // In a full ring the next slot is the one whose answer the pool has not taken for the longest time.
        matches!(self.ring.slot(self.at).state.load(Ordering::SeqCst), state::OFFERED | state::WITHDRAWN)
    }

    /// Whether whoever offered the last call was on another core than this process.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.ring.shared().pool_core.0.load(Ordering::Relaxed) != this_core()
    }

    /// Whether the pool has taken the last answer, and there is nothing else to tell.
    pub(crate) fn is_heard(&self) -> bool {
        !self.has_passed
            && self.ring.slot(self.at.wrapping_sub(1)).state.load(Ordering::SeqCst) != state::ANSWERED
    }

    /// Claims the next call, if there is one.
    pub(crate) fn look(&mut self) -> Option<Request> {
        loop {
            let state = &self.ring.slot(self.at).state;
            let claim =
                state.compare_exchange(state::OFFERED, state::CLAIMED, Ordering::SeqCst, Ordering::SeqCst);
            match claim {
                Ok(_) => {
                    self.ring.shared().worker_core.0.store(this_core(), Ordering::Relaxed);
                    return Some(self.receive());
                }
                Err(state::WITHDRAWN) => {
                    state.store(state::EMPTY, Ordering::SeqCst);
                    self.at = self.at.wrapping_add(1);
                    self.has_passed = true;
                }
                Err(_) => return None,
            }
        }
    }

    pub(crate) fn receive(&self) -> Request {
        let (header, data) = self.ring.read(self.at);
        // The pool does not lie, but to check costs nothing.
        let letter =
            open(&header, data, self.calls.size() as u64, u64::MAX).expect("the pool's calls are sound");
        let find = |span: Span| {
            let start = self.calls.at(&(span.offset..span.offset + span.length)).expect("checked by `open`");
            (start, usize::try_from(span.length).expect("checked by `open`"))
        };
        let body = match letter.body {
            FrameBody::Inline(bytes) => RequestBody::Inline(bytes),
            FrameBody::Far(span) => {
                let (start, length) = find(span);
                RequestBody::Far(start, length)
            }
        };
        let lend = |span| {
            let (start, length) = find(span);
            // SAFETY: the mapping is never undone. The pool keeps the bytes as they are until it learns with the
            // answer that nobody here holds the blob any more.
            Blob::foreign(unsafe { Foreign::new(start, length, Box::new(self.calls)) })
        };
        let parts = letter.parts.into_iter().map(lend).collect();
        Request { job: header.job, task: header.tag, flags: header.flags, body, parts }
    }

    /// Answers the call that was claimed last. Nobody is woken for it before [`announce`](Self::announce).
    pub(crate) fn answer(&mut self, header: SlotHeader, payload: &Payload) {
        self.await_room();
        self.ring.write(self.at, header, payload);
        self.ring.slot(self.at).state.store(state::ANSWERED, Ordering::SeqCst);
        self.at = self.at.wrapping_add(1);
    }

    /// Sends an item of the call that was claimed last, when the one before it has been taken. Blocks until then.
    pub(crate) fn emit(&mut self, header: SlotHeader, payload: &Payload) {
        self.await_room();
        self.ring.write(self.at, header, payload);
        self.ring.slot(self.at).state.store(state::ITEM, Ordering::SeqCst);
        if !self.tell_listener() {
            self.tell_supervisor();
        }
    }

    /// Waits until the last item has been taken. If the pool dies, so does this process.
    pub(crate) fn await_room(&self) {
        let slot = self.ring.slot(self.at);
        while slot.state.load(Ordering::SeqCst) == state::ITEM {
            slot.blocked.store(1, Ordering::SeqCst);
            if slot.state.load(Ordering::SeqCst) == state::ITEM {
                let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(UNHEARD.subsec_nanos()) };
                let waited = futex::wait(&slot.state, futex::Flags::empty(), state::ITEM, Some(&limit));
                if waited == Err(rustix::io::Errno::TIMEDOUT) {
                    self.tell_supervisor();
                }
            }
            slot.blocked.store(0, Ordering::SeqCst);
        }
    }

    /// Wakes whoever sleeps for one of the answers that were given since the last time: those who wait for just
    /// that one, or else the supervisor.
    pub(crate) fn announce(&mut self) {
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
        if !is_told && !self.tell_listener() {
            self.tell_supervisor();
        }
    }

    /// Tells the pool's listener, if it has one that looks for itself. It may be busy, so this does not replace the
    /// supervisor for ever.
    pub(crate) fn tell_listener(&self) -> bool {
        let ear = &self.ring.shared().listener.0;
        match ear.compare_exchange(ear::OPEN, ear::TOLD, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => rustix::io::write(&self.listener, &1_u64.to_ne_bytes()).is_ok(),
            Err(state) => state == ear::TOLD,
        }
    }

    /// Rings for the supervisor, if it sleeps.
    pub(crate) fn tell_supervisor(&self) {
        let waits = &self.ring.shared().pool_waits.0;
        if waits.load(Ordering::SeqCst) != 0 && waits.swap(0, Ordering::SeqCst) != 0 {
            self.ring();
        }
    }

    /// Whether all answers were announced.
    pub(crate) fn has_announced(&self) -> bool {
        self.announced == self.at
    }

    /// Takes note that the pool has taken all answers by itself.
    pub(crate) fn need_not_announce(&mut self) {
        self.announced = self.at;
    }

    pub(crate) fn ring(&self) {
        let _ = rustix::net::send(&self.socket, &[0], SendFlags::NOSIGNAL);
    }

    /// Sleeps until the pool has something, at most for `limit` if there is one. False if the link has ended.
    pub(crate) fn sleep(&self, limit: Option<Duration>) -> bool {
        let sleeps = &self.ring.shared().worker_sleeps.0;
        sleeps.store(1, Ordering::SeqCst);
        let goes_on = self.is_due() || {
            // What is read without waiting is what has come.
            let has_come = limit.is_some_and(|limit| sys::is_readable_within(self.socket.as_fd(), limit));
            empty(
                &self.socket,
                if limit.is_none() || has_come { RecvFlags::empty() } else { RecvFlags::DONTWAIT },
            )
        };
        sleeps.store(0, Ordering::SeqCst);
        goes_on
    }

    /// The blocks that the pool has done with.
    pub(crate) fn returned(&self) -> Option<u64> {
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
