//! What a job sends before its result: items, with backpressure.

use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Weak};
use std::task::{Poll, Waker};

use serde::de::DeserializeOwned;

use crate::base::panic::{self, wake_quietly};
use crate::base::sync::Mutex;
use crate::core::cell::Remote;
use crate::core::error::{Error, ErrorKind};
use crate::core::handle::block_on;
use crate::core::job::JobState;
use crate::processes::link::Answer;
use crate::processes::pool::dispatcher::Desk;
use crate::wire::payload::Incoming;
use crate::wire::task;

/// Where a job's items wait for whoever reads them. When it is full the worker waits.
pub(crate) struct Tray {
    inside: Mutex<Inside>,
    room: usize,
}

#[derive(Default)]
struct Inside {
    items: VecDeque<Answer>,
    waker: Option<Waker>,
}

impl Tray {
    pub(crate) fn new(room: usize) -> Arc<Self> {
        Arc::new(Self { inside: Mutex::default(), room: room.max(1) })
    }

    pub(crate) fn has_room(&self) -> bool {
        self.inside.lock().items.len() < self.room
    }

    pub(crate) fn put(&self, item: Answer) {
        self.inside.lock().items.push_back(item);
    }

    /// Wakes whoever reads: an item has come.
    pub(crate) fn wake(&self) {
        self.wake_unless(None);
    }

    /// The job has ended: the same, unless that is whom `other` wakes.
    pub(crate) fn wake_unless(&self, other: Option<&Waker>) {
        let waker = self.inside.lock().waker.take();
        match waker {
            Some(waker) if other.is_some_and(|other| other.will_wake(&waker)) => panic::drop_quietly(waker),
            Some(waker) => wake_quietly(waker),
            None => {}
        }
    }

    /// The next item, and whether the worker may wait for its room.
    fn take(&self) -> Option<(Answer, bool)> {
        let mut inside = self.inside.lock();
        let was_full = inside.items.len() >= self.room;
        Some((inside.items.pop_front()?, was_full))
    }
}

impl fmt::Debug for Tray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tray").field("room", &self.room).finish_non_exhaustive()
    }
}

/// The items that a job of a process pool sends by [`job::emit`](crate::job::emit) before its result.
///
/// Those that have come wait here, as many as [`ProcessPool::stream`](crate::ProcessPool::stream) was told; then the
/// job waits. Dropping it does not end the job, but leaves it waiting; drop its handle for that.
pub struct Items<T> {
    tray: Arc<Tray>,
    job: Arc<dyn Remote>,
    desk: Weak<Desk>,
    item: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned + 'static> Items<T> {
    pub(crate) fn new(tray: Arc<Tray>, job: Arc<dyn Remote>, desk: &Arc<Desk>) -> Self {
        Self { tray, job, desk: Arc::downgrade(desk), item: PhantomData }
    }

    /// The next item, if it has come. Does not block.
    pub fn try_next(&mut self) -> Option<Result<T, Error>> {
        let (answer, was_full) = self.tray.take()?;
        if was_full {
            if let Some(desk) = self.desk.upgrade() {
                desk.resume(self.job.core().id);
            }
        }
        let incoming = Incoming { body: answer.body(), parts: &answer.parts };
        let decoded = match panic::catch(|| task::decode(incoming)) {
            Ok(Ok(item)) => Ok(item),
            Ok(Err(error)) => Err(ErrorKind::Decode(format!("an item: {error}"))),
            Err(panic) => Err(ErrorKind::Panicked(panic)),
        };
        Some(decoded.map_err(|kind| Error::new(self.job.core(), kind)))
    }

    /// Has `waker` woken when another item comes or the job ends; `true` if there are items already, or it has ended.
    /// Does not block.
    pub fn on_item(&self, waker: &Waker) -> bool {
        let mut inside = self.tray.inside.lock();
        let replaced = inside.waker.replace(waker.clone());
        let has_items = !inside.items.is_empty();
        let has_ended = self.job.core().state() == JobState::Ended;
        // Nobody would take it any more, and it may keep these items alive.
        let in_vain = if has_ended { inside.waker.take() } else { None };
        drop(inside);
        drop((replaced, in_vain));
        has_items || has_ended
    }

    /// The next item; `None` when the job has ended, of whose end its handle tells.
    pub async fn next(&mut self) -> Option<Result<T, Error>> {
        std::future::poll_fn(|cx| {
            let has_ended = self.job.core().state() == JobState::Ended;
            match self.try_next() {
                Some(item) => Poll::Ready(Some(item)),
                None if has_ended => Poll::Ready(None),
                None => {
                    if self.on_item(cx.waker()) {
                        cx.waker().wake_by_ref();
                    }
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// [`next`](Self::next), blocking.
    pub fn wait_next(&mut self) -> Option<Result<T, Error>> {
        block_on(std::pin::pin!(self.next()))
    }
}

impl<T> fmt::Debug for Items<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Items").field("job", &self.job.core().id).finish_non_exhaustive()
    }
}
