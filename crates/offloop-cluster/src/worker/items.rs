//! The items that a job streams to its reader, over messages that may get lost.
//!
//! The reader says which item it waits for and for how many it has room. What it has not confirmed is kept and sent again.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::Ulid;
use crate::names::Part;
use crate::records::{Item, Job};
use crate::security::Seals;
use crate::store::{INLINE, Store};

/// The items of one start of a job, on their way to the reader.
#[derive(Debug)]
pub(super) struct Outbox {
    store: Store,
    seals: Seals,
    client: Ulid,
    job: Ulid,
    attempt: u32,
    state: Mutex<State>,
    /// Signalled when the reader has said something.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    /// The number of the next item.
    next: u64,
    /// The number of the first item that the reader has no room for.
    limit: u64,
    /// Items that the reader has not confirmed, and always the last one, by which it is asked how it stands. The last one
    /// has the number before `next`.
    sent: VecDeque<Sent>,
    /// The number of the first item that the reader does not have.
    confirmed: u64,
    heard: Instant,
    flow: Flow,
    /// The reader was silent for a whole lease, so items are dropped.
    is_lost: bool,
}

/// The fate of an item for which the reader has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// It waits.
    Waits,
    /// The job was killed. The first such item ends the flow.
    Killed,
    /// It is dropped, as all items are, so that the reader has all items before a certain one.
    Over,
}

/// An item that was sent.
#[derive(Debug, Clone)]
struct Sent {
    number: u64,
    /// Its record, signed if the worker has a key.
    record: Bytes,
}

impl Outbox {
    /// Makes the outbox of a job that may send items.
    pub(super) fn new(store: &Store, seals: &Seals, job: &Job, attempt: u32) -> Option<Self> {
        let window = job.stream?;
        let state = State {
            next: 0,
            limit: window.max(1).into(),
            sent: VecDeque::new(),
            confirmed: 0,
            heard: Instant::now(),
            flow: Flow::Waits,
            is_lost: false,
        };
        let (store, seals, client, job) = (store.clone(), seals.clone(), job.client, job.id);
        Some(Self { store, seals, client, job, attempt, state: Mutex::new(state), changed: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records what the reader of this start has said.
    pub(super) fn credit(&self, attempt: u32, next: u64, room: u64) {
        if attempt != self.attempt {
            return;
        }
        let mut state = self.lock();
        state.heard = Instant::now();
        // Words of the reader may arrive out of order.
        if next > state.next || next < state.confirmed {
            return;
        }
        state.confirmed = next;
        state.limit = state.limit.max(next.saturating_add(room));
        while state.sent.len() > 1 && state.sent[0].number < next {
            state.sent.pop_front();
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Drops from now on what the reader has no room for. A killed job has no use for a reader that takes its time.
    pub(super) fn cut(&self) {
        let mut state = self.lock();
        if state.flow == Flow::Waits {
            state.flow = Flow::Killed;
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Sends an item when the reader has room for it.
    pub(super) async fn send(&self, item: Vec<u8>) {
        self.wait_for(|state| state.next < state.limit || state.flow != Flow::Waits).await;
        {
            let mut state = self.lock();
            if state.flow == Flow::Killed && state.next >= state.limit {
                state.flow = Flow::Over;
            }
            if state.flow == Flow::Over {
                return;
            }
        }
        let mut item = Item::new(self.attempt, self.lock().next, item);
        if item.item.len() > INLINE {
            let bytes: Bytes = std::mem::take(&mut item.item).into();
            let ttl = self.store.settings().remember;
            while item.blob.is_none() && !self.lock().is_lost {
                item.blob = self.store.put_blob(self.job, Part::Item(item.number), bytes.clone(), ttl).await;
            }
        }
        let encoded = item
            .encode()
            .and_then(|record| self.seals.seal_item(self.store.names().namespace(), self.job, record));
        // A larger item is in a blob by now.
        let record = Bytes::from(encoded.expect("a signed item has a size that is allowed"));
        {
            let mut state = self.lock();
            if state.is_lost {
                return;
            }
            if state.sent.front().is_some_and(|first| first.number < state.confirmed) {
                state.sent.pop_front();
            }
            state.next += 1;
            state.sent.push_back(Sent { number: item.number, record: record.clone() });
        }
        self.store.send_item(self.client, self.job, record).await;
    }

    /// Waits until the reader has all items, or is lost. Returns whether it has all.
    pub(super) async fn finish(&self) -> bool {
        self.wait_for(|state| state.confirmed == state.next).await;
        !self.lock().is_lost
    }

    /// Waits for a word of the reader that makes this true. Sends again what it has not confirmed, or the last item, which
    /// it answers in any case.
    async fn wait_for(&self, is_so: impl Fn(&State) -> bool) {
        let (ask, lease) = (self.store.settings().ask, self.store.settings().lease);
        let mut link = self.store.link();
        // Before, the reader may have had nothing to say.
        self.lock().heard = Instant::now();
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let state = self.lock();
                if is_so(&state) || state.is_lost {
                    return;
                }
            }
            if timeout(ask, changed).await.is_ok() {
                continue;
            }
            if !link.borrow_and_update().is_up {
                // Nobody can be heard now.
                self.lock().heard = Instant::now();
                continue;
            }
            let again: Vec<Sent> = {
                let mut state = self.lock();
                state.is_lost = state.heard.elapsed() > lease;
                state.sent.iter().cloned().collect()
            };
            for item in again {
                self.store.send_item(self.client, self.job, item.record).await;
            }
        }
    }
}
