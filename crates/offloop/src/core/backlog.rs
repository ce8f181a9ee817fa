//! A bounded queue and what happens when it is full: the part that all pools share.

use std::sync::{Arc, Weak};

use crate::base::sync::atomic::Ordering;
use crate::core::cell::{Owner, Runnable};
use crate::core::job::{Core, JobState};
use crate::core::queue::Queue;

/// What a pool does with new work when its queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnFull {
    /// The job waits for room, and its handle stays pending: backpressure for whoever awaits it. A caller
    /// that does not await its handles has [`Handle::accepted`](crate::Handle::accepted) to hold it back.
    #[default]
    Wait,
    /// The job ends with [`ErrorKind::Full`](crate::ErrorKind::Full); `try_run` gives the work back.
    Reject,
    /// The job runs at once on the thread that submits it, which blocks meanwhile: never from an event loop.
    CallerRuns,
    /// The oldest job of the lowest priority in the queue ends with [`ErrorKind::Shed`](crate::ErrorKind::Shed)
    /// and the new one takes its place; unless the new one is of a lower priority still, then it is refused.
    ShedOldest,
}

/// A job as the backlog holds it.
pub(crate) trait Entry: Clone {
    fn core(&self) -> &Core;
    fn attach(&self, owner: Weak<dyn Owner>, state: JobState);
}

impl Entry for Arc<dyn Runnable> {
    fn core(&self) -> &Core {
        (**self).core()
    }

    fn attach(&self, owner: Weak<dyn Owner>, state: JobState) {
        (**self).attach(owner, state);
    }
}

#[cfg(feature = "process")]
impl Entry for Arc<dyn crate::core::cell::Remote> {
    fn core(&self) -> &Core {
        (**self).core()
    }

    fn attach(&self, owner: Weak<dyn Owner>, state: JobState) {
        (**self).attach(owner, state);
    }
}

#[derive(Debug)]
pub(crate) struct Backlog<J> {
    /// Accepted jobs, at most `capacity`.
    queue: Queue<J>,
    /// Jobs for which there was no room; each has a pending handle. Empty unless `queue` is full.
    waiting: Queue<J>,
    capacity: usize,
    on_full: OnFull,
}

/// What became of a job offered to a backlog.
pub(crate) enum Offer<J> {
    /// It is in, or waits to be.
    Taken,
    /// It ended before it was in. Dropped by the caller after its lock: it may hold the last of user values.
    Ended(J),
    /// It is in, and this one had to go.
    Shed(J),
    /// There is no room: the submitter is to run it.
    CallerRuns(J),
    /// There is no room.
    Full(J),
}

impl<J: Entry> Backlog<J> {
    pub(crate) fn new(capacity: usize, on_full: OnFull) -> Self {
        Self { queue: Queue::new(), waiting: Queue::new(), capacity, on_full }
    }

    /// Jobs that can be taken. Those that wait for room are not among them, but follow.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// All jobs, those that wait for room included.
    pub(crate) fn total(&self) -> usize {
        self.queue.len() + self.waiting.len()
    }

    pub(crate) fn offer(&mut self, job: J, owner: &Weak<dyn Owner>) -> Offer<J> {
        if self.queue.len() < self.capacity {
            return Self::enter(&mut self.queue, job, owner, JobState::Queued);
        }
        let options = &job.core().options;
        match self.on_full {
            _ if options.never_wait => Offer::Full(job),
            OnFull::Wait => Self::enter(&mut self.waiting, job, owner, JobState::Waiting),
            OnFull::Reject => Offer::Full(job),
            OnFull::CallerRuns => Offer::CallerRuns(job),
            OnFull::ShedOldest if self.queue.lowest_priority() > Some(options.priority) => Offer::Full(job),
            OnFull::ShedOldest => {
                let victim = self.queue.pop_oldest_lowest();
                let entered = Self::enter(&mut self.queue, job, owner, JobState::Queued);
                victim.map_or(entered, Offer::Shed)
            }
        }
    }

