//! What the supervisor knows of a worker's process, from its launch until it is collected.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::output::WorkerPipes;
use super::worker::{LeaveReason, WorkerPhase, WorkerRecord};
use crate::processes::link::{Answer, Link, Malformed};
use crate::processes::os::lifeline::Lifeline;
use crate::processes::os::process::{End, Process};

/// A worker that is being started, whose process is not known yet.
pub(super) struct Launch {
    pub(super) link: Arc<Link>,
    pub(super) pipes: Arc<WorkerPipes>,
    /// The worker is killed when this is dropped.
    pub(super) lifeline: Lifeline,
    /// When the start will have taken too long.
    pub(super) deadline: Option<Instant>,
}

/// A worker that the template was asked to fork.
pub(super) struct PendingFork {
    /// The number of the order.
    pub(super) order: u64,
    pub(super) launch: Launch,
}

/// The process that collects a worker.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ReapedBy {
    /// The supervisor: the worker is its child.
    Supervisor,
    /// The template, which then reports how the worker ended.
    Template,
    /// The template, which has not reported yet how the worker ended, although it is dead.
    TemplateLate,
}

/// A worker's process, until it is collected. Used by the supervisor alone.
pub(super) struct Child {
    pub(super) process: Process,
    pub(super) reaped_by: ReapedBy,
    pub(super) link: Arc<Link>,
    pub(super) pipes: Arc<WorkerPipes>,
    /// The worker has not closed its end of the socket. Cleared when the supervisor reads the end.
    pub(super) link_is_open: bool,
    /// The worker is killed when this is cut or dropped.
    pub(super) lifeline: Lifeline,
    /// How far the worker has been brought to its end. Goes forward only, from when its record says that it leaves.
    pub(super) ending: Ending,
    /// The programs that its jobs have left running go on. Set when its link is closed.
    pub(super) spares_group: bool,
    /// The error with which the system has refused to signal the worker, if it has.
    pub(super) refusal: Option<io::Error>,
    /// When the worker's start, its exit, or the report of its death will have taken too long. Set at each of these,
    /// and when the worker closes its socket. Cleared when the worker is ready, and when the deadline has passed.
    pub(super) deadline: Option<Instant>,
}

impl Child {
    pub(super) fn new(process: Process, reaped_by: ReapedBy, launch: Launch) -> Self {
        let Launch { link, pipes, lifeline, deadline } = launch;
        Self {
            process,
            reaped_by,
            link,
            pipes,
            link_is_open: true,
            lifeline,
            ending: Ending::NotBegun,
            spares_group: false,
            refusal: None,
            deadline,
        }
    }
}

/// How far a worker has been brought to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    NotBegun,
    /// Its link is closed, or it has got SIGTERM.
    Asked,
    /// It has got SIGKILL, or its lifeline is cut.
    Killed,
}

/// The rest of the process group of a worker that has ended: programs that its jobs have started.
pub(super) struct Remnant {
    /// The worker.
    pub(super) process: Process,
    pub(super) reaped_by: ReapedBy,
    /// The worker has been collected. If not, its process id is kept from being used again, since the group can be
    /// signalled only by that.
    pub(super) is_collected: bool,
    /// When the group is killed.
    pub(super) deadline: Instant,
    /// Kept open: a program that writes to standard error while it cleans up would be ended by SIGPIPE.
    pub(super) _pipes: Arc<WorkerPipes>,
}

impl Remnant {
    /// Returns whether something is left of the group, as far as that can be seen.
    pub(super) fn may_live(&self) -> bool {
        !self.is_collected || self.process.has_group()
    }
}

/// A step of the handshake that a worker has taken.
pub(super) enum HandshakeStep {
    /// It has published its fingerprint.
    Greeting(u64),
    /// It has answered the initializer.
    Initialised(Result<Answer, Malformed>),
}

impl HandshakeStep {
    /// Takes the next step of a worker that is coming up, if it has taken one.
    pub(super) fn of(worker: &WorkerRecord) -> Option<Self> {
        match worker.phase {
            WorkerPhase::Starting => {
                Some(worker.link.greeting()).filter(|theirs| *theirs != 0).map(Self::Greeting)
            }
            WorkerPhase::Initialising => worker.initialised().map(Self::Initialised),
            _ => None,
        }
    }
}

/// The way in which a worker is brought to its end.
pub(super) enum ExitRequest {
    /// Closes the link, at which the worker exits.
    CloseLink,
    /// Sends SIGTERM, and SIGKILL after the grace period.
    Terminate,
    /// Sends SIGKILL.
    Kill,
}

impl ExitRequest {
    /// Returns the request for a worker that is to leave.
    pub(super) fn of(worker: &WorkerRecord) -> Option<Self> {
        match &worker.phase {
            // A worker whose start failed may have something to finish or to print before it ends.
            WorkerPhase::Leaving(LeaveReason::Idle | LeaveReason::HandshakeFailed(_)) => {
                Some(Self::CloseLink)
            }
            WorkerPhase::Leaving(LeaveReason::JobAborted | LeaveReason::Stopped(End::Ask))
                if !worker.is_urgent =>
            {
                Some(Self::Terminate)
            }
            WorkerPhase::Leaving(_) => Some(Self::Kill),
            _ => None,
        }
    }
}
