//! Submits jobs to a cluster.

mod carrier;
mod driver;
#[cfg(target_os = "linux")]
mod embedded;
mod handle;
mod outcome;
#[cfg(all(test, target_os = "linux"))]
mod tests;

use std::fmt;
use std::io;
use std::iter::Map;
use std::sync::Arc;
use std::time::Duration;

use offloop::embed::Options;
use offloop::remote::{NamedCall, Remote};
use offloop::{
    Accepts, Call, Handle, MapStream, OnFull, Rejected, ShutdownReport, io_lane, metrics::Metrics, prepare,
};
#[cfg(target_os = "linux")]
use offloop::{ItemStream, Prepared};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};

use carrier::{Carry, Command, Extra, Shared, ToCluster, lock, submitting};
use driver::Driver;
#[cfg(target_os = "linux")]
pub use embedded::EmbeddedClusterBuilder;
pub use handle::{ClusterHandle, StoredEnd};

use crate::Ulid;
use crate::connection::Connection;
use crate::names::is_name;
use crate::network;
use crate::records::{Job, Presence};
use crate::store::{ConnectError, Store};

/// The time after which a job that the server did not take ends, by default.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(60);

/// The reason why there is no executor for a cluster.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The way to the cluster cannot be right.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The policy for a full queue is [`OnFull::ShedOldest`].
    #[error(
        "a cluster cannot drop the oldest job of a full queue, which may be another submitter's: use \
         `OnFull::Wait`, `Reject` or `CallerRuns`"
    )]
    ShedOldest,
    /// The server of an embedded cluster could not be started.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Server(#[from] crate::embedded::StartError),
    /// A worker of an embedded cluster could not be started.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Worker(#[from] crate::worker::WorkerError),
    /// The system gives no thread.
    #[error("the network's thread could not be started: {0}")]
    Thread(#[from] io::Error),
}

/// The answer of a cluster that has not come.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the cluster has not answered: {0}")]
pub struct NoAnswer(String);

/// The settings of a [`Cluster`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct ClusterBuilder {
    connection: Connection,
    name: String,
    queue: String,
    capacity: Option<u64>,
    on_full: OnFull,
    cancel_if_lost: bool,
    unreachable_after: Duration,
    carry: Option<Carry>,
}

