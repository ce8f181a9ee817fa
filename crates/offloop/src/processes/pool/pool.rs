//! A pool of worker processes: copies of this program that run tasks, die alone and are replaced.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::dispatcher::{Dispatcher, JobEngine};
use super::item_queue::ItemQueue;
use super::items::ItemStream;
use super::remote::{EncodedAnswer, FromAnswer, Outbound, RemoteCall};
use crate::base::panic;
use crate::core::cell::Cell;
use crate::core::error::{ErrorKind, Rejected, WorkerExit};
use crate::core::executor::Accepts;
use crate::core::handle::Handle;
use crate::core::map::MapStream;
use crate::core::options::{Options, Prepared};
use crate::core::outcome::Outcome;
use crate::core::pool_ref::PoolRef;
use crate::core::runnable::AnyJob;
use crate::core::shutdown::{self, ShutdownReport};
use crate::metrics::{Measured, Metrics};
use crate::processes::launch::{Launched, job_of};
use crate::processes::os::process::End;
use crate::wire::blob::BlobMut;
use crate::wire::call::{Call, CallContext, Encoded};
use crate::wire::payload::Bytes;
use crate::wire::task::Task;

/// A pool of worker processes.
///
/// It runs [`Call`]s of functions marked `#[offloop::task]`. A job that crashes its process fails alone, with
/// [`ErrorKind::WorkerDied`], and the worker is replaced. A job that is cancelled, whose handle is dropped, or whose
/// run timeout passes, is killed: SIGTERM, and SIGKILL after the grace period. What it has started is killed with it,
/// unless [`kill_children`](crate::ProcessPoolBuilder::kill_children) is off. Workers never outlive this process, however it
/// ends.
///
/// # Rights
///
/// A worker has the user, the groups and the other rights that this process has at the moment in which the worker is
/// started; a fork of a template has those of the template. If this process gives up rights later, the workers that
/// are there keep theirs, and a template goes on to make workers with them. So a program that starts as root gives up
/// its rights first and then builds its pool. One that cannot can let each worker give them up in its
/// [`initializer`](crate::ProcessPoolBuilder::initializer).
///
/// The pool can end its workers in each of these cases, even if the system refuses to let this process signal them. A
/// worker that lives on nevertheless is given up after 10 s: another one takes its place, its job ends with
/// [`WorkerExit::Lost`](crate::WorkerExit::Lost), the metrics count it
/// ([`Restarts::lost`](crate::metrics::Restarts::lost)), and a shutdown reports its job as stuck.
///
/// Clones are the same pool. When the last one is dropped, the pool takes no more work, runs what it has accepted and
/// then lets its workers go. The drop does not block. [`shutdown`](Self::shutdown) does the same under supervision.
///
/// In a worker, [`job::is_cancelled`](crate::job::is_cancelled) is always false, since a job that is to stop is killed.
#[derive(Clone)]
pub struct ProcessPool {
    dispatcher: PoolRef<Dispatcher>,
}

impl ProcessPool {
    pub(super) fn new(dispatcher: Arc<Dispatcher>) -> Self {
        Self { dispatcher: PoolRef::new(dispatcher) }
    }

    /// Runs `work`, a task's call, in a worker process.
    ///
    /// Encodes the arguments before it returns; an error of that becomes the handle's. Does not wait for the worker.
    #[track_caller]
    pub fn run<W>(&self, work: W) -> Handle<<Self as Accepts<W>>::Output>
    where
        Self: Accepts<W>,
    {
        self.place(work, Options::new())
    }

    /// Runs `work` if there is room for it now. Otherwise gives it back, whatever the pool's policy. Never waits.
    #[track_caller]
    pub fn try_run<W>(&self, work: W) -> Result<Handle<<Self as Accepts<W>>::Output>, Rejected<W>>
    where
        Self: Accepts<W>,
    {
        self.try_place(work, Options::new())
    }

