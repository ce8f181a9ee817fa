//! The executor whose calls a carrier takes elsewhere.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::carrier::Carrier;
use super::ender::{Away, AwayJob, Ender, Hub};
use super::items::ItemQueue;
use super::named::NamedCall;
use super::outbound::{Instructions, Outbound};
use crate::base::clock::Moment;
use crate::base::fork::OwnProcess;
use crate::base::histogram::Histogram;
use crate::base::panic::{self, drop_quietly};
use crate::base::sync::{Condvar, Mutex, MutexGuard, wait_until};
use crate::core::cell::Cell;
use crate::core::error::{ErrorKind, Rejected};
use crate::core::executor::Accepts;
use crate::core::handle::Handle;
use crate::core::header::Header;
use crate::core::id::{JobId, JobState};
use crate::core::map::MapStream;
use crate::core::observer::Observer;
use crate::core::options::Options;
use crate::core::outcome::Outcome;
use crate::core::pool_ref::{Close, PoolRef};
use crate::core::runnable::{AbortIf, AnyJob, Owner};
use crate::core::shutdown::{self, ShutdownReport};
use crate::metrics::stats::OutcomeCounters;
#[cfg(feature = "observe")]
use crate::metrics::view::{JobView, PoolView, WorkerPlace};
use crate::metrics::{self, Advisor, Measured, Metrics, PoolKind};
use crate::processes::launch::{Launched, job_of};
use crate::wire::call::Call;
#[cfg(target_os = "linux")]
use crate::{
    core::options::Prepared,
    processes::pool::items::{ItemSource, ItemStream},
};

#[cfg(all(test, shuttle))]
mod model;

/// An executor that accepts calls as a [`ProcessPool`](crate::ProcessPool) does, and gives them to a [`Carrier`].
///
/// Handles, instructions and errors are the same as those of a pool. Dropping a handle cancels its job. A job's
/// `queue_timeout` is kept here, its `run_timeout` where it runs.
///
/// Clones are the same executor. When the last one is dropped, it takes no more work, and what it has accepted goes on. The
/// carrier is dropped when that has ended, on the thread that ends the last job: it may be one of the carrier's own.
pub struct Remote<C: Carrier>(PoolRef<Core<C>>);

struct Core<C> {
    carrier: C,
    /// A forked child has no access: the jobs are its parent's, and another thread may have held the lock at the fork.
    state: OwnProcess<Mutex<State>>,
    /// Signalled when a job has ended.
    changed: Condvar,
    /// Counts the ends of jobs, by outcome. Written by the thread that ends a job.
    counts: OutcomeCounters,
    advisor: Advisor,
    /// This executor, as its jobs know it.
    this: Weak<Self>,
}

struct State {
    /// It accepts no more jobs. Never cleared.
    closed: bool,
    /// The jobs that have not ended. A job is added before its call leaves, and removed at its end.
    live: HashMap<JobId, Live>,
    /// The times that jobs waited before they began, as far as is known here.
    queue_wait: Histogram,
    /// The times that jobs ran, as far as is known here.
    run_time: Histogram,
    /// Counts the times that a job which had begun waited again.
    retried: u64,
}

/// A job that has not ended.
struct Live {
    job: Arc<dyn AwayJob>,
    stage: Stage,
    /// When it began. Set by the carrier, and cleared when the job waits again.
    began: Option<Moment>,
}

/// The carrier's part in a job.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The carrier is being given the call.
    Leaving,
    /// The same, and the job has been aborted meanwhile. The carrier is told when it has taken the call.
    AbortedWhileLeaving,
    /// The carrier has the call.
    Carried,
}

impl<C: Carrier> Core<C> {
    fn new(name: &str, carrier: C) -> Arc<Self> {
        let state = State {
            closed: false,
            live: HashMap::new(),
            queue_wait: Histogram::default(),
            run_time: Histogram::default(),
            retried: 0,
        };
        let core = Arc::new_cyclic(|this| Self {
            carrier,
            state: OwnProcess::new(Mutex::new(state)),
            changed: Condvar::new(),
            counts: OutcomeCounters::default(),
            advisor: Advisor::new(name, None, false, None),
            this: this.clone(),
        });
        metrics::register(Arc::downgrade(&core) as Weak<dyn Measured>);
        core
    }

