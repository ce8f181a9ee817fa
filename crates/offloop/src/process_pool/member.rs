//! One worker process as its supervisor sees it: its link, its phase, its time limits.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::PollFd;

use super::builder::Config;
use super::frame::{Frame, Kind, Reader, Writer};
use super::sys::{self, Process};
use crate::cell::Remote;
use crate::job::JobId;
use crate::task::Encoded;

/// ```text
/// Starting ──hello──▶ Initialising ──done──▶ Idle ◀──answer── Busy
///     │                    │                  │ └─────job─────▶┘│
///     └────────────────────┴────▶ Leaving ◀───┴────────────────┘   (each may die at any time)
/// ```
pub(super) enum Phase {
    /// Its greeting has not come.
    Starting,
    /// It runs the initializer.
    Initialising,
    Idle,
    Busy(Arc<dyn Remote>),
    /// It was told to go, or killed; with the job that it had then.
    Leaving(Why, Option<Arc<dyn Remote>>),
}

/// Why a worker is to go.
pub(super) enum Why {
    /// There is no more work.
    Released,
    /// Its job was cancelled or is out of time.
    JobEnded,
    /// It does not speak the protocol.
    BrokeOff,
    /// It did not come up as it should.
    Refused(String),
}

pub(super) struct Member {
    pub(super) process: Process,
    link: UnixStream,
    link_is_open: bool,
    reader: Reader,
    writer: Writer,
    phase: Phase,
    /// When its start, its leave or its death after SIGTERM has taken too long.
    deadline: Option<Instant>,
}

/// What a link has to say at the moment.
pub(super) enum Readable {
    Frame(Frame),
    Nothing,
    Closed,
    Malformed,
}

/// What every frame may carry, however small the payloads of jobs are to be, in bytes.
const SMALL: u32 = 64 * 1024;

/// How long a worker may be without a link before it counts as broken: one that exits closes its link a
/// moment before it is dead.
const WITHOUT_LINK: Duration = Duration::from_millis(200);

impl Member {
    pub(super) fn new(process: Process, link: UnixStream, config: &Config) -> Self {
        Self {
            process,
            link,
            // Greetings and reasons are small, but not results.
            reader: Reader::new(config.max_payload.max(SMALL)),
            writer: Writer::default(),
            link_is_open: true,
            phase: Phase::Starting,
            deadline: Instant::now().checked_add(config.start_timeout),
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(super) fn phase(&self) -> &Phase {
        &self.phase
    }

    pub(super) fn into_phase(self) -> Phase {
        self.phase
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Idle | Phase::Busy(_))
    }

    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.phase, Phase::Leaving(..))
    }

    pub(super) fn link_is_open(&self) -> bool {
        self.link_is_open
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether it runs this job.
    pub(super) fn is_busy_with(&self, id: JobId) -> bool {
        matches!(&self.phase, Phase::Busy(job) if job.core().id == id)
    }

    /// What to poll: the link while it is open, then the process.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = PollFd<'_>> {
        let link = self.link_is_open.then(|| sys::watch(self.link.as_fd(), !self.writer.is_empty()));
        link.into_iter().chain([sys::watch(self.process.pidfd(), false)])
    }

    /// Has it run the initializer.
    pub(super) fn initialise(&mut self, call: &Encoded) {
        self.phase = Phase::Initialising;
        self.request(0, call.task.index(), call.arguments.clone());
    }

    /// Gives it a job.
    pub(super) fn give(&mut self, job: Arc<dyn Remote>, call: Encoded) {
        let id = job.core().id.as_u64();
        self.phase = Phase::Busy(job);
        self.request(id, call.task.index(), call.arguments);
    }

    fn request(&mut self, job: u64, task: u32, arguments: Vec<u8>) {
        self.writer.push(Kind::Run, job, &task.to_le_bytes(), arguments);
        self.flush();
    }

    /// It is ready for a job.
    pub(super) fn rest(&mut self) {
        self.phase = Phase::Idle;
        self.deadline = None;
    }

    pub(super) fn flush(&mut self) {
        if self.link_is_open && self.writer.flush(&mut self.link).is_err() {
            self.link_closed();
        }
    }

    /// The next frame that has arrived.
    pub(super) fn read(&mut self) -> Readable {
        loop {
            match self.reader.next() {
                Ok(Some(frame)) => return Readable::Frame(frame),
                Ok(None) if !self.link_is_open => return Readable::Closed,
                Ok(None) => {}
                Err(_) => return Readable::Malformed,
            }
            match self.reader.fill(&mut self.link) {
                Ok(0) => self.link_closed(),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Readable::Nothing,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.link_closed(),
            }
        }
    }

    fn link_closed(&mut self) {
        self.link_is_open = false;
        if !self.is_leaving() {
            // A worker that lives on without its link is of no use.
            let soon = Instant::now().checked_add(WITHOUT_LINK);
            self.deadline = self.deadline.into_iter().chain(soon).min();
        }
    }

    /// Asks it to end because its job is to end; it is killed after `grace`.
    pub(super) fn terminate(&mut self, grace: Duration) {
        self.process.terminate();
        self.leave(Why::JobEnded, grace);
    }

    /// Lets it go when there is no more work; it is killed after `grace`.
    pub(super) fn release(&mut self, grace: Duration) {
        if !self.is_leaving() {
            // A worker exits at the end of its link.
            let _ = self.link.shutdown(Shutdown::Write);
            self.leave(Why::Released, grace);
        }
    }

    /// Kills it because it speaks nonsense.
    pub(super) fn break_off(&mut self) {
        let nonsense = || Why::Refused("it wrote something else than its greeting on its link".to_owned());
        self.kill(if self.is_ready() { Why::BrokeOff } else { nonsense() });
    }

    /// Kills it because it will not do.
    pub(super) fn refuse(&mut self, reason: String) {
        self.kill(Why::Refused(reason));
    }

    /// Kills it because its deadline has passed.
    pub(super) fn expire(&mut self) {
        match self.phase {
            Phase::Leaving(..) => {
                self.process.kill();
                self.deadline = None;
            }
            // Only the lack of a link sets a deadline to a worker that is ready.
            Phase::Idle | Phase::Busy(_) => self.kill(Why::BrokeOff),
            Phase::Starting | Phase::Initialising if self.link_is_open => {
                self.refuse("it was not ready in time".to_owned());
            }
            Phase::Starting | Phase::Initialising => self.refuse("it closed its link".to_owned()),
        }
    }

    fn kill(&mut self, why: Why) {
        self.process.kill();
        if !self.is_leaving() {
            self.leave(why, Duration::ZERO);
        }
        self.deadline = None;
    }

    fn leave(&mut self, why: Why, grace: Duration) {
        let job = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Busy(job) => Some(job),
            _ => None,
        };
        self.phase = Phase::Leaving(why, job);
        self.deadline = Instant::now().checked_add(grace);
    }
}