    fn enter(queue: &mut Queue<J>, job: J, owner: &Weak<dyn Owner>, state: JobState) -> Offer<J> {
        let priority = job.core().options.priority;
        job.core().ticket.store(queue.next_ticket(priority), Ordering::Relaxed);
        // From here on an ending job withdraws itself, for which it needs the lock that our caller holds.
        job.attach(owner.clone(), state);
        if job.core().state() == JobState::Ended {
            return Offer::Ended(job);
        }
        queue.push(priority, job);
        Offer::Taken
    }

    /// Takes a job in for which there is room, and which knows its owner.
    pub(crate) fn append(&mut self, job: J) {
        let priority = job.core().options.priority;
        job.core().ticket.store(self.queue.next_ticket(priority), Ordering::Relaxed);
        self.queue.push(priority, job);
    }

    /// Puts a job back that was taken, to where it was, whatever the capacity.
    #[cfg(feature = "process")]
    pub(crate) fn put_back(&mut self, job: J) {
        let (priority, ticket) = (job.core().options.priority, job.core().ticket.load(Ordering::Relaxed));
        self.queue.put_back(priority, ticket, job);
    }

    /// The job that `take` would give.
    #[cfg(feature = "process")]
    pub(crate) fn peek(&self) -> Option<&J> {
        self.queue.peek()
    }

    /// The next job to run, and one that got its room in the queue, to be told after the lock is released.
    pub(crate) fn take(&mut self) -> Option<(J, Option<J>)> {
        let job = self.queue.pop()?;
        Some((job, self.admit()))
    }

    /// Removes a job that ended. The second is as for `take`.
    pub(crate) fn withdraw(&mut self, core: &Core) -> (Option<J>, Option<J>) {
        let ticket = core.ticket.load(Ordering::Relaxed);
        let is_it = |job: &J| job.core().id == core.id;
        let removed = (self.queue.remove(core.options.priority, ticket, is_it))
            .or_else(|| self.waiting.remove(core.options.priority, ticket, is_it));
        (removed, self.admit())
    }

    /// Everything, the waiting included, in the order in which it would have run.
    pub(crate) fn drain(&mut self) -> Vec<J> {
        let mut all = Vec::with_capacity(self.total());
        while let Some((job, _)) = self.take() {
            all.push(job);
        }
        all
    }

    /// Gives unused memory back.
    pub(crate) fn shrink(&mut self) {
        self.queue.shrink();
        self.waiting.shrink();
    }