    /// Runs one call for each item, in worker processes. Returns a stream of the results, in order unless it is
    /// [`unordered`](MapStream::unordered). Items are taken as the stream is read, a bounded number ahead.
    ///
    /// ```
    /// #[offloop::task]
    /// fn square(number: u64) -> u64 {
    ///     number * number
    /// }
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     offloop::init();
    ///     let pool = offloop::ProcessPool::builder().max_workers(2).build()?;
    ///     let mut squares = pool.map(1..=3, |number| square.with(number));
    ///     while let Some(result) = squares.wait_next() {
    ///         println!("{}", result?);
    ///     }
    ///     Ok(())
    /// }
    /// ```
    #[track_caller]
    pub fn map<I, F, W>(&self, items: I, mut call: F) -> MapStream<I::IntoIter, <Self as Accepts<W>>::Output>
    where
        I: IntoIterator,
        F: FnMut(I::Item) -> W + Send + 'static,
        Self: Accepts<W>,
    {
        let (pool, options) = (self.clone(), Options::new());
        MapStream::new(items.into_iter(), move |item| pool.place(call(item), options.clone()))
    }

    /// Runs `work`, whose task sends items of type `T` by [`job::emit`](crate::job::emit) before its result.
    ///
    /// Up to `buffersize` items wait to be read. When that many wait, the task waits.
    ///
    /// The type of each item is compared with `T`, and an item of another type is read as an error,
    /// [`ErrorKind::Decode`]. Borrowed forms are the same type: a task that emits a `&str` or a `&[u32]` is read as
    /// `String` or `Vec<u32>`.
    #[track_caller]
    pub fn stream<'a, T, R>(
        &self,
        work: impl Into<Prepared<Call<'a, R>>>,
        buffersize: usize,
    ) -> (Handle<R>, ItemStream<T>)
    where
        T: DeserializeOwned + Send + 'static,
        R: DeserializeOwned + Send + 'static,
    {
        let source: Weak<Dispatcher> = Arc::downgrade(&self.dispatcher.engine());
        let Prepared { work: call, options } = work.into();
        ItemStream::launch(call.task(), options, buffersize, source, |items, options| {
            self.launch(&call, Some(items), options)
        })
    }

    /// Stops accepting work and waits for the accepted jobs, for at most `drain`. Then cancels the queued jobs and ends
    /// the workers of running ones: SIGTERM, and SIGKILL after the builder's `grace`.
    ///
    /// The shutdown goes on even if the handle is not awaited.
    pub fn shutdown(&self, drain: Duration) -> Handle<ShutdownReport> {
        let dispatcher = self.dispatcher.engine();
        let pending = dispatcher.close();
        shutdown::run_in_background(move || dispatcher.shut_down(pending, drain))
    }

    /// Takes no more work. Jobs that were accepted are still run. Does not wait for them.
    pub fn close(&self) {
        self.dispatcher.close();
    }

    /// Cancels the jobs that no worker has. Returns the number of those. Running jobs go on.
    pub fn cancel_queued(&self) -> usize {
        self.dispatcher.cancel_queued()
    }

    /// Sets the number of workers. Ends the growth on demand of a pool with
    /// [`min_workers`](crate::ProcessPoolBuilder::min_workers).
    ///
    /// Missing workers are started in the background. Surplus workers finish what they run and leave. Without workers
    /// jobs wait until there are some again; but a closed pool keeps one for the jobs that it has accepted.
    pub fn resize(&self, workers: usize) {
        self.dispatcher.resize(workers);
    }

    /// Sets the largest number of workers. A pool that [grows on demand](crate::ProcessPoolBuilder::min_workers) goes on
    /// growing, up to this number; in another pool it is the number of workers, as with [`resize`](Self::resize).
    ///
    /// Surplus workers finish what they run and leave.
    pub fn set_max_workers(&self, workers: usize) {
        self.dispatcher.set_max_workers(workers);
    }

    /// Kills all workers at once, with SIGKILL, and closes the pool. Queued jobs end with [`ErrorKind::Cancelled`], running
    /// ones with [`ErrorKind::WorkerDied`], and none is tried again. Does not wait for it.
    ///
    /// [`shutdown`](Self::shutdown) lets jobs finish first, and gives the others a grace period.
    pub fn kill_workers(&self) {
        self.dispatcher.stop(End::Kill);
    }

    /// Does the same with SIGTERM, and with SIGKILL after the builder's [`grace`](crate::ProcessPoolBuilder::grace).
    /// Workers without a job leave by themselves.
    pub fn terminate_workers(&self) {
        self.dispatcher.stop(End::Ask);
    }

    /// Returns how the last workers have ended, with their process ids, the oldest first. The pool remembers 64 of them.
    pub fn worker_exits(&self) -> Vec<(u32, WorkerExit)> {
        self.dispatcher.exits()
    }

    /// Makes an empty byte string in the pool's shared memory, with room for at least `capacity` bytes. As an argument of
    /// this pool's calls it is passed on without a copy.
    ///
    /// It is on the heap if the system refuses the memory, if the pool has ended, and in a forked child. Then it is copied
    /// like any other blob.
    pub fn blob(&self, capacity: usize) -> BlobMut {
        BlobMut::in_memory(Some(Arc::clone(&self.dispatcher.config.memory)), capacity)
    }

    /// Returns the process ids of the workers that are busy, idle or starting.
    pub fn worker_pids(&self) -> Vec<u32> {
        self.dispatcher.worker_pids()
    }

    /// Returns the number of accepted jobs that wait for a worker at this moment, those that wait for room included.
    pub fn queued(&self) -> usize {
        self.dispatcher.queued()
    }

    /// Returns what the pool has done and is doing. Takes the pool's lock for some microseconds.
    pub fn metrics(&self) -> Metrics {
        self.dispatcher.metrics()
    }

    pub(crate) fn listen(&self) -> BorrowedFd<'_> {
        self.dispatcher.listen();
        self.dispatcher.listener.as_fd()
    }

    pub(crate) fn take_answers(&self) {
        self.dispatcher.take_answers();
    }

    pub(crate) fn is_over(&self) -> bool {
        self.dispatcher.is_over()
    }

    pub(crate) fn prestart(&self, workers: usize) {
        self.dispatcher.prestart(workers);
    }

    pub(crate) fn wait_over(&self, limit: Duration) -> bool {
        self.dispatcher.wait_over(limit)
    }

    pub(crate) fn on_over(&self, waker: &Waker) -> bool {
        self.dispatcher.on_over(waker)
    }

    pub(crate) fn stop_worker(&self, pid: u32, kill: bool) {
        self.dispatcher.stop_worker(pid, if kill { End::Kill } else { End::Ask });
    }

    pub(crate) fn outstanding(&self) -> usize {
        self.dispatcher.outstanding()
    }

    pub(crate) fn target_workers(&self) -> usize {
        self.dispatcher.target_workers()
    }

    pub(crate) fn break_with(&self, reason: &str) {
        self.dispatcher.break_with(reason);
    }

    pub(crate) fn broken(&self) -> Option<String> {
        self.dispatcher.broken()
    }

    /// Submits the call of a task whose arguments are encoded, and complete by themselves. Its result stays encoded.
    pub(crate) fn launch_encoded(
        &self,
        task: &'static Task,
        arguments: &[u8],
        items: Option<&Arc<ItemQueue>>,
        mut options: Options,
    ) -> Result<LaunchedEncoded, ErrorKind> {
        let has_name = !options.name.is_empty();
        if !has_name {
            options.name = task.name.into();
        }
        let context = context(&options, has_name);
        let memory = &*self.dispatcher.config.memory;
        let encoded = Encoded::of_whole(task, arguments, context.as_ref(), memory);
        match self.submit::<EncodedAnswer>(encoded, items, options) {
            Ok(job) => {
                let engine: Weak<Dispatcher> = Arc::downgrade(&self.dispatcher.engine());
                Ok(LaunchedEncoded { handle: Handle::new(Arc::clone(&job)), job, engine })
            }
            Err(refusal) => Err(refusal.0),
        }
    }

    /// Submits a call, or returns the reason why not and its instructions.
    fn launch<R>(
        &self,
        call: &Call<'_, R>,
        items: Option<&Arc<ItemQueue>>,
        mut options: Options,
    ) -> Launched<Outbound, R>
    where
        R: DeserializeOwned + Send + 'static,
    {
        let has_name = !options.name.is_empty();
        if !has_name {
            options.name = call.task_name().into();
        }
        let config = &self.dispatcher.config;
        if let (None, Some(carry)) = (&options.extras().carried, &config.carry) {
            if let Some(carried) = panic::catch(carry).ok().flatten() {
                options.extras_mut().carried = Some(carried.into_boxed_slice());
            }
        }
        let encoded = call.encode(context(&options, has_name).as_ref(), &*config.memory);
        self.submit(encoded, items, options)
    }

    /// Submits an encoded call, or returns the reason why not and its instructions.
    fn submit<R: FromAnswer>(
        &self,
        encoded: Result<Encoded, ErrorKind>,
        items: Option<&Arc<ItemQueue>>,
        options: Options,
    ) -> Launched<Outbound, R> {
        let config = &self.dispatcher.config;
        let encoded = match encoded.and_then(|encoded| config.check_size(encoded)) {
            Ok(encoded) => encoded,
            Err(kind) => {
                self.dispatcher.counts.count(Outcome::of(&kind));
                return Err(Box::new((kind, options)));
            }
        };
        let outbound = Outbound { call: encoded.named(&options.name), items: items.cloned() };
        let job: Arc<Cell<_, R>> = Cell::new(outbound, options);
        match self.dispatcher.execute(Arc::clone(&job) as Arc<dyn RemoteCall>) {
            Ok(()) => Ok(job),
            Err(kind) => {
                // Cancels the job's timers.
                job.reclaim();
                Err(Box::new((kind, job.header().options.clone())))
            }
        }
    }
}

