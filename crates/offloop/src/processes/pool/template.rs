//! The pool's side of a template: a process that has done what all workers must do first, and of which they are forks.
//!
//! The template is the workers' parent, so only it learns how they ended. It dies with the pool's process, and the
//! workers die with it.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::net::Shutdown;

use super::child::{Launch, PendingFork};
use super::config::StartTemplate;
use crate::core::error::WorkerExit;
use crate::processes::handshake;
use crate::processes::link::template::{Notice, Order, is_gone, receive, tell};
use crate::processes::os::fd;
use crate::processes::os::lifeline::Lifeline;
use crate::processes::os::process::{End, Process, ProcessEnd, SpawnEnv};

/// The time that a template has to end when the pool needs it no more.
const TEMPLATE_EXIT_TIMEOUT: Duration = Duration::from_millis(500);

/// Returns the way to start `program` as a template, at once.
pub(super) fn start_program(program: PathBuf, arguments: Vec<OsString>, env: SpawnEnv) -> StartTemplate {
    let start = move |socket| handshake::start_program(&program, &arguments, &env, socket, None);
    StartTemplate { at_once: true, ..StartTemplate::by(start) }
}

/// A report of the template.
pub(super) enum TemplateEvent {
    /// It has started, and gets ready.
    Up,
    /// It has forked a worker for this order.
    Born { order: u64, process: Process },
    /// It could not fork a worker for this order.
    Failed { order: u64, reason: String },
    /// A worker has ended.
    Ended { pid: u32, end: ProcessEnd },
    /// It will report nothing more.
    Silent,
}

/// The template process, from its start until it is collected.
struct TemplateChild {
    process: Process,
    socket: OwnedFd,
    /// The template is killed when this is cut or dropped.
    lifeline: Lifeline,
    /// It has ended or reports nothing more. Set once, by [`Forks::lose_template`].
    is_lost: bool,
    /// How far it has come. Goes forward only, as it reports.
    stage: TemplateStage,
}

/// How far a template has come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TemplateStage {
    /// Its process starts.
    Starting,
    /// The user's code gets ready, until this time.
    SettingUp(Option<Instant>),
    /// It forks workers.
    Ready,
}

impl TemplateChild {
    fn start(start: &StartTemplate) -> io::Result<Self> {
        let (ours, theirs) = fd::message_sockets()?;
        let (lifeline, end_of_template) = Lifeline::new()?;
        handshake::greet_template(ours.as_fd(), &end_of_template, &start.data)?;
        let pid = (start.start)(theirs)?;
        let stage = TemplateStage::Starting;
        Ok(Self { process: Process::of_child(pid)?, socket: ours, lifeline, is_lost: false, stage })
    }

    fn kill(&self) {
        if self.process.end(End::Kill, false).is_err() {
            self.lifeline.cut();
        }
    }

    /// Returns what the template has reported since the last call. Does not block.
    fn events(&self) -> Vec<TemplateEvent> {
        let mut events = Vec::new();
        loop {
            match receive(&self.socket) {
                Ok((bytes, _)) if bytes.is_empty() => events.push(TemplateEvent::Silent),
                Ok((bytes, files)) => {
                    if let Some(event) = decode_event(&bytes, files) {
                        events.push(event);
                        continue;
                    }
                    events.push(TemplateEvent::Silent);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => events.push(TemplateEvent::Silent),
            }
            return events;
        }
    }
}

fn decode_event(bytes: &[u8], files: Vec<OwnedFd>) -> Option<TemplateEvent> {
    Some(match postcard::from_bytes(bytes).ok()? {
        Notice::Up => TemplateEvent::Up,
        Notice::Born { order, pid } => {
            TemplateEvent::Born { order, process: Process::of_other(pid, files.into_iter().next()?)? }
        }
        Notice::Failed { order, reason } => TemplateEvent::Failed { order, reason },
        Notice::Ended { pid, code, signal, peak_memory } => {
            let exit =
                code.map(WorkerExit::Code).or(signal.map(WorkerExit::Signal)).unwrap_or(WorkerExit::Unknown);
            TemplateEvent::Ended { pid, end: ProcessEnd { exit, peak_memory } }
        }
    })
}

/// The pool's template, if it has one, and the workers that the template was asked to fork. Used by the supervisor
/// alone.
#[derive(Default)]
pub(super) struct Forks {
    template: Option<TemplateChild>,
    /// Workers that the template was asked for and has not forked yet.
    pending: Vec<PendingFork>,
    /// Counts the orders. The last order has this number.
    ordered: u64,
}

impl Forks {
    /// Starts the template, unless there is one. Returns whether it did.
    pub(super) fn ensure_template(&mut self, start: &StartTemplate) -> io::Result<bool> {
        if self.template.as_ref().is_some_and(|template| template.is_lost) {
            self.end_template();
        }
        let is_missing = self.template.is_none();
        if is_missing {
            self.template = Some(TemplateChild::start(start)?);
        }
        Ok(is_missing)
    }

