//! A worker process: it serves one link until the pool lets it go.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::process::exit;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::perform;
use crate::base::clock::Moment;
use crate::base::fork::OwnProcess;
use crate::base::thread;
use crate::core::error::NotSent;
use crate::core::spin::{self, AdaptiveSpin};
use crate::metrics::cpu::CpuMeter;
use crate::metrics::stats::Timing;
use crate::processes::handshake::{
    self, CANNOT_BECOME_WORKER, Origin, Role, Ties, WorkerSetup, become_worker,
};
use crate::processes::link::{AnswerTag, CAPTURE, Request, STREAM, SlotHeader, UNHEARD, WorkerEnd};
use crate::processes::os::fd::StdioRedirect;
use crate::processes::os::process::{is_first_thread, memory_of};
use crate::wire::arena::Arena;
use crate::wire::blob::Blob;
use crate::wire::payload::Payload;
use crate::wire::registry::fingerprint;

/// While there is more to do, answers are announced this long after the first that was not. So answers that come close
/// together wake the supervisor once.
const TOGETHER: Duration = Duration::from_micros(50);

/// When there is nothing more to do, an answer is announced after this time. A caller that spins takes it before.
const MOMENT: Duration = Duration::from_micros(3);

/// The longest time that a worker spins for the next call: about the time that a caller on a halted core needs to
/// receive the answer and to send the next call.
const SPIN: Duration = Duration::from_micros(200);

/// Closing a socket takes longer than this, and so does changing the user. A job that took less has done neither.
const QUICK: Duration = Duration::from_nanos(250);

/// While there is more to do, this worker is checked when the jobs since the last check took so long. So a check costs a
/// small part of the time of the jobs.
const UNCHECKED: Duration = Duration::from_micros(10);

/// The time without a call after which a worker gives freed memory back to the system.
const IDLE: Duration = Duration::from_secs(2);

/// Lets this program act as a worker process. To be called first in `main`.
///
/// A process that was started as a pool's worker runs the pool's jobs in here and never returns. In any other process
/// it returns at once.
///
/// It must come before the program starts threads, reads its arguments or opens files, since each worker would do all
/// that too. On a thread that is not the first of its process it does nothing.
pub fn init() {
    if !is_first_thread() {
        return;
    }
    handshake::set_initialised();
    match handshake::started_by(Role::Worker) {
        Ok(Origin::Other) => {}
        Ok(Origin::DeadPool) => exit(0),
        Ok(Origin::Pool(socket)) => serve(socket),
        Err(error) => refuse(&error),
    }
    warn_of_threads();
}

/// Says so if the program has started threads before [`init`], as `#[tokio::main]` does.
fn warn_of_threads() {
    let threads = thread::ids().len();
    if threads > 1 {
        eprintln!(
            "offloop: `init` was called when this program already had {threads} threads; each worker starts them, too, \
             and jobs run within what `main` has set up, such as the runtime of `#[tokio::main]`. Call `offloop::init()` \
             first in a plain `main`"
        );
    }
}

/// Returns whether [`init`] makes this process a worker.
pub(super) fn is_worker() -> bool {
    is_first_thread() && handshake::is_awaited_by_pool()
}

/// Runs the jobs of the pool at the other end of `socket` until the link closes, then exits.
fn serve(socket: OwnedFd) -> ! {
    match become_worker(socket) {
        Ok(Some(setup)) => {
            Worker::new(setup).serve();
            exit(0)
        }
        Ok(None) => exit(0),
        Err(error) => refuse(&error),
    }
}

/// Ends this process, which must not run the program's own code either: a pool has started it.
fn refuse(error: &io::Error) -> ! {
    eprintln!("{CANNOT_BECOME_WORKER}: {error}");
    exit(1);
}

