//! Runs blocking and CPU-bound work off the event loop, on threads, processes or executors of your own.
//!
//! Submit with [`run`] (calls that wait), [`run_cpu`] (calls that compute) or [`run_in_executor`]; what comes
//! back is a [`Handle`]: a plain future of the result that can also be waited for, cancelled and given a
//! deadline. No async runtime is needed, and any will do.
//!
//! ```
//! # futures_lite::future::block_on(async {
//! let text = offloop::run(|| std::fs::read_to_string("/etc/hostname")).await?;
//! # let _ = text;
//! # Ok::<(), offloop::Error>(()) }).unwrap();
//! ```
//!
//! # The nouns
//!
//! | noun | what it is |
//! | --- | --- |
//! | [`Work`] | what can be submitted: a closure or a [`Call`]; [`prepare`] gives it a name, a priority, deadlines |
//! | [`Executor`] | takes [`Job`]s: one method, yours to implement. [`ThreadPool`], [`Inline`] and the [`adapters`] do |
//! | [`StatePool`] | a thread pool whose threads each own a value, such as a connection |
//! | [`ProcessPool`] | runs [`Call`]s of functions marked [`#[offloop::task]`](macro@task) in worker processes |
//! | [`ItemStream`] | what such a call sends before its result, by [`job::emit`] |
//! | [`embed`] | what a binding to another language needs |
//! | [`Blob`] | bytes that go to a worker and back without being copied |
//! | [`Handle`] | the caller's end of a job |
//! | [`Error`] | why a job has no result; [`ErrorKind`] tells the reasons apart |
//! | [`ShutdownReport`] | what a shutdown came to |
//! | [`metrics`] | what a pool has done and is doing: counts, times, states, advice; for Prometheus too |
//! | [`watch`](mod@watch) | notices that an event loop stands still, while it does |
//!
//! # Who calls whom
//!
//! ```text
//! run, run_in_executor ─▶ Accepts::place ─▶ Executor::execute(Job) ─▶ a worker thread: Job::run ─┐
//!                              │                                                                  ▼
//!                              └──────────────────────▶ Handle ◀────────── cell: one per job, ends it once
//!                              │                                                                  ▲
//!                              └─▶ process pool: desk ─▶ link ─▶ worker process ──────────────────┘
//! ```
//!
//! The life of a job happens in `cell`, under one lock: whoever races there, it ends exactly once. Bounded
//! queues and their policies are in `backlog`, which both pools share. Who wakes whom in a thread pool is
//! decided in `thread_pool/roster` (with a README); the process pool's protocol is in `process_pool/README.md`. What
//! travels is a `payload`; large ones lie in the `arena`, which is shared memory.
//! Deadlines are kept by `timer`, a waiting job's stand-in is lent by `nested`.
//!
//! # A closure must not return a future
//!
//! A job that only *makes* a future has done nothing: the body of an `async fn` runs when it is awaited, and
//! on a worker nobody awaits it. The compiler warns when such a future is dropped; deny the warning to be safe:
//!
//! ```compile_fail
//! #![deny(unused_must_use)]
//! async fn fetch() {}
//! # async fn slip() -> Result<(), offloop::Error> {
//! offloop::run(|| fetch()).await?; // error: unused implementer of `Future` that must be used
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! `process` (default): [`ProcessPool`] and tasks, on Linux. `tracing`: each job has a span within its submitter's.
//! `metrics`: metrics go to the recorder of that crate. `rayon`, `tokio`: adapters for their threads. `watch`
//! (default): [`watch`](mod@watch) notices a stalled loop; with `tokio` a stalled runtime, with `watch-stacks` its stack.

mod api;
mod base;
#[cfg_attr(
    not(all(feature = "process", target_os = "linux")),
    allow(dead_code, unreachable_pub, reason = "some of it is for jobs in other processes")
)]
mod core;
pub mod metrics;
#[cfg(all(feature = "process", target_os = "linux"))]
mod processes;
mod threads;
#[cfg(feature = "watch")]
pub mod watch;
#[cfg(all(feature = "process", target_os = "linux"))]
mod wire;