impl ClusterBuilder {
    /// Sets the queue that jobs are submitted to, unless a job names another one. Default: `default`.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = queue.into();
        self
    }

    /// Sets the number of jobs that each band of a queue holds, those that run included. It holds for all queues and all
    /// submitters of the namespace. Default: what is set there already, else 100,000.
    pub fn capacity(mut self, capacity: u64) -> Self {
        self.capacity = Some(capacity.max(1));
        self
    }

    /// Sets what happens to a job for which its queue has no room. Default: [`OnFull::Wait`].
    ///
    /// A queue is full for all its submitters, and one of them learns of that by the server's answer. So with
    /// [`OnFull::Reject`] a handle may end with [`QueueFull`](offloop::ErrorKind::QueueFull) after its job was submitted.
    /// With [`OnFull::CallerRuns`] such a job waits, and the submitter runs jobs while it has as many of its own in the
    /// queue as that holds.
    pub fn on_full(mut self, on_full: OnFull) -> Self {
        self.on_full = on_full;
        self
    }

    /// Sets the name that the server shows for this client, and that of its metrics. Default: `cluster`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets the time after which a job that the server did not take ends with
    /// [`Unreachable`](offloop::ErrorKind::Unreachable), if the server cannot be reached then. Default: 60 s.
    ///
    /// Jobs that the server has taken stay pending while it cannot be reached.
    pub fn unreachable_after(mut self, limit: Duration) -> Self {
        self.unreachable_after = limit;
        self
    }

    /// Sets whether jobs are stopped when this program is lost: workers ask for it, and stop its jobs after a lease of
    /// silence. Default: false. Jobs that were accepted go on.
    pub fn cancel_if_lost(mut self, cancels: bool) -> Self {
        self.cancel_if_lost = cancels;
        self
    }

    /// Sets a hook that is called for each job where it is submitted. The bytes that it returns travel with the job, unless
    /// the job [carries](offloop::Prepared::carry) bytes of its own. The job gets them from
    /// [`carried`](offloop::job::carried), and its worker [goes on](crate::worker::WorkerBuilder::continue_trace) with the
    /// trace that they stand for.
    ///
    /// Bytes that are the text of a `traceparent` of W3C's Trace Context, and after the end of a line that of a
    /// `tracestate`, are headers of the job's message, too.
    pub fn carry(mut self, hook: impl Fn() -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        self.carry = Some(Carry(Arc::new(hook)));
        self
    }

    /// Opens the executor. Does not wait for the connection, which is made in the background, and made again when it is
    /// lost.
    pub fn build(self) -> Result<Cluster, BuildError> {
        self.build_with(())
    }

    /// Does the same, and drops `parts` when the executor is gone and its jobs have ended.
    fn build_with(self, parts: impl Send + 'static) -> Result<Cluster, BuildError> {
        let Self { mut connection, name, queue, capacity, on_full, cancel_if_lost, unreachable_after, carry } =
            self;
        if on_full == OnFull::ShedOldest {
            return Err(BuildError::ShedOldest);
        }
        if !is_name(&queue) {
            return Err(ConnectError::Name { what: "the queue", name: queue }.into());
        }
        connection.name.clone_from(&name);
        let seals = connection.seals.clone();
        let store = network::block_on(async move { Store::connect(&connection).await })??;
        let shared = Arc::new(Shared::new(queue, on_full, cancel_if_lost, unreachable_after, seals, carry));
        let (commands, received) = mpsc::unbounded_channel();
        let driver = Driver::run(store.clone(), Arc::clone(&shared), capacity, received);
        network::runtime()?.spawn(async move {
            driver.await;
            drop(parts);
        });
        Ok(Cluster(Remote::new(name, ToCluster { shared, commands, store })))
    }
}

/// An executor whose workers are on other machines, or in other processes of this one.
///
/// It accepts calls as a [`ProcessPool`](offloop::ProcessPool) does, with the same handles, instructions and errors.
/// Clones are the same executor. When the last one is dropped, it takes no more jobs, and those that were accepted go on.
///
/// All methods may be called from any thread, on any async runtime or none. In a forked child it accepts nothing.
#[derive(Clone)]
pub struct Cluster(Remote<ToCluster>);

impl Cluster {
    /// Returns the settings of an executor for the cluster at this URL, such as `nats://host:4222`, or by this
    /// [`Connection`].
    pub fn builder(connection: impl Into<Connection>) -> ClusterBuilder {
        ClusterBuilder {
            connection: connection.into(),
            name: "cluster".to_owned(),
            queue: "default".to_owned(),
            capacity: None,
            on_full: OnFull::Wait,
            cancel_if_lost: false,
            unreachable_after: UNREACHABLE_AFTER,
            carry: None,
        }
    }

    /// Returns the settings of a cluster of this program's own: a server on the loopback interface, and workers, which end
    /// with it. Linux only.
    #[cfg(target_os = "linux")]
    pub fn embedded() -> EmbeddedClusterBuilder {
        EmbeddedClusterBuilder::new()
    }

    /// Runs `work`, a task's call, on a worker.
    ///
    /// Encodes the arguments before it returns; an error of that becomes the handle's. Does not block, unless the queue is
    /// full and the policy is [`OnFull::CallerRuns`].
    #[track_caller]
    pub fn run<W>(&self, work: W) -> Handle<<Self as Accepts<W>>::Output>
    where
        Self: Accepts<W>,
    {
        offloop::run_in_executor(self, work)
    }