    fn lock(&self) -> Option<MutexGuard<'_, State>> {
        self.state.get().map(Mutex::lock)
    }

    fn this(&self) -> Arc<Self> {
        self.this.upgrade().expect("a reference to it exists")
    }

    /// Gives a job to the carrier, or returns the reason why not.
    fn execute(
        &self,
        job: &Arc<dyn AwayJob>,
        outbound: Outbound,
        ender: impl FnOnce(Arc<dyn Hub>) -> Ender,
    ) -> Result<(), ErrorKind> {
        let id = outbound.id();
        {
            let Some(mut state) = self.lock() else { return Err(ErrorKind::Forked) };
            if state.closed {
                return Err(ErrorKind::Closed);
            }
            let owner: Weak<Self> = self.this.clone();
            if let Err(ended) = job.attach(owner, JobState::Waiting) {
                drop(state);
                ended.count(&self.counts);
                return Ok(());
            }
            state.live.insert(id, Live { job: Arc::clone(job), stage: Stage::Leaving, began: None });
        }
        match self.carrier.carry(outbound, ender(self.this())) {
            Ok(()) => {
                if self.carried(id) {
                    self.cancel(id);
                }
                Ok(())
            }
            Err(refused) => {
                let (ender, kind) = refused.into_parts();
                ender.disarm();
                self.forget(id);
                Err(kind)
            }
        }
    }

    /// Records that the carrier has taken a call. Returns whether it is to be told that the job was aborted meanwhile.
    fn carried(&self, id: JobId) -> bool {
        let Some(mut state) = self.lock() else { return false };
        match state.live.get_mut(&id) {
            Some(live) if live.stage == Stage::Leaving => {
                live.stage = Stage::Carried;
                false
            }
            Some(_) => {
                let aborted = state.live.remove(&id);
                drop(state);
                self.changed.notify_all();
                drop_quietly(aborted);
                true
            }
            None => false,
        }
    }

    /// Tells the carrier that a job has been aborted.
    fn cancel(&self, id: JobId) {
        // It is called by whoever aborts a job, a timer's thread for instance.
        drop_quietly(panic::catch(|| self.carrier.cancel(id)));
    }

    /// Does what follows when a job has been aborted.
    fn aborted(&self, id: JobId) {
        let Some(mut state) = self.lock() else { return };
        let is_carried = match state.live.get_mut(&id) {
            Some(live) if live.stage == Stage::Carried => true,
            Some(live) => {
                live.stage = Stage::AbortedWhileLeaving;
                false
            }
            None => false,
        };
        drop(state);
        if is_carried && self.forget(id) {
            self.cancel(id);
        }
    }

    /// Removes a job that has ended. Returns whether it was there.
    fn forget(&self, id: JobId) -> bool {
        let Some(mut state) = self.lock() else { return false };
        let removed = state.live.remove(&id);
        if let Some(began) = removed.as_ref().and_then(|live| live.began) {
            state.run_time.record(began.elapsed());
        }
        drop(state);
        self.changed.notify_all();
        let was_there = removed.is_some();
        // The job may be the last owner of the user's values.
        drop_quietly(removed);
        was_there
    }

    /// Accepts no more jobs. Returns the number of those that have not ended.
    fn close(&self) -> usize {
        self.lock().map_or(0, |mut state| {
            state.closed = true;
            // A job is forgotten a moment after its end.
            state.live.values().filter(|live| !live.job.header().has_ended()).count()
        })
    }

    /// Waits for the `pending` jobs of a closed executor, for at most `drain`. Then cancels the rest.
    fn shut_down(&self, pending: usize, drain: Duration) -> ShutdownReport {
        let Some(state) = self.lock() else { return ShutdownReport::default() };
        let state = wait_until(&self.changed, state, drain, |state| state.live.is_empty());
        let left: Vec<_> = state.live.values().map(|live| Arc::clone(&live.job)).collect();
        drop(state);
        let end = |condition| left.iter().filter(|job| job.abort(ErrorKind::Cancelled, condition)).count();
        // Those that wait come first: when one that runs ends, the other end may begin another.
        let (cancelled, killed) = (end(AbortIf::Pending), end(AbortIf::Live));
        drop_quietly(left);
        ShutdownReport {
            drained: pending.saturating_sub(cancelled + killed),
            cancelled,
            killed,
            ..ShutdownReport::default()
        }
    }

    fn cancel_queued(&self) -> usize {
        let Some(state) = self.lock() else { return 0 };
        let jobs: Vec<_> = state.live.values().map(|live| Arc::clone(&live.job)).collect();
        drop(state);
        let cancelled = jobs.iter().filter(|job| job.abort(ErrorKind::Cancelled, AbortIf::Pending)).count();
        drop_quietly(jobs);
        cancelled
    }

    /// Returns the numbers of the jobs that wait, and of those that run.
    fn queued_and_running(&self) -> (usize, usize) {
        let Some(state) = self.lock() else { return (0, 0) };
        let is = |live: &Live, wanted: &[JobState]| wanted.contains(&live.job.header().state());
        let count = |wanted: &[JobState]| state.live.values().filter(|live| is(live, wanted)).count();
        (count(&[JobState::Waiting, JobState::Queued]), count(&[JobState::Running]))
    }

    fn metrics(&self) -> Metrics {
        let mut metrics = Metrics::new(&self.advisor, PoolKind::Remote);
        self.counts.add_to(&mut metrics.outcomes);
        (metrics.queued, metrics.running) = self.queued_and_running();
        if let Some(state) = self.lock() {
            metrics.queue_wait = state.queue_wait.clone();
            metrics.run_time = state.run_time.clone();
            metrics.retried = state.retried;
        }
        metrics
    }
}

