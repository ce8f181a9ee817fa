//! The template's loop: it forks a worker for each of the pool's orders, and reports how the workers end.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::PollFlags;

use crate::core::error::WorkerExit;
use crate::processes::link::template::{Notice, Order, is_gone, receive, tell};
use crate::processes::os::fd;
use crate::processes::os::process::{Process, ProcessEnd};

/// The descriptors of a worker that has been forked: its end of the link's socket, and its standard error if it has one
/// of its own.
pub(super) type Forked = (OwnedFd, Option<OwnedFd>);

/// The preparation for later workers, which the template makes once, when it is at rest.
pub(super) type AtRest = Box<dyn FnOnce() + Send>;

/// The time without an order or an end after which the template is at rest. The first worker has mostly answered its
/// first call by then, and the others that were wanted at once are there.
const REST: Duration = Duration::from_millis(20);

/// Serves the pool until it has gone. Calls `fork` for each order, and `at_rest` once, when a worker has been forked and
/// nothing has come for a while. Returns in each worker, with its descriptors; in the template it returns `None` at the
/// end.
pub(super) fn serve(
    socket: &OwnedFd,
    fork: impl FnMut() -> io::Result<u32>,
    at_rest: Option<AtRest>,
) -> io::Result<Option<Forked>> {
    match serve_until_error(socket, fork, at_rest) {
        Err(error) if is_gone(&error) => Ok(None),
        end => end,
    }
}

/// A worker that has been forked and not been collected.
struct Child {
    process: Process,
    /// The pool was told that it has ended. Set once.
    is_reported: bool,
}

fn serve_until_error(
    socket: &OwnedFd,
    mut fork: impl FnMut() -> io::Result<u32>,
    mut at_rest: Option<AtRest>,
) -> io::Result<Option<Forked>> {
    let mut children: HashMap<u32, Child> = HashMap::new();
    let mut has_forked = false;
    loop {
        let mut descriptors = vec![fd::readable(socket.as_fd())];
        let pids: Vec<u32> =
            children.iter().filter(|(_, child)| !child.is_reported).map(|(pid, _)| *pid).collect();
        descriptors.extend(pids.iter().map(|pid| fd::readable(children[pid].process.pidfd())));
        let rest = (has_forked && at_rest.is_some()).then_some(REST);
        fd::poll(&mut descriptors, rest)?;
        let ready: Vec<bool> = descriptors
            .iter()
            .map(|it| it.revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR))
            .collect();
        drop(descriptors);
        if rest.is_some() && !ready.contains(&true) {
            at_rest.take().into_iter().for_each(|prepare| prepare());
            continue;
        }
        for pid in pids.iter().zip(&ready[1..]).filter(|(_, ready)| **ready).map(|(pid, _)| pid) {
            let Some(child) = children.get_mut(pid) else { continue };
            child.is_reported = true;
            let ProcessEnd { exit, peak_memory } = child.process.status();
            let (code, signal) = match exit {
                WorkerExit::Code(code) => (Some(code), None),
                WorkerExit::Signal(signal) => (None, Some(signal)),
                WorkerExit::Protocol | WorkerExit::Unknown | WorkerExit::Lost => (None, None),
            };
            tell(socket.as_fd(), &Notice::Ended { pid: *pid, code, signal, peak_memory }, &[])?;
        }
        if !ready[0] {
            continue;
        }
        let (bytes, files) = receive(socket)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let order = match postcard::from_bytes(&bytes).map_err(io::Error::other)? {
            Order::Fork(order) => order,
            Order::End { pid, how, whole_group } => {
                // If the system refuses it to the template as well, the pool cuts the worker's lifeline.
                let _ = children.get(&pid).map(|child| child.process.end(how, whole_group));
                continue;
            }
            Order::Collect(pid) => {
                children.remove(&pid).map(|mut child| child.process.collect());
                continue;
            }
        };
        let mut files = files.into_iter();
        let link = files.next().ok_or(io::ErrorKind::InvalidData)?;
        match fork() {
            Ok(0) => return Ok(Some((link, files.next()))),
            Ok(pid) => {
                let process = Process::of_fork(pid)?;
                tell(socket.as_fd(), &Notice::Born { order, pid }, &[process.pidfd()])?;
                children.insert(pid, Child { process, is_reported: false });
                has_forked = true;
            }
            Err(error) => {
                // Short enough for one message.
                let reason: String = error.to_string().chars().take(50).collect();
                tell(socket.as_fd(), &Notice::Failed { order, reason }, &[])?;
            }
        }
    }
}
