//! The slots of a worker, and the order in which it looks at its queues.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Duration, Instant, timeout};

use crate::names::Band;
use crate::protocol::DeliveryEvent;

/// Every so many pulls, one starts at the lowest band, so that none starves.
const LOWEST_FIRST: u32 = 8;

/// The time of a run, and the mean of several, up to which a job is asked for ahead of the slot: about that of a request to
/// the server.
const BRIEF: Duration = Duration::from_millis(2);

/// The longest time for which a job waits for a slot that it was asked for ahead of.
const AHEAD: Duration = Duration::from_millis(5);

/// The slots of a worker: the jobs that it may run beside those that it runs.
///
/// While runs are brief, a worker asks for the next jobs when the slots for them are about to be free, one for each slot at
/// most. If one of these is not free in time after all, the job is given back.
#[derive(Debug)]
pub(super) struct Slots {
    count: usize,
    state: Mutex<State>,
    /// Signalled when a slot is free, or goes to a job that waits for it.
    freed: Notify,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// Jobs that are to be taken over, the first one first.
    waiting: VecDeque<UnboundedSender<DeliveryEvent>>,
    /// Jobs that were asked for ahead, the first one first. They come after those that are to be taken over.
    ahead: VecDeque<oneshot::Sender<()>>,
    /// When the runs have begun that are under way.
    runs: Vec<Instant>,
    /// The mean time of the last runs. `None`: nothing is known, or a slot was not free in time.
    pace: Option<Duration>,
}

/// A slot for a job.
#[derive(Debug)]
pub(super) enum Slot {
    Free,
    /// It is still that of a brief job, and comes with a signal.
    Soon(oneshot::Receiver<()>),
}