    fn admit(&mut self) -> Option<J> {
        if self.queue.len() >= self.capacity {
            return None;
        }
        let job = self.waiting.pop()?;
        self.append(job.clone());
        Some(job)
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::sync::{Arc, Weak};

    use proptest::prelude::*;

    use super::{Backlog, Entry, Offer, OnFull, Owner};
    use crate::core::job::{Core, JobState, Options};

    /// A job that can only be queued and end.
    #[derive(Clone)]
    struct Fake(Arc<Core>);

    impl Fake {
        fn new(priority: i8) -> Self {
            Self(Arc::new(Core::new(Options { priority, ..Options::new() })))
        }

        fn is(&self, other: &Self) -> bool {
            Arc::ptr_eq(&self.0, &other.0)
        }
    }

    impl Entry for Fake {
        fn core(&self) -> &Core {
            &self.0
        }

        fn attach(&self, _: Weak<dyn Owner>, state: JobState) {
            if self.0.state() != JobState::Ended {
                self.0.set_state(state);
            }
        }
    }

    struct Nobody;

    impl Owner for Nobody {
        fn withdraw(&self, _: &Core) {}
        fn interrupt(&self, _: &Core) {}
    }

    fn nobody() -> Weak<dyn Owner> {
        Weak::<Nobody>::new()
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
            let mut backlog = Backlog::new(capacity, policy);
            let mut inside: Vec<Fake> = Vec::new();
            for step in steps {
                match step {
                    Step::Offer(priority) => {
                        let job = Fake::new(priority);
                        let was_full = backlog.len() == capacity;
                        match backlog.offer(job.clone(), &nobody()) {
                            Offer::Taken => {
                                prop_assert!(!was_full || policy == OnFull::Wait);
                                let state = if was_full { JobState::Waiting } else { JobState::Queued };
                                prop_assert_eq!(job.0.state(), state);
                                inside.push(job);
                            }
                            Offer::Shed(victim) => {
                                prop_assert!(was_full && policy == OnFull::ShedOldest);
                                let lowest = inside.iter().map(|job| job.0.options.priority).min();
                                prop_assert_eq!(Some(victim.0.options.priority), lowest);
                                prop_assert!(priority >= victim.0.options.priority);
                                inside.retain(|other| !other.is(&victim));
                                inside.push(job);
                            }
                            Offer::Full(back) => {
                                prop_assert!(was_full && back.is(&job));
                                prop_assert!(matches!(policy, OnFull::Reject | OnFull::ShedOldest));
                            }
                            Offer::CallerRuns(back) => {
                                prop_assert!(was_full && back.is(&job) && policy == OnFull::CallerRuns);
                            }
                            Offer::Ended(_) => prop_assert!(false, "it had not ended"),
                        }
                    }
                    Step::Take => {
                        let taken = backlog.take();
                        prop_assert_eq!(taken.is_some(), !inside.is_empty());
                        if let Some((job, admitted)) = taken {
                            inside.retain(|other| !other.is(&job));
                            if let Some(admitted) = admitted {
                                prop_assert!(inside.iter().any(|other| other.is(&admitted)));
                            }
                        }
                    }
                    Step::Withdraw(_) if inside.is_empty() => {}
                    Step::Withdraw(index) => {
                        let job = inside.remove(index.index(inside.len()));
                        let (removed, _) = backlog.withdraw(&job.0);
                        prop_assert!(removed.is_some_and(|removed| removed.is(&job)));
                        prop_assert!(backlog.withdraw(&job.0).0.is_none(), "it was in there twice");
                    }
                }
                prop_assert!(backlog.len() <= capacity, "{} jobs in room for {capacity}", backlog.len());
                prop_assert_eq!(backlog.total(), inside.len());
                prop_assert!(backlog.len() == capacity || backlog.total() == backlog.len(), "one waits for nothing");
            }
            let drained = backlog.drain();
            prop_assert_eq!(drained.len(), inside.len());
            prop_assert!(inside.iter().all(|job| drained.iter().any(|other| other.is(job))));
            let priorities: Vec<i8> = drained.iter().map(|job| job.0.options.priority).collect();
            prop_assert!(policy == OnFull::Wait || priorities.is_sorted_by(|a, b| a >= b));
        }
    }

    #[test]
    fn a_job_that_has_ended_does_not_get_in() {
        let mut backlog = Backlog::new(1, OnFull::Wait);
        for _ in 0..2 {
            let job = Fake::new(0);
            job.0.set_state(JobState::Ended);
            assert!(matches!(backlog.offer(job, &nobody()), Offer::Ended(_)));
            assert_eq!(backlog.total(), 0);
        }
    }

    #[test]
    fn a_job_that_must_not_wait_comes_back_whatever_the_policy() {
        for policy in [OnFull::Wait, OnFull::Reject, OnFull::CallerRuns, OnFull::ShedOldest] {
            let mut backlog = Backlog::new(1, policy);
            assert!(matches!(backlog.offer(Fake::new(0), &nobody()), Offer::Taken));
            let core = Core::new(Options { never_wait: true, priority: 1, ..Options::new() });
            assert!(matches!(backlog.offer(Fake(Arc::new(core)), &nobody()), Offer::Full(_)), "{policy:?}");
            assert_eq!(backlog.total(), 1);
        }
    }
}
