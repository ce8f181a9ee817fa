//! What is told of a stall.

use std::fmt;
use std::time::Duration;

use super::slot::Place;
use super::stack::Frame;
use super::thread::Thread;

/// A thread of the runtime stands still in a task: what a watch tells of it.
///
/// Told when it is noticed, again while it lasts, and when it is over. It displays as one line; with `{:#}` the
/// stack follows, a line each call.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Stall {
    /// Which of these this is.
    pub phase: Phase,
    /// How long it has lasted at least; when it is over, how long it lasted.
    pub lasted: Duration,
    /// The stalled thread, if it is known: the runtime's only one, one that
    /// [`Builder::hook`](super::Builder::hook) has seen, or one that has run a [watched](super::Watched) task.
    pub thread: Option<Thread>,
    /// Which worker of a multi-thread runtime it is, as tokio numbers them in its metrics. `None` for a thread in
    /// `block_on`, and if no worker answers although none of them is stuck in a task.
    pub worker: Option<usize>,
    /// The task that it polls, if that is a [watched](super::Watched) one. Of tasks within tasks the innermost.
    pub task: Option<Place>,
    /// Which share of the stall, from 0 to 1, the thread spent computing. `None` if the thread is unknown.
    pub cpu: Option<f64>,
    /// Whether it computes or waits, by that share and by what it does at this moment.
    pub activity: Activity,
    /// The thread's stack, innermost call first, if [`Builder::stacks`](super::Builder::stacks) was asked for and
    /// it could be had safely. The end of a stall has that of the last report.
    pub stack: Vec<Frame>,
    /// How many stalls this place has had, this one included. A place is a task and a thread's name.
    pub seen: u64,
}

/// What of a stall is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// It was noticed just now.
    Began,
    /// It goes on.
    Ongoing,
    /// It is over.
    Over,
}

/// What a stalled thread is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activity {
    /// It burns CPU, or would if it had a core.
    Computes,
    /// It sleeps: on a lock, a socket, a file, a timer.
    Waits,
    /// That cannot be said.
    Unknown,
}

impl Stall {
    /// What to do about it, as a sentence.
    pub fn advice(&self) -> &'static str {
        match self.activity {
            Activity::Computes => {
                "it computes: move the call off the loop with `offloop::run_cpu` or a process pool"
            }
            Activity::Waits => "it waits: move the blocking call off the loop with `offloop::run`",
            Activity::Unknown => {
                "move the call off the loop, with `offloop::run` if it waits and `offloop::run_cpu` if it computes"
            }
        }
    }

    /// Whether a log that is not to be flooded has it: the first, second, fourth, eighth… stall of a place.
    #[cfg(feature = "tracing")]
    pub(super) fn is_worth_a_line(&self) -> bool {
        self.seen.is_power_of_two()
    }
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.thread, self.worker) {
            (Some(thread), _) => write!(f, "thread {} ({})", thread.name, thread.id)?,
            (None, Some(worker)) => write!(f, "worker {worker}")?,
            (None, None) => write!(f, "the runtime")?,
        }
        match self.phase {
            Phase::Began | Phase::Ongoing => write!(f, " has stood still for {:.0?}", self.lasted)?,
            Phase::Over => write!(f, " stood still for {:.0?}", self.lasted)?,
        }
        if let Some(Place { name, spawned_at }) = self.task {
            match name {
                Some(name) => write!(f, " in task `{name}`, spawned at {spawned_at}")?,
                None => write!(f, " in the task spawned at {spawned_at}")?,
            }
        }
        if let Some(cpu) = self.cpu {
            write!(f, ", {:.0} % of it computing", cpu * 100.0)?;
        }
        if self.seen > 1 {
            write!(f, ", for the {}th time", self.seen)?;
        }
        match self.phase {
            Phase::Over => {}
            _ => write!(f, "; {}", self.advice())?,
        }
        if f.alternate() {
            self.stack.iter().try_for_each(|frame| write!(f, "\n    {frame}"))?;
        }
        Ok(())
    }
}