    /// Asks the template, which there is, for a worker. Returns false if the template turns out to have ended. Then the
    /// order is pending, and the caller has to [`lose_template`](Self::lose_template).
    pub(super) fn order(
        &mut self,
        launch: Launch,
        socket: &OwnedFd,
        stderr: Option<&OwnedFd>,
    ) -> io::Result<bool> {
        self.ordered += 1;
        let template = self.template.as_ref().expect("the template was started for this order");
        let mut files = vec![socket.as_fd()];
        files.extend(stderr.map(OwnedFd::as_fd));
        let sent = tell(template.socket.as_fd(), &Order::Fork(self.ordered), &files);
        let has_ended = sent.as_ref().is_err_and(is_gone);
        if !has_ended {
            sent?;
        }
        let deadline = match template.stage {
            TemplateStage::SettingUp(until) => until,
            TemplateStage::Starting | TemplateStage::Ready => launch.deadline,
        };
        self.pending.push(PendingFork { order: self.ordered, launch: Launch { deadline, ..launch } });
        Ok(!has_ended)
    }

    /// Returns how far the template has come. One that is not there has yet to start.
    pub(super) fn stage(&self) -> TemplateStage {
        self.template.as_ref().map_or(TemplateStage::Starting, |template| template.stage)
    }

    /// Records how far the template has come. The pending orders have until `deadline`.
    pub(super) fn advance(&mut self, stage: TemplateStage, deadline: Option<Instant>) {
        if let Some(template) = &mut self.template {
            template.stage = stage;
        }
        self.pending.iter_mut().for_each(|pending| pending.launch.deadline = deadline);
    }

    /// Makes the template signal one of its workers, which the system does not let this process do. Returns false if it
    /// does not hear the order.
    pub(super) fn end_worker(&self, pid: u32, how: End, whole_group: bool) -> bool {
        self.instruct(&Order::End { pid, how, whole_group })
    }

    /// Lets the template collect a worker that has ended. Until then the worker's process id is not used again.
    pub(super) fn collect(&self, pid: u32) {
        // A template that does not hear it keeps the worker until it ends itself.
        self.instruct(&Order::Collect(pid));
    }

    /// Sends an order. Returns false if there is no template that hears it.
    fn instruct(&self, order: &Order) -> bool {
        self.socket().is_some_and(|socket| tell(socket, order, &[]).is_ok())
    }

    /// Returns the socket on which the template reports, as long as it does.
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.template.as_ref().filter(|template| !template.is_lost)?.socket.as_fd())
    }

    /// Returns what the template has reported since the last call. Does not block.
    pub(super) fn events(&self) -> Vec<TemplateEvent> {
        let template = self.template.as_ref().filter(|template| !template.is_lost);
        template.map(TemplateChild::events).unwrap_or_default()
    }

    /// Removes and returns a pending order.
    pub(super) fn take_pending(&mut self, order: u64) -> Option<Launch> {
        let at = self.pending.iter().position(|pending| pending.order == order)?;
        Some(self.pending.swap_remove(at).launch)
    }

    /// Returns the number of workers that are being forked.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Returns when the next pending order will have taken too long.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.pending.iter().filter_map(|pending| pending.launch.deadline).min()
    }

    /// Kills the template, which has ended or takes too long. The workers that it has forked die with it. Returns
    /// whether there were pending orders, which are lost.
    pub(super) fn lose_template(&mut self) -> bool {
        if let Some(template) = &mut self.template {
            template.is_lost = true;
            template.kill();
        }
        let had_pending = !self.pending.is_empty();
        self.pending.clear();
        had_pending
    }

    /// Ends the template and collects it.
    pub(super) fn end_template(&mut self) {
        if let Some(mut template) = self.template.take() {
            // At the end of its socket it exits. While it starts, none of the user's code is there to see the end.
            let _ = rustix::net::shutdown(&template.socket, Shutdown::Both);
            if template.stage == TemplateStage::Starting {
                template.kill();
            }
            if !fd::is_readable_within(template.process.pidfd(), TEMPLATE_EXIT_TIMEOUT) {
                template.kill();
                fd::is_readable_within(template.process.pidfd(), TEMPLATE_EXIT_TIMEOUT);
            }
            template.process.collect();
        }
    }
}
