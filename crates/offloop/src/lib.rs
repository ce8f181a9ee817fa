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
//! | [`observe`] | a live view of all of this, for a browser, a terminal or a program |
//! | [`remote`] | executors of your own that run calls in another program or on another machine |
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
//! | `remote` | the executor over a carrier, and the far side of it |
//! | `api` | the default lanes, adapters, [`job`] and [`embed`] |
//! | `watch` | the watchdog; uses `base` alone |
//! | `observe` | the live view; uses `metrics` and `watch`, and knows no pool |
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
//! # What process pools need
//!
//! Linux 5.3 or newer, for `pidfd_open`; `/proc`, from which a worker is started; and `/dev/null`. A seccomp profile or an
//! emulator has to allow `memfd_create`, `eventfd2`, `pidfd_open`, `pidfd_send_signal`, `socketpair`, `sendmsg`, `recvmsg`,
//! `pipe2`, `futex` and `prctl(PR_SET_PDEATHSIG)`, as those of Docker and systemd do; Valgrind 3.19 has no `pidfd_open`. If
//! a call is refused, the error names it.
//!
//! A worker begins from a known state, whatever its program was: no signal is blocked, and none is ignored except SIGPIPE;
//! standard descriptors that are closed are on `/dev/null`; its affinity and its scheduling class are those of the
//! program's main thread, as are those of all threads of this library.
//!
//! # Features
//!
//! | feature | what it adds |
//! | --- | --- |
//! | `process` (default) | [`ProcessPool`] and tasks. See [other systems than Linux](#other-systems-than-linux) |
//! | `watch` (default) | [`watch`](mod@watch): notices a stalled loop; with `tokio` a stalled runtime |
//! | `watch-stacks` | the stack of the stalled thread, on x86-64 Linux |
//! | `tracing` | a span for each job, within the span of its submitter |
//! | `metrics` | the metrics go to the recorder of the `metrics` crate |
//! | `rayon`, `tokio` | adapters that run jobs on the threads of those crates |
//! | `observe` | [`observe`]: a live view of the pools and the watched loops, in a browser or a terminal |
//! | `axum` | the live view as a router of axum |
//!
//! # Other systems than Linux
//!
//! The crate builds everywhere with its default features. Threads, tasks, their calls and blobs are the same everywhere.
//! Process pools need Linux. Elsewhere they have the same methods, but `build` fails with
//! [`BuildError::Unsupported`]. A program that is developed on another system than it runs on can fall back to threads:
//!
//! ```
//! # #[cfg(feature = "process")] mod example {
//! use offloop::{BuildError, Call, Handle, ProcessPool};
//!
//! fn open() -> Result<Option<ProcessPool>, BuildError> {
//!     match ProcessPool::builder().build() {
//!         Err(BuildError::Unsupported) => Ok(None),
//!         pool => pool.map(Some),
//!     }
//! }
//!
//! fn submit<R>(pool: Option<&ProcessPool>, call: Call<'static, R>) -> Handle<R>
//! where
//!     R: serde::de::DeserializeOwned + Send + 'static,
//! {
//!     match pool {
//!         Some(pool) => pool.run(call),
//!         None => offloop::run_cpu(call),
//!     }
//! }
//! # }
//! ```

// docs.rs builds with all features, and shows at each item which one it needs.
#![cfg_attr(docsrs, feature(doc_cfg))]
// Links to items of features that are turned off lead nowhere. With all features each link must lead somewhere.
#![cfg_attr(
    not(all(
        feature = "process",
        feature = "tracing",
        feature = "metrics",
        feature = "rayon",
        feature = "axum",
        feature = "watch-stacks"
    )),
    allow(rustdoc::broken_intra_doc_links)
)]

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
#[cfg(feature = "observe")]
pub mod observe;
#[cfg(feature = "process")]
mod processes;
#[cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, reason = "some of it is for the far side, which needs a process pool")
)]
#[cfg(feature = "process")]
pub mod remote;
mod threads;
#[cfg(feature = "watch")]
pub mod watch;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "some of it is for jobs in other processes"))]
#[cfg(feature = "process")]
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
pub use crate::core::signature::{NoSignature, Signature};
pub use crate::core::work::Work;
pub use crate::threads::{StatePool, ThreadPool, ThreadPoolBuilder};

