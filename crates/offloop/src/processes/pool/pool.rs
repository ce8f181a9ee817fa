//! A pool of worker processes: copies of this program that run tasks, die alone and are replaced.
//!
//! The protocol between the two sides is in the README beside this file.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::builder::ProcessPoolBuilder;
use super::dispatcher::Desk;
use super::item_queue::ItemQueue;
use super::items::ItemStream;
use crate::processes::{os::process as sys, worker::main as worker};

use crate::base::panic;
use crate::core::cell::Cell;
use crate::core::error::{ErrorKind, Rejected};
use crate::core::executor::Accepts;
use crate::core::handle::Handle;
use crate::core::options::{OnEnd, Options, Prepared};
use crate::core::outcome::Outcome;
use crate::core::runnable::AnyJob;
use crate::core::shutdown::ShutdownReport;
use crate::metrics::{Measured, Metrics};
use crate::processes::pool::remote::{Outbound, RemoteCall};
use crate::wire::payload::Bytes;
use crate::wire::task::{Call, CallContext};

/// Why a call was not taken, with its instructions.
type Refusal = Box<(ErrorKind, Options)>;

static INITIALISED: AtomicBool = AtomicBool::new(false);

/// To be called first thing in `main`: a process that was started as a pool's worker runs its jobs in here
/// and never returns. In any other process it returns at once.
///
/// It must come before the program starts threads, reads its arguments or opens anything, since all that
/// would happen in each worker too. On a thread that is not the process's first it does nothing.
pub fn init() {
    if !sys::is_first_thread() {
        return;
    }
    INITIALISED.store(true, Ordering::Relaxed);
    if let Some(orders) = std::env::var_os(sys::MARKER) {
        worker::serve(&orders);
    }
}

pub(crate) fn is_initialised() -> bool {
    INITIALISED.load(Ordering::Relaxed)
}

/// A pool of worker processes.
///
/// It runs [`Call`]s of functions marked `#[offloop::task]`. A job that crashes its process fails alone, with
/// [`ErrorKind::WorkerDied`]; the worker is replaced. A job that is cancelled, whose handle is dropped, or
/// whose run deadline passes, is killed: SIGTERM, and SIGKILL after the grace period. Workers never outlive
/// this process, however it ends.
///
/// Clones are the same pool. When the last one is dropped the pool takes no more work, runs what it has
/// accepted and then lets its workers go; nobody is blocked for it. [`shutdown`](Self::shutdown) does it under
/// supervision.
///
/// In a worker, [`job::is_cancelled`](crate::job::is_cancelled) is always false: whoever is to stop is killed.
#[derive(Clone)]
pub struct ProcessPool {
    door: Arc<Door>,
}

/// What the pool's clones share; the supervisor does not hold it, so its drop means that nobody can submit.
struct Door {
    desk: Arc<Desk>,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.desk.close();
    }
}

impl ProcessPool {
    /// A pool to be configured.
    pub fn builder() -> ProcessPoolBuilder {
        ProcessPoolBuilder::new()
    }

    pub(crate) fn from_desk(desk: Arc<Desk>) -> Self {
        Self { door: Arc::new(Door { desk }) }
    }

    /// Runs `work`, a task's call, in a worker process. Encodes the arguments before it returns; an error of
    /// that is the handle's. Does not wait for the worker.
    #[track_caller]
    pub fn run<W>(&self, work: W) -> Handle<<Self as Accepts<W>>::Output>
    where
        Self: Accepts<W>,
    {
        self.place(work, Options::new())
    }

    /// Runs `work` if there is room for it now; else gives it back, whatever the policy. Never waits.
    #[track_caller]
    pub fn try_run<W>(&self, work: W) -> Result<Handle<<Self as Accepts<W>>::Output>, Rejected<W>>
    where
        Self: Accepts<W>,
    {
        self.try_place(work, Options::new())
    }

    /// Stops accepting work, drains what was accepted for at most `drain`, then cancels the queued jobs and
    /// kills the workers of running ones: SIGTERM, and SIGKILL after the builder's `grace`.
    ///
    /// The shutdown goes on whether or not the handle is awaited.
    pub fn shutdown(&self, drain: Duration) -> Handle<ShutdownReport> {
        let desk = Arc::clone(&self.door.desk);
        let pending = desk.close();
        crate::core::shutdown::run_in_background(move || desk.shut_down(pending, drain))
    }

    /// Cancels the jobs that no worker has, and says how many those were. Running ones go on.
    pub fn cancel_queued(&self) -> usize {
        self.door.desk.cancel_queued()
    }

    /// Has the pool have so many workers from now on. More are started in the background; those that are too many
    /// finish what they run and leave. With 0 jobs wait until there are workers again; a pool that is closed keeps one
    /// for what was accepted.
    pub fn resize(&self, workers: usize) {
        self.door.desk.resize(workers);
    }

