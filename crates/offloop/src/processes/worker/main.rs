//! The other side: what a process does that was started as a worker.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::process::exit;
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::base::clock::Moment;
use crate::base::fork::Generation;
use crate::base::panic;
use crate::core::error::ErrorKind;
use crate::core::error::NotSent;
use crate::core::header::Header;
use crate::core::options::Options;
use crate::core::outcome::Outcome;
use crate::core::spin::{self, AdaptiveSpin};
use crate::metrics::cpu::CpuMeter;
use crate::metrics::stats::Timing;
use crate::processes::link::{
    AnswerTag, CAPTURE, CONTEXT, PanicNote, Request, STREAM, SlotHeader, UNHEARD, WorkerEnd,
};
use crate::processes::os::process as sys;
use crate::wire::arena::Arena;
use crate::wire::blob::Blob;
use crate::wire::payload::{Incoming, Payload};
use crate::wire::task::{Context, Fault, Task, fingerprint, registry};

/// How long an answer may go unheard while there is more to do, before the supervisor is woken for it: answers
/// that come close together wake it once.
const TOGETHER: Duration = Duration::from_micros(50);

/// How long an answer may go unheard when there is nothing more to do: whoever waits for it may be looking.
const MOMENT: Duration = Duration::from_micros(3);

/// How long a worker spins for the next call at most: about the time that a caller on a halted core needs to receive the
/// answer and to send the next call.
const SPIN: Duration = Duration::from_micros(200);

/// To close a socket takes longer: whoever was so quick has not closed ours.
const QUICK: Duration = Duration::from_nanos(250);

/// How long a worker without work keeps memory for later results.
const IDLE: Duration = Duration::from_secs(2);

/// Runs jobs until the link closes, then exits. Never returns.
pub(crate) fn serve(marker: &OsStr) -> ! {
    // SAFETY: `init` is documented to be called first thing in `main`, when this is the only thread. Programs
    // that a job starts must not take themselves for workers.
    unsafe { std::env::remove_var(sys::MARKER) };
    let Some(parent) = marker.to_str().and_then(|text| text.parse().ok()) else {
        eprintln!(
            "offloop: the environment variable {} is reserved, and its value makes no sense",
            sys::MARKER
        );
        exit(1);
    };
    match begin(parent) {
        Ok(Some(worker)) => {
            worker.serve();
            exit(0)
        }
        Ok(None) => exit(0),
        Err(error) => {
            eprintln!("offloop: this process could not become a worker: {error}");
            exit(1);
        }
    }
}

/// `None` if the parent is dead already.
fn begin(parent: u32) -> io::Result<Option<Worker>> {
    if !sys::die_with(parent)? {
        return Ok(None);
    }
    Ok(Some(Worker::new(sys::become_worker(sys::move_stdin()?)?)))
}

/// A process that runs a pool's jobs.
pub struct Worker {
    link: WorkerEnd,
    arena: &'static Arena,
    max_payload: u64,
    captured: [OwnedFd; 2],
    /// The job that runs, if somebody reads its items.
    listened: Option<u64>,
    /// What the pool still reads of our answers, by where it is, and how often it was sent.
    lent: HashMap<u64, (Blob, u32)>,
    /// When the first answer was given that was not announced.
    unheard_since: Moment,
    spin: AdaptiveSpin,
}

impl Worker {
    pub(crate) fn new(start: sys::Start) -> Self {
        Self {
            link: start.link,
            arena: start.arena,
            max_payload: start.max_payload,
            captured: start.captured,
            listened: None,
            lent: HashMap::new(),
            unheard_since: Moment::now(),
            spin: AdaptiveSpin::new(64),
        }
    }

    /// Runs jobs on this thread until the pool lets it go.
    pub fn serve(self) {
        let worker = Rc::new(RefCell::new(self));
        CURRENT.set(Some(Rc::clone(&worker)));
        run_jobs(&worker);
        CURRENT.set(None);
        // It is not dropped: its files may be gone.
        std::mem::forget(worker);
    }