#[cfg(all(feature = "process", not(target_os = "linux")))]
pub use crate::processes::unsupported::{
    InitializerResult, ItemStream, OnCrash, ProcessPool, ProcessPoolBuilder, init,
};
#[cfg(all(feature = "process", target_os = "linux"))]
pub use crate::processes::{
    pool::builder::ProcessPoolBuilder,
    pool::config::{InitializerResult, OnCrash},
    pool::items::ItemStream,
    pool::pool::ProcessPool,
    worker::main::init,
};
#[cfg(feature = "process")]
pub use crate::wire::blob::{Blob, BlobMut, PrivateBlob};
#[cfg(feature = "process")]
pub use crate::wire::call::Call;

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
/// only with `#[serde(borrow)]`. Each borrow is written: `Cow<str>` without its lifetime does not compile. The result
/// implements both traits too, and owns its data.
///
/// For another process, arguments and results are encoded as MessagePack with the names of fields and variants. All of
/// serde's attributes work, and what cannot be sent is an error of its job. A value may be nested up to 128 levels. The
/// guide "Which executor?" in the repository has the details.
///
/// A task has at most 16 arguments. It is a free function, not in an `impl`, and neither `async` nor generic nor `unsafe`.
/// Its lifetimes have no bounds, and its arguments no `cfg`.
///
/// # The name
///
/// The name becomes a constant. Its type dereferences to the function pointer, so a task is passed on as a function by
/// `*longest`. As for any constant, a variable in its scope cannot have the same name: the compiler then says that the
/// name "is interpreted as a constant, not a new binding".
///
/// The body sees what it would see without the attribute. In there the name is the function itself: a variable may have
/// it, and a call is a recursion. A task makes calls of itself by its path, such as `self::longest.with(…)`.
///
/// `with` is missing if the attribute is. The compiler then finds no method of this name "for fn item".
///
/// # A name for other programs
///
/// Within one program a task goes by the path of its function. Another program, on another machine or of another build,
/// calls it by a name that does not change when the function moves:
///
/// ```
/// #[offloop::task(name = "billing:invoice", version = 2)]
/// fn invoice(number: u64, currency: &str) -> Vec<String> {
///     vec![format!("{number} {currency}")]
/// }
///
/// assert_eq!(invoice.with(42, "EUR").task_name(), "billing:invoice");
/// ```
///
/// Name, `version` (1 by default) and the types of the signature, as they are written, make the task's
/// [`Signature`]. A call runs only where it is the same. So a change of the types, or a
/// new version for a change that they do not show, keeps old and new programs from misunderstanding each other. That a
/// struct has gained or lost a field does not change it: fields are sent by name, and serde decides.
///
/// No two tasks of a program may have the same such name. If they do, no process pool can be built, and no call by that
/// name can be submitted; the error names both functions.
///
/// # Attributes
///
/// Documentation and `deprecated` go to the constant, and `cfg` to everything. All others stay with the function. So
/// `must_use` has no effect, since the function is called through a pointer.
///
/// # Another name for the crate
///
/// The code that is generated refers to `::offloop`. If the crate is renamed, or is used through another one that
/// re-exports it, `crate` gives its path:
///
/// ```
/// mod framework {
///     pub use offloop;
/// }
///
/// #[framework::offloop::task(crate = framework::offloop)]
/// fn double(number: u64) -> u64 {
///     2 * number
/// }
/// # fn main() {
/// assert_eq!(double(2), 4);
/// # }
/// ```
///
/// In a `macro_rules!` macro that writes tasks, the path begins with `$crate`.
///
/// # Dynamic libraries
///
/// The linker collects the tasks of each shared object by itself. A process pool runs those that are linked into the same
/// object as this crate. In a program with crates of the type `dylib`, the call of another task fails when it is
/// submitted, with [`ErrorKind::Encode`] and the reason. On threads it runs.
#[cfg(feature = "process")]
pub use offloop_macros::task;

/// Calls [`init`] before `main`. For test crates, which have no `main` of their own: write `offloop::init_tests!();` once
/// at the top level of the crate. A worker then never reaches the test harness. On systems other than Linux it does
/// nothing.
///
/// The worker first runs the constructors (`.init_array`) of all crates of the program, as it would before `main`. But
/// Rust's runtime is not set up in it: a job that overflows its stack ends by a bare SIGSEGV, without a message.
#[cfg(feature = "process")]
#[macro_export]
macro_rules! init_tests {
    () => {
        #[cfg(target_os = "linux")]
        const _: () = {
            use $crate::__private::Constructor;

            unsafe extern "C" {
                // The linker puts these symbols around the section of constructors.
                #[link_name = "__init_array_start"]
                static START: [Constructor; 0];
                #[link_name = "__init_array_end"]
                static END: [Constructor; 0];
            }

            extern "C" fn init() {
                let all = (&raw const START).cast::<Constructor>()..(&raw const END).cast::<Constructor>();
                // SAFETY: the range is the program's section of constructors, and this is one of them.
                unsafe { $crate::__private::init_as_constructor(init, all) };
            }

            // SAFETY: the dynamic loader calls the functions of this section, with this signature, before `main`.
            #[used]
            #[unsafe(link_section = ".init_array")]
            static INIT: Constructor = init;
        };
    };
}

/// Not public API: used by the code that `#[offloop::task]` makes.
#[cfg(feature = "process")]
#[doc(hidden)]
pub mod __private {
    #[cfg(target_os = "linux")]
    pub use crate::processes::worker::constructor::{Constructor, init_as_constructor};
    pub use crate::wire::payload::{Bytes, CowBytes, Text};
    pub use crate::wire::registry::TASKS;
    pub use crate::wire::task::Task;
    pub use crate::wire::task_fn::{OwnedBytes, TaskFn, call};
    pub use crate::wire::unmarked::{MarkTheFunctionWithOffloopTask, Marked};
    pub use linkme;
}

/// Not public API: called by the targets in `fuzz/`.
#[cfg(all(any(test, fuzzing), feature = "process", target_os = "linux"))]
#[doc(hidden)]
pub mod __fuzz {
    pub use crate::processes::fuzz::messages::{handshake, nested, request, template};
    pub use crate::processes::fuzz::{answer, item};
    pub use crate::remote::fuzz::{error, received};

    #[cfg(feature = "observe")]
    pub use crate::observe::fuzz as view;
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
#[doc = include_str!("../README.md")]
pub struct ReadmeCode;

/// Compiles and runs the code of the guides.
#[cfg(all(doctest, feature = "process"))]
mod guides {
    #[doc = include_str!("../docs/cpu-bound-work.md")]
    struct CpuBoundWork;

    #[doc = include_str!("../docs/which-executor.md")]
    struct WhichExecutor;

    #[cfg(all(feature = "observe", target_os = "linux"))]
    #[doc = include_str!("../docs/live-view.md")]
    struct LiveView;

    #[cfg(all(feature = "metrics", feature = "tokio", feature = "watch"))]
    #[doc = include_str!("../docs/what-blocks-a-loop.md")]
    struct WhatBlocksALoop;
}
