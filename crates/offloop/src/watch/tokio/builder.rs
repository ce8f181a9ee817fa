//! The public types with which a tokio runtime is watched.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinHandle;

use super::report::Reporter;
use super::runtime::{self, RuntimeState};
use super::slot::{self, Polling};
use super::stall::{Stall, TaskOrigin};
use crate::watch::guard::WatchGuard;
use crate::watch::monitor::Monitor;

/// Settings of the watch of a tokio runtime. The [module](crate::watch) explains which stalls are noticed
/// and what a watch costs.
///
/// ```
/// use std::sync::mpsc;
/// use std::time::Duration;
///
/// use offloop::watch::RuntimeWatchBuilder;
///
/// let (send, receive) = mpsc::channel();
/// let runtime = tokio::runtime::Builder::new_current_thread().build()?;
/// let watch = RuntimeWatchBuilder::new()
///     .threshold(Duration::from_millis(20))
///     .on_stall(move |stall| {
///         let _ = send.send(stall.to_string());
///     })
///     .start(runtime.handle())?;
/// watch.block_on(&runtime, async {
///     std::thread::sleep(Duration::from_millis(200)); // what a task must not do
/// });
/// assert!(receive.recv()?.ends_with("move the blocking call off the loop with `offloop::run`"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A worker that makes progress, but late, is not noticed: many tasks that are each below the threshold delay the
/// rest as well. Nor is what blocks in threads that are meant for it, `spawn_blocking` and `block_in_place`.
#[must_use = "a watch begins with `start`"]
pub struct RuntimeWatchBuilder {
    monitor: Monitor,
    state: Arc<RuntimeState>,
    on_stall: Box<dyn FnMut(&Stall) + Send>,
    stacks: bool,
    name: Cow<'static, str>,
}

impl RuntimeWatchBuilder {
    /// Makes a builder with a threshold of 100 ms.
    pub fn new() -> Self {
        Self {
            monitor: Monitor::new(Duration::from_millis(100)),
            state: Arc::new(RuntimeState::new()),
            on_stall: Box::new(|_| ()),
            stacks: false,
            name: Cow::Borrowed("tokio"),
        }
    }

    /// Sets the duration from which on a stall is reported, at least a millisecond. By default 100 ms.
    ///
    /// Shorter stalls are never reported. Stalls that are longer by half of it always are.
    pub fn threshold(mut self, threshold: Duration) -> Self {
        self.monitor = Monitor::new(threshold);
        self
    }

    /// Sets the runtime's name in the live view. Default: `tokio`.
    pub fn name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = name.into();
        self
    }

    /// Reports a stall again after `first`, then after twice as long each time, at most after `longest`.
    ///
    /// By default these are the threshold and ten seconds. To be called after [`threshold`](Self::threshold).
    pub fn repeat(mut self, first: Duration, longest: Duration) -> Self {
        self.monitor = self.monitor.repeat(first, longest);
        self
    }

    /// Sets a callback for each report of a stall: when it is noticed, while it lasts and when it is over.
    ///
    /// It is called on the watch's own thread, which notices nothing meanwhile. A panic in it is caught and printed.
    pub fn on_stall(mut self, on_stall: impl FnMut(&Stall) + Send + 'static) -> Self {
        self.on_stall = Box::new(on_stall);
        self
    }

    /// Adds the stalled thread's stack to the reports, where it can be had safely: on Linux on x86-64. Needs the
    /// feature `watch-stacks`. By default off.
    ///
    /// The thread is sent a signal: the highest real-time signal that has no handler yet. Its handler copies at most
    /// 64 KiB of the stack, which takes some microseconds, and does nothing else. The watch's thread finds frames and
    /// names in that copy. A blocking call of the thread goes on after the signal. Threads in calls that would not
    /// (such as `poll`, or a socket's with a timeout) get no signal, and their stack stays empty. Code that sleeps by
    /// `nanosleep` and does not sleep on after its early return would wake early: the standard library does sleep on.
    ///
    /// The program's debug information is read when the watch starts, in the background, and stays in memory.
    #[cfg(feature = "watch-stacks")]
    pub fn stacks(mut self, wanted: bool) -> Self {
        self.stacks = wanted;
        self
    }

    /// Returns a function for the `on_thread_park` of a multi-thread runtime, with which each worker's thread is
    /// known by name from the start. Without it a worker becomes known when it first runs a [watched](WatchedFuture)
    /// task or answers the watch.
    ///
    /// ```
    /// use offloop::watch::RuntimeWatchBuilder;
    ///
    /// let watch = RuntimeWatchBuilder::new().on_stall(|stall| eprintln!("{stall}"));
    /// let runtime =
    ///     tokio::runtime::Builder::new_multi_thread().on_thread_park(watch.on_thread_park()).build()?;
    /// let _watch = watch.start(runtime.handle())?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// tokio keeps one such function: call this one within yours if you have one. It takes no lock, reads the clock and
    /// writes three numbers.
    pub fn on_thread_park(&self) -> impl Fn() + Send + Sync + 'static {
        let id = self.state.id;
        move || {
            if let Some(slot) = slot::current() {
                slot.register(id, tokio::runtime::worker_index());
            }
        }
    }

    /// Watches this runtime until the last clone of the [`RuntimeWatch`] is dropped, or until the runtime is shut down.
    ///
    /// # Errors
    ///
    /// If the watch's thread cannot be started.
    pub fn start(self, runtime: &Handle) -> io::Result<RuntimeWatch> {
        let monitor = self.monitor.name(self.name).kind("tokio");
        let record = Arc::new(monitor.record());
        let mut timing = monitor.timing;
        // An answer is due at once.
        timing.interval = 0;
        let reporter = Reporter::new(self.on_stall, self.stacks, record);
        let guard = runtime::start(runtime, &self.state, timing, reporter)?;
        Ok(RuntimeWatch(Arc::new(Inner { _guard: guard, state: self.state, runtime: runtime.clone() })))
    }
}

