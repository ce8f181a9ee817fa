//! Runs blocking and CPU-bound work off the event loop: on threads, on processes, or on an executor of your own.
//!
//! Submit work with [`run`] (calls that wait), [`run_cpu`] (calls that compute) or [`run_in_executor`]. What comes back is
//! a [`Handle`]: a plain future of the result that can also be waited for, cancelled and limited. No async runtime is
//! needed, and any will do.
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
//! | noun | meaning |
//! | --- | --- |
//! | [`Work`] | a closure or a [`Call`] that can be submitted. [`prepare`] gives it a name, a priority, timeouts |
//! | [`Executor`] | a taker of [`Job`]s: one method, yours to implement. [`ThreadPool`], [`Inline`] and the [`adapters`] do |
//! | [`StatePool`] | a thread pool in which each worker owns a value, such as a connection |
//! | [`ProcessPool`] | a pool of worker processes, which run [`Call`]s of functions marked [`#[offloop::task]`](macro@task) |
//! | [`ItemStream`] | the items that such a call sends before its result, with [`job::emit`] |
//! | [`Blob`] | bytes that go to a worker process and back without being copied |
//! | [`Handle`] | the caller's end of a job |
//! | [`Error`] | the reason why a job has no result. [`ErrorKind`] tells the reasons apart |
//! | [`job`] | what a running job can ask: whether it should stop, who it is |
//! | [`ShutdownReport`] | the result of a shutdown |
//! | [`metrics`] | what a pool has done and is doing: counts, times, states, advice. Also as Prometheus text |
//! | [`watch`](mod@watch) | a watchdog that notices a stalled event loop while it is stalled |
//! | [`embed`] | what a binding to another language needs |
//!
//! # Where things are
//!
//! The source is divided into layers. A layer imports only layers above it in this list.
//!
//! | folder | what it holds |
//! | --- | --- |
//! | `base` | synchronisation, forks, clocks, panics |
//! | `core` | the life of one job: `cell` ends it exactly once, `backlog` bounds queues, `handle` is the caller's end |
//! | `metrics` | observes; the core does not know it |
//! | `threads` | the thread pool. Its `README.md` describes how threads sleep and wake |
//! | `wire` | what travels between processes: shared memory (`arena`), payloads, calls by name |
//! | `processes` | the process pool: `pool` runs in the parent, `worker` in the child, `link` joins them. Its `README.md` has the protocol |
//! | `api` | the default lanes, adapters, [`job`] and [`embed`] |
//! | `watch` | the watchdog; uses `base` alone |
//!
//! ```text
//! run, run_in_executor ─▶ Accepts::place ─▶ Executor::execute(Job) ─▶ a worker thread: Job::run ─┐
//!                              │                                                                  ▼
//!                              └──────────────────────▶ Handle ◀──────────── Cell: one per job, ends it once
//!                              │                                                                  ▲
//!                              └─▶ process pool: dispatcher ─▶ link ─▶ worker process ────────────┘
//! ```
//!
//! # A closure must not return a future
//!
//! A job that only *makes* a future has done nothing: the body of an `async fn` runs when it is awaited, and nobody awaits
//! it on a worker. The compiler warns when such a future is dropped. Deny the warning to be safe:
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
//! | feature | what it adds |
//! | --- | --- |
//! | `process` (default) | [`ProcessPool`] and tasks, on Linux |
//! | `watch` (default) | [`watch`](mod@watch): notices a stalled loop; with `tokio` a stalled runtime |
//! | `watch-stacks` | the stack of the stalled thread, on x86-64 Linux |
//! | `tracing` | a span for each job, within the span of its submitter |
//! | `metrics` | the metrics go to the recorder of the `metrics` crate |
//! | `rayon`, `tokio` | adapters that run jobs on the threads of those crates |

