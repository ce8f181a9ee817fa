//! A bounded queue and its policy when it is full. Both pools use it.

use std::sync::{Arc, Weak};

use super::error::{BuildError, ErrorKind};
use super::header::Header;
use super::id::JobState;
use super::observer::Observer;
use super::queue::Queue;
use super::runnable::{AnyJob, EndedEarly, Owner, Runnable};
#[cfg(feature = "observe")]
use crate::base::clock::Moment;
use crate::base::panic::drop_quietly;
use crate::base::sync::atomic::Ordering;

/// The policy of a pool for new work when its queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnFull {
    /// The job waits for room, and its handle stays pending: backpressure for callers that await it. A caller that
    /// does not await its handles can wait for room with [`Handle::accepted`](crate::Handle::accepted).
    #[default]
    Wait,
    /// The job ends with [`ErrorKind::QueueFull`](crate::ErrorKind::QueueFull). `try_run` returns the work.
    Reject,
    /// The job runs at once on the thread that submits it, which blocks meanwhile. Not for event loops.
    CallerRuns,
    /// The oldest job of the lowest priority in the queue ends with [`ErrorKind::Shed`](crate::ErrorKind::Shed), and
    /// the new job takes its place. A new job of an even lower priority is refused instead.
    ShedOldest,
}

/// The settings of a pool's queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueConfig {
    /// The largest number of queued jobs. Running jobs and those that wait for room are not included.
    pub(crate) capacity: usize,
    /// The policy for a job for which there is no room.
    pub(crate) on_full: OnFull,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self { capacity: 10_000, on_full: OnFull::default() }
    }
}

impl QueueConfig {
    /// Returns an error if no job could ever be queued.
    pub(crate) fn check(self) -> Result<(), BuildError> {
        if self.capacity == 0 {
            return Err(BuildError::Setting(
                "queue_capacity is 0: no job could wait for a worker; give at least 1".into(),
            ));
        }
        Ok(())
    }
}

/// The jobs of a pool that no worker has.
#[derive(Debug)]
pub(crate) struct Backlog<T: ?Sized> {
    /// Accepted jobs, at most `capacity`.
    queue: Queue<Arc<T>>,
    /// Jobs for which there was no room. Each has a pending handle. Empty unless `queue` is full.
    waiting: Queue<Arc<T>>,
    capacity: usize,
    on_full: OnFull,
}

/// The outcome of offering a job to a backlog.
#[must_use = "the job that comes back must be ended"]
pub(crate) enum Offer<T: ?Sized> {
    /// The job is queued, or waits to be.
    Taken,
    /// The job had ended before it was offered.
    Ended(Arc<T>, EndedEarly),
    /// The job is queued, and this one was removed for it.
    Shed(Arc<T>),
    /// There is no room, so the submitter is to run the job.
    CallerRuns(Arc<T>),
    /// There is no room in a queue of this capacity.
    Full(Arc<T>, usize),
}

impl<T: Runnable + ?Sized> Offer<T> {
    /// Does what follows from the offer: counts, sheds or runs a job, or returns it with the reason for its refusal.
    ///
    /// To be called after the lock of the backlog is released: it drops values of the user, and may run the job.
    pub(crate) fn settle(self, observer: &dyn Observer) -> Result<(), (Arc<T>, ErrorKind)> {
        match self {
            Self::Taken => {}
            Self::Ended(job, ended) => {
                ended.count(observer);
                drop_quietly(job);
            }
            Self::Shed(victim) => {
                victim.fail(ErrorKind::Shed, observer);
                drop_quietly(victim);
            }
            Self::CallerRuns(job) => job.run(observer),
            Self::Full(job, capacity) => return Err((job, ErrorKind::QueueFull { capacity })),
        }
        Ok(())
    }
}

impl<T: AnyJob + ?Sized> Backlog<T> {
    pub(crate) fn new(QueueConfig { capacity, on_full }: QueueConfig) -> Self {
        Self { queue: Queue::new(), waiting: Queue::new(), capacity, on_full }
    }

    /// Returns the number of jobs that can be taken. Those that wait for room are not included.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Returns the number of all jobs, those that wait for room included.
    pub(crate) fn total(&self) -> usize {
        self.queue.len() + self.waiting.len()
    }

    /// Returns when the job was submitted that has waited for the longest time.
    #[cfg(feature = "observe")]
    pub(crate) fn oldest(&self) -> Option<Moment> {
        let fronts = self.queue.fronts().chain(self.waiting.fronts());
        fronts.map(|job| job.header().submitted).min()
    }

