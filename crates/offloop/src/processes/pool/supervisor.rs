//! The one thread that starts workers, watches them and ends them. How it ends them is in `ending`, how it waits in
//! `waiting`.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::child::{Child, Ending, HandshakeStep, Launch, ReapedBy, Remnant};
use super::config::StartTemplate;
use super::death::OutOfMemoryKills;
use super::dispatcher::Dispatcher;
use super::output::Output;
use super::results;
use super::template::{Forks, TemplateEvent, TemplateStage};
use super::worker::{LeaveReason, WorkerPhase, WorkerRecord};
use crate::base::panic;
use crate::base::sync::Mutex;
use crate::core::error::ErrorKind;
use crate::core::executor::Accepts;
use crate::core::options::Options;
use crate::core::runnable::AbortIf;
use crate::processes::decoders::decoders;
use crate::processes::handshake::{self, Orders};
use crate::processes::link::{Answer, Link, Malformed};
use crate::processes::os::fd;
use crate::processes::os::lifeline::Lifeline;
use crate::processes::os::process::{self, End, Process};
use crate::processes::os::ready::ReadySet;
use crate::processes::os::start;
use crate::wire::registry::fingerprint;

/// After this many failed starts in a row the queued jobs end, if no worker is up that could run them.
pub(super) const MAX_FAILED_STARTS: u32 = 3;

/// The interval at which the memory of busy workers is measured, if it is limited.
pub(super) const MEASURE: Duration = Duration::from_millis(50);

/// The time without use after which freed memory goes back to the system.
pub(super) const IDLE: Duration = Duration::from_secs(2);

/// The longest request, in bytes.
const REQUEST: usize = 16;

/// The number of requests that are taken in one round.
const REQUESTS_AT_ONCE: usize = 16;

/// The reason for which workers do not start if the template ends.
const TEMPLATE_ENDED: &str = "the workers' template has ended; what it wrote to standard error says why";

/// Returns whether a read that has failed may be tried again.
fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Decodes the answer to an initializer.
fn judge(dispatcher: &Dispatcher, answer: Result<Answer, Malformed>) -> Verdict {
    let Some(initializer) = &dispatcher.config.initializer else { return Ok(()) };
    let result = answer.map_err(|error| error.to_string()).and_then(|answer| {
        let result = results::into_result(&answer, "the initializer").map_err(|kind| kind.to_string())?;
        panic::catch(|| (initializer.into_result)(result))
            .unwrap_or_else(|panic| Err(format!("panicked{panic}")))
    });
    result.map_err(|reason| format!("its initializer failed: {reason}"))
}

/// The decision about the worker with this process id: it may go on, or it is refused for a reason.
type Verdict = Result<(), String>;

/// Something that the supervisor waits for, with the worker's number where it is of a worker. In the order in which
/// those that have come up at once are handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// A notification of the dispatcher.
    Event,
    /// A worker that writes to its link, or closes it.
    Link(u64),
    /// The end of a worker's process.
    Process(u64),
    /// A report of the template.
    Template,
    /// A request of the template or of a worker.
    Request,
}

impl Source {
    /// Returns the number by which it is found again.
    fn key(self) -> u64 {
        match self {
            Self::Event => 0,
            Self::Template => 1,
            Self::Request => 4,
            Self::Link(number) => number << 2 | 2,
            Self::Process(number) => number << 2 | 3,
        }
    }

    pub(super) fn of(key: u64) -> Self {
        match key & 3 {
            0 if key == Self::Request.key() => Self::Request,
            0 => Self::Event,
            1 => Self::Template,
            2 => Self::Link(key >> 2),
            _ => Self::Process(key >> 2),
        }
    }
}