    fn answer(&mut self, request: &Request, kind: AnswerTag, payload: Payload, ran: Timing) {
        self.take_returns();
        let kept =
            (0..).zip(&request.parts).fold(0, |kept, (at, part)| kept | u32::from(part.is_shared()) << at);
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let header = SlotHeader {
            job: request.job,
            tag: kind as u32,
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

    /// Notes what the pool reads of a payload from now on.
    fn lend(&mut self, payload: Payload) {
        for blob in payload.into_blobs() {
            let (offset, _) = blob.place().expect("only blobs of this process's arena are attached");
            self.lent.entry(offset).or_insert((blob, 0)).1 += 1;
        }
    }

    fn emit(&mut self, payload: Payload) -> Result<(), NotSent> {
        let job = self.listened.ok_or_else(|| NotSent("nobody reads the items of this job".to_owned()))?;
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

    /// The next call. Blocks until there is one; `None` when the link has ended.
    fn next(&mut self) -> Option<Request> {
        loop {
            let request = self.link.look();
            if request.is_some() {
                return request;
            }
            if !self.look_out() && !self.sleep() {
                return None;
            }
        }
    }

    /// Spins for a while, if that has paid lately. Says whether a call has come. Meanwhile the pool is given a
    /// moment to notice the last answer by itself, before it is woken.
    fn look_out(&mut self) -> bool {
        let began = Instant::now();
        let (limit, moment) = if self.link.is_elsewhere() {
            (if self.spin.may_pay() { SPIN } else { Duration::ZERO }, MOMENT)
        } else {
            // Whoever would look, or send a call, waits for this very core.
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

    /// Sleeps until the pool has something. Memory that nobody needs goes back after a while. False if the link
    /// has ended.
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
                    self.link.tell_supervisor();
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
    /// The worker that this thread is.
    static CURRENT: RefCell<Option<Rc<RefCell<Worker>>>> = const { RefCell::new(None) };
}

/// Sends an item of the job that runs on this thread.
pub(crate) fn emit<T: Serialize + ?Sized>(item: &T) -> Result<(), NotSent> {
    let worker = CURRENT.with_borrow(Clone::clone);
    let worker = worker.ok_or_else(|| NotSent("no job of a process pool runs on this thread".to_owned()))?;
    let payload = Payload::encode(item).map_err(|error| NotSent(error.to_string()))?;
    worker.borrow_mut().emit(payload)
}

/// The borrows end before a job begins: it may emit items.
fn run_jobs(worker: &RefCell<Worker>) {
    let born = Generation::now();
    let mut cpu = CpuMeter::default();
    worker.borrow_mut().link.greet(fingerprint());
    loop {
        let next = worker.borrow_mut().next();
        let Some(request) = next else { return };
        let began = Moment::now();
        cpu.begin(began);
        let diversion =
            (request.flags & CAPTURE != 0).then(|| sys::Diversion::begin(&worker.borrow().captured));
        worker.borrow_mut().listened = (request.flags & STREAM != 0).then_some(request.job);
        let (mut kind, mut payload) = run(&request);
        if born.is_past() {
            // The job has forked and this is the child: the link is its parent's.
            // SAFETY: it ends this process at once; nothing of ours is to be done in the child.
            unsafe { libc::_exit(0) };
        }
        let mut worker = worker.borrow_mut();
        worker.listened = None;
        if let Err(reason) = worker.check_size(&payload) {
            (kind, payload) = (AnswerTag::BadResult, Payload::text(&reason));
        }
        let ended = Moment::now();
        let took = ended.since(began);
        let usage = cpu.end(ended, took);
        let _ = io::stdout().flush();
        drop(diversion);
        if worker.link.has_announced() {
            worker.unheard_since = ended;
        }
        let is_intact = took < QUICK || worker.link.is_intact();
        worker.answer(&request, kind, payload, Timing { began, took, usage });
        if !is_intact {
            // A job has pulled our files away. Its answer is its own, but another job shall not suffer for it.
            return;
        }
        if ended.since(worker.unheard_since) >= TOGETHER {
            worker.link.announce();
        }
    }
}

type Surround = dyn Fn(&mut dyn FnMut()) + Send + Sync;

/// What the user has put around each job.
static SURROUND: OnceLock<Box<Surround>> = OnceLock::new();

pub(crate) fn surround(hook: Box<Surround>) -> bool {
    SURROUND.set(hook).is_ok()
}

/// Runs one request and says what it came to.
fn run(request: &Request) -> (AnswerTag, Payload) {
    let Some(task) = usize::try_from(request.task).ok().and_then(|index| registry().get(index)) else {
        return (AnswerTag::BadArguments, Payload::text("the request names no task"));
    };
    match perform(task, request) {
        Ok((result, has_failed)) => (if has_failed { AnswerTag::Failed } else { AnswerTag::Done }, result),
        Err(Fault::Arguments(reason)) => (AnswerTag::BadArguments, Payload::text(&reason)),
        Err(Fault::Result(reason)) => (AnswerTag::BadResult, Payload::text(&reason)),
        Err(Fault::Panicked(panic)) => {
            let note =
                PanicNote { message: panic.message, location: panic.location, backtrace: panic.backtrace };
            match Payload::encode(&note) {
                Ok(note) => (AnswerTag::Panicked, note),
                Err(_) => (AnswerTag::BadResult, Payload::text(&format!("it panicked: {}", note.message))),
            }
        }
    }
}

/// Calls the task as the current job of this thread, its panic caught. Its result comes with whether it says itself
/// that it has failed.
fn perform(task: &Task, request: &Request) -> Result<(Payload, bool), Fault> {
    let mut incoming = Incoming { body: request.body(), parts: &request.parts };
    let mut options = Options::new();
    options.name = task.name.into();
    let mut parent = None;
    if request.flags & CONTEXT != 0 {
        let (context, arguments) =
            Context::take(incoming).map_err(|error| Fault::Arguments(error.to_string()))?;
        incoming = arguments;
        parent = context.parent;
        options.carried = context.carried.map(|bytes| bytes.0.into());
        if let Some(name) = context.name {
            options.name = name.to_owned().into();
        }
    }
    let header = Header::of_request(request.job, options, parent);
    let mut outcome = None;
    let caught = header.perform(|| {
        let mut call = || outcome = Some(panic::catch(|| (task.run)(incoming)));
        match SURROUND.get() {
            Some(hook) => hook(&mut call),
            None => call(),
        }
        Ok(())
    });
    let result = match (outcome, caught) {
        (Some(Ok(result)), Ok(())) => result.map(|result| (result, header.has_failed())),
        (Some(Err(panic)), _) | (_, Err(ErrorKind::Panicked(panic))) => Err(Fault::Panicked(panic)),
        (_, Err(other)) => Err(Fault::Result(other.to_string())),
        (None, Ok(())) => Err(Fault::Result("the hook that surrounds jobs did not call it".to_owned())),
    };
    header.span.record_outcome(match &result {
        Ok((_, false)) => Outcome::Completed,
        Err(Fault::Panicked(_)) => Outcome::Panicked,
        _ => Outcome::Failed,
    });
    result
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}
