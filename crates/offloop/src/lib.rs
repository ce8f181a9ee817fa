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
#[cfg(all(feature = "process", target_os = "linux"))]
mod process_pool;
mod queue;
mod report;
mod sync;
#[cfg(all(feature = "process", target_os = "linux"))]
mod task;
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

#[cfg(all(feature = "process", target_os = "linux"))]
pub use {
    offloop_macros::task,
    process_pool::{Initialised, ProcessPool, ProcessPoolBuilder, init},
    task::Call,
};

/// Calls [`init`] before `main`, for test crates, whose `main` is not theirs: write `offloop::init_tests!();`
/// once at the top level of the crate. A worker then never reaches the test harness.
#[cfg(all(feature = "process", target_os = "linux"))]
#[macro_export]
macro_rules! init_tests {
    () => {
        const _: () = {
            extern "C" fn init() {
                $crate::init();
            }

            // SAFETY: the dynamic loader calls the functions of this section, with this signature, before `main`.
            #[used]
            #[unsafe(link_section = ".init_array")]
            static INIT: extern "C" fn() = init;
        };
    };
}

/// Not public API: what the code made by `#[offloop::task]` uses.
#[cfg(all(feature = "process", target_os = "linux"))]
#[doc(hidden)]
pub mod __private {
    pub use crate::task::{Bytes, Outcome, TASKS, Task, call, run};
    pub use linkme;
}

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