pub use crate::api::lanes::{cpu_lane, io_lane};
pub use crate::api::{adapters, embed, job};
pub use crate::base::panic::Panic;
pub use crate::core::backlog::OnFull;
pub use crate::core::captured::Captured;
pub use crate::core::error::{BuildError, Error, ErrorKind, Rejected, WorkerDied, WorkerExit};
pub use crate::core::executor::{Accepts, Executor, Inline};
pub use crate::core::handle::Handle;
pub use crate::core::id::{JobId, JobState};
pub use crate::core::job::Job;
pub use crate::core::map::{MapStream, map};
pub use crate::core::options::{Prepared, Retry, prepare};
pub use crate::core::shutdown::{ShutdownReport, StuckJob};
pub use crate::core::work::Work;
pub use crate::threads::{StatePool, ThreadPool, ThreadPoolBuilder};

#[cfg(all(feature = "process", target_os = "linux"))]
pub use {
    crate::processes::{
        pool::builder::{InitializerResult, OnCrash, ProcessPoolBuilder},
        pool::items::ItemStream,
        pool::pool::{ProcessPool, init},
    },
    crate::wire::blob::{Blob, BlobMut, PrivateBlob},
    crate::wire::task::Call,
};

/// Marks a function as a task: a function with a name, which another process can be told to call.
///
/// It stays callable as ever, and gains `with(args…)`, which makes a [`Call`]:
///
/// ```
/// #[offloop::task]
/// fn longest(text: &str, at_least: usize) -> Vec<String> {
///     text.split_whitespace().filter(|word| word.len() >= at_least).map(str::to_owned).collect()
/// }
///
/// assert_eq!(longest("so it goes", 4), ["goes"]);
/// let handle = offloop::run(longest.with("so it goes", 4)); // or on a process pool
/// assert_eq!(handle.wait()?, ["goes"]);
/// # Ok::<(), offloop::Error>(())
/// ```
///
/// Arguments implement serde's `Serialize` and `Deserialize`; they may borrow (`&str`, `&[u8]`, `Cow<str>`),
/// and in the worker they then point into what has arrived. The result implements both too and owns its data.
/// At most 15 arguments. A task is a free function, neither `async` nor generic nor `unsafe`.
///
/// The name becomes a constant of a type of that name. So a local variable cannot be called like a task that
/// is in scope, and a task is passed on as a function by `*longest`.
#[cfg(all(feature = "process", target_os = "linux"))]
pub use offloop_macros::task;

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
    pub use crate::wire::payload::{ByteBuf, Bytes, Incoming};
    pub use crate::wire::task::{Outcome, TASKS, Task, call, run};
    pub use linkme;
}

/// Not public API: what the targets in `fuzz/` call.
#[cfg(all(any(test, fuzzing), feature = "process", target_os = "linux"))]
#[doc(hidden)]
pub mod __fuzz {
    pub use crate::processes::fuzz::answer;
}

use crate::core::options::Options;

/// Runs blocking work on the default executor's I/O lane: up to 512 threads, as many as the calls that wait
/// need.
///
/// Does not block: a full queue (10,000 jobs) keeps the handle pending until there is room.
#[track_caller]
pub fn run<W>(work: W) -> Handle<<ThreadPool as Accepts<W>>::Output>
where
    ThreadPool: Accepts<W>,
{
    io_lane().place(work, Options::new())
}

/// Runs computing work on the default executor's CPU lane: as many threads as the process may use cores.
///
/// Does not block: a full queue (10,000 jobs) keeps the handle pending until there is room.
#[track_caller]
pub fn run_cpu<W>(work: W) -> Handle<<ThreadPool as Accepts<W>>::Output>
where
    ThreadPool: Accepts<W>,
{
    cpu_lane().place(work, Options::new())
}

/// Runs `work` on `executor`: a pool, an adapter, an executor of your own, or a reference to one.
///
/// Returns at once, unless the executor itself blocks in `execute`. What it does not take is the handle's error.
#[track_caller]
pub fn run_in_executor<E, W>(executor: &E, work: W) -> Handle<E::Output>
where
    E: Accepts<W> + ?Sized,
{
    executor.place(work, Options::new())
}

/// The code in the README compiles and runs.
#[cfg(all(doctest, feature = "process"))]
#[doc = include_str!("../../../README.md")]
pub struct ReadmeCode;

/// So does that in the guides.
#[cfg(all(doctest, feature = "process"))]
mod guides {
    #[doc = include_str!("../../../docs/cpu-bound-work.md")]
    struct CpuBoundWork;

    #[doc = include_str!("../../../docs/which-executor.md")]
    struct WhichExecutor;

    #[cfg(all(feature = "metrics", feature = "tokio", feature = "watch"))]
    #[doc = include_str!("../../../docs/what-blocks-a-loop.md")]
    struct WhatBlocksALoop;
}