/// The supervisor of one pool. All of it is used by its thread alone.
pub(super) struct Supervisor {
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) output: Arc<Output>,
    /// The workers' processes by their numbers, from their start until they are collected.
    pub(super) children: BTreeMap<u64, Child>,
    /// Workers that were killed and live on. They have no record, and other workers take their places.
    pub(super) lost: BTreeMap<u64, Child>,
    /// Counts the workers that have been started. The last one has this number.
    registered: u64,
    /// The descriptors that are waited for: those of the dispatcher, of the template as long as it reports, of the
    /// processes in `children` and `lost`, and of the links in `children` that are open.
    pub(super) ready: ReadySet,
    /// The rests of the groups of workers that have ended.
    pub(super) remnants: Vec<Remnant>,
    /// The way to start the template. Dropped at the end, with the files that the template gets.
    start: Option<StartTemplate>,
    /// The template and the workers that it was asked for. Empty in a pool without a template.
    pub(super) forks: Forks,
    /// Counts the failed starts since the last worker that came up.
    pub(super) failures: u32,
    /// The time before which no worker is started. Set at each failed start, cleared when a worker comes up.
    pub(super) not_before: Option<Instant>,
    pub(super) out_of_memory_kills: OutOfMemoryKills,
    /// When the memory of the workers was last measured.
    measured: Instant,
    /// The number of calls that had been given to workers when the supervisor last went to sleep.
    pub(super) given: u64,
    /// The memory's count of uses when the supervisor last looked, and when it was last seen to change.
    memory_uses: (usize, Instant),
    /// The verdicts of initializers that another thread has decoded. Added to by that thread, taken by the supervisor.
    verdicts: Arc<Mutex<Vec<(u32, Verdict)>>>,
}

impl Supervisor {
    pub(super) fn new(
        dispatcher: Arc<Dispatcher>,
        output: Arc<Output>,
        start: Option<StartTemplate>,
    ) -> io::Result<Self> {
        let ready = ReadySet::new()?;
        ready.add(dispatcher.event.as_fd(), Source::Event.key())?;
        if let Some(requests) = start.as_ref().and_then(|start| start.requests.as_ref()) {
            ready.add(requests.socket.as_fd(), Source::Request.key())?;
        }
        Ok(Self {
            dispatcher,
            output,
            start,
            children: BTreeMap::new(),
            lost: BTreeMap::new(),
            registered: 0,
            ready,
            remnants: Vec::new(),
            forks: Forks::default(),
            failures: 0,
            not_before: None,
            out_of_memory_kills: OutOfMemoryKills::new(),
            measured: Instant::now(),
            given: 0,
            memory_uses: (0, Instant::now()),
            verdicts: Arc::default(),
        })
    }

    /// Supervises until the pool is closed and the last worker is gone.
    pub(super) fn run(mut self) {
        let end = panic::catch(|| {
            if self.start.as_ref().is_some_and(|start| start.at_once) {
                // If it fails, it is tried again for the first worker, whose job gets the reason.
                let _ = self.ensure_template();
            }
            while self.step() {}
        });
        self.forks.end_template();
        self.start = None;
        self.output.close();
        self.dispatcher.config.memory.close();
        let left = self.dispatcher.end();
        if let Err(panic) = end {
            // A bug of this library. The jobs must not wait forever because of it. The workers die with this thread.
            let reason = format!("the pool's supervisor panicked{panic}");
            self.dispatcher.fail_all(left, || ErrorKind::WorkerStart(reason.clone().into()));
        }
    }

    /// Makes one round: takes what has come up, starts and ends workers, keeps deadlines, then waits for what comes
    /// next. Returns false when the pool is over.
    fn step(&mut self) -> bool {
        let dispatcher = Arc::clone(&self.dispatcher);
        let now = Instant::now();
        let (overdue, orphans) = dispatcher.look(|scheduler, after| {
            scheduler.retry_due(now);
            for at in 0..scheduler.workers.len() {
                scheduler.collect(at, after);
                scheduler.workers.edit(at).look_at_beginning(now);
                if scheduler.workers[at].is_stalled(now) {
                    scheduler.workers.edit(at).extend_estimate();
                    scheduler.recall(at, after);
                }
            }
            scheduler.assign(after);
            if scheduler.closed && scheduler.is_idle() {
                (0..scheduler.workers.len()).for_each(|at| scheduler.dismiss(at, LeaveReason::Idle, after));
            }
            // Another thread may have broken or stopped the pool while this one held jobs of a dead worker.
            let is_over = scheduler.broken.is_some() || scheduler.stopped.is_some();
            let orphans = is_over.then(|| (scheduler.broken.clone(), scheduler.drain()));
            (scheduler.overdue(now), orphans)
        });
        if let Some((broken, jobs)) = orphans {
            let kind = || broken.clone().map_or(ErrorKind::Cancelled, ErrorKind::Broken);
            dispatcher.fail_all(jobs, kind);
        }
        for (job, kind) in overdue {
            job.abort(kind, AbortIf::Live);
        }
        self.complete_handshakes();
        self.measure(now);
        dispatcher.look(|scheduler, after| scheduler.retire(now, after));
        self.begin_exits();
        // Before workers are started and before the end, since it removes some that are over.
        self.keep_deadlines();
        self.spawn_missing(now);
        if self.children.is_empty()
            && self.remnants.is_empty()
            && self.forks.pending() == 0
            && dispatcher.look(|scheduler, _| scheduler.closed && scheduler.is_idle())
        {
            return false;
        }
        self.tidy_memory(now);
        self.wait();
        true
    }