    pub(crate) fn listen(&self) -> BorrowedFd<'_> {
        self.door.desk.listen();
        self.door.desk.ear.as_fd()
    }

    pub(crate) fn take_answers(&self) {
        self.door.desk.take_answers();
    }

    /// Takes no more work; jobs that were accepted are still run. Does not wait for them.
    pub fn close(&self) {
        self.door.desk.close();
    }

    pub(crate) fn is_over(&self) -> bool {
        self.door.desk.is_over()
    }

    /// The process ids of the workers that are up: busy, idle or starting.
    pub fn worker_pids(&self) -> Vec<u32> {
        self.door.desk.pids()
    }

    /// What the pool has done and is doing. Takes the pool's lock for some microseconds.
    pub fn metrics(&self) -> Metrics {
        self.door.desk.metrics()
    }

    /// How many accepted jobs wait for a worker at this moment, those that wait for room included.
    pub fn queued(&self) -> usize {
        self.door.desk.queued()
    }

    pub(crate) fn outstanding(&self) -> usize {
        self.door.desk.outstanding()
    }

    /// Runs `work`, whose task sends items of type `T` by [`job::emit`](crate::job::emit) before its result. So many of
    /// them wait to be read; then the task waits.
    #[track_caller]
    pub fn stream<'a, T, R>(
        &self,
        work: impl Into<Prepared<Call<'a, R>>>,
        buffersize: usize,
    ) -> (Handle<R>, ItemStream<T>)
    where
        T: DeserializeOwned + 'static,
        R: DeserializeOwned + Send + 'static,
    {
        let Prepared { work, mut options } = work.into();
        let queue = ItemQueue::new(buffersize);
        options.on_end = Some(Arc::clone(&queue) as Arc<dyn OnEnd>);
        let desk = &self.door.desk;
        match self.launch(&work, Some(&queue), options) {
            Ok(job) => {
                let items = ItemStream::new(queue, Arc::clone(&job) as Arc<dyn RemoteCall>, desk);
                (Handle::new(job), items)
            }
            Err(refusal) => {
                let (kind, options) = *refusal;
                let job: Arc<Cell<_, R>> = Cell::<Outbound, R>::ended(options, kind);
                let items = ItemStream::new(queue, Arc::clone(&job) as Arc<dyn RemoteCall>, desk);
                (Handle::new(job), items)
            }
        }
    }

    /// Submits, or says why not and gives the instructions back.
    fn submit<R>(&self, call: &Call<'_, R>, options: Options) -> Result<Handle<R>, Refusal>
    where
        R: DeserializeOwned + Send + 'static,
    {
        self.launch(call, None, options).map(Handle::new)
    }

    fn launch<R>(
        &self,
        call: &Call<'_, R>,
        items: Option<&Arc<ItemQueue>>,
        mut options: Options,
    ) -> Result<Arc<Cell<Outbound, R>>, Refusal>
    where
        R: DeserializeOwned + Send + 'static,
    {
        let has_name = !options.name.is_empty();
        if !has_name {
            options.name = call.task_name().into();
        }
        let desk = &self.door.desk;
        if let (None, Some(carry)) = (&options.carried, &desk.config.carry) {
            options.carried = panic::catch(carry).ok().flatten().map(Vec::into_boxed_slice);
        }
        let context = CallContext {
            name: has_name.then_some(&*options.name),
            parent: name_of_current_span(),
            carried: options.carried.as_deref().map(Bytes),
        };
        let is_worth_it = has_name || context.parent.is_some() || context.carried.is_some();
        let encoded = match call
            .encode(is_worth_it.then_some(&context))
            .and_then(|encoded| desk.config.check_size(encoded))
        {
            Ok(encoded) => encoded,
            Err(kind) => {
                desk.counts.count(Outcome::of(&kind));
                return Err(Box::new((kind, options)));
            }
        };
        let job: Arc<Cell<_, R>> =
            Cell::new(Outbound { call: encoded.named(&options.name), items: items.cloned() }, options);
        match desk.execute(Arc::clone(&job) as Arc<dyn RemoteCall>) {
            Ok(()) => Ok(job),
            Err(kind) => {
                // Its deadline, if it has one, is of no more use.
                job.reclaim();
                Err(Box::new((kind, job.header().options.clone())))
            }
        }
    }
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
        self.submit(&work, options).unwrap_or_else(|refusal| {
            let (kind, options) = *refusal;
            Handle::failed(options, kind)
        })
    }

    fn try_place(&self, work: Call<'a, R>, mut options: Options) -> Result<Handle<R>, Rejected<Call<'a, R>>> {
        options.never_wait = true;
        self.submit(&work, options).map_err(|refusal| Rejected::new(work, refusal.0))
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