/// A process that runs a pool's jobs. All of it is used by one thread.
pub struct Worker {
    link: WorkerEnd,
    /// The memory for results. Only this process writes to it.
    arena: &'static Arc<Arena>,
    /// The largest payload that the pool accepts, in bytes.
    max_payload: u64,
    /// Looks at the memory that this process has after its jobs, if that is limited.
    memory_check: Option<MemoryCheck>,
    /// The pipes that replace standard output and standard error while a job is captured.
    captured: [OwnedFd; 2],
    ties: Ties,
    /// The time that jobs took since [`is_sound`](Self::is_sound) was last called, without those that were too quick to
    /// do harm.
    unchecked: Duration,
    /// The running job, if it may send items. Set when the job begins, cleared when it ends.
    streaming: Option<u64>,
    /// The blobs of this process's arena that the pool still reads, by their offset, each with the number of times that
    /// it was sent. An answer or an item adds to them; a returned block takes one away.
    lent: HashMap<u64, (Blob, u32)>,
    /// When the first answer was given that is not announced. Set at an answer if all before it were announced.
    unheard_since: Moment,
    /// Learns whether spinning for the next call pays.
    spin: AdaptiveSpin,
}

/// Looks at the memory of this process, but not after each of many short jobs.
struct MemoryCheck {
    /// The memory that it may have, in bytes.
    limit: u64,
    /// When it was last measured.
    checked: Option<Moment>,
}

impl MemoryCheck {
    /// The shortest time between two measurements.
    const INTERVAL: Duration = Duration::from_millis(10);

    /// Returns whether the process is known to have too much memory.
    fn is_over(&mut self, now: Moment) -> bool {
        if self.checked.is_some_and(|checked| now.since(checked) < Self::INTERVAL) {
            return false;
        }
        self.checked = Some(now);
        memory_of(std::process::id()) > self.limit
    }
}

impl Worker {
    pub(super) fn new(setup: WorkerSetup) -> Self {
        Self {
            link: setup.link,
            arena: setup.arena,
            max_payload: setup.max_payload,
            memory_check: setup.recycle_rss.map(|limit| MemoryCheck { limit, checked: None }),
            captured: setup.captured,
            ties: setup.ties,
            unchecked: Duration::ZERO,
            streaming: None,
            lent: HashMap::new(),
            unheard_since: Moment::now(),
            spin: AdaptiveSpin::new(64),
        }
    }

    /// Runs jobs on this thread until the pool lets the worker go.
    pub fn serve(self) {
        let worker = Rc::new(OwnProcess::new(RefCell::new(self)));
        CURRENT.set(Some(Rc::clone(&worker)));
        run_jobs(&worker);
        CURRENT.set(None);
        if let Some(worker) = worker.get() {
            worker.borrow_mut().ties.spare_children();
        }
        // It is not dropped: a job may have closed its files, and another file may have their numbers.
        std::mem::forget(worker);
    }

    fn answer(&mut self, request: &Request, tag: AnswerTag, payload: Payload, ran: Timing) {
        self.take_returns();
        let kept =
            (0..).zip(&request.parts).fold(0, |kept, (at, part)| kept | u32::from(part.is_shared()) << at);
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let header = SlotHeader {
            job: request.job,
            tag: tag as u32,
            flags: kept,
            began: ran.began.as_nanos(),
            nanos: nanos(ran.took),
            on_core: ran.usage.map_or(0, |usage| nanos(usage.on_core) + 1),
            run_delay: ran.usage.map_or(0, |usage| nanos(usage.run_delay)),
            ..SlotHeader::default()
        };
        self.link.answer(header, &payload);
        self.lend(payload);
    }

    /// Records the blobs of a payload that the pool reads from now on.
    fn lend(&mut self, payload: Payload) {
        for blob in payload.into_blobs() {
            let (offset, _) = blob.location().expect("parts were copied to shared memory");
            self.lent.entry(offset).or_insert((blob, 0)).1 += 1;
        }
    }

