//! For authors of bindings: what a library needs that offers these pools to another language.
//!
//! A program in Rust needs none of this. The traits here extend the pools, their builders and the handles with the
//! methods that only a binding calls. The Python package in this repository is built on them.
//!
//! - **Threads of an interpreter.** [`ThreadPoolBuilderExt::spawn_handler`] starts the pool's threads as the interpreter's
//!   own, [`ThreadPoolBuilderExt::around_batch`] holds the interpreter while a thread runs jobs, and
//!   [`ThreadPoolBuilderExt::lock_wait`] measures how long threads wait for it.
//! - **Event loops that do not poll.** [`HandleExt::on_end`] and [`ItemStreamExt::on_item`] register a waker without a
//!   task. [`ProcessPoolExt::listen`] returns a descriptor that becomes readable when results have come.
//! - **Worker processes of another program.** [`Template`] turns a process that the binding has started into one that
//!   forks the pool's workers.
//! - **Functions that Rust does not see.** Jobs of a binding all have one type. [`describe`] gives a job its own name in
//!   [advice](crate::metrics::Advice), [`mark_failed`] counts a job as failed that returns an exception as a value, and
//!   [`begin_call`] says when a job in a worker process has loaded its function. [`item_room`] waits for the reader of a
//!   job's items, with a limit.
//! - **Threads of a binding's own.** [`start_thread`] starts one as the pools start theirs, and [`begin_thread`] makes one that
//!   was started otherwise begin as these do.
//! - **Threads seen from outside.** [`thread`] returns the CPU time, the state and the name of any thread of this process,
//!   and [`StarvationMeter`] measures for how long one had no core although it could have run.
//! - **Forks.** [`OwnProcess`] keeps a value away from forked children, which must not use it or drop it, and a
//!   [`PerProcess`] makes each process a value of its own.
//! - **Measurements of a binding's own.** [`run_delay`] returns the time that a thread has waited for a core, and
//!   [`activity_of`] the verdict of the pools' advice. [`present_cores`] counts the cores that pools may use.
//! - **The live view.** With the feature `observe`, `set_program` names the program, and an `Inspector` the jobs that Rust
//!   does not see, and where they are.

use std::io;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

#[cfg(all(feature = "process", target_os = "linux"))]
use std::os::fd::{BorrowedFd, OwnedFd};

#[cfg(all(feature = "process", target_os = "linux"))]
use serde::de::DeserializeOwned;

pub use crate::base::cores::present_cores;
pub use crate::base::fork::{OwnProcess, PerProcess};
pub use crate::base::panic::message as panic_message;
pub use crate::base::spawn::{begin_thread, start_thread};
pub use crate::base::starvation::{CoreTimes, CoreUse, StarvationMeter, own_run_delay};
pub use crate::base::thread;
pub use crate::core::current::{describe, mark_failed};
use crate::core::error::Error;
use crate::core::handle::Handle;
#[doc(hidden)]
pub use crate::core::options::Options;
pub use crate::metrics::cpu::run_delay;
#[cfg(feature = "observe")]
pub use crate::metrics::view::inspector::{
    Inspector, JobFrame, JobPlace, JobStack, is_observed, set_inspector, set_program,
};
use crate::metrics::{Activity, Recorder};
#[cfg(all(feature = "process", target_os = "linux"))]
use crate::processes::pool::{builder::ProcessPoolBuilder, items::ItemStream, pool::ProcessPool};
#[cfg(all(feature = "process", target_os = "linux"))]
pub use crate::processes::worker::{
    host::Template,
    main::{Worker, begin_call, item_room},
};
pub use crate::threads::{Growth, WorkerThread};
use crate::threads::{ThreadPool, ThreadPoolBuilder};

mod sealed {
    pub trait Sealed {}
}

/// Returns the activity of a thread that is on a core for this share of its time, from 0 to 1.
pub fn activity_of(share: f64) -> Activity {
    Activity::of_share(share)
}

/// Methods of [`Handle`] for event loops that do not poll futures.
pub trait HandleExt<T>: sealed::Sealed {
    /// Registers `waker` to be woken once, when the job ends or earlier. Returns true if the job has ended. Does not block.
    ///
    /// The caller then asks for the [`try_result`](Self::try_result), and calls this again if there is none.
    fn on_end(&mut self, waker: &Waker) -> bool;

    /// Takes the result, if the job has ended. Does not block.
    ///
    /// # Panics
    ///
    /// If the handle has given its result already.
    fn try_result(&mut self) -> Option<Result<T, Error>>;

    /// Returns whether this process was forked from the one that submitted the job. In here the job never ends.
    fn is_forked(&self) -> bool;

    /// Cancels the job like [`Handle::cancel`], but only if no worker has begun with it. Returns whether it did.
    fn cancel_queued(&self) -> bool;
}