    /// Queues a job, or applies the policy if there is no room.
    pub(crate) fn offer(&mut self, job: Arc<T>, owner: &Weak<dyn Owner>) -> Offer<T> {
        let has_room = self.queue.len() < self.capacity;
        let options = &job.header().options;
        let waits = match self.on_full {
            _ if has_room => false,
            _ if options.never_wait => return Offer::Full(job, self.capacity),
            OnFull::Wait => true,
            OnFull::Reject => return Offer::Full(job, self.capacity),
            OnFull::CallerRuns => return Offer::CallerRuns(job),
            OnFull::ShedOldest if self.queue.lowest_priority() > Some(options.priority) => {
                return Offer::Full(job, self.capacity);
            }
            OnFull::ShedOldest => false,
        };
        let (queue, state) =
            if waits { (&mut self.waiting, JobState::Waiting) } else { (&mut self.queue, JobState::Queued) };
        let priority = options.priority;
        job.header().ticket.store(queue.next_ticket(priority), Ordering::Relaxed);
        // From here on a job that is aborted withdraws itself, for which it needs the lock that our caller holds.
        if let Err(ended) = job.attach(owner.clone(), state) {
            return Offer::Ended(job, ended);
        }
        let victim = if has_room || waits { None } else { queue.pop_oldest_lowest() };
        queue.push(priority, job);
        victim.map_or(Offer::Taken, Offer::Shed)
    }

    /// Queues a job that knows its owner, and for which there is room.
    pub(crate) fn append(&mut self, job: Arc<T>) {
        let priority = job.header().options.priority;
        job.header().ticket.store(self.queue.next_ticket(priority), Ordering::Relaxed);
        self.queue.push(priority, job);
    }

    /// Puts a job that was taken back to its former place, whatever the capacity.
    pub(crate) fn put_back(&mut self, job: Arc<T>) {
        let header = job.header();
        let (priority, ticket) = (header.options.priority, header.ticket.load(Ordering::Relaxed));
        self.queue.put_back(priority, ticket, job);
    }

    /// Returns the job that `take` would take.
    pub(crate) fn peek(&self) -> Option<&Arc<T>> {
        self.queue.peek()
    }

    /// Takes the next job to run. The second job has got room in the queue, and is to be told so after the lock is
    /// released.
    pub(crate) fn take(&mut self) -> Option<(Arc<T>, Option<Arc<T>>)> {
        let job = self.queue.pop()?;
        Some((job, self.admit()))
    }

    /// Removes a job that has ended. The second job is as for `take`.
    pub(crate) fn withdraw(&mut self, header: &Header) -> (Option<Arc<T>>, Option<Arc<T>>) {
        let ticket = header.ticket.load(Ordering::Relaxed);
        let is_it = |job: &Arc<T>| job.header().id == header.id;
        let removed = (self.queue.remove(header.options.priority, ticket, is_it))
            .or_else(|| self.waiting.remove(header.options.priority, ticket, is_it));
        (removed, self.admit())
    }

    /// Removes all jobs, including those that wait for room, in the order in which they would have run.
    pub(crate) fn drain(&mut self) -> Vec<Arc<T>> {
        let mut all = Vec::with_capacity(self.total());
        while let Some((job, _)) = self.take() {
            all.push(job);
        }
        all
    }

    /// Releases unused memory.
    pub(crate) fn shrink(&mut self) {
        self.queue.shrink();
        self.waiting.shrink();
    }

    fn admit(&mut self) -> Option<Arc<T>> {
        if self.queue.len() >= self.capacity {
            return None;
        }
        let job = self.waiting.pop()?;
        self.append(Arc::clone(&job));
        Some(job)
    }
}

#[cfg(all(test, not(any(shuttle, weak_memory))))]
mod tests {
    use std::sync::{Arc, Weak};

    use proptest::prelude::*;

    use super::{Backlog, Offer, OnFull, QueueConfig};
    use crate::core::cell::Cell;
    use crate::core::error::ErrorKind;
    use crate::core::header::Header;
    use crate::core::id::JobState;
    use crate::core::observer::Observer;
    use crate::core::options::Options;
    use crate::core::outcome::Outcome;
    use crate::core::runnable::{AbortIf, Owner, Runnable};

    type Job = Arc<dyn Runnable>;

    fn job(priority: i8) -> Job {
        job_with(Options { priority, ..Options::new() })
    }

    fn job_with(options: Options) -> Job {
        Cell::new(|| (), options)
    }

    fn is(job: &Job, other: &Job) -> bool {
        job.header().id == other.header().id
    }

    struct Nobody;

    impl Owner for Nobody {
        fn count(&self, _: Outcome) {}
        fn withdraw(&self, _: &Header) {}
        fn interrupt(&self, _: &Header) {}
    }

    fn nobody() -> Weak<dyn Owner> {
        Weak::<Nobody>::new()
    }

    /// Counts ends.
    #[derive(Default)]
    struct Ends(std::cell::Cell<usize>);

    impl Observer for Ends {
        fn ended(&self, _: Outcome) {
            self.0.set(self.0.get() + 1);
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Offer(i8),
        Take,
        Withdraw(prop::sample::Index),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            5 => (-1..=1_i8).prop_map(Step::Offer),
            2 => Just(Step::Take),
            2 => any::<prop::sample::Index>().prop_map(Step::Withdraw),
        ];
        prop::collection::vec(step, 0..200)
    }

