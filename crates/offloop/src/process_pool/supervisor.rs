//! The thread that owns the workers: starts them, gives them jobs, takes their answers, ends and replaces
//! them. It blocks on nothing but `poll`.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::desk::{Desk, Running};
use super::frame::{Frame, Hello, Kind, PROTOCOL, PanicNote};
use super::member::{Member, Phase, Readable, Why};
use super::sys::{self, Ended};
use crate::cell::Remote;
use crate::error::{ErrorKind, Exit, Panic, WorkerDied};
use crate::executor::Accepts;
use crate::handle::Handle;
use crate::job::Options;
use crate::panics::{self, drop_quietly};
use crate::task::{Fault, fingerprint};
use crate::thread_pool::ThreadPool;

/// After so many failed starts in a row the jobs are told, if there is no worker that could run them.
const PATIENCE: u32 = 3;

/// Results above this size are decoded on other threads, so that the other workers' answers do not wait.
const LARGE_RESULT: usize = 64 * 1024;

pub(super) struct Supervisor {
    desk: Arc<Desk>,
    members: Vec<Member>,
    /// Failed starts since the last one that went well.
    failures: u32,
    /// No start before this time, after failures.
    not_before: Option<Instant>,
    /// The newest count of processes that the system killed for want of memory.
    out_of_memory_kills: u64,
}

impl Supervisor {
    pub(super) fn new(desk: Arc<Desk>) -> Self {
        Self {
            desk,
            members: Vec::new(),
            failures: 0,
            not_before: None,
            out_of_memory_kills: sys::out_of_memory_kills(),
        }
    }

    /// Supervises until the pool is closed and the last worker is gone.
    pub(super) fn run(mut self) {
        let end = panics::catch(|| while self.step() {});
        let mut inbox = self.desk.inbox();
        inbox.closed = true;
        inbox.over = true;
        let queued = inbox.backlog.drain();
        let running: Vec<_> = inbox.running.drain().map(|(_, running)| running.job).collect();
        drop(inbox);
        if let Err(panic) = end {
            // A bug of ours, but nobody shall wait for ever because of it. The workers die with this thread.
            for job in queued.into_iter().chain(running) {
                job.fail(ErrorKind::CouldNotStart(format!("the pool's supervisor panicked{panic}").into()));
            }
        }
        self.desk.announce();
    }

    /// One round: orders, staff, work, deadlines, then a wait for what happens next. False when all is over.
    fn step(&mut self) -> bool {
        let (closing, has_jobs) = self.take_orders();
        if !closing || has_jobs {
            self.hire(has_jobs);
        }
        let now_idle_for_good = self.assign() && closing;
        if now_idle_for_good {
            self.members.iter_mut().for_each(|member| member.release(self.desk.config.grace));
            if self.members.is_empty() {
                return false;
            }
        }
        self.keep_deadlines();
        self.wait();
        true
    }

    /// Kills the workers whose job has ended. Says whether the pool is closing and whether jobs are queued.
    fn take_orders(&mut self) -> (bool, bool) {
        let mut inbox = self.desk.look();
        let to_kill = std::mem::take(&mut inbox.to_kill);
        let (closing, has_jobs) = (inbox.closed, inbox.backlog.len() > 0);
        drop(inbox);
        for id in to_kill {
            if let Some(member) = self.members.iter_mut().find(|member| member.is_busy_with(id)) {
                member.terminate(self.desk.config.grace);
            }
        }
        (closing, has_jobs)
    }

    /// Starts workers until the pool has as many as it should.
    fn hire(&mut self, has_jobs: bool) {
        while self.members.len() < self.desk.config.workers {
            let may_start = self.not_before.is_none_or(|time| Instant::now() >= time);
            // A program that cannot start is not tried for nothing.
            if !may_start || (self.failures >= PATIENCE && !has_jobs) {
                return;
            }
            match sys::start(&self.desk.config.program, self.desk.config.max_payload) {
                Ok((process, link)) => {
                    self.members.push(Member::new(process, link, &self.desk.config));
                    self.publish_pids();
                }
                Err(error) => {
                    let program = self.desk.config.program.display();
                    let reason = format!("starting {program} as a worker failed: {error}");
                    return self.start_failed(&reason);
                }
            }
        }
    }

    fn publish_pids(&self) {
        let pids = self.members.iter().filter(|it| !it.is_leaving()).map(Member::pid).collect();
        self.desk.inbox().pids = pids;
    }

    /// Notes a worker that did not come up. Jobs that nobody else can run end with the reason.
    fn start_failed(&mut self, reason: &str) {
        self.failures += 1;
        let pause = Duration::from_millis(10).saturating_mul(1 << self.failures.min(9));
        self.not_before = Instant::now().checked_add(pause);
        if self.failures < PATIENCE || self.members.iter().any(Member::is_ready) {
            return;
        }
        let stranded = self.desk.inbox().backlog.drain();
        for job in stranded {
            let kind = ErrorKind::CouldNotStart(reason.to_owned().into());
            job.fail(kind);
        }
    }