    /// Runs `work` if there is a connection and, as far as is known here, room in the queue. Else gives it back, with the
    /// reason. Never waits. If the server has no room, the handle ends with
    /// [`QueueFull`](offloop::ErrorKind::QueueFull).
    #[track_caller]
    pub fn try_run<W>(&self, work: W) -> Result<Handle<<Self as Accepts<W>>::Output>, Rejected<W>>
    where
        Self: Accepts<W>,
    {
        self.try_place(work, Options::new())
    }

    /// Begins a submission with what only a cluster's jobs have.
    pub fn submit<W>(&self, work: W) -> Submit<'_, W>
    where
        Self: Accepts<W>,
    {
        Submit { cluster: self, work, extra: Extra::default() }
    }

    /// Runs a task of another program by its name, such as a function of Python. `arguments` is a tuple. `R` is the type
    /// of the result.
    #[track_caller]
    pub fn call<R>(&self, task: impl Into<String>, arguments: impl Serialize) -> ClusterHandle<R>
    where
        R: DeserializeOwned + Send + 'static,
    {
        self.submit(NamedCall::new(task, &arguments)).send()
    }

    /// Returns a handle for a job that was submitted before, by this program or another one.
    ///
    /// The handle gives the job's end when that is stored, as long as it is remembered; a result is kept for a shorter time
    /// than the end. A job that waits in its queue without a key is found when a worker takes it. For an id that there is
    /// none of the handle stays pending, so give it a [`timeout`](Handle::timeout). Dropping the handle cancels the job.
    #[track_caller]
    pub fn attach<R>(&self, id: Ulid) -> ClusterHandle<R>
    where
        R: DeserializeOwned + Send + 'static,
    {
        let extra = Extra { attach: Some(id), ..Extra::default() };
        let work = prepare(NamedCall::<R>::encoded("", Vec::new())).name(id.to_string());
        Submit { cluster: self, work, extra }.send()
    }

    /// Runs `work`, whose task sends items of type `T` before its result, as
    /// [`ProcessPool::stream`](offloop::ProcessPool::stream) does. Linux only.
    ///
    /// Up to `buffersize` items wait here to be read, and about as many at the worker, 1024 at most; then the task waits.
    /// An item comes once and in its order, and before the job's error. If this program is silent for a whole lease, items
    /// are dropped, and the job ends with [`Unreachable`](offloop::ErrorKind::Unreachable). If it trusts keys, items count
    /// that one of them has signed; another one ends the job with [`NotTrusted`](offloop::ErrorKind::NotTrusted).
    #[cfg(target_os = "linux")]
    #[track_caller]
    pub fn stream<T, R>(
        &self,
        work: impl Into<Prepared<NamedCall<R>>>,
        buffersize: usize,
    ) -> (Handle<R>, ItemStream<T>)
    where
        T: DeserializeOwned + Send + 'static,
        R: DeserializeOwned + Send + 'static,
    {
        self.0.stream(work, buffersize)
    }

    /// Runs a task of another program by its name, whose job sends items before its result, as [`stream`](Self::stream)
    /// does: a task in Rust that [emits](offloop::job::emit) them, or a generator of Python, whose result is `()`.
    /// `arguments` is a tuple. Linux only.
    ///
    /// The types of a generator's items are not known, so they are not compared with `T`: an item that does not fit is an
    /// [error](offloop::ErrorKind::Decode).
    #[cfg(target_os = "linux")]
    #[track_caller]
    pub fn call_stream<T, R>(
        &self,
        task: impl Into<String>,
        arguments: impl Serialize,
        buffersize: usize,
    ) -> (ClusterHandle<R>, ItemStream<T>)
    where
        T: DeserializeOwned + Send + 'static,
        R: DeserializeOwned + Send + 'static,
    {
        self.submit(NamedCall::new(task, &arguments)).stream(buffersize)
    }