impl<T> sealed::Sealed for Handle<T> {}

impl<T> HandleExt<T> for Handle<T> {
    fn on_end(&mut self, waker: &Waker) -> bool {
        Handle::on_end(self, waker)
    }

    fn try_result(&mut self) -> Option<Result<T, Error>> {
        Handle::try_result(self)
    }

    fn is_forked(&self) -> bool {
        Handle::is_forked(self)
    }

    fn cancel_queued(&self) -> bool {
        Handle::cancel_queued(self)
    }
}

/// Settings of a [`ThreadPoolBuilder`] for threads that belong to another runtime.
pub trait ThreadPoolBuilderExt: sealed::Sealed + Sized {
    /// Starts the pool's threads with `spawn` instead of [`std::thread`], for threads that another runtime has to know.
    ///
    /// The handler gets a [`WorkerThread`] and makes a thread of its own run it, soon and once.
    /// [`stack_size`](ThreadPoolBuilder::stack_size) has no effect then.
    ///
    /// It is called on the thread that submits, or on one of the pool's, with no lock held. An error means that the
    /// system refused the thread, and so does a `WorkerThread` that is dropped unrun. A panic counts as an error. If no
    /// other thread is left to run the queued jobs, they end with
    /// [`ErrorKind::WorkerStart`](crate::ErrorKind::WorkerStart).
    ///
    /// ```
    /// use offloop::embed::ThreadPoolBuilderExt;
    ///
    /// let pool = offloop::ThreadPool::builder()
    ///     .spawn_handler(|worker| {
    ///         let thread = std::thread::Builder::new().name(format!("mine/{}", worker.name()));
    ///         thread.spawn(|| worker.run()).map(drop)
    ///     })
    ///     .build()?;
    /// let name = pool.run(|| std::thread::current().name().map(str::to_owned));
    /// assert_eq!(name.wait()?.as_deref(), Some("mine/offloop-1"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn spawn_handler(self, spawn: impl Fn(WorkerThread) -> io::Result<()> + Send + Sync + 'static) -> Self;

    /// Calls `hook` around each batch of jobs on a worker's thread. For what a thread must hold while it runs jobs but not
    /// while it waits for them, such as the lock of an interpreter.
    ///
    /// The hook gets the batch as a function to call. It is called when the worker has seen that there is a job. Within the
    /// batch the worker takes and runs jobs one after the other, until there is none or `limit` has passed. It neither
    /// spins nor sleeps there, except in the jobs themselves. A batch may find no job any more.
    ///
    /// A hook that waits before it calls the batch delays the queued jobs: no further thread is woken for them meanwhile.
    /// No lock is held when it is called. If it panics, or does not call the batch, one queued job is cancelled.
    fn around_batch(self, limit: Duration, hook: impl Fn(&mut dyn FnMut()) + Send + Sync + 'static) -> Self;

    /// Sets the rule by which the pool starts threads. Default: [`Growth::OnDemand`].
    ///
    /// ```
    /// use offloop::embed::{Growth, ThreadPoolBuilderExt};
    ///
    /// let pool = offloop::ThreadPool::builder().growth(Growth::Eager).max_workers(4).build()?;
    /// let (send, receive) = std::sync::mpsc::channel();
    /// let waits = pool.run(move || receive.recv());
    /// pool.run(move || send.send(7)).wait()?.unwrap();
    /// assert_eq!(waits.wait()?, Ok(7));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn growth(self, growth: Growth) -> Self;

    /// Sets the histogram in which the hook of [`around_batch`](Self::around_batch) records how long threads wait for an
    /// interpreter's lock. It becomes part of the pool's [metrics](ThreadPool::metrics).
    fn lock_wait(self, recorder: &Arc<Recorder>) -> Self;
}

impl sealed::Sealed for ThreadPoolBuilder {}

impl ThreadPoolBuilderExt for ThreadPoolBuilder {
    fn spawn_handler(self, spawn: impl Fn(WorkerThread) -> io::Result<()> + Send + Sync + 'static) -> Self {
        ThreadPoolBuilder::spawn_handler(self, spawn)
    }

    fn around_batch(self, limit: Duration, hook: impl Fn(&mut dyn FnMut()) + Send + Sync + 'static) -> Self {
        ThreadPoolBuilder::around_batch(self, limit, hook)
    }

    fn growth(self, growth: Growth) -> Self {
        ThreadPoolBuilder::growth(self, growth)
    }