    fn emit(&mut self, payload: Payload) -> Result<(), NotSent> {
        let job = self.streaming.ok_or_else(|| NotSent("nobody reads the items of this job".to_owned()))?;
        self.check_size(&payload).map_err(NotSent)?;
        self.take_returns();
        let header = SlotHeader { job, tag: AnswerTag::Done as u32, ..SlotHeader::default() };
        self.link.emit(header, &payload);
        self.lend(payload);
        Ok(())
    }

    fn check_size(&self, payload: &Payload) -> Result<(), String> {
        let (size, limit) = (payload.size(), self.max_payload);
        if size as u64 > limit {
            return Err(format!("it has {size} bytes, more than the pool's max_payload of {limit}"));
        }
        Ok(())
    }

    /// Tells the pool to replace this worker if it has too much memory after a job.
    fn check_memory(&mut self, now: Moment) {
        if self.memory_check.as_mut().is_some_and(|check| check.is_over(now)) {
            self.link.wear_out();
        }
    }

    /// Takes the blocks that the pool has returned.
    fn take_returns(&mut self) {
        while let Some(offset) = self.link.returned() {
            if let Entry::Occupied(mut lent) = self.lent.entry(offset) {
                lent.get_mut().1 -= 1;
                if lent.get().1 == 0 {
                    lent.remove();
                }
            }
        }
        if self.arena.is_over() {
            self.arena.tidy();
        }
    }

    /// Returns whether this worker may run another job and use its files: the jobs since the last check have left them
    /// alone, and the pool is there. Binds this process again if a job has changed its user.
    fn is_sound(&mut self) -> bool {
        self.unchecked.is_zero() || {
            self.unchecked = Duration::ZERO;
            self.link.is_intact() && self.ties.renew()
        }
    }

    /// Waits for the next call. Returns `None` when the link has ended, or when this worker must not or cannot read its
    /// calls.
    fn next(&mut self) -> Option<Request> {
        loop {
            let request = self.link.claim();
            if request.is_some() {
                return request;
            }
            if let Some(reason) = self.link.failure() {
                eprintln!("offloop: this worker leaves, since the memory of a call did not arrive: {reason}");
                return None;
            }
            if !self.is_sound() || (!self.spin_for_call() && !self.sleep()) {
                return None;
            }
        }
    }

    /// Spins for a while, if that has paid lately. Returns whether a call has come.
    ///
    /// Meanwhile the pool has a moment to take the last answer. If it does not, the answer is announced.
    fn spin_for_call(&mut self) -> bool {
        let began = Instant::now();
        let (limit, moment) = if self.link.is_elsewhere() {
            (if self.spin.may_pay() { SPIN } else { Duration::ZERO }, MOMENT)
        } else {
            // The thread that would take the answer, or send a call, waits for this very core.
            (Duration::ZERO, Duration::ZERO)
        };
        let mut waited = Duration::ZERO;
        loop {
            if self.link.is_due() {
                self.spin.learn(true);
                return true;
            }
            if self.link.is_heard() {
                self.link.need_not_announce();
            } else if waited >= moment {
                self.link.announce();
            }
            if waited >= limit && self.link.has_announced() {
                self.spin.learn(false);
                return false;
            }
            spin::pause();
            waited = began.elapsed();
        }
    }

    /// Sleeps until the pool has something. Gives unused memory back after a while. Returns false if the link has
    /// ended.
    fn sleep(&mut self) -> bool {
        self.take_returns();
        while !self.link.is_due() {
            let before = self.arena.uses();
            let is_heard = self.link.is_heard();
            let limit = (self.arena.retains() || !self.lent.is_empty()).then_some(IDLE);
            if !self.link.sleep(if is_heard { limit } else { Some(UNHEARD) }) {
                return false;
            }
            if !is_heard {
                if !self.link.is_heard() {
                    self.link.wake_supervisor();
                }
            } else if !self.link.is_due() {
                self.take_returns();
                if self.arena.uses() == before {
                    self.arena.shrink_to(0);
                }
            }
        }
        true
    }
}