impl<C: Carrier> Measured for Core<C> {
    fn metrics(&self) -> Metrics {
        Self::metrics(self)
    }

    fn is_over(&self) -> bool {
        self.lock().is_none_or(|state| state.closed && state.live.is_empty())
    }

    #[cfg(feature = "observe")]
    fn view(&self) -> PoolView {
        let metrics = Self::metrics(self);
        let (mut running, mut oldest_queued) = (Vec::new(), None);
        if let Some(state) = self.lock() {
            for live in state.live.values() {
                if let Some(began) = live.began {
                    running.push((began.elapsed(), Arc::clone(&live.job)));
                } else {
                    oldest_queued = oldest_queued.max(Some(live.job.header().submitted.elapsed()));
                }
            }
        }
        let elsewhere = WorkerPlace::default();
        let jobs = running.iter().map(|(time, job)| JobView::new(job.header(), *time, elsewhere)).collect();
        drop_quietly(running);
        PoolView { metrics, capacity: None, oldest_queued, max_workers: 0, workers: Vec::new(), jobs }
    }

    #[cfg(feature = "observe")]
    fn cancel_running(&self, job: u64) -> bool {
        let found = self.lock().and_then(|state| {
            let is_it = |live: &&Live| live.began.is_some() && live.job.header().id.as_u64() == job;
            state.live.values().find(is_it).map(|live| Arc::clone(&live.job))
        });
        let was_cancelled = found.as_ref().is_some_and(|job| job.abort(ErrorKind::Cancelled, AbortIf::Live));
        drop_quietly(found);
        was_cancelled
    }
}

impl<C: Carrier> Hub for Core<C> {
    fn observer(&self) -> &(dyn Observer + Sync) {
        &self.counts
    }

    fn started(&self, job: JobId) {
        if let Some(mut state) = self.lock() {
            let state = &mut *state;
            if let Some(live) = state.live.get_mut(&job) {
                live.began = Some(Moment::now());
                state.queue_wait.record(live.job.header().submitted.elapsed());
            }
        }
    }

