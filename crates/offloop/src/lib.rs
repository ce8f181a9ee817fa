//! scaffold
mod backlog;
mod cell;
mod error;
mod executor;
mod fork;
mod handle;
pub mod job;
mod lanes;
mod map;
mod nested;
mod panics;
mod queue;
mod report;
mod sync;
mod thread_pool;
mod timer;
mod work;

pub use backlog::OnFull;
pub use error::{BuildError, Error, ErrorKind, Exit, Panic, Rejected, WorkerDied};
pub use executor::{Accepts, Executor, Inline};
pub use handle::Handle;
pub use job::{Job, JobId, JobState, Prepared, prepare};
pub use lanes::{cpu_lane, io_lane};
pub use map::{Map, map};
pub use report::{Report, Stuck};
pub use thread_pool::{StatePool, ThreadPool, ThreadPoolBuilder, discard_state};
pub use work::Work;

use job::Options;

/// Runs blocking work on the default executor's I/O lane: threads, as many as the calls that wait need.
#[track_caller]
pub fn run<W>(work: W) -> Handle<<ThreadPool as Accepts<W>>::Output>
where
    ThreadPool: Accepts<W>,
{
    io_lane().place(work, Options::new())
}

/// Runs computing work on the default executor's CPU lane: as many threads as the process may use cores.
#[track_caller]
pub fn run_cpu<W>(work: W) -> Handle<<ThreadPool as Accepts<W>>::Output>
where
    ThreadPool: Accepts<W>,
{
    cpu_lane().place(work, Options::new())
}

/// Runs `work` on `executor`.
#[track_caller]
pub fn run_in_executor<E, W>(executor: &E, work: W) -> Handle<E::Output>
where
    E: Accepts<W> + ?Sized,
{
    executor.place(work, Options::new())
}
