//! The reader's end of a stream of items.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Weak};
use std::task::{Poll, Waker};

use serde::de::DeserializeOwned;

use super::dispatcher::Dispatcher;
use super::item_queue::ItemQueue;
use super::remote::RemoteCall;
use crate::base::panic;
use crate::core::error::{Error, ErrorKind};
use crate::core::handle::block_on;
use crate::wire::payload::Incoming;
use crate::wire::task;

/// The items that a job of a process pool sends with [`job::emit`](crate::job::emit) before its result.
///
/// Items that have come wait here, up to the `buffersize` given to [`ProcessPool::stream`](crate::ProcessPool::stream).
/// When that many wait, the job waits. Dropping the stream does not end the job, but leaves it waiting. Drop the job's
/// handle to end it.
pub struct ItemStream<T> {
    queue: Arc<ItemQueue>,
    job: Arc<dyn RemoteCall>,
    dispatcher: Weak<Dispatcher>,
    /// This is a forked child, and the stream has said so.
    has_failed: bool,
    item: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned + 'static> ItemStream<T> {
    pub(super) fn new(queue: Arc<ItemQueue>, job: Arc<dyn RemoteCall>, dispatcher: &Arc<Dispatcher>) -> Self {
        Self { queue, job, dispatcher: Arc::downgrade(dispatcher), has_failed: false, item: PhantomData }
    }

    pub(crate) fn try_next(&mut self) -> Option<Result<T, Error>> {
        let header = self.job.header();
        if header.born.is_past() {
            let is_first = !std::mem::replace(&mut self.has_failed, true);
            return is_first.then(|| Err(header.error(ErrorKind::Forked)));
        }
        let (answer, was_full) = self.queue.pop()?;
        if was_full {
            if let Some(dispatcher) = self.dispatcher.upgrade() {
                dispatcher.resume(header.id);
            }
        }
        let incoming = Incoming { body: answer.body(), parts: &answer.parts };
        let decoded = match panic::catch(|| task::decode(incoming)) {
            Ok(Ok(item)) => Ok(item),
            Ok(Err(error)) => Err(ErrorKind::Decode(format!("an item: {error}"))),
            Err(panic) => Err(ErrorKind::Panicked(panic)),
        };
        Some(decoded.map_err(|kind| header.error(kind)))
    }

    pub(crate) fn on_item(&self, waker: &Waker) -> bool {
        self.queue.subscribe(waker, || self.job.header().has_ended())
    }

    /// Returns the next item, or `None` when the job has ended. Its handle tells how.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Decode`] or [`ErrorKind::Panicked`] if the item could not be decoded. [`ErrorKind::Forked`] in a child
    /// that was forked after the job was submitted: the items are its parent's. After that the stream ends there.
    pub async fn next(&mut self) -> Option<Result<T, Error>> {
        std::future::poll_fn(|cx| {
            let has_ended = self.job.header().has_ended() || self.job.header().born.is_past();
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

    /// Does the same as [`next`](Self::next), blocking this thread.
    pub fn wait_next(&mut self) -> Option<Result<T, Error>> {
        block_on(std::pin::pin!(self.next()))
    }
}

impl<T> fmt::Debug for ItemStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ItemStream").field("job", &self.job.header().id).finish_non_exhaustive()
    }
}