    /// Starts workers until the pool has as many as it should.
    fn spawn_missing(&mut self, now: Instant) {
        loop {
            let pending = self.forks.pending();
            let (is_short, has_jobs) = self.dispatcher.look(|scheduler, _| scheduler.shortage(pending, now));
            let may_start = self.not_before.is_none_or(|time| Instant::now() >= time);
            // A program that cannot start is not tried again unless there are jobs for it.
            if !is_short || !may_start || (self.failures >= MAX_FAILED_STARTS && !has_jobs) {
                return;
            }
            if let Err(error) = self.spawn() {
                let program = self.dispatcher.config.program.display();
                let reason = format!("starting {program} as a worker failed: {error}");
                return self.start_failed(&reason);
            }
        }
    }

    /// Starts a worker, or asks the template for one.
    fn spawn(&mut self) -> io::Result<()> {
        let dispatcher = Arc::clone(&self.dispatcher);
        let config = &dispatcher.config;
        let deadline = Instant::now().checked_add(config.start_timeout);
        self.ensure_template()?;
        // The program may have closed one meanwhile. A link must not get its number.
        let _ = start::open_standard_descriptors();
        let (link, handout) = Link::create(u64::from(config.max_payload))?;
        let (lifeline, end_of_worker) = Lifeline::new()?;
        let orders = Orders {
            arena: link.arena_size(),
            max_payload: u64::from(config.max_payload),
            limits: config.limits.clone(),
            leads_group: config.kill_children,
        };
        let (pipes, stderr, captured) = self.output.connect()?;
        let listener = dispatcher.listener.as_fd();
        handshake::instruct(&orders, &link, &handout.files, &captured, listener, &end_of_worker)?;
        let launch = Launch { link: Arc::new(link), pipes, lifeline, deadline };
        if self.start.is_some() {
            let is_there = self.forks.order(launch, &handout.socket, stderr.as_ref())?;
            if !is_there {
                self.lose_template(TEMPLATE_ENDED);
            }
        } else {
            let (program, arguments) = (&config.program, &config.arguments);
            let pid = handshake::start_program(program, arguments, &config.env, handout.socket, stderr)?;
            self.register(Process::of_child(pid)?, ReapedBy::Supervisor, launch);
        }
        Ok(())
    }

