//! The worker's end of a link.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags};

use super::message::{Frame, FrameBody, SlotHeader, decode_frame};
use super::ring::{RETURNS, Ring, listener, state};
use super::segments::Segments;
use crate::base::clock::Moment;
use crate::base::sync::atomic::Ordering;
use crate::base::syscall::NameCall;
use crate::processes::os::fd::{self, is_readable_within, send_byte};
use crate::processes::os::futex;
use crate::processes::os::process::this_core;
use crate::wire::blob::{Blob, Foreign};
use crate::wire::fork_copy::ForkRange;
use crate::wire::payload::Payload;

/// The time that a listener has to take an answer. After that the supervisor is notified as well.
pub(in crate::processes) const UNHEARD: Duration = Duration::from_millis(1);

/// After this number of calls a worker that never sleeps looks at its socket, for segments to let go of.
const READ_EVERY: u32 = 256;

/// The worker's end.
#[derive(Debug)]
pub(in crate::processes) struct WorkerEnd {
    ring: Ring,
    pub(super) socket: UnixStream,
    /// The eventfd that wakes the pool's listener.
    listener: OwnedFd,
    /// The memory that the pool writes its calls to, as far as this worker has been given it.
    pub(super) segments: Segments,
    /// Counts the calls that were claimed.
    claimed: u32,
    /// The reason why a call could not be read, once there is one. Then the worker must leave.
    failure: Option<String>,
    /// The number of the slot whose turn is next.
    pub(super) at: u32,
    /// The number of the first slot whose answer was not announced.
    pub(super) announced: u32,
    /// This worker has passed withdrawn calls since its last announcement. There is room in the ring of which the pool
    /// does not know.
    has_passed: bool,
    /// The device and the inode number of the socket, to notice that a job has replaced it.
    identity: (u64, u64),
}

/// A call that a worker has claimed.
pub(in crate::processes) struct Request {
    pub(in crate::processes) job: u64,
    /// The index of the task in the registry.
    pub(in crate::processes) task: u32,
    pub(in crate::processes) flags: u32,
    body: RequestBody,
    pub(in crate::processes) parts: Vec<Blob>,
}

enum RequestBody {
    Inline(Vec<u8>),
    /// The last field gives forked children a copy.
    Far(NonNull<u8>, usize, #[allow(dead_code, reason = "it is kept for its drop")] ForkRange),
}

impl Request {
    /// Returns the encoded arguments, in place.
    pub(in crate::processes) fn body(&self) -> &[u8] {
        match &self.body {
            RequestBody::Inline(bytes) => bytes,
            // SAFETY: the pool has written these bytes before it offered the call, and does not change them until the
            // call is answered. It detaches the segment after that.
            RequestBody::Far(start, length, _) => unsafe {
                std::slice::from_raw_parts(start.as_ptr(), *length)
            },
        }
    }
}

impl WorkerEnd {
    pub(in crate::processes) fn new(
        socket: UnixStream,
        listener: OwnedFd,
        ring: BorrowedFd<'_>,
    ) -> io::Result<Self> {
        Self::over(Ring::map(ring)?, socket, listener)
    }

    /// Makes the end of a link whose memory is mapped.
    pub(super) fn over(ring: Ring, socket: UnixStream, listener: OwnedFd) -> io::Result<Self> {
        let status = rustix::fs::fstat(&socket).of_call("fstat")?;
        let identity = (status.st_dev, status.st_ino);
        Ok(Self {
            ring,
            socket,
            listener,
            segments: Segments::default(),
            claimed: 0,
            failure: None,
            at: 0,
            announced: 0,
            has_passed: false,
            identity,
        })
    }

    /// Publishes the fingerprint of this process, and notifies the supervisor.
    pub(in crate::processes) fn greet(&self, fingerprint: u64) {
        self.ring.shared().greeting.store(fingerprint, Ordering::Relaxed);
        self.notify();
    }

    /// Publishes that this process has more memory than it may have between two jobs. The pool sees it with the next
    /// answer.
    pub(in crate::processes) fn wear_out(&self) {
        self.ring.shared().worn.store(1, Ordering::Relaxed);
    }

    /// Returns whether jobs have left the socket alone. A system call.
    pub(in crate::processes) fn is_intact(&self) -> bool {
        rustix::fs::fstat(&self.socket).is_ok_and(|status| (status.st_dev, status.st_ino) == self.identity)
    }

    /// Reads the messages about segments that have come, if the socket is still ours.
    fn read_segments(&mut self) {
        if self.is_intact() {
            self.segments.receive(self.socket.as_fd(), RecvFlags::DONTWAIT);
        }
    }