mod api;
#[cfg_attr(
    not(all(feature = "process", target_os = "linux")),
    allow(dead_code, unreachable_pub, reason = "some of it is for jobs in other processes")
)]
mod base;
#[cfg_attr(
    not(all(feature = "process", target_os = "linux")),
    allow(dead_code, unreachable_pub, reason = "some of it is for jobs in other processes")
)]
mod core;
#[cfg_attr(
    not(all(feature = "process", target_os = "linux")),
    allow(dead_code, unreachable_pub, reason = "some of it is for jobs in other processes")
)]
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
        pool::builder::ProcessPoolBuilder,
        pool::config::{InitializerResult, OnCrash},
        pool::items::ItemStream,
        pool::pool::ProcessPool,
        worker::main::init,
    },
    crate::wire::blob::{Blob, BlobMut, PrivateBlob},
    crate::wire::task::Call,
};

/// Makes a function a task: a function with a name, which another process can be told to call.
///
/// It can still be called as before, and gains `with(args…)`, which makes a [`Call`]:
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
/// Arguments implement serde's `Serialize` and `Deserialize`. They may borrow (`&str`, `&[u8]`, `Cow<'_, str>`,
/// `Cow<'_, [u8]>`): in the worker they then point into the memory that has arrived. Within another type a `Cow` borrows
/// only with `#[serde(borrow)]`. The result implements both traits too, and owns its data. A task has at most 15
/// arguments. It is a free function, neither `async` nor generic nor `unsafe`.
///
/// For another process, arguments and results are encoded as MessagePack with the names of fields and variants. All of
/// serde's attributes work, and what cannot be sent is an error of its job. A value may be nested up to 128 levels. The
/// guide "Which executor?" in the repository has the details.
///
/// The name becomes a constant of a type of that name. So a local variable cannot have the name of a task that is in
/// scope, and a task is passed on as a function by `*longest`.
#[cfg(all(feature = "process", target_os = "linux"))]
pub use offloop_macros::task;

/// Calls [`init`] before `main`. For test crates, which have no `main` of their own: write `offloop::init_tests!();` once
/// at the top level of the crate. A worker then never reaches the test harness.
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

/// Not public API: used by the code that `#[offloop::task]` makes.
#[cfg(all(feature = "process", target_os = "linux"))]
#[doc(hidden)]
pub mod __private {
    pub use crate::wire::payload::{ByteBuf, Bytes, CowBytes, Incoming, Text};
    pub use crate::wire::task::{EncodedResult, TASKS, Task, call, run};
    pub use linkme;
}

/// Not public API: called by the targets in `fuzz/`.
#[cfg(all(any(test, fuzzing), feature = "process", target_os = "linux"))]
#[doc(hidden)]
pub mod __fuzz {
    pub use crate::processes::fuzz::answer;
}

use crate::core::options::Options;

/// Runs blocking work on the I/O lane of the default executor, which has as many threads as the calls that wait need, at
/// most 512.
///
/// Does not block: while the queue is full (10,000 jobs), the handle stays pending.
#[track_caller]
pub fn run<W>(work: W) -> Handle<<ThreadPool as Accepts<W>>::Output>
where
    ThreadPool: Accepts<W>,
{
    io_lane().place(work, Options::new())
}

/// Runs computing work on the CPU lane of the default executor, which has as many threads as the process may use cores.
///
/// Does not block: while the queue is full (10,000 jobs), the handle stays pending.
#[track_caller]
pub fn run_cpu<W>(work: W) -> Handle<<ThreadPool as Accepts<W>>::Output>
where
    ThreadPool: Accepts<W>,
{
    cpu_lane().place(work, Options::new())
}

/// Runs `work` on `executor`: a pool, an adapter, an executor of your own, or a reference to one.
///
/// Returns at once, unless the executor itself blocks in `execute`. If the executor rejects the work, the handle ends with
/// the reason.
#[track_caller]
pub fn run_in_executor<E, W>(executor: &E, work: W) -> Handle<E::Output>
where
    E: Accepts<W> + ?Sized,
{
    executor.place(work, Options::new())
}

/// Compiles and runs the code of the README.
#[cfg(all(doctest, feature = "process"))]
#[doc = include_str!("../../../README.md")]
pub struct ReadmeCode;

/// Compiles and runs the code of the guides.
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
