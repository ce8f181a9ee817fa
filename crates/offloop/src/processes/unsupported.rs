//! The names of the process pool on systems that have none, so that a program compiles there and runs its tasks on
//! threads. [`ProcessPoolBuilder::build`] fails with the reason, and the other types have no values.
//!
//! `cargo xtask other-systems` checks that the methods here are those that Linux has, where their documentation is.

use std::borrow::Cow;
use std::convert::Infallible;
use std::ffi::OsString;
use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::core::backlog::OnFull;
use crate::core::error::{BuildError, Error, NotSent, Rejected, WorkerExit};
use crate::core::executor::Accepts;
use crate::core::handle::Handle;
use crate::core::map::MapStream;
use crate::core::options::{Options, Prepared};
use crate::core::shutdown::ShutdownReport;
use crate::metrics::{Advice, Metrics};
use crate::wire::blob::BlobMut;
use crate::wire::call::Call;

/// Does nothing: on this system no program is started as a worker. On Linux it lets this program act as one, and is
/// called first in `main`.
pub fn init() {}

/// Fails: without process pools no job has a stream.
pub(crate) fn emit<T: Serialize + ?Sized>(_item: &T) -> Result<(), NotSent> {
    Err(NotSent("only worker processes send items, and process pools need Linux".to_owned()))
}

/// The effect of a worker's crash on its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnCrash {
    /// Ends the job that the worker ran. The worker is replaced.
    #[default]
    Isolate,
    /// Ends the pool and all its jobs with [`ErrorKind::Broken`](crate::ErrorKind::Broken).
    Break,
}

/// A type that an initializer task may return: nothing, or a result whose error keeps the worker from starting.
pub trait InitializerResult: Serialize + DeserializeOwned + 'static {}

impl InitializerResult for () {}

impl<E: fmt::Display + Serialize + DeserializeOwned + 'static> InitializerResult for Result<(), E> {}

/// Sets up a [`ProcessPool`], which only Linux has. Here [`build`](Self::build) fails, whatever the settings.
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct ProcessPoolBuilder(());

#[allow(missing_docs, reason = "the settings are those that Linux has")]
impl ProcessPoolBuilder {
    pub fn name(self, _: impl Into<Cow<'static, str>>) -> Self {
        self
    }

    pub fn on_advice(self, _: impl Fn(&Advice) + Send + Sync + 'static) -> Self {
        self
    }

    pub fn carry(self, _: impl Fn() -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        self
    }

    pub fn max_workers(self, _: usize) -> Self {
        self
    }

    pub fn min_workers(self, _: usize) -> Self {
        self
    }

    pub fn idle_timeout(self, _: Duration) -> Self {
        self
    }

    pub fn queue_capacity(self, _: usize) -> Self {
        self
    }

    pub fn on_full(self, _: OnFull) -> Self {
        self
    }

    pub fn on_crash(self, _: OnCrash) -> Self {
        self
    }

    pub fn grace(self, _: Duration) -> Self {
        self
    }

    pub fn kill_children(self, _: bool) -> Self {
        self
    }

    pub fn start_timeout(self, _: Duration) -> Self {
        self
    }

    pub fn setup_timeout(self, _: Duration) -> Self {
        self
    }

    pub fn max_payload(self, _: u32) -> Self {
        self
    }

    pub fn max_tasks_per_child(self, _: u64) -> Self {
        self
    }

    pub fn max_worker_age(self, _: Duration) -> Self {
        self
    }

    pub fn max_rss(self, _: u64) -> Self {
        self
    }

    pub fn recycle_rss(self, _: u64) -> Self {
        self
    }

    pub fn max_data(self, _: u64) -> Self {
        self
    }

    pub fn idle_memory(self, _: u64) -> Self {
        self
    }

    pub fn nice(self, _: i32) -> Self {
        self
    }

    pub fn cpu_affinity(self, _: impl IntoIterator<Item = usize>) -> Self {
        self
    }

    pub fn max_open_files(self, _: u64) -> Self {
        self
    }

    pub fn current_dir(self, _: impl Into<PathBuf>) -> Self {
        self
    }

    pub fn env(self, _: impl Into<OsString>, _: impl Into<OsString>) -> Self {
        self
    }

    pub fn env_remove(self, _: impl Into<OsString>) -> Self {
        self
    }

    pub fn env_clear(self) -> Self {
        self
    }

    pub fn stderr_tail(self, _: usize) -> Self {
        self
    }