    /// Gives queued jobs to idle workers. Says whether no job is queued or running any more.
    fn assign(&mut self) -> bool {
        for at in 0..self.members.len() {
            while self.members[at].is_idle() {
                let mut inbox = self.desk.inbox();
                let Some((job, admitted)) = inbox.backlog.take() else { break };
                // Entered under the same lock, so that a shutdown or an interrupt finds it here or there.
                let (id, pid) = (job.core().id, self.members[at].pid());
                let running = Running { job: Arc::clone(&job), pid, since: Instant::now() };
                inbox.running.insert(id, running);
                drop(inbox);
                if let Some(admitted) = admitted {
                    admitted.admit();
                }
                match Arc::clone(&job).start() {
                    Some(call) => self.members[at].give(job, call),
                    None => drop(self.desk.inbox().running.remove(&id)),
                }
            }
        }
        let inbox = self.desk.inbox();
        inbox.backlog.len() == 0 && inbox.running.is_empty()
    }

    /// Kills whoever has had its time.
    fn keep_deadlines(&mut self) {
        let now = Instant::now();
        for member in &mut self.members {
            if member.deadline().is_some_and(|deadline| now >= deadline) {
                member.expire();
            }
        }
    }

    /// Sleeps until a worker has something to say, ends or is due, or until the bell rings.
    fn wait(&mut self) {
        let next = self.members.iter().filter_map(Member::deadline).chain(self.next_start()).min();
        let limit = next.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let mut descriptors = vec![sys::watch(self.desk.bell.as_fd(), false)];
        for member in &self.members {
            descriptors.extend(member.descriptors());
        }
        if sys::poll(&mut descriptors, limit).is_err() {
            // Out of kernel memory, most likely. The state is sound; look again a little later.
            std::thread::sleep(Duration::from_millis(10));
            return;
        }
        let mut ready = descriptors.iter().map(|it| !it.revents().is_empty());
        if ready.next() == Some(true) {
            self.desk.bell.silence();
        }
        let ready: Vec<(bool, bool)> = self
            .members
            .iter()
            .map(|member| {
                let link = member.link_is_open() && ready.next().unwrap_or(false);
                (link, ready.next().unwrap_or(false))
            })
            .collect();
        // From the back, as the dead are removed on the way.
        for (at, (link, dead)) in ready.into_iter().enumerate().rev() {
            if link {
                self.converse(at);
            }
            if dead {
                self.bury(at);
            }
        }
    }

    /// When failed starts are the reason that workers are missing: the next try.
    fn next_start(&self) -> Option<Instant> {
        let missing = self.members.len() < self.desk.config.workers;
        let wanted = self.failures < PATIENCE || self.desk.inbox().backlog.len() > 0;
        if missing && wanted { self.not_before } else { None }
    }

    /// Writes what is due to a worker and reads what it says.
    fn converse(&mut self, at: usize) {
        self.members[at].flush();
        loop {
            match self.members[at].read() {
                Readable::Frame(frame) => self.hear(at, frame),
                Readable::Nothing | Readable::Closed => return,
                Readable::Malformed => return self.members[at].break_off(),
            }
        }
    }

    /// Acts on one frame of a worker.
    fn hear(&mut self, at: usize, frame: Frame) {
        let member = &mut self.members[at];
        match member.phase() {
            Phase::Starting if frame.kind == Kind::Hello => self.greet(at, &frame),
            Phase::Initialising if frame.job == 0 => {
                let verdict = self.desk.config.initializer.as_ref().map(|it| it.verdict);
                let outcome = match (answer(frame, "the initializer"), verdict) {
                    (Ok(result), Some(verdict)) => panics::catch(|| verdict(&result))
                        .unwrap_or_else(|panic| Err(format!("panicked{panic}"))),
                    (Ok(_), None) => Ok(()),
                    (Err(kind), _) => Err(kind.to_string()),
                };
                match outcome {
                    Ok(()) => self.welcome(at),
                    Err(reason) => self.members[at].refuse(format!("its initializer failed: {reason}")),
                }
            }
            Phase::Busy(job) if frame.job == job.core().id.as_u64() && frame.kind.is_answer() => {
                let job = Arc::clone(job);
                member.rest();
                self.desk.inbox().running.remove(&job.core().id);
                self.desk.announce();
                finish(job, frame);
            }
            // It is on its way out; whatever it still says is of no use.
            Phase::Leaving(..) => {}
            _ => member.break_off(),
        }
    }