    fn lock_wait(self, recorder: &Arc<Recorder>) -> Self {
        ThreadPoolBuilder::lock_wait(self, recorder)
    }
}

/// Methods of [`ThreadPool`] for bindings.
pub trait ThreadPoolExt: sealed::Sealed {
    /// Starts threads now until the pool has `workers` of them, at most its `max_workers`, instead of when work waits.
    ///
    /// For work that is known to come, and to wait. Idle threads leave as always. If the system refuses a thread, no more
    /// are started.
    fn prestart(&self, workers: usize);
}

impl sealed::Sealed for ThreadPool {}

impl ThreadPoolExt for ThreadPool {
    fn prestart(&self, workers: usize) {
        ThreadPool::prestart(self, workers);
    }
}

/// Settings of a [`ProcessPoolBuilder`] for workers that are no copies of this program.
#[cfg(all(feature = "process", target_os = "linux"))]
pub trait ProcessPoolBuilderExt: sealed::Sealed + Sized {
    /// Makes `start` start the template of which the workers are forks.
    ///
    /// It gets the template's end of a socket, and returns its process id. In that process [`Template::adopt`] takes over.
    /// It is called on a thread that lives as long as the pool. What it starts must be a child of this process.
    fn template_by(self, start: impl Fn(OwnedFd) -> io::Result<u32> + Send + Sync + 'static) -> Self;

    /// Sets bytes, of any length, that the template gets as [`Template::start_data`].
    ///
    /// They go in a sealed file over the template's socket. Unlike arguments and environment variables, they cannot be
    /// read in `/proc`. They have no effect without a template.
    fn start_data(self, data: impl Into<Vec<u8>>) -> Self;

    /// Sets files, at most 62, that the template gets as [`Template::take_start_files`]. They stay open here for as long as
    /// the pool may have to start another template.
    fn start_files(self, files: Vec<OwnedFd>) -> Self;

    /// Makes the pool answer requests of the template and of its workers. The last of the
    /// [files](Template::take_start_files) of the template is then a socket for them, besides the ones that were set.
    ///
    /// A request is a message of at most 16 bytes with a descriptor: the end of another socket, which `answer` gets and
    /// answers on. It is called on the pool's supervisor, so it must not block. Has no effect without a template.
    fn on_request(self, answer: impl Fn(OwnedFd) + Send + Sync + 'static) -> Self;

    /// Sets a message that the template finds on its standard input, a socket, before it calls [`Template::connect`], and
    /// must take from there. For a program whose own start reads its orders from a descriptor. Default: none.
    fn start_preamble(self, preamble: impl Into<Vec<u8>>) -> Self;

    /// Makes run timeouts count from [`begin_call`], which each job then has to call, and limits the time that a job with a
    /// run timeout may take until then. After that it ends with [`ErrorKind::LoadTimeout`](crate::ErrorKind::LoadTimeout),
    /// and its worker is killed.
    ///
    /// For jobs that have to load their function first, in a way that Rust does not see. Default: run timeouts count from
    /// when the worker is given the job.
    fn load_timeout(self, limit: Duration) -> Self;

    /// Makes the thread that takes an answer decode the result, for a pool whose results are all of types that are known
    /// to be decoded quickly. So jobs of one worker end in the order of their answers. By default another thread decodes
    /// results that may take long.
    fn decode_here(self) -> Self;
}

#[cfg(all(feature = "process", target_os = "linux"))]
impl sealed::Sealed for ProcessPoolBuilder {}

#[cfg(all(feature = "process", target_os = "linux"))]
impl ProcessPoolBuilderExt for ProcessPoolBuilder {
    fn template_by(self, start: impl Fn(OwnedFd) -> io::Result<u32> + Send + Sync + 'static) -> Self {
        ProcessPoolBuilder::template_by(self, start)
    }

    fn start_data(self, data: impl Into<Vec<u8>>) -> Self {
        ProcessPoolBuilder::start_data(self, data.into())
    }

    fn start_files(self, files: Vec<OwnedFd>) -> Self {
        ProcessPoolBuilder::start_files(self, files)
    }

    fn on_request(self, answer: impl Fn(OwnedFd) + Send + Sync + 'static) -> Self {
        ProcessPoolBuilder::on_request(self, answer)
    }

    fn start_preamble(self, preamble: impl Into<Vec<u8>>) -> Self {
        ProcessPoolBuilder::start_preamble(self, preamble.into())
    }

    fn load_timeout(self, limit: Duration) -> Self {
        ProcessPoolBuilder::load_timeout(self, limit)
    }

    fn decode_here(self) -> Self {
        ProcessPoolBuilder::decode_here(self)
    }
}

/// Methods of [`ProcessPool`] for event loops that wait for descriptors.
#[cfg(all(feature = "process", target_os = "linux"))]
pub trait ProcessPoolExt: sealed::Sealed {
    /// Returns a descriptor that is readable when answers of workers have come, to be taken by
    /// [`take_answers`](Self::take_answers).
    ///
    /// Taking them is not necessary, but saves the way through another thread. That thread takes the answers that are not
    /// taken within 1 ms.
    fn listen(&self) -> BorrowedFd<'_>;

    /// Takes the answers that have come, and wakes the tasks that wait for them. Does not block.
    fn take_answers(&self);

    /// Returns the number of accepted jobs that have not ended, the running ones included.
    fn outstanding(&self) -> usize;

    /// Returns the number of workers that the pool should have by now. Fewer may be up, while others are being started.
    fn target_workers(&self) -> usize;

    /// Breaks the pool, as a crash does under [`OnCrash::Break`](crate::OnCrash::Break): it takes no more work, all its jobs
    /// end with [`ErrorKind::Broken`](crate::ErrorKind::Broken) and this reason, and its workers end. Does not block.
    ///
    /// For failures that only the binding sees, such as a result that its language cannot decode. If the pool is broken
    /// already, the first reason stays. In a forked child it does nothing.
    fn break_with(&self, reason: &str);

    /// Returns the reason why the pool is broken, if it is.
    fn broken(&self) -> Option<String>;

    /// Starts workers now until the pool has `workers` of them, at most its `max_workers`, instead of when jobs wait. For a
    /// pool that [grows on demand](ProcessPoolBuilder::min_workers). Idle workers leave as always. Does not wait.
    fn prestart(&self, workers: usize);

    /// Returns whether the pool is closed and its last worker has left.
    fn is_over(&self) -> bool;

    /// Waits until that is so, for at most `limit`. Returns whether it is. Cancels nothing, unlike
    /// [`shutdown`](ProcessPool::shutdown).
    fn wait_over(&self, limit: Duration) -> bool;

    /// Registers `waker` to be woken once, when that is so. Returns true if it is. Does not block.
    ///
    /// A waker that is woken holds nothing of the pool, so it can let go of what keeps the pool until then. In a forked child,
    /// where the pool's end is not seen, it is never woken.
    fn on_over(&self, waker: &Waker) -> bool;

    /// Ends one worker, with what it runs: by SIGTERM, and SIGKILL after the grace period, or by SIGKILL at once. For the
    /// pool this is a crash of the worker. Does nothing if the pool has no such worker. Does not wait for it.
    fn stop_worker(&self, pid: u32, kill: bool);
}

#[cfg(all(feature = "process", target_os = "linux"))]
impl sealed::Sealed for ProcessPool {}

#[cfg(all(feature = "process", target_os = "linux"))]
impl ProcessPoolExt for ProcessPool {
    fn listen(&self) -> BorrowedFd<'_> {
        ProcessPool::listen(self)
    }

    fn take_answers(&self) {
        ProcessPool::take_answers(self);
    }

    fn outstanding(&self) -> usize {
        ProcessPool::outstanding(self)
    }

    fn target_workers(&self) -> usize {
        ProcessPool::target_workers(self)
    }

    fn break_with(&self, reason: &str) {
        ProcessPool::break_with(self, reason);
    }

    fn broken(&self) -> Option<String> {
        ProcessPool::broken(self)
    }

    fn prestart(&self, workers: usize) {
        ProcessPool::prestart(self, workers);
    }

    fn is_over(&self) -> bool {
        ProcessPool::is_over(self)
    }

    fn wait_over(&self, limit: Duration) -> bool {
        ProcessPool::wait_over(self, limit)
    }

    fn on_over(&self, waker: &Waker) -> bool {
        ProcessPool::on_over(self, waker)
    }

    fn stop_worker(&self, pid: u32, kill: bool) {
        ProcessPool::stop_worker(self, pid, kill);
    }
}

/// Methods of [`ItemStream`] for event loops that do not poll futures.
#[cfg(all(feature = "process", target_os = "linux"))]
pub trait ItemStreamExt<T>: sealed::Sealed {
    /// Takes the next item, if it has come. Does not block.
    fn try_next(&mut self) -> Option<Result<T, Error>>;

    /// Registers `waker` to be woken when another item comes or the job ends. Returns true if there are items already, or
    /// if the job has ended. Does not block.
    fn on_item(&mut self, waker: &Waker) -> bool;

    /// Makes [`try_next`](Self::try_next) decode each item itself, for a type that is known to be decoded quickly. So an
    /// item can be taken as soon as it has come. By default another thread decodes items that may take long.
    fn decode_here(&mut self);
}

#[cfg(all(feature = "process", target_os = "linux"))]
impl<T> sealed::Sealed for ItemStream<T> {}

#[cfg(all(feature = "process", target_os = "linux"))]
impl<T: DeserializeOwned + Send + 'static> ItemStreamExt<T> for ItemStream<T> {
    fn try_next(&mut self) -> Option<Result<T, Error>> {
        ItemStream::try_next(self)
    }

    fn on_item(&mut self, waker: &Waker) -> bool {
        ItemStream::on_item(self, waker)
    }

    fn decode_here(&mut self) {
        ItemStream::decode_here(self);
    }
}
