//! The streamed items of jobs: passes them on in their order, and tells workers what there is room for.

use std::collections::VecDeque;

use offloop::ErrorKind;

use super::{Done, Driver, Event, Number};
use crate::Ulid;
use crate::names::Part;
use crate::records::{Ask, Item};

/// The streamed items of a job.
#[derive(Default)]
pub(super) struct ItemState {
    /// The worker that sends them.
    pub(super) worker: Option<Ulid>,
    /// The number of the start whose items they are.
    attempt: u32,
    /// The number of the first item that was not passed on.
    next: u64,
    /// Items that have come and were not passed on.
    waiting: VecDeque<Item>,
    /// The first of those is being read from where it is stored.
    is_fetching: bool,
}

impl Driver {
    /// Takes an item that has come, as this record. One that is not the next one was sent before, or will be sent again.
    pub(super) fn item(&mut self, job: Ulid, item: &Item, record: &[u8]) {
        for number in self.numbers_of(job) {
            let Some(entry) = self.jobs.get_mut(&number) else { continue };
            let (state, stream) = (&mut entry.items, entry.job.stream.unwrap_or(0) as usize);
            // Before anything is believed. The next item of a job whose reader is gone does no harm.
            if entry.ender.is_some()
                && let Err(reason) = self.shared.seals.admit_item(self.store.names().namespace(), job, record)
            {
                self.end_here(number, ErrorKind::NotTrusted(reason.into()));
                self.owing.insert(number);
                self.feed(number, Event::Cancel);
                continue;
            }
            if item.attempt > state.attempt {
                let worker = state.worker;
                *state = ItemState { worker, attempt: item.attempt, ..ItemState::default() };
            }
            if entry.ender.is_none() {
                // Nobody reads them, and the worker does not wait for a reader.
                state.next = state.next.max(item.number.saturating_add(1));
                self.owing.insert(number);
                continue;
            }
            let expected = state.next + state.waiting.len() as u64;
            if item.attempt == state.attempt && item.number == expected && state.waiting.len() <= stream {
                state.waiting.push_back(item.clone());
            }
            self.pass_items(number);
        }
    }

    /// Passes on the items for which the reader has room.
    pub(super) fn pass_items(&mut self, number: Number) {
        let Some(entry) = self.jobs.get_mut(&number) else { return };
        let Some(ender) = &entry.ender else { return };
        let state = &mut entry.items;
        self.owing.insert(number);
        while let Some(mut item) = state.waiting.pop_front() {
            if let Some(blob) = item.blob.filter(|_| item.item.is_empty()) {
                let is_fetching = std::mem::replace(&mut state.is_fetching, true);
                let (store, job, part) = (self.store.clone(), entry.job.id, Part::Item(item.number));
                state.waiting.push_front(item);
                if !is_fetching {
                    self.request(
                        async move { Done::Item(number, store.get_blob(job, part, &blob).await.ok()) },
                    );
                }
                return;
            }
            match ender.item(std::mem::take(&mut item.item)) {
                Ok(()) => state.next += 1,
                Err(bytes) => {
                    item.item = bytes;
                    return state.waiting.push_front(item);
                }
            }
        }
    }

    pub(super) fn fetched(&mut self, number: Number, bytes: Option<Vec<u8>>) {
        let Some(entry) = self.jobs.get_mut(&number) else { return };
        entry.items.is_fetching = false;
        match (bytes, entry.items.waiting.front_mut()) {
            (Some(bytes), Some(first)) => {
                (first.item, first.blob) = (bytes, None);
                self.pass_items(number);
            }
            // The worker sends them again.
            _ => entry.items.waiting.clear(),
        }
    }

    /// Tells workers what has come of their items, and what there is room for.
    pub(super) fn send_credit(&mut self) {
        for number in std::mem::take(&mut self.owing) {
            let Some(entry) = self.jobs.get(&number) else { continue };
            let ItemState { worker: Some(worker), attempt, next, .. } = entry.items else { continue };
            let room = entry.ender.as_ref().map_or(u64::from(u32::MAX), |ender| ender.room() as u64);
            let credit = Ask::Credit { id: entry.job.id, attempt, next, room };
            self.tell(worker, credit);
        }
    }
}