    fn greet(&mut self, at: usize, frame: &Frame) {
        let reason = match postcard::from_bytes::<Hello>(&frame.payload) {
            Ok(hello) if hello.protocol == PROTOCOL && hello.fingerprint == fingerprint() => {
                return match &self.desk.config.initializer {
                    Some(initializer) => self.members[at].initialise(&initializer.call),
                    None => self.welcome(at),
                };
            }
            Ok(_) => "its build differs from this program's; start the same program".to_owned(),
            Err(error) => format!("its greeting makes no sense: {error}"),
        };
        self.members[at].refuse(reason);
    }

    fn welcome(&mut self, at: usize) {
        self.failures = 0;
        self.not_before = None;
        self.members[at].rest();
    }

    /// Collects a worker that has ended and strikes it from the list; its death is its job's, if it had one.
    fn bury(&mut self, at: usize) {
        // What it said before it died counts.
        self.converse(at);
        let member = self.members.swap_remove(at);
        let (pid, ended) = (member.pid(), member.process.collect());
        self.publish_pids();
        match member.into_phase() {
            Phase::Busy(job) => {
                let out_of_memory = self.out_of_memory(ended.exit);
                self.worker_died(&job, pid, ended, out_of_memory);
            }
            Phase::Leaving(Why::BrokeOff, Some(job)) => {
                self.worker_died(&job, pid, Ended { exit: Exit::Protocol, ..ended }, false);
            }
            Phase::Leaving(Why::JobEnded, Some(job)) => {
                let mut inbox = self.desk.inbox();
                inbox.running.remove(&job.core().id);
                inbox.killed += 1;
            }
            Phase::Leaving(Why::Refused(reason), _) => {
                self.start_failed(&format!("worker process {pid} was refused: {reason}"));
            }
            Phase::Starting | Phase::Initialising => self.start_failed(&format!(
                "worker process {pid} {} before it was ready; does `main` begin with `offloop::init();`?",
                ended.exit
            )),
            // It had no job and was as good as any: a replacement is all that it takes.
            Phase::Idle | Phase::Leaving(..) => {}
        }
        self.desk.announce();
    }

    fn worker_died(&self, job: &Arc<dyn Remote>, pid: u32, ended: Ended, out_of_memory: bool) {
        self.desk.inbox().running.remove(&job.core().id);
        let kind = ErrorKind::WorkerDied(WorkerDied {
            pid,
            exit: ended.exit,
            task: job.core().options.name.clone().into_owned(),
            peak_memory: ended.peak_memory,
            out_of_memory,
        });
        job.fail(kind);
    }

    /// Whether the system's out-of-memory killer may have sent a SIGKILL that was not ours.
    fn out_of_memory(&mut self, exit: Exit) -> bool {
        if exit != Exit::Signal(libc::SIGKILL) {
            return false;
        }
        let kills = sys::out_of_memory_kills();
        std::mem::replace(&mut self.out_of_memory_kills, kills) < kills
    }
}

/// What a worker's answer comes to: the encoded result, or what went wrong.
fn answer(frame: Frame, task: &str) -> Result<Vec<u8>, ErrorKind> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match frame.kind {
        Kind::Done => Ok(frame.payload),
        Kind::BadArguments => Err(Fault::Arguments(text(&frame.payload)).into_kind(task)),
        Kind::Panicked => match postcard::from_bytes::<PanicNote>(&frame.payload) {
            Ok(PanicNote { message, place, backtrace }) => {
                Err(ErrorKind::Panicked(Panic { message, place, backtrace, payload: None }))
            }
            Err(error) => Err(ErrorKind::Decode(format!("the panic of `{task}`: {error}"))),
        },
        Kind::BadResult | Kind::Hello | Kind::Run => Err(Fault::Result(text(&frame.payload)).into_kind(task)),
    }
}

/// Ends a job with its worker's answer, which is decoded by the user's code.
fn finish(job: Arc<dyn Remote>, frame: Frame) {
    let is_large = frame.payload.len() > LARGE_RESULT;
    let end = move || {
        match answer(frame, &job.core().options.name) {
            Ok(result) => job.complete(&result),
            Err(kind) => job.fail(kind),
        };
        // If nobody wants the result it dies here, and its destructor is the user's too.
        drop_quietly(job);
    };
    if !is_large {
        end();
    } else if let Err(rejected) = decoders().try_place(end, Options::new()).map(Handle::detach) {
        rejected.into_work()();
    }
}

fn decoders() -> &'static ThreadPool {
    static DECODERS: OnceLock<ThreadPool> = OnceLock::new();
    DECODERS.get_or_init(|| {
        let pool = ThreadPool::builder().name("offloop-decode").max_threads(crate::sync::cores());
        pool.build().expect("these settings are valid")
    })
}
