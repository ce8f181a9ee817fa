//! The face of a watch on a tokio runtime.

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
use super::runtime::{self, Shared};
use super::slot::{self, Place, Polling};
use super::stall::Stall;
use crate::watch::guard::Guard;
use crate::watch::monitor::Monitor;

/// How a tokio runtime is watched. See the [module](super) for what is noticed and what it costs.
///
/// ```
/// use std::sync::mpsc;
/// use std::time::Duration;
///
/// use offloop::watch;
///
/// let (send, receive) = mpsc::channel();
/// let runtime = tokio::runtime::Builder::new_current_thread().build()?;
/// let watch = watch::Builder::new()
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
/// Not found is a worker that comes round, though late: many tasks that are each below the threshold delay the rest
/// as well. Nor what blocks in threads that are meant for it, `spawn_blocking` and `block_in_place`.
#[must_use = "a watch begins with `start`"]
pub struct Builder {
    monitor: Monitor,
    shared: Arc<Shared>,
    on: Box<dyn FnMut(&Stall) + Send>,
    stacks: bool,
}

impl Builder {
    /// With a threshold of 100 ms.
    pub fn new() -> Self {
        Self {
            monitor: Monitor::new(Duration::from_millis(100)),
            shared: Arc::new(Shared::new()),
            on: Box::new(|_| ()),
            stacks: false,
        }
    }

    /// From which duration on a stall is one, at least a millisecond. Shorter ones are never reported; all that
    /// are longer by half of it are.
    pub fn threshold(mut self, threshold: Duration) -> Self {
        self.monitor = Monitor::new(threshold);
        self
    }

    /// Reports a stall again after `first`, then after twice as long each time, at most after `longest`. By
    /// default the threshold and ten seconds. To be set after the threshold.
    pub fn again(mut self, first: Duration, longest: Duration) -> Self {
        self.monitor = self.monitor.again(first, longest);
        self
    }

    /// Called for each stall, when it is noticed, while it lasts and when it is over; on the watch's own thread,
    /// which looks at nothing else meanwhile. A panic is caught.
    pub fn on_stall(mut self, on: impl FnMut(&Stall) + Send + 'static) -> Self {
        self.on = Box::new(on);
        self
    }

    /// With the stalled thread's stack, where that can be had safely: on Linux on x86-64. (Feature `watch-stacks`.)
    ///
    /// For it the thread gets a signal: the highest real-time signal that has no handler yet. Its handler copies at
    /// most 64 KiB of the stack, which takes some microseconds, and does nothing else; frames and names are found
    /// by the watch's thread. A blocking call of the thread goes on after it. Threads in calls that would not (such
    /// as `poll`, or a socket's with a timeout) get none, and their stack stays empty. Other code that sleeps by
    /// `nanosleep` and takes its early end for the whole would wake early: the standard library does not.
    ///
    /// The program's debug information is read when the watch starts, in the background, and stays in memory.
    #[cfg(feature = "watch-stacks")]
    pub fn stacks(mut self, wanted: bool) -> Self {
        self.stacks = wanted;
        self
    }

    /// What a multi-thread runtime should call when a worker parks, so that each worker's thread is known by name
    /// from the start. Without it a worker becomes known when it first runs a [watched](Watched) task or answers
    /// the watch.
    ///
    /// ```
    /// use offloop::watch;
    ///
    /// let watch = watch::Builder::new().on_stall(|stall| eprintln!("{stall}"));
    /// let runtime = tokio::runtime::Builder::new_multi_thread().on_thread_park(watch.hook()).build()?;
    /// let _watch = watch.start(runtime.handle())?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// tokio keeps one such function: call this one within yours if you have one. It takes no lock, reads
    /// the clock and writes three numbers.
    pub fn hook(&self) -> impl Fn() + Send + Sync + 'static {
        let id = self.shared.id;
        move || {
            if let Some(slot) = slot::this() {
                slot.enrol(id, tokio::runtime::worker_index());
            }
        }
    }

    /// Watches this runtime until the last clone of the [`Watch`] is dropped, or until the runtime is shut down.
    ///
    /// Fails if the watch's thread cannot be started.
    pub fn start(self, runtime: &Handle) -> io::Result<Watch> {
        let mut limits = self.monitor.limits;
        // An answer is due at once.
        limits.interval = 0;
        let reporter = Reporter::new(self.on, self.stacks);
        let guard = runtime::start(runtime, &self.shared, limits, reporter)?;
        Ok(Watch(Arc::new(Inner { _guard: guard, shared: self.shared, runtime: runtime.clone() })))
    }
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("monitor", &self.monitor).finish_non_exhaustive()
    }
}

/// A tokio runtime is being watched, until the last clone of this is dropped.
///
/// That drop waits for the watch's thread, as that of a [`Guard`] does.
#[derive(Clone)]
pub struct Watch(Arc<Inner>);

struct Inner {
    _guard: Guard,
    shared: Arc<Shared>,
    runtime: Handle,
}

impl Watch {
    /// Spawns a task on the runtime, whose stalls are reported with the place of this call. Give it a name with
    /// `watch.runtime().spawn(watch.task(future).named("…"))`.
    #[track_caller]
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.0.runtime.spawn(self.task(future))
    }

    /// The same future, whose stalls are reported with the place of this call.
    #[track_caller]
    pub fn task<F: Future>(&self, future: F) -> Watched<F> {
        let place = Place { name: None, spawned_at: Location::caller() };
        Watched { future, place, watch: self.0.shared.id }
    }

    /// Runs a future on `runtime`, which should be the watched one, as [`Runtime::block_on`] does. Its stalls are
    /// reported with the place of this call.
    ///
    /// A current-thread runtime runs only within `block_on`, and between two of them it does not answer: in here
    /// the watch knows the end. After a call of the runtime's own `block_on`, call [`pause`](Self::pause), unless
    /// it is the last.
    #[track_caller]
    pub fn block_on<F: Future>(&self, runtime: &Runtime, future: F) -> F::Output {
        /// Also if the future panics.
        struct Pause<'a>(&'a Watch);
        impl Drop for Pause<'_> {
            fn drop(&mut self) {
                self.0.pause();
            }
        }
        let _pause = Pause(self);
        runtime.block_on(self.task(future))
    }

    /// Nothing drives the runtime from now on, so that it owes no answer until it runs again.
    pub fn pause(&self) {
        self.0.shared.pause();
    }

    /// The watched runtime.
    pub fn runtime(&self) -> &Handle {
        &self.0.runtime
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

/// A future whose stalls are reported with its place and name, made by [`Watch::task`].
///
/// Each poll writes a dozen numbers, without a lock and without reading a clock. It need not be a task of its own: within
/// one, it names the part.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Watched<F> {
    future: F,
    place: Place,
    watch: u64,
}

impl<F> Watched<F> {
    /// Gives it a name for the reports.
    pub fn named(mut self, name: &'static str) -> Self {
        self.place.name = Some(name);
        self
    }
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let (place, watch) = (self.place, self.watch);
        // SAFETY: the future is pinned with the struct, is never moved out of it, and there is no `Drop` that could.
        let future = unsafe { self.map_unchecked_mut(|watched| &mut watched.future) };
        let _polling = slot::this().map(|slot| {
            slot.confirm(watch, tokio::runtime::worker_index());
            Polling::begin(slot, place)
        });
        future.poll(cx)
    }
}
