//! The slots of a worker, and the order in which it looks at its queues.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use crate::names::Band;
use crate::protocol::DeliveryEvent;

/// Every so many pulls, one starts at the lowest band, so that none starves.
const LOWEST_FIRST: u32 = 8;

/// The slots of a worker: the jobs that it may run beside those that it runs.
#[derive(Debug)]
pub(super) struct Slots {
    state: Mutex<State>,
    /// Signalled when a slot is free.
    freed: Notify,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// Jobs that are to be taken over, the first one first.
    waiting: VecDeque<UnboundedSender<DeliveryEvent>>,
}

impl Slots {
    pub(super) fn new(slots: usize) -> Self {
        let state = State { free: slots, waiting: VecDeque::new() };
        Self { state: Mutex::new(state), freed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn free(&self) -> usize {
        self.lock().free
    }

    /// Takes a slot, if one is free.
    pub(super) fn take(&self) -> bool {
        let mut state = self.lock();
        let is_free = state.free > 0;
        state.free -= usize::from(is_free);
        is_free
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
        state.free += 1;
        drop(state);
        self.freed.notify_one();
    }

    /// Asks for a slot, which comes as an event.
    pub(super) fn want(&self, job: UnboundedSender<DeliveryEvent>) {
        self.lock().waiting.push_back(job);
        if self.take() {
            self.give();
        }
    }

    /// Waits until a slot was given back.
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
        assert!(slots.take() && !slots.take());
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
}