    /// Starts the template, if the pool has one and it is not there.
    fn ensure_template(&mut self) -> io::Result<()> {
        let Some(start) = &self.start else { return Ok(()) };
        if self.forks.ensure_template(start)? {
            let socket = self.forks.socket().expect("the template was just started");
            if let Err(error) = self.ready.add(socket, Source::Template.key()) {
                self.forks.lose_template();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Adds a worker whose process has been started.
    fn register(&mut self, process: Process, reaped_by: ReapedBy, launch: Launch) {
        self.output.add(Arc::clone(&launch.pipes));
        let config = &self.dispatcher.config;
        let (link, pipes) = (Arc::clone(&launch.link), Arc::clone(&launch.pipes));
        let worker = WorkerRecord::new(process.pid(), link, pipes, config);
        self.dispatcher.look(|scheduler, _| scheduler.workers.push(worker));
        // After the push. A listener that comes meanwhile finds the worker, or is found here.
        if self.dispatcher.has_listener() {
            launch.link.listen();
        }
        self.registered += 1;
        let (pid, number) = (process.pid(), self.registered);
        let watched = self
            .ready
            .add(process.pidfd(), Source::Process(number).key())
            .and_then(|()| self.ready.add(launch.link.socket(), Source::Link(number).key()));
        self.children.insert(number, Child::new(process, reaped_by, launch));
        if let Err(error) = watched {
            let reason = format!("it could not be watched: {error}");
            self.dispatcher.look(|scheduler, after| {
                if let Some(at) = scheduler.find(pid) {
                    scheduler.dismiss(at, LeaveReason::HandshakeFailed(reason), after);
                }
            });
        }
    }

    /// Returns the numbers of the workers' processes of which this is so.
    pub(super) fn numbers_of(&self, is_so: impl Fn(&Child) -> bool) -> Vec<u64> {
        self.children.iter().filter(|(_, child)| is_so(child)).map(|(number, _)| *number).collect()
    }

    /// Takes the requests that have come, and makes the program answer them. Does not block.
    pub(super) fn take_requests(&self) {
        let Some(requests) = self.start.as_ref().and_then(|start| start.requests.as_ref()) else { return };
        // The next look takes what is left, so that no worker keeps the supervisor by its requests.
        for _ in 0..REQUESTS_AT_ONCE {
            match fd::receive_with_files(requests.socket.as_fd(), REQUEST) {
                Ok((bytes, files)) if !bytes.is_empty() => files.into_iter().for_each(|asker| {
                    let _ = panic::catch(|| (requests.answer)(asker));
                }),
                Err(error) if is_for_later(&error) => return,
                // This process holds the other end, but a job has shut it down. It would be readable forever.
                Ok(_) | Err(_) => return self.ready.remove(requests.socket.as_fd()),
            }
        }
    }

    /// Handles what the template has reported.
    pub(super) fn hear_template(&mut self) {
        for event in self.forks.events() {
            let config = &self.dispatcher.config;
            match event {
                TemplateEvent::Up => {
                    let deadline = Instant::now().checked_add(config.setup_timeout);
                    self.forks.advance(TemplateStage::SettingUp(deadline), deadline);
                }
                TemplateEvent::Born { order, process } => {
                    let deadline = self.template_is_ready();
                    match self.forks.take_pending(order) {
                        Some(launch) => {
                            self.register(process, ReapedBy::Template, Launch { deadline, ..launch });
                        }
                        // It came after its deadline. Its lifeline is cut, so it ends even if the signal is refused.
                        None => drop(process.end(End::Kill, false)),
                    }
                }
                TemplateEvent::Failed { order, reason } => {
                    self.template_is_ready();
                    self.forks.take_pending(order);
                    self.start_failed(&format!("the template could not fork a worker: {reason}"));
                }
                TemplateEvent::Ended { pid, end } => {
                    if let Some(&number) = self.numbers_of(|child| child.process.pid() == pid).first() {
                        self.reap(number, Some(end));
                    } else if !self.remnants.iter().any(|remnant| remnant.process.pid() == pid) {
                        self.forks.collect(pid);
                    }
                }
                TemplateEvent::Silent => self.lose_template(TEMPLATE_ENDED),
            }
        }
    }

    /// Records that the template forks workers. Returns until when a worker that it has forked has to be up.
    fn template_is_ready(&mut self) -> Option<Instant> {
        let deadline = Instant::now().checked_add(self.dispatcher.config.start_timeout);
        if self.forks.stage() != TemplateStage::Ready {
            self.forks.advance(TemplateStage::Ready, deadline);
        }
        deadline
    }

    /// Gives the template up, which takes too long.
    fn abandon_template(&mut self) {
        let config = &self.dispatcher.config;
        let reason = match self.forks.stage() {
            TemplateStage::Starting => {
                format!(
                    "the workers' template was not up after the pool's start_timeout of {:?}",
                    config.start_timeout
                )
            }
            TemplateStage::SettingUp(_) => {
                // Another attempt would take as long again, while jobs wait.
                self.failures = MAX_FAILED_STARTS - 1;
                format!(
                    "the workers' template was still getting ready, with what it imports for instance, after the pool's \
                     setup_timeout of {:?}; raise that if it needs longer",
                    config.setup_timeout
                )
            }
            TemplateStage::Ready => format!(
                "the workers' template did not fork a worker within the pool's start_timeout of {:?}",
                config.start_timeout
            ),
        };
        self.lose_template(&reason);
    }

    /// Gives the template up, for this reason.
    fn lose_template(&mut self, reason: &str) {
        if let Some(socket) = self.forks.socket() {
            self.ready.remove(socket);
        }
        let had_pending = self.forks.lose_template();
        for child in self.children.values_mut().chain(self.lost.values_mut()) {
            child.process.may_be_collected();
            if child.reaped_by == ReapedBy::TemplateLate {
                // The template will not report how it has ended.
                child.deadline = Some(Instant::now());
            }
        }
        self.remnants.iter_mut().for_each(|remnant| remnant.process.may_be_collected());
        if had_pending {
            self.start_failed(reason);
        }
    }

    /// Counts a worker that did not come up. If no other worker is up after several of them, the queued jobs end with
    /// the reason.
    pub(super) fn start_failed(&mut self, reason: &str) {
        self.failures += 1;
        let pause = Duration::from_millis(10).saturating_mul(1 << self.failures.min(9));
        self.not_before = Instant::now().checked_add(pause);
        if self.failures < MAX_FAILED_STARTS {
            return;
        }
        let stranded = self.dispatcher.look(|scheduler, _| {
            if scheduler.workers.iter().any(WorkerRecord::is_up) { Vec::new() } else { scheduler.drain() }
        });
        self.dispatcher.fail_all(stranded, || ErrorKind::WorkerStart(reason.to_owned().into()));
    }

    /// Takes the next step with workers that are coming up: checks their fingerprint, gives them the initializer, and
    /// makes them ready.
    fn complete_handshakes(&mut self) {
        let dispatcher = Arc::clone(&self.dispatcher);
        let config = &dispatcher.config;
        let mut came_up = false;
        let steps: Vec<_> = dispatcher.look(|scheduler, _| {
            let step = |worker: &WorkerRecord| Some((worker.pid, HandshakeStep::of(worker)?));
            scheduler.workers.iter().filter_map(step).collect()
        });
        let mut verdicts = std::mem::take(&mut *self.verdicts.lock());
        verdicts.extend(steps.into_iter().filter_map(|(pid, step)| Some((pid, self.verdict(pid, step)?))));
        for (pid, verdict) in verdicts {
            let child = self.children.values_mut().find(|child| child.process.pid() == pid);
            dispatcher.look(|scheduler, after| {
                let Some(at) = scheduler.find(pid).filter(|at| !scheduler.workers[*at].is_leaving()) else {
                    return;
                };
                match (&config.initializer, verdict) {
                    (_, Err(reason)) => scheduler.dismiss(at, LeaveReason::HandshakeFailed(reason), after),
                    (Some(initializer), Ok(())) if scheduler.workers[at].phase == WorkerPhase::Starting => {
                        scheduler.workers.edit(at).initialise(&initializer.call);
                        if let Some(child) = child {
                            child.deadline = Instant::now().checked_add(config.setup_timeout);
                        }
                    }
                    _ => {
                        scheduler.workers.edit(at).be_ready();
                        if let Some(child) = child {
                            child.deadline = None;
                        }
                        came_up = true;
                        scheduler.assign(after);
                    }
                }
                let link = &scheduler.workers[at].link;
                if link.must_wake() {
                    link.wake();
                }
            });
        }
        if came_up {
            self.failures = 0;
            self.not_before = None;
        }
    }

    /// Returns whether a worker may go on after this step, or the reason why it is refused. Returns nothing if another
    /// thread finds out.
    fn verdict(&self, pid: u32, step: HandshakeStep) -> Option<Verdict> {
        let answer = match step {
            HandshakeStep::Greeting(theirs) if theirs == fingerprint() => return Some(Ok(())),
            HandshakeStep::Greeting(_) => {
                return Some(Err("its build differs from this program's; start the same program".to_owned()));
            }
            HandshakeStep::Initialised(answer) => answer,
        };
        if self.dispatcher.config.initializer.as_ref().is_none_or(|initializer| initializer.is_plain) {
            return Some(judge(&self.dispatcher, answer));
        }
        // The user's code decodes the verdict, and may take long.
        let (dispatcher, verdicts) = (Arc::clone(&self.dispatcher), Arc::clone(&self.verdicts));
        let decode = move || {
            let verdict = judge(&dispatcher, answer);
            verdicts.lock().push((pid, verdict));
            dispatcher.event.notify();
        };
        match decoders().try_place(decode, Options::new()) {
            Ok(decoding) => decoding.detach(),
            // The system gives no thread.
            Err(rejected) => rejected.into_work()(),
        }
        None
    }

    /// Measures the memory of the workers that are up, and ends those that use too much.
    fn measure(&mut self, now: Instant) {
        let Some(limit) = self.dispatcher.config.max_rss else { return };
        if now < self.measured + MEASURE {
            return;
        }
        self.measured = now;
        let pids: Vec<u32> = self.dispatcher.look(|scheduler, _| {
            scheduler.workers.iter().filter(|worker| worker.is_up()).map(|worker| worker.pid).collect()
        });
        for pid in pids {
            let used = process::memory_of(pid);
            self.dispatcher.look(|scheduler, after| {
                let Some(at) = scheduler.find(pid) else { return };
                if used <= limit {
                    return;
                }
                // A job that was there at the last measurement is the cause. One that came since may not be: its worker
                // may have leaked the memory before.
                let is_old = |(_, since): (_, Instant)| now.saturating_duration_since(since) >= MEASURE;
                if scheduler.workers[at].running().is_some_and(is_old) {
                    scheduler.dismiss(at, LeaveReason::Memory(used), after);
                } else {
                    scheduler.workers.edit(at).over_memory = true;
                }
            });
        }
    }

    /// Acts on the deadlines that have passed.
    fn keep_deadlines(&mut self) {
        let now = Instant::now();
        if self.forks.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.abandon_template();
        }
        for number in self.numbers_of(|child| child.deadline.is_some_and(|deadline| deadline <= now)) {
            let Some(child) = self.children.get_mut(&number) else { continue };
            child.deadline = None;
            if child.reaped_by == ReapedBy::TemplateLate {
                self.reap(number, None);
                continue;
            }
            let (pid, link_is_open) = (child.process.pid(), child.link_is_open);
            match child.ending {
                Ending::NotBegun => {}
                Ending::Asked => {
                    self.end(number, End::Kill);
                    continue;
                }
                Ending::Killed => {
                    self.lose(number);
                    continue;
                }
            }
            let (start, setup) = (self.dispatcher.config.start_timeout, self.dispatcher.config.setup_timeout);
            let failures = &mut self.failures;
            self.dispatcher.look(|scheduler, after| {
                let Some(at) = scheduler.find(pid) else { return };
                let reason = match scheduler.workers[at].phase {
                    // A worker that is ready has a deadline only if it has closed its link.
                    WorkerPhase::Ready | WorkerPhase::Retiring | WorkerPhase::Leaving(_) => {
                        LeaveReason::ProtocolError
                    }
                    WorkerPhase::Initialising if link_is_open => {
                        // Another attempt would take as long again, while jobs wait.
                        *failures = MAX_FAILED_STARTS - 1;
                        LeaveReason::HandshakeFailed(format!(
                            "its initializer was still running after the pool's setup_timeout of {setup:?}; raise that if \
                             it needs longer"
                        ))
                    }
                    WorkerPhase::Starting if link_is_open => LeaveReason::HandshakeFailed(format!(
                        "it was not up after the pool's start_timeout of {start:?}; raise that if it needs longer"
                    )),
                    _ => LeaveReason::HandshakeFailed("it closed its link".to_owned()),
                };
                scheduler.dismiss(at, reason, after);
            });
        }
        self.begin_exits();
        self.kill_remnants(now);
    }

    /// Gives memory for calls back to the system if it is not needed.
    fn tidy_memory(&mut self, now: Instant) {
        let memory = &self.dispatcher.config.memory;
        let (uses, since) = self.memory_uses;
        let is_idle = memory.uses() == uses && now.saturating_duration_since(since) >= IDLE;
        let gone = if is_idle { memory.shrink_to(0) } else { memory.tidy() };
        for child in self.children.values() {
            child.link.detach(&gone);
        }
        let uses = memory.uses();
        if uses != self.memory_uses.0 {
            self.memory_uses = (uses, now);
        }
    }
}