    /// Runs one call for each item. Returns a stream of the results, as [`ProcessPool::map`](offloop::ProcessPool::map)
    /// does.
    #[track_caller]
    pub fn map<I, F, W>(
        &self,
        items: I,
        call: F,
    ) -> MapStream<Map<I::IntoIter, F>, <Self as Accepts<W>>::Output>
    where
        I: IntoIterator,
        F: FnMut(I::Item) -> W,
        Self: Accepts<W>,
    {
        offloop::map(self.clone(), items.into_iter().map(call))
    }

    /// Returns the workers that are there. Blocks for at most [`Settings::answer`](crate::protocol::Settings::answer).
    pub fn workers(&self) -> Result<Vec<Presence>, NoAnswer> {
        self.ask(|store| async move { store.workers().await })
    }

    /// Returns the dead jobs: those that ended without being done, the oldest first. Blocks for some time, up to
    /// [`Settings::answer`](crate::protocol::Settings::answer) for each 256 of them.
    pub fn dead(&self) -> Result<Vec<DeadJob>, NoAnswer> {
        let dead = self.ask(|store| async move { store.dead().await })?;
        let known = dead.into_iter().map(|dead| DeadJob {
            id: dead.id,
            queue: dead.queue,
            reason: dead.reason,
            age: dead.age,
            job: Job::decode(&dead.record).ok().map(Box::new),
        });
        Ok(known.collect())
    }

    /// Returns what this executor has done and is doing, as far as it is known here.
    pub fn metrics(&self) -> Metrics {
        self.0.metrics()
    }

    /// Returns the number of accepted jobs that wait at this moment, those that wait for room included.
    pub fn queued(&self) -> usize {
        self.0.queued()
    }

    /// Returns the number of jobs that run at this moment, as far as it is known here.
    pub fn running(&self) -> usize {
        self.0.running()
    }

    /// Cancels the jobs that do not run yet. Returns the number of those.
    pub fn cancel_queued(&self) -> usize {
        self.0.cancel_queued()
    }

    /// Takes no more work. Jobs that were accepted go on. Does not wait for them.
    pub fn close(&self) {
        self.0.close();
    }

    /// Stops accepting work and waits for the accepted jobs, for at most `drain`. Then cancels the rest, and waits until the
    /// cluster knows, for some seconds at most.
    pub fn shutdown(&self, drain: Duration) -> Handle<ShutdownReport> {
        let ended = self.0.shutdown(drain);
        let (sender, idle) = oneshot::channel();
        let this = self.clone();
        let settle = this.0.carrier().store.settings().answer * 2;
        let wait = move || {
            let report = ended.wait();
            this.command(Command::Idle(sender));
            let _ = network::block_on(async move { tokio::time::timeout(settle, idle).await });
            report.unwrap_or_default()
        };
        io_lane().run(wait)
    }

    /// Returns the reason why the cluster cannot be used at this moment. `None` if it can.
    pub fn trouble(&self) -> Option<String> {
        let ToCluster { shared, store, .. } = self.0.carrier();
        let link = store.link();
        let link = link.borrow();
        if !link.is_up {
            return Some(format!("the server cannot be reached: {}", link.reason));
        }
        lock(&shared.trouble).clone()
    }

    fn command(&self, command: Command) {
        self.0.carrier().command(command);
    }

    /// Asks the server something, and blocks until it has answered.
    fn ask<T, F>(&self, ask: impl FnOnce(Store) -> F) -> Result<T, NoAnswer>
    where
        T: Send + 'static,
        F: Future<Output = Option<T>> + Send + 'static,
    {
        let answer = network::block_on(ask(self.0.carrier().store.clone()));
        let answer = answer.map_err(|error| NoAnswer(error.to_string()))?;
        answer.ok_or_else(|| NoAnswer(self.trouble().unwrap_or_else(|| "no answer in time".to_owned())))
    }
}