    /// Returns whether there is something to do in the next slot. One atomic load.
    pub(in crate::processes) fn is_due(&self) -> bool {
        // In a full ring the next slot is the one whose answer the pool has not taken for the longest time.
        matches!(self.ring.slot(self.at).state.load(Ordering::SeqCst), state::OFFERED | state::WITHDRAWN)
    }

    /// Returns whether the last call was offered on another core than that of this process.
    pub(in crate::processes) fn is_elsewhere(&self) -> bool {
        self.ring.shared().pool_core.0.load(Ordering::Relaxed) != this_core()
    }

    /// Returns whether the pool has taken the last answer, and there is nothing else to announce.
    pub(in crate::processes) fn is_heard(&self) -> bool {
        !self.has_passed
            && self.ring.slot(self.at.wrapping_sub(1)).state.load(Ordering::Relaxed) != state::ANSWERED
    }

    /// Claims the next call, if there is one. A call whose memory is missing stays offered, for another worker: then there
    /// is a [`failure`](Self::failure).
    pub(in crate::processes) fn claim(&mut self) -> Option<Request> {
        loop {
            let state = &self.ring.slot(self.at).state;
            let claimed =
                state.compare_exchange(state::OFFERED, state::CLAIMED, Ordering::Acquire, Ordering::Relaxed);
            match claimed {
                Ok(_) => break,
                Err(state::WITHDRAWN) => {
                    state.store(state::EMPTY, Ordering::SeqCst);
                    self.at = self.at.wrapping_add(1);
                    self.has_passed = true;
                }
                Err(_) => return None,
            }
        }
        self.ring.shared().worker_core.0.store(this_core(), Ordering::Relaxed);
        self.claimed = self.claimed.wrapping_add(1);
        if self.claimed % READ_EVERY == 0 {
            self.read_segments();
        }
        let request = self.receive();
        if request.is_none() {
            self.failure = Some(self.segments.failure().to_owned());
            self.ring.slot(self.at).state.store(state::OFFERED, Ordering::SeqCst);
        }
        request
    }

    /// Returns the reason why this worker cannot read its calls, if it cannot.
    pub(in crate::processes) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Reads the call that was claimed. `None` if its memory is missing.
    fn receive(&mut self) -> Option<Request> {
        let (header, data) = self.ring.read(self.at);
        // The pool is trusted, but the check costs nothing. The segments check their ranges.
        let Frame { body, parts } =
            decode_frame(&header, data, u64::MAX, u64::MAX).expect("the pool's calls are well-formed");
        let far = match &body {
            FrameBody::Inline(_) => None,
            FrameBody::Far(span) => Some(*span),
        };
        if far.iter().chain(&parts).any(|span| self.segments.find(*span).is_none()) {
            self.read_segments();
        }
        let body = match body {
            FrameBody::Inline(bytes) => RequestBody::Inline(bytes),
            FrameBody::Far(span) => {
                let (start, length, _) = self.segments.find(span)?;
                RequestBody::Far(start, length, ForkRange::copied(start, length))
            }
        };
        let lend = |span| {
            let (start, length, mapping) = self.segments.find(span)?;
            // SAFETY: the blob keeps the mapping. The pool does not change the bytes until it learns with the answer that
            // this process holds the blob no more.
            Some(Blob::foreign(unsafe { Foreign::new(start, length, Box::new(Arc::clone(mapping))) }))
        };
        let parts = parts.into_iter().map(lend).collect::<Option<_>>()?;
        Some(Request { job: header.job, task: header.tag, flags: header.flags, body, parts })
    }

    /// Publishes that the function of the call that was claimed last begins now.
    pub(in crate::processes) fn begin(&self) {
        self.ring.slot(self.at).began.store(Moment::now().as_nanos(), Ordering::Relaxed);
    }

    /// Answers the call that was claimed last. Wakes nobody before [`announce`](Self::announce).
    pub(in crate::processes) fn answer(&mut self, header: SlotHeader, payload: &Payload) {
        self.await_room();
        self.ring.write(self.at, header, payload);
        self.ring.slot(self.at).state.store(state::ANSWERED, Ordering::SeqCst);
        self.at = self.at.wrapping_add(1);
    }

    /// Sends an item of the call that was claimed last. Blocks until the item before it has been taken.
    pub(in crate::processes) fn emit(&mut self, header: SlotHeader, payload: &Payload) {
        self.await_room();
        self.ring.write(self.at, header, payload);
        self.ring.slot(self.at).state.store(state::ITEM, Ordering::SeqCst);
        if !self.notify_listener() {
            self.wake_supervisor();
        }
    }