impl Default for RuntimeWatchBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for RuntimeWatchBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuntimeWatchBuilder").field("monitor", &self.monitor).finish_non_exhaustive()
    }
}

/// The watch of a tokio runtime, which ends when the last clone of this is dropped.
///
/// That drop waits for the watch's thread, as the drop of a [`WatchGuard`] does.
#[derive(Clone)]
pub struct RuntimeWatch(Arc<Inner>);

struct Inner {
    _guard: WatchGuard,
    state: Arc<RuntimeState>,
    runtime: Handle,
}

impl RuntimeWatch {
    /// Spawns a task on the runtime, whose stalls are reported with the line of this call.
    ///
    /// To give it a name, spawn a named [`task`](Self::task): `watch.runtime().spawn(watch.task(future).named("…"))`.
    #[track_caller]
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.0.runtime.spawn(self.task(future))
    }

    /// Wraps a future, so that its stalls are reported with the line of this call.
    #[track_caller]
    pub fn task<F: Future>(&self, future: F) -> WatchedFuture<F> {
        let origin = TaskOrigin { name: None, spawned_at: Location::caller() };
        WatchedFuture { future, origin, watch: self.0.state.id }
    }

    /// Runs a future on `runtime`, which should be the watched one, as [`Runtime::block_on`] does. Its stalls are
    /// reported with the line of this call.
    ///
    /// A current-thread runtime runs only within `block_on`, and does not answer between two of these calls. Here the
    /// watch learns of the end. After a call of the runtime's own `block_on`, call [`pause`](Self::pause), unless it
    /// is the last.
    #[track_caller]
    pub fn block_on<F: Future>(&self, runtime: &Runtime, future: F) -> F::Output {
        /// Pauses the watch also if the future panics.
        struct Pause<'a>(&'a RuntimeWatch);
        impl Drop for Pause<'_> {
            fn drop(&mut self) {
                self.0.pause();
            }
        }
        let _pause = Pause(self);
        runtime.block_on(self.task(future))
    }

    /// Suspends the watch until the runtime answers again, since nothing drives the runtime from now on.
    pub fn pause(&self) {
        self.0.state.pause();
    }

    /// Returns the watched runtime.
    pub fn runtime(&self) -> &Handle {
        &self.0.runtime
    }
}

impl fmt::Debug for RuntimeWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuntimeWatch").finish_non_exhaustive()
    }
}

/// A future whose stalls are reported with its origin and name, made by [`RuntimeWatch::task`].
///
/// Each poll writes a dozen numbers, without a lock and without reading a clock. It need not be a task of its own:
/// within a task it names a part of it.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct WatchedFuture<F> {
    future: F,
    origin: TaskOrigin,
    watch: u64,
}

impl<F> WatchedFuture<F> {
    /// Sets the name for the reports.
    pub fn named(mut self, name: &'static str) -> Self {
        self.origin.name = Some(name);
        self
    }
}

impl<F: Future> Future for WatchedFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let (origin, watch) = (self.origin, self.watch);
        // SAFETY: the field is pinned whenever the struct is: nothing moves it out of the pinned struct, the struct is
        // `Unpin` only if the field is, and it has no `Drop`.
        let future = unsafe { self.map_unchecked_mut(|watched| &mut watched.future) };
        let _polling = slot::current().map(|slot| {
            slot.register_if_changed(watch, tokio::runtime::worker_index());
            Polling::begin(slot, origin)
        });
        future.poll(cx)
    }
}
