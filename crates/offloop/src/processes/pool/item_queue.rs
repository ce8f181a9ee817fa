//! The queue between a job that sends items and their reader.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::task::Waker;

use crate::base::fork::OwnProcess;
use crate::base::panic::{drop_quietly, wake_quietly};
use crate::base::sync::{Mutex, MutexGuard};
use crate::core::options::OnEnd;
use crate::processes::link::Answer;

/// Items that have come and have not been read. When it is full, the worker waits.
pub(crate) struct ItemQueue {
    state: OwnProcess<Mutex<State>>,
    capacity: usize,
}

#[derive(Default)]
struct State {
    items: VecDeque<Answer>,
    /// The task that waits for the next item, or for the job's end.
    waker: Option<Waker>,
}

impl ItemQueue {
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self { state: OwnProcess::new(Mutex::default()), capacity: capacity.max(1) })
    }

    /// Locks the queue. `None` in a forked child, where no items come, and where the lock may be held forever.
    fn lock(&self) -> Option<MutexGuard<'_, State>> {
        self.state.get().map(Mutex::lock)
    }

    /// Returns the largest number of items that wait to be read.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn has_room(&self) -> bool {
        self.room() > 0
    }

    /// Returns the number of items for which there is room. 0 in a forked child.
    pub(crate) fn room(&self) -> usize {
        self.lock().map_or(0, |state| self.capacity.saturating_sub(state.items.len()))
    }

    /// Appends an item that has come from another machine, and wakes the reader. Returns it if there is no room.
    pub(crate) fn offer_bytes(&self, item: Vec<u8>) -> Result<(), Vec<u8>> {
        {
            let Some(mut state) = self.lock() else { return Err(item) };
            if state.items.len() >= self.capacity {
                return Err(item);
            }
            state.items.push_back(Answer::of_bytes(item));
        }
        self.wake();
        Ok(())
    }

    /// Appends an item. The reader is woken separately, after the caller's lock is released.
    pub(super) fn push(&self, item: Answer) {
        if let Some(mut state) = self.lock() {
            state.items.push_back(item);
        }
    }

    /// Takes the next item as it was encoded. The second value is as for [`pop`](Self::pop).
    pub(crate) fn pop_bytes(&self) -> Option<(Vec<u8>, bool)> {
        let (item, was_full) = self.pop()?;
        Some((item.received().settled().into_owned(), was_full))
    }

    /// Takes the next item. None in a forked child. The second value is true if the queue was full, so that the worker may wait for room.
    pub(super) fn pop(&self) -> Option<(Answer, bool)> {
        let mut state = self.lock()?;
        let was_full = state.items.len() >= self.capacity;
        Some((state.items.pop_front()?, was_full))
    }

    /// Wakes the reader: an item has come.
    pub(crate) fn wake(&self) {
        let waker = self.lock().and_then(|mut state| state.waker.take());
        if let Some(waker) = waker {
            wake_quietly(waker);
        }
    }

    /// Registers the waker of the reader. Returns true if there are items already, or none will come: in a forked child, or if `has_ended` returns true. Then
    /// the waker is not kept, since it would not be taken any more, and it may keep this queue alive.
    pub(crate) fn subscribe(&self, waker: &Waker, has_ended: impl FnOnce() -> bool) -> bool {
        let Some(mut state) = self.lock() else { return true };
        let replaced = state.waker.replace(waker.clone());
        let has_items = !state.items.is_empty();
        let has_ended = has_ended();
        let unused = if has_ended { state.waker.take() } else { None };
        drop(state);
        drop((replaced, unused));
        has_items || has_ended
    }
}

impl OnEnd for ItemQueue {
    /// Wakes the reader, unless it is the task that is woken anyway.
    fn job_ended(&self, woken: Option<&Waker>) {
        let waker = self.lock().and_then(|mut state| state.waker.take());
        match waker {
            Some(waker) if woken.is_some_and(|woken| woken.will_wake(&waker)) => drop_quietly(waker),
            Some(waker) => wake_quietly(waker),
            None => {}
        }
    }
}

impl fmt::Debug for ItemQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ItemQueue").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}