thread_local! {
    /// The worker that this thread serves.
    static CURRENT: RefCell<Option<Rc<OwnProcess<RefCell<Worker>>>>> = const { RefCell::new(None) };
}

/// Says that the job which runs in this worker process has loaded its function and begins with it now. From then on its run
/// timeout counts, in a pool with a [`load_timeout`](crate::embed::ProcessPoolBuilderExt::load_timeout). Does nothing on a
/// thread that serves no pool. Does not block.
pub fn begin_call() {
    let worker = CURRENT.with_borrow(Clone::clone);
    if let Some(worker) = worker.as_ref().and_then(|worker| worker.get()) {
        worker.borrow().link.begin();
    }
}

/// Waits until the job that runs on this thread can send an item without waiting, for about `limit` at most. Returns
/// whether it can. Returns true at once on a thread that serves no pool, where sending fails.
///
/// So a binding can look after the signals of its interpreter while a job waits for the reader of its items.
pub fn item_room(limit: Duration) -> bool {
    let worker = CURRENT.with_borrow(Clone::clone);
    let worker = worker.as_ref().and_then(|worker| worker.get());
    worker.is_none_or(|worker| worker.borrow().link.has_room_within(limit))
}

/// Sends an item of the job that runs on this thread.
pub(crate) fn emit<T: Serialize + ?Sized>(item: &T) -> Result<(), NotSent> {
    let worker = CURRENT.with_borrow(Clone::clone);
    let worker = worker.ok_or_else(|| NotSent("no job of a process pool runs on this thread".to_owned()))?;
    let forked =
        || "this process was forked by the job; only the job itself can send items, so return them to it";
    let worker = worker.get().ok_or_else(|| NotSent(forked().to_owned()))?;
    // Its type precedes it, so that the reader can compare it with the one that it expects.
    let payload =
        Payload::encode_pair(std::any::type_name::<T>(), item).map_err(|error| NotSent(error.to_string()))?;
    worker.borrow_mut().emit(payload)
}

/// Runs jobs until the link ends. Each borrow ends before a job begins, since the job may send items.
fn run_jobs(own: &OwnProcess<RefCell<Worker>>) {
    let mut cpu = CpuMeter::default();
    if let Some(worker) = own.get() {
        worker.borrow_mut().link.greet(fingerprint());
    }
    while let Some(worker) = own.get() {
        let next = worker.borrow_mut().next();
        let Some(request) = next else { return };
        let began = Moment::now();
        cpu.begin(began);
        let redirect =
            (request.flags & CAPTURE != 0).then(|| StdioRedirect::begin(&worker.borrow().captured));
        worker.borrow_mut().streaming = (request.flags & STREAM != 0).then_some(request.job);
        let (mut tag, mut payload) = perform::run(&request);
        let Some(worker) = own.get() else {
            // The job has forked, and this is the child. The link is its parent's.
            // SAFETY: `_exit` ends this process at once. No destructor needs to run in the child.
            unsafe { libc::_exit(0) };
        };
        let mut worker = worker.borrow_mut();
        worker.streaming = None;
        if let Err(reason) = worker.check_size(&payload) {
            (tag, payload) = (AnswerTag::BadResult, Payload::text(&reason));
        }
        let ended = Moment::now();
        let took = ended.since(began);
        let usage = cpu.end(ended, took);
        let _ = io::stdout().flush();
        drop(redirect);
        if worker.link.has_announced() {
            worker.unheard_since = ended;
        }
        if took >= QUICK {
            worker.unchecked += took;
        }
        worker.check_memory(ended);
        worker.answer(&request, tag, payload, Timing { began, took, usage });
        let is_long_unheard = ended.since(worker.unheard_since) >= TOGETHER;
        if (is_long_unheard || worker.unchecked >= UNCHECKED) && !worker.is_sound() {
            // The job has closed or replaced our files, or the pool is gone. The answer is valid, but no other job may
            // run.
            return;
        }
        if is_long_unheard {
            worker.link.announce();
        }
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}
