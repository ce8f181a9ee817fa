//! The place where a job is, on demand.

use super::document::{Frame, Stack};
use super::process::where_it_waits;
use super::snapshot::place_of;
use crate::base::stack::{self, StackFrame};
use crate::base::{panic, thread};
use crate::metrics;
use crate::metrics::view::JobView;
use crate::metrics::view::inspector::{JobStack, inspector};

/// The reason why a thread's calls are not listed.
const NO_FRAMES: &str = if cfg!(all(feature = "watch-stacks", target_os = "linux", target_arch = "x86_64")) {
    "its calls cannot be had safely at this moment"
} else {
    "its calls can be had on x86-64 Linux, with the feature `watch-stacks`"
};

/// Returns where a job is that runs. `None` if it does not run.
pub(super) fn of_job(number: u64) -> Option<Stack> {
    let mut found = None;
    metrics::for_each(|_, _, pool| {
        if found.is_none() {
            found = pool.view().jobs.into_iter().find(|job| job.id == number);
        }
    });
    let job = found?;
    let label = label(&job);
    let theirs = inspector().and_then(|inspector| {
        // It is code of a binding. If it panics, the view goes on without it.
        panic::catch(|| inspector.stack(&place_of(&job))).unwrap_or_else(|panic| {
            panic::drop_quietly(panic);
            None
        })
    });
    Some(match theirs {
        Some(JobStack { frames, note }) => Stack {
            thread: label,
            frames: frames
                .into_iter()
                .map(|frame| Frame { function: frame.function, file: frame.file, line: frame.line })
                .collect(),
            note,
        },
        None => seen_from_outside(&job, label),
    })
}

fn label(job: &JobView) -> String {
    match (job.place.pid, job.place.thread) {
        (Some(pid), _) => format!("worker process {pid}"),
        (None, Some(id)) => {
            let name = i32::try_from(id).ok().and_then(thread::name);
            format!("thread {} ({id})", name.as_deref().unwrap_or("that has ended"))
        }
        (None, None) => "a thread".to_owned(),
    }
}

/// Returns the calls of the job's thread, else what the kernel says.
fn seen_from_outside(job: &JobView, thread: String) -> Stack {
    let (low, high) = job.place.stack;
    let id = job.place.thread.and_then(|id| i32::try_from(id).ok());
    let frames = id.map(|id| stack::capture(id, low..high)).unwrap_or_default();
    if !frames.is_empty() {
        return Stack { thread, frames: frames.into_iter().map(frame).collect(), note: None };
    }
    let reason = if id.is_some() { NO_FRAMES } else { "its calls cannot be had from another process" };
    let note = match where_it_waits(job.place.pid, job.place.thread) {
        Some(place) => format!("{reason}; {place}"),
        None => reason.to_owned(),
    };
    Stack { thread, frames: Vec::new(), note: Some(note) }
}

fn frame(frame: StackFrame) -> Frame {
    let StackFrame { address, function, file, line } = frame;
    Frame { function: function.unwrap_or_else(|| format!("{address:#x}")), file, line }
}