/// A job whose result stays encoded.
pub(crate) struct LaunchedEncoded {
    pub(crate) handle: Handle<EncodedAnswer>,
    pub(crate) job: Arc<dyn AnyJob>,
    pub(crate) engine: Weak<dyn JobEngine>,
}

/// Returns what the worker needs beside the arguments, if that is anything.
fn context(options: &Options, has_name: bool) -> Option<CallContext<'_>> {
    let extras = options.extras();
    let context = CallContext {
        name: has_name.then_some(&*options.name),
        parent: name_of_current_span(),
        carried: extras.carried.as_deref().map(Bytes),
        request: extras.request.as_deref(),
    };
    let is_needed =
        has_name || context.parent.is_some() || context.carried.is_some() || context.request.is_some();
    is_needed.then_some(context)
}

fn name_of_current_span() -> Option<&'static str> {
    #[cfg(feature = "tracing")]
    return tracing::Span::current().metadata().map(tracing::Metadata::name);
    #[cfg(not(feature = "tracing"))]
    None
}

impl<'a, R> Accepts<Call<'a, R>> for ProcessPool
where
    R: DeserializeOwned + Send + 'static,
{
    type Output = R;

    fn place(&self, work: Call<'a, R>, options: Options) -> Handle<R> {
        Handle::new(job_of(self.launch(&work, None, options)))
    }

    fn try_place(&self, work: Call<'a, R>, mut options: Options) -> Result<Handle<R>, Rejected<Call<'a, R>>> {
        options.never_wait = true;
        let launched = self.launch(&work, None, options);
        launched.map(Handle::new).map_err(|refusal| Rejected::new(work, refusal.0))
    }
}

impl fmt::Debug for ProcessPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessPool")
            .field("workers", &self.worker_pids())
            .field("queued", &self.queued())
            .finish_non_exhaustive()
    }
}