    fn policies() -> impl Strategy<Value = OnFull> {
        prop_oneof![
            Just(OnFull::Wait),
            Just(OnFull::Reject),
            Just(OnFull::CallerRuns),
            Just(OnFull::ShedOldest)
        ]
    }

    proptest! {
        #[test]
        fn it_keeps_its_bound_and_loses_nothing(steps in steps(), policy in policies(), capacity in 1..5_usize) {
            let mut backlog = Backlog::new(QueueConfig { capacity, on_full: policy });
            let mut inside: Vec<Job> = Vec::new();
            for step in steps {
                match step {
                    Step::Offer(priority) => {
                        let job = job(priority);
                        let was_full = backlog.len() == capacity;
                        match backlog.offer(Arc::clone(&job), &nobody()) {
                            Offer::Taken => {
                                prop_assert!(!was_full || policy == OnFull::Wait);
                                let state = if was_full { JobState::Waiting } else { JobState::Queued };
                                prop_assert_eq!(job.header().state(), state);
                                inside.push(job);
                            }
                            Offer::Shed(victim) => {
                                prop_assert!(was_full && policy == OnFull::ShedOldest);
                                let lowest = inside.iter().map(|job| job.header().options.priority).min();
                                prop_assert_eq!(Some(victim.header().options.priority), lowest);
                                prop_assert!(priority >= victim.header().options.priority);
                                inside.retain(|other| !is(other, &victim));
                                inside.push(job);
                            }
                            Offer::Full(back, _) => {
                                prop_assert!(was_full && is(&back, &job));
                                prop_assert!(matches!(policy, OnFull::Reject | OnFull::ShedOldest));
                            }
                            Offer::CallerRuns(back) => {
                                prop_assert!(was_full && is(&back, &job) && policy == OnFull::CallerRuns);
                            }
                            Offer::Ended(..) => prop_assert!(false, "it had not ended"),
                        }
                    }
                    Step::Take => {
                        let taken = backlog.take();
                        prop_assert_eq!(taken.is_some(), !inside.is_empty());
                        if let Some((job, admitted)) = taken {
                            inside.retain(|other| !is(other, &job));
                            if let Some(admitted) = admitted {
                                prop_assert!(inside.iter().any(|other| is(other, &admitted)));
                            }
                        }
                    }
                    Step::Withdraw(_) if inside.is_empty() => {}
                    Step::Withdraw(index) => {
                        let job = inside.remove(index.index(inside.len()));
                        let (removed, _) = backlog.withdraw(job.header());
                        prop_assert!(removed.is_some_and(|removed| is(&removed, &job)));
                        prop_assert!(backlog.withdraw(job.header()).0.is_none(), "it was in there twice");
                    }
                }
                prop_assert!(backlog.len() <= capacity, "{} jobs in room for {capacity}", backlog.len());
                prop_assert_eq!(backlog.total(), inside.len());
                prop_assert!(backlog.len() == capacity || backlog.total() == backlog.len(), "one waits for nothing");
            }
            let drained = backlog.drain();
            prop_assert_eq!(drained.len(), inside.len());
            prop_assert!(inside.iter().all(|job| drained.iter().any(|other| is(other, job))));
            let priorities: Vec<i8> = drained.iter().map(|job| job.header().options.priority).collect();
            prop_assert!(policy == OnFull::Wait || priorities.is_sorted_by(|a, b| a >= b));
        }
    }

    #[test]
    fn a_job_that_has_ended_is_not_queued_and_is_counted_once() {
        for policy in [OnFull::Wait, OnFull::ShedOldest] {
            let mut backlog = Backlog::new(QueueConfig { capacity: 1, on_full: policy });
            for inside in 0..2 {
                let ended = job(0);
                assert!(ended.abort(ErrorKind::Cancelled, AbortIf::Live));
                let counted = Ends::default();
                let offer = backlog.offer(Arc::clone(&ended), &nobody());
                assert!(matches!(offer, Offer::Ended(..)), "{policy:?}");
                assert!(offer.settle(&counted).is_ok());
                ended.run(&counted);
                assert_eq!((counted.0.get(), backlog.total()), (1, inside));
                if inside == 0 {
                    assert!(matches!(backlog.offer(job(0), &nobody()), Offer::Taken));
                }
            }
        }
    }

    #[test]
    fn a_job_that_must_not_wait_comes_back_whatever_the_policy() {
        for policy in [OnFull::Wait, OnFull::Reject, OnFull::CallerRuns, OnFull::ShedOldest] {
            let mut backlog = Backlog::new(QueueConfig { capacity: 1, on_full: policy });
            assert!(matches!(backlog.offer(job(0), &nobody()), Offer::Taken));
            let never_waits = job_with(Options { never_wait: true, priority: 1, ..Options::new() });
            assert!(matches!(backlog.offer(never_waits, &nobody()), Offer::Full(..)), "{policy:?}");
            assert_eq!(backlog.total(), 1);
        }
    }
}