    fn released(&self, job: JobId) {
        if let Some(mut state) = self.lock() {
            state.retried += 1;
            if let Some(live) = state.live.get_mut(&job) {
                live.began = None;
            }
        }
    }

    fn ended(&self, job: JobId) {
        self.forget(job);
    }
}

impl<C: Carrier> Owner for Core<C> {
    fn count(&self, outcome: Outcome) {
        self.counts.count(outcome);
    }

    fn withdraw(&self, header: &Header) {
        self.aborted(header.id);
    }

    fn interrupt(&self, header: &Header) {
        self.aborted(header.id);
    }
}

#[cfg(target_os = "linux")]
impl<C: Carrier> ItemSource for Core<C> {
    fn resume(&self, job: JobId) {
        self.carrier.resume(job);
    }
}

impl<C: Carrier> Close for Core<C> {
    fn close(&self) {
        Core::close(self);
    }
}

impl<C: Carrier> Remote<C> {
    /// Makes an executor over a carrier. Its metrics have this name.
    pub fn new(name: impl AsRef<str>, carrier: C) -> Self {
        Self(PoolRef::new(Core::new(name.as_ref(), carrier)))
    }

    /// Returns the carrier.
    pub fn carrier(&self) -> &C {
        &self.0.carrier
    }

    /// Runs `work`, a task's call, at the other end of the carrier.
    ///
    /// Encodes the arguments before it returns; an error of that becomes the handle's. Does not block, unless the carrier
    /// lets the caller run the job.
    #[track_caller]
    pub fn run<W>(&self, work: W) -> Handle<<Self as Accepts<W>>::Output>
    where
        Self: Accepts<W>,
    {
        self.place(work, Options::new())
    }

    /// Runs `work` if the carrier takes it now. Otherwise gives it back, with the reason. Never waits.
    #[track_caller]
    pub fn try_run<W>(&self, work: W) -> Result<Handle<<Self as Accepts<W>>::Output>, Rejected<W>>
    where
        Self: Accepts<W>,
    {
        self.try_place(work, Options::new())
    }

    /// Runs one call for each item. Returns a stream of the results, as [`ProcessPool::map`](crate::ProcessPool::map) does.
    #[track_caller]
    pub fn map<I, F, W>(&self, items: I, mut call: F) -> MapStream<I::IntoIter, <Self as Accepts<W>>::Output>
    where
        I: IntoIterator,
        F: FnMut(I::Item) -> W + Send + 'static,
        Self: Accepts<W>,
    {
        let (remote, options) = (self.clone(), Options::new());
        MapStream::new(items.into_iter(), move |item| remote.place(call(item), options.clone()))
    }