impl Slots {
    pub(super) fn new(slots: usize) -> Self {
        let (waiting, ahead) = (VecDeque::new(), VecDeque::new());
        let state = State { free: slots, waiting, ahead, runs: Vec::new(), pace: None };
        Self { count: slots, state: Mutex::new(state), freed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn free(&self) -> usize {
        self.lock().free
    }

    /// Returns the number of jobs to ask for ahead of their slots.
    pub(super) fn ahead(&self) -> usize {
        self.ahead_of(&self.lock())
    }

    fn ahead_of(&self, state: &State) -> usize {
        if state.pace.is_none_or(|pace| pace > BRIEF) {
            return 0;
        }
        let long = state.runs.iter().filter(|began| began.elapsed() > BRIEF).count();
        (self.count - state.free).saturating_sub(long + state.ahead.len())
    }

    /// Notes that a run begins. Returns what its [end](Self::ran) has to name.
    pub(super) fn run(&self) -> Instant {
        let began = Instant::now();
        self.lock().runs.push(began);
        began
    }

    /// Notes that a run has ended.
    pub(super) fn ran(&self, began: Instant) {
        let mut state = self.lock();
        if let Some(at) = state.runs.iter().position(|it| *it == began) {
            state.runs.swap_remove(at);
        }
        let took = began.elapsed();
        state.pace = Some(state.pace.map_or(took, |pace| (pace * 7 + took) / 8));
    }

    /// Takes a slot that is free, or the place of a job that was asked for ahead, if there is one.
    pub(super) fn take(&self) -> Option<Slot> {
        let mut state = self.lock();
        if state.free > 0 {
            state.free -= 1;
            return Some(Slot::Free);
        }
        (self.ahead_of(&state) > 0).then(|| {
            let (sender, slot) = oneshot::channel();
            state.ahead.push_back(sender);
            Slot::Soon(slot)
        })
    }

    /// Waits for a slot, a moment at most. Returns whether it was free in time.
    pub(super) async fn wait(&self, slot: Slot) -> bool {
        let Slot::Soon(mut slot) = slot else { return true };
        if timeout(AHEAD, &mut slot).await.is_ok() {
            return true;
        }
        let mut state = self.lock();
        // It may have come at the last moment.
        if slot.try_recv().is_ok() {
            return true;
        }
        drop(slot);
        state.ahead.retain(|sender| !sender.is_closed());
        state.pace = None;
        false
    }

    /// Gives up a slot that is not needed after all.
    pub(super) fn decline(&self, slot: Slot) {
        match slot {
            Slot::Free => self.give(),
            // It goes to the next one when it comes.
            Slot::Soon(slot) => drop(slot),
        }
    }

    /// Gives a slot back: to the job that waits for one, or else to the next pull.
    pub(super) fn give(&self) {
        let mut state = self.lock();
        while let Some(waiting) = state.waiting.pop_front() {
            // It fails if the job was left to another worker meanwhile.
            if waiting.send(DeliveryEvent::Slot).is_ok() {
                return;
            }
        }
        let is_taken = std::iter::from_fn(|| state.ahead.pop_front()).any(|next| next.send(()).is_ok());
        state.free += usize::from(!is_taken);
        drop(state);
        self.freed.notify_one();
    }

    /// Asks for a slot, which comes as an event.
    pub(super) fn want(&self, job: UnboundedSender<DeliveryEvent>) {
        let mut state = self.lock();
        state.waiting.push_back(job);
        if state.free > 0 {
            state.free -= 1;
            drop(state);
            self.give();
        }
    }

    /// Waits until a slot was given back, so that other jobs may be asked for.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }
}

/// The order in which a worker looks at the bands of its queues.
#[derive(Debug)]
pub(super) struct Turns {
    /// The weight of each queue, and its credit: that with the most is the first one.
    queues: Vec<(i64, i64)>,
    count: u32,
}

impl Turns {
    pub(super) fn new(weights: impl IntoIterator<Item = u32>) -> Self {
        Self { queues: weights.into_iter().map(|weight| (weight.max(1).into(), 0)).collect(), count: 0 }
    }

    /// Returns the order for the next pull, as pairs of the queue's number and the band. Each queue comes first as often as
    /// its weight says.
    pub(super) fn next(&mut self) -> Vec<(usize, Band)> {
        let all: i64 = self.queues.iter().map(|(weight, _)| weight).sum();
        self.queues.iter_mut().for_each(|(weight, credit)| *credit += *weight);
        let mut order: Vec<usize> = (0..self.queues.len()).collect();
        order.sort_by_key(|at| -self.queues[*at].1);
        if let Some(first) = order.first() {
            self.queues[*first].1 -= all;
        }
        self.count = (self.count + 1) % LOWEST_FIRST;
        let mut bands = Band::ALL;
        if self.count == 0 {
            bands.reverse();
        }
        order.iter().flat_map(|at| bands.map(|band| (*at, band))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_come_first_by_their_weights_and_the_lowest_band_in_one_of_eight_pulls() {
        let mut turns = Turns::new([3, 1]);
        let orders: Vec<_> = (0..16).map(|_| turns.next()).collect();
        assert!(orders.iter().all(|order| order.len() == 6));
        let first = |queue: usize| orders.iter().filter(|order| order[0].0 == queue).count();
        assert_eq!((first(0), first(1)), (12, 4));
        let lowest = orders.iter().filter(|order| order[0].1 == Band::Low).count();
        assert_eq!(lowest, 2);
        assert!(orders.iter().filter(|order| order[0].1 == Band::High).count() == 14);
    }

    #[test]
    fn a_job_that_waits_for_a_slot_comes_before_the_next_pull() {
        let slots = Slots::new(1);
        assert!(slots.take().is_some() && slots.take().is_none());
        let (gone, _) = tokio::sync::mpsc::unbounded_channel();
        let (waits, mut events) = tokio::sync::mpsc::unbounded_channel();
        slots.want(gone);
        slots.want(waits);
        assert!(events.try_recv().is_err());
        slots.give();
        assert_eq!(events.try_recv(), Ok(DeliveryEvent::Slot));
        assert_eq!(slots.free(), 0);
        slots.give();
        assert_eq!(slots.free(), 1);
    }

    /// Has runs until they count as brief, in spite of a busy machine.
    fn run_briefly(slots: &Slots) {
        while slots.lock().pace.is_none_or(|pace| pace > BRIEF) {
            slots.ran(slots.run());
        }
    }

    #[test]
    fn jobs_are_asked_for_ahead_of_their_slots_only_while_runs_are_brief() {
        let slots = Slots::new(2);
        assert!(slots.take().is_some() && slots.take().is_some());
        assert!(slots.take().is_none(), "nothing is known of the runs");
        run_briefly(&slots);
        assert_eq!(slots.ahead(), 2);
        assert!(slots.take().is_some() && slots.take().is_some());
        assert!(slots.take().is_none(), "each slot has a job that waits for it");
        let others = Slots::new(2);
        assert!(others.take().is_some());
        run_briefly(&others);
        assert_eq!(others.ahead(), 1, "nothing runs in the other slot");
        let long = others.run();
        std::thread::sleep(BRIEF * 10);
        assert_eq!(others.ahead(), 0, "the run in the slot is a long one");
        others.ran(long);
        assert_eq!(others.ahead(), 0, "so are the next ones, by the mean of all");
    }

    #[tokio::test]
    async fn a_job_that_was_asked_for_ahead_gets_the_next_slot_or_is_given_back() {
        let slots = Slots::new(1);
        assert!(matches!(slots.take(), Some(Slot::Free)));
        run_briefly(&slots);
        let next = slots.take().unwrap();
        slots.give();
        assert!(slots.wait(next).await);
        assert_eq!((slots.free(), slots.ahead()), (0, 1));
        let late = slots.take().unwrap();
        assert!(!slots.wait(late).await);
        assert_eq!(slots.ahead(), 0, "the slot was not free in time");
        slots.give();
        assert_eq!(slots.free(), 1);
    }
}