    /// Waits until the last item has been taken. If the pool dies, so does this process.
    fn await_room(&self) {
        self.has_room_within(Duration::MAX);
    }

    /// Waits until the last item has been taken, for about `limit` at most. Returns whether it has been taken.
    pub(in crate::processes) fn has_room_within(&self, limit: Duration) -> bool {
        let slot = self.ring.slot(self.at);
        let mut began = None;
        while slot.state.load(Ordering::Acquire) == state::ITEM {
            if began.get_or_insert_with(Moment::now).elapsed() >= limit {
                return false;
            }
            slot.blocked.store(1, Ordering::SeqCst);
            if slot.state.load(Ordering::SeqCst) == state::ITEM {
                let is_late = futex::wait(&slot.state, state::ITEM, UNHEARD);
                if is_late {
                    self.wake_supervisor();
                }
            }
            slot.blocked.store(0, Ordering::Relaxed);
        }
        true
    }

    /// Announces the answers since the last announcement. Wakes the callers that sleep on just those slots, or else the
    /// listener or the supervisor.
    pub(in crate::processes) fn announce(&mut self) {
        self.has_passed = false;
        let mut has_woken = false;
        while self.announced != self.at {
            let slot = self.ring.slot(self.announced);
            if slot.awaited.load(Ordering::SeqCst) != 0 {
                futex::wake_all(&slot.state);
                has_woken = true;
            }
            self.announced = self.announced.wrapping_add(1);
        }
        if !has_woken && !self.notify_listener() {
            self.wake_supervisor();
        }
    }

    /// Notifies the pool's listener, unless it was notified and has not looked yet. Returns false if the pool has none.
    ///
    /// A listener may be busy, so this replaces the supervisor only for a while.
    fn notify_listener(&self) -> bool {
        let state = &self.ring.shared().listener.0;
        match state.compare_exchange(listener::OPEN, listener::NOTIFIED, Ordering::Relaxed, Ordering::SeqCst)
        {
            Ok(_) => fd::notify(self.listener.as_fd()),
            Err(state) => state == listener::NOTIFIED,
        }
    }

    /// Notifies the supervisor, if it sleeps.
    pub(in crate::processes) fn wake_supervisor(&self) {
        let waits = &self.ring.shared().pool_waits.0;
        if waits.load(Ordering::SeqCst) != 0 && waits.swap(0, Ordering::Relaxed) != 0 {
            self.notify();
        }
    }

    /// Returns whether all answers were announced.
    pub(in crate::processes) fn has_announced(&self) -> bool {
        self.announced == self.at
    }

    /// Records that the pool has taken all answers without an announcement.
    pub(in crate::processes) fn need_not_announce(&mut self) {
        self.announced = self.at;
    }

    fn notify(&self) {
        send_byte(&self.socket, SendFlags::empty());
    }

    /// Sleeps until the pool has something, for at most `limit` if there is one. Returns false if the link has ended.
    pub(in crate::processes) fn sleep(&mut self, limit: Option<Duration>) -> bool {
        let sleeps = &self.ring.shared().worker_sleeps.0;
        sleeps.store(1, Ordering::SeqCst);
        let goes_on = self.is_due() || {
            // With a limit the wait is over by then, so the read must not wait unless something has come.
            let has_come = limit.is_some_and(|limit| is_readable_within(self.socket.as_fd(), limit));
            let flags = if limit.is_none() || has_come { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
            self.segments.receive(self.socket.as_fd(), flags)
        };
        let sleeps = &self.ring.shared().worker_sleeps.0;
        sleeps.store(0, Ordering::Relaxed);
        goes_on
    }

    /// Takes a block that the pool has released. Returns its offset.
    pub(in crate::processes) fn returned(&self) -> Option<u64> {
        let returns = &self.ring.shared().returns;
        let taken = returns.taken.0.load(Ordering::Relaxed);
        if taken == returns.put.0.load(Ordering::Acquire) {
            return None;
        }
        let offset = returns.offsets[(taken % RETURNS) as usize].with(|slot| {
            // SAFETY: the pointer is to mapped memory. The pool has written this entry before `put` counted it, and does
            // not write to it again until `taken` counts it.
            unsafe { slot.read() }
        });
        returns.taken.0.store(taken.wrapping_add(1), Ordering::Release);
        Some(offset)
    }
}