    /// Runs `work`, whose task sends items of type `T` by [`job::emit`](crate::job::emit) before its result, as
    /// [`ProcessPool::stream`](crate::ProcessPool::stream) does. Linux only.
    ///
    /// `work` is the call of a task, or a [`NamedCall`]. The types of the items of another language are not known, so they
    /// are not compared with `T`: an item that does not fit cannot be decoded.
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
        let source: Weak<Core<C>> = Arc::downgrade(&self.0.engine());
        let Prepared { work: call, options } = work.into();
        ItemStream::launch(call.known(), options, buffersize, source, |items, options| {
            self.launch(call, Some(items), options)
        })
    }

    /// Takes no more work. Jobs that were accepted go on. Does not wait for them.
    pub fn close(&self) {
        self.0.close();
    }

    /// Cancels the jobs of which the carrier has not said that they run. Returns the number of those.
    pub fn cancel_queued(&self) -> usize {
        self.0.cancel_queued()
    }

    /// Stops accepting work and waits for the accepted jobs, for at most `drain`. Then cancels the rest.
    ///
    /// The report counts the running ones among those as killed. Their handles have ended, and the carrier has been told;
    /// the other end may need a moment more to stop them. The shutdown goes on even if the handle is not awaited.
    pub fn shutdown(&self, drain: Duration) -> Handle<ShutdownReport> {
        let core = self.0.engine();
        let pending = core.close();
        shutdown::run_in_background(move || core.shut_down(pending, drain))
    }

    /// Returns the number of accepted jobs that wait at this moment, those that wait for room included.
    pub fn queued(&self) -> usize {
        self.0.queued_and_running().0
    }

    /// Returns the number of jobs that run at this moment, as far as the carrier has said.
    pub fn running(&self) -> usize {
        self.0.queued_and_running().1
    }

    /// Returns what the executor has done and is doing, as far as it is known here. Workers belong to the other end, so
    /// none are counted. Takes the executor's lock for a moment.
    pub fn metrics(&self) -> Metrics {
        self.0.metrics()
    }

    /// Submits a call, or returns the reason why not and its instructions.
    fn launch<R>(
        &self,
        call: NamedCall<R>,
        items: Option<&Arc<ItemQueue>>,
        mut options: Options,
    ) -> Launched<Away, R>
    where
        R: DeserializeOwned + Send + 'static,
    {
        let task = call.known();
        let (name, signature, arguments) = call.into_parts();
        let has_name = !options.name.is_empty();
        if !has_name {
            options.name.clone_from(&name);
        }
        let core = &*self.0;
        if let Some(queue) = core.carrier.queue() {
            options.extras_mut().queue = Some(queue);
        }
        let arguments = match arguments {
            Ok(arguments) => arguments,
            Err(kind) => {
                core.counts.count(Outcome::of(&kind));
                return Err(Box::new((kind, options)));
            }
        };
        let instructions = Instructions::of_options(&options, has_name, items.map(|items| items.capacity()));
        let job: Arc<Cell<Away, R>> = Cell::new(Away, options);
        let outbound = Outbound::new(job.header().id, &name, signature, arguments, instructions);
        let away = Arc::clone(&job) as Arc<dyn AwayJob>;
        let ender = |hub| Ender::new(Arc::clone(&away), hub, task, items.cloned());
        let Err(kind) = core.execute(&away, outbound, ender) else { return Ok(job) };
        // Cancels the job's timers. If one of them has ended it already, its handle has that end.
        if job.reclaim().is_none() {
            return Ok(job);
        }
        core.counts.count(Outcome::of(&kind));
        Err(Box::new((kind, job.header().options.clone())))
    }
}

impl<C, R> Accepts<NamedCall<R>> for Remote<C>
where
    C: Carrier,
    R: DeserializeOwned + Send + 'static,
{
    type Output = R;

    fn place(&self, work: NamedCall<R>, options: Options) -> Handle<R> {
        Handle::new(job_of(self.launch(work, None, options)))
    }

    fn try_place(
        &self,
        work: NamedCall<R>,
        mut options: Options,
    ) -> Result<Handle<R>, Rejected<NamedCall<R>>> {
        options.never_wait = true;
        let launched = self.launch(work.clone(), None, options);
        launched.map(Handle::new).map_err(|refusal| Rejected::new(work, refusal.0))
    }
}

impl<'a, C, R> Accepts<Call<'a, R>> for Remote<C>
where
    C: Carrier,
    R: DeserializeOwned + Send + 'static,
{
    type Output = R;

    fn place(&self, work: Call<'a, R>, options: Options) -> Handle<R> {
        Handle::new(job_of(self.launch(NamedCall::of(&work), None, options)))
    }

    fn try_place(&self, work: Call<'a, R>, mut options: Options) -> Result<Handle<R>, Rejected<Call<'a, R>>> {
        options.never_wait = true;
        let launched = self.launch(NamedCall::of(&work), None, options);
        launched.map(Handle::new).map_err(|refusal| Rejected::new(work, refusal.0))
    }
}

impl<C: Carrier> Clone for Remote<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<C: Carrier> fmt::Debug for Remote<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (queued, running) = self.0.queued_and_running();
        f.debug_struct("Remote").field("queued", &queued).field("running", &running).finish_non_exhaustive()
    }
}
