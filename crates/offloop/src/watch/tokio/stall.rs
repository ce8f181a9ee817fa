//! The report of a stall, and its parts.

use std::fmt;
use std::panic::Location;
use std::time::Duration;

use crate::base::activity::Activity;
use crate::base::stack::StackFrame;
use crate::base::thread;

/// The report of a stall: a thread of the runtime is stuck in a task.
///
/// A stall is reported when it is noticed, again while it lasts, and when it is over. The report displays as one line;
/// with `{:#}` the stack follows, one line for each call.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Stall {
    /// Whether the stall has begun, goes on or is over.
    pub phase: StallPhase,
    /// The time that the stall has lasted at least. When it is over, the time that it has lasted.
    ///
    /// Time in which the thread could have run but had no core is not counted, as far as that is known.
    pub lasted: Duration,
    /// The time, besides `lasted`, in which the thread could have run but had no core: other threads and programs had
    /// them, or a quota was used up. Zero if it is not known.
    pub starved: Duration,
    /// The stalled thread, if it is known: the only thread of the runtime, or one that
    /// [`RuntimeWatchBuilder::on_thread_park`](super::RuntimeWatchBuilder::on_thread_park) has seen, or one that has
    /// run a [watched](super::WatchedFuture) task.
    pub thread: Option<StalledThread>,
    /// The number of the worker in a multi-thread runtime, as in tokio's metrics. `None` for a thread in `block_on`,
    /// and if no worker answers although none is stuck in a task.
    pub worker: Option<usize>,
    /// The task that the thread polls, if it is a [watched](super::WatchedFuture) one. Of tasks within tasks the
    /// innermost.
    pub task: Option<TaskOrigin>,
    /// The share of the stall, from 0 to 1, that the thread was on a core, without the time in which it had none to run
    /// on. `None` if the thread is unknown.
    pub cpu: Option<f64>,
    /// The activity of the thread, by that share, or by its state at this moment if the share is not known. `None` if
    /// neither is known.
    pub activity: Option<Activity>,
    /// The thread's stack, innermost call first. It is empty unless `RuntimeWatchBuilder::stacks` asks for it and it
    /// can be had safely. The end of a stall has the stack of the last report.
    pub stack: Vec<StackFrame>,
    /// The number of stalls with the same task and the same thread's name until now, this one included.
    pub seen: u64,
    /// Its number among the stalls of the runtime. 0 until it is counted.
    pub(super) number: u64,
    /// Set once the log has a line about this stall.
    #[cfg(feature = "tracing")]
    pub(super) is_logged: bool,
}

/// The phase of a stall that a report is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StallPhase {
    /// The stall was noticed just now.
    Began,
    /// The stall goes on.
    Ongoing,
    /// The stall is over.
    Over,
}

/// A thread as the operating system knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StalledThread {
    /// The thread's name, at most its first 15 bytes.
    pub name: String,
    /// The thread's id: `gettid()`, the `LWP` of `ps` and of debuggers.
    pub id: i32,
}

impl StalledThread {
    /// Looks up a thread of this process. Returns `None` if it has ended.
    pub(super) fn find(id: i32) -> Option<Self> {
        Some(Self { name: thread::name(id)?, id })
    }
}

/// The place where a task was spawned, and its name if it was given one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TaskOrigin {
    /// The name given by [`WatchedFuture::named`](super::WatchedFuture::named).
    pub name: Option<&'static str>,
    /// The line that spawned the task, or that made its future.
    pub spawned_at: &'static Location<'static>,
}

impl Stall {
    /// Returns a sentence about what to do.
    pub fn advice(&self) -> &'static str {
        match self.activity {
            Some(Activity::Computes) => {
                "it computes: move the call off the loop with `offloop::run_cpu` or a process pool"
            }
            Some(Activity::Waits) => "it waits: move the blocking call off the loop with `offloop::run`",
            None => {
                "move the call off the loop, with `offloop::run` if it waits and `offloop::run_cpu` if it computes"
            }
        }
    }

    /// Returns the innermost frame of the program's own code, if the report has a stack with names: the line that does
    /// not return, or that calls the library which does not.
    pub fn own_frame(&self) -> Option<&StackFrame> {
        self.stack.iter().find(|frame| frame.is_own())
    }
}

impl StackFrame {
    /// Returns whether it belongs to the program itself, and not to a library from elsewhere.
    fn is_own(&self) -> bool {
        const LIBRARIES: [&str; 6] = ["std::", "core::", "alloc::", "tokio::", "offloop::", "backtrace::"];
        const PLACES: [&str; 3] = ["/rustc/", "/library/std/", "/.cargo/registry/"];
        let Some(function) = &self.function else { return false };
        let path = function.trim_start_matches(['<', '&', '(', '*']);
        let path = path.trim_start_matches("dyn ").trim_start_matches("mut ");
        let is_rust = path.contains("::");
        let is_library = LIBRARIES.iter().any(|library| path.starts_with(library))
            || self.file.as_deref().is_some_and(|file| PLACES.iter().any(|place| file.contains(place)));
        is_rust && !is_library
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
            StallPhase::Began | StallPhase::Ongoing => write!(f, " has stood still for {:.0?}", self.lasted)?,
            StallPhase::Over => write!(f, " stood still for {:.0?}", self.lasted)?,
        }
        if let Some(TaskOrigin { name, spawned_at }) = self.task {
            match name {
                Some(name) => write!(f, " in task `{name}`, spawned at {spawned_at}")?,
                None => write!(f, " in the task spawned at {spawned_at}")?,
            }
        }
        if let Some(frame) = self.own_frame() {
            write!(f, ", at {frame}")?;
        }
        if let Some(cpu) = self.cpu {
            write!(f, ", on a core for {:.0} % of it", cpu * 100.0)?;
        }
        if !self.starved.is_zero() {
            write!(f, " (and without one for {:.0?} more)", self.starved)?;
        }
        if self.seen > 1 {
            write!(f, ", {} stalls here so far", self.seen)?;
        }
        match self.phase {
            StallPhase::Over => {}
            _ => write!(f, "; {}", self.advice())?,
        }
        if f.alternate() {
            self.stack.iter().try_for_each(|frame| write!(f, "\n    {frame}"))?;
        }
        Ok(())
    }
}