    pub fn initializer<R: InitializerResult>(self, _: &Call<'_, R>) -> Self {
        self
    }

    pub fn program(self, _: impl Into<PathBuf>) -> Self {
        self
    }

    pub fn args(self, _: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self
    }

    pub fn template(self) -> Self {
        self
    }

    /// Fails with [`BuildError::Unsupported`].
    pub fn build(self) -> Result<ProcessPool, BuildError> {
        Err(BuildError::Unsupported)
    }
}

/// A pool of worker processes. It needs Linux, so that on this system there is none: its builder fails.
#[derive(Clone)]
pub struct ProcessPool(Infallible);

#[allow(missing_docs, reason = "there is no pool to call these methods of")]
impl ProcessPool {
    /// Returns a builder, which fails.
    pub fn builder() -> ProcessPoolBuilder {
        ProcessPoolBuilder(())
    }

    pub fn run<W>(&self, _: W) -> Handle<<Self as Accepts<W>>::Output>
    where
        Self: Accepts<W>,
    {
        match self.0 {}
    }

    pub fn try_run<W>(&self, _: W) -> Result<Handle<<Self as Accepts<W>>::Output>, Rejected<W>>
    where
        Self: Accepts<W>,
    {
        match self.0 {}
    }

    pub fn map<I, F, W>(&self, _: I, _: F) -> MapStream<I::IntoIter, <Self as Accepts<W>>::Output>
    where
        I: IntoIterator,
        F: FnMut(I::Item) -> W + Send + 'static,
        Self: Accepts<W>,
    {
        match self.0 {}
    }

    pub fn stream<'a, T, R>(
        &self,
        _: impl Into<Prepared<Call<'a, R>>>,
        _: usize,
    ) -> (Handle<R>, ItemStream<T>)
    where
        T: DeserializeOwned + Send + 'static,
        R: DeserializeOwned + Send + 'static,
    {
        match self.0 {}
    }

    pub fn shutdown(&self, _: Duration) -> Handle<ShutdownReport> {
        match self.0 {}
    }

    pub fn close(&self) {
        match self.0 {}
    }

    pub fn cancel_queued(&self) -> usize {
        match self.0 {}
    }

    pub fn resize(&self, _: usize) {
        match self.0 {}
    }

    pub fn set_max_workers(&self, _: usize) {
        match self.0 {}
    }

    pub fn kill_workers(&self) {
        match self.0 {}
    }

    pub fn terminate_workers(&self) {
        match self.0 {}
    }

    pub fn worker_exits(&self) -> Vec<(u32, WorkerExit)> {
        match self.0 {}
    }

    pub fn blob(&self, _: usize) -> BlobMut {
        match self.0 {}
    }

    pub fn worker_pids(&self) -> Vec<u32> {
        match self.0 {}
    }

    pub fn queued(&self) -> usize {
        match self.0 {}
    }

    pub fn metrics(&self) -> Metrics {
        match self.0 {}
    }
}

impl<'a, R: DeserializeOwned + Send + 'static> Accepts<Call<'a, R>> for ProcessPool {
    type Output = R;

    fn place(&self, _: Call<'a, R>, _: Options) -> Handle<R> {
        match self.0 {}
    }

    fn try_place(&self, _: Call<'a, R>, _: Options) -> Result<Handle<R>, Rejected<Call<'a, R>>> {
        match self.0 {}
    }
}

impl fmt::Debug for ProcessPool {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {}
    }
}

/// The queue for such items. On this system there is none.
pub(crate) struct ItemQueue(Infallible);

impl ItemQueue {
    pub(crate) fn capacity(&self) -> usize {
        match self.0 {}
    }

    pub(crate) fn room(&self) -> usize {
        match self.0 {}
    }

    pub(crate) fn offer_bytes(&self, _: Vec<u8>) -> Result<(), Vec<u8>> {
        match self.0 {}
    }
}

/// The items that a job of a process pool sends. On this system there are none.
pub struct ItemStream<T>(Infallible, PhantomData<fn() -> T>);

#[allow(missing_docs, reason = "there is no stream to call these methods of")]
impl<T: DeserializeOwned + Send + 'static> ItemStream<T> {
    #[expect(clippy::unused_async, reason = "it is async on Linux")]
    pub async fn next(&mut self) -> Option<Result<T, Error>> {
        match self.0 {}
    }

    pub fn wait_next(&mut self) -> Option<Result<T, Error>> {
        match self.0 {}
    }
}

impl<T> fmt::Debug for ItemStream<T> {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {}
    }
}