impl<'a, R> Accepts<Call<'a, R>> for Cluster
where
    R: DeserializeOwned + Send + 'static,
{
    type Output = R;

    fn place(&self, work: Call<'a, R>, options: Options) -> Handle<R> {
        self.0.place(work, options)
    }

    fn try_place(&self, work: Call<'a, R>, options: Options) -> Result<Handle<R>, Rejected<Call<'a, R>>> {
        self.0.try_place(work, options)
    }
}

impl<R> Accepts<NamedCall<R>> for Cluster
where
    R: DeserializeOwned + Send + 'static,
{
    type Output = R;

    fn place(&self, work: NamedCall<R>, options: Options) -> Handle<R> {
        self.0.place(work, options)
    }

    fn try_place(&self, work: NamedCall<R>, options: Options) -> Result<Handle<R>, Rejected<NamedCall<R>>> {
        self.0.try_place(work, options)
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (queued, running) = (self.queued(), self.running());
        f.debug_struct("Cluster").field("queued", &queued).field("running", &running).finish_non_exhaustive()
    }
}

/// A submission to a [`Cluster`], made by [`Cluster::submit`].
#[derive(Debug)]
#[must_use = "nothing is submitted until `send` is called"]
pub struct Submit<'a, W> {
    cluster: &'a Cluster,
    work: W,
    extra: Extra,
}

impl<W> Submit<'_, W>
where
    Cluster: Accepts<W>,
{
    /// Gives the job a key. As long as the first job with this key is remembered, a second submission with it runs nothing,
    /// and its handle gives the end of the first. Then the first one decides: cancelling another handle does not stop the
    /// job.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.extra.key = Some(key.into());
        self
    }

    /// Submits the job to this queue, whose name has 1 to 64 letters, digits, `_` and `-`.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.extra.queue = Some(queue.into());
        self
    }

    /// Makes sure that two starts of the job never overlap, not even when the network is divided: a worker that cannot
    /// reach the server kills the job before another one may start it.
    pub fn exclusive(mut self, is_exclusive: bool) -> Self {
        self.extra.exclusive = is_exclusive;
        self
    }

    /// Says that the arguments are a pickle of this minor version of Python, such as `3.13`. For a binding.
    #[doc(hidden)]
    pub fn pickle(mut self, python: impl Into<String>) -> Self {
        self.extra.pickle = Some(python.into());
        self
    }

    /// Submits the job, which sends items of type `T` before its result, as [`Cluster::stream`] does. Linux only.
    ///
    /// With a [`key`](Self::key) it is [rejected](offloop::ErrorKind::Rejected): items go to one reader.
    #[cfg(target_os = "linux")]
    #[track_caller]
    pub fn stream<T, R>(self, buffersize: usize) -> (ClusterHandle<R>, ItemStream<T>)
    where
        W: Into<Prepared<NamedCall<R>>>,
        T: DeserializeOwned + Send + 'static,
        R: DeserializeOwned + Send + 'static,
    {
        let Self { cluster, work, extra } = self;
        let ((handle, items), ticket) = submitting(extra, || cluster.0.stream(work, buffersize));
        (ClusterHandle::new(handle, ticket, cluster.clone()), items)
    }

    /// Submits the job.
    #[track_caller]
    pub fn send(self) -> ClusterHandle<<Cluster as Accepts<W>>::Output> {
        let Self { cluster, work, extra } = self;
        let (handle, ticket) = submitting(extra, || offloop::run_in_executor(cluster, work));
        ClusterHandle::new(handle, ticket, cluster.clone())
    }
}

/// A job that ended without being done.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeadJob {
    /// The job's id.
    pub id: Ulid,
    /// The queue that it was in.
    pub queue: String,
    /// The end that it had, such as `Lost`.
    pub reason: String,
    /// The time since then, by the server's clock.
    pub age: Duration,
    /// Its record. `None` if this build cannot read it.
    pub job: Option<Box<Job>>,
}
