//! The reader's end of a stream of items.

use std::any::type_name;
use std::fmt;
use std::sync::{Arc, Weak};
use std::task::{Poll, Waker};

use serde::de::DeserializeOwned;

use super::item_queue::ItemQueue;
use crate::base::panic;
use crate::core::cell::{Cell, Completion};
use crate::core::error::{Error, ErrorKind};
use crate::core::executor::Accepts;
use crate::core::handle::{Handle, block_on};
use crate::core::id::JobId;
use crate::core::options::{OnEnd, Options};
use crate::core::runnable::AnyJob;
use crate::processes::decoders::decoders;
use crate::processes::launch::{Launched, job_of};
use crate::processes::link::Answer;
use crate::wire::decode;
use crate::wire::payload::Incoming;
use crate::wire::task::Task;
use crate::wire::type_names;

/// The executor whose job sends items.
pub(crate) trait ItemSource: Send + Sync {
    /// Goes on with the items of a job, whose queue was full and has room again.
    fn resume(&self, job: JobId);
}

/// The items that a job of a process pool sends with [`job::emit`](crate::job::emit) before its result.
///
/// Items that have come wait here, up to the `buffersize` given to [`ProcessPool::stream`](crate::ProcessPool::stream).
/// When that many wait, the job waits. Dropping the stream does not end the job, but leaves it waiting. Drop the job's
/// handle to end it.
pub struct ItemStream<T> {
    queue: Arc<ItemQueue>,
    job: Arc<dyn AnyJob>,
    source: Weak<dyn ItemSource>,
    task: &'static Task,
    /// The name of the type that the last item had, if that was right.
    sent_type: String,
    /// The next item, while another thread decodes it.
    decoding: Option<Handle<Decoded<T>>>,
    /// Items are decoded by the thread that reads them, whatever they are.
    decodes_here: bool,
    /// This is a forked child, and the stream has said so.
    has_failed: bool,
}

/// An item, and the name of the type that it was sent as. Or the reason why there is none.
type Decoded<T> = Result<(T, String), ErrorKind>;

impl<T: DeserializeOwned + Send + 'static> ItemStream<T> {
    /// Launches a call of `task`, whose job sends items, of which up to `buffersize` wait to be read. `source` is the
    /// executor.
    pub(crate) fn launch<W, R>(
        task: &'static Task,
        mut options: Options,
        buffersize: usize,
        source: Weak<dyn ItemSource>,
        launch: impl FnOnce(&Arc<ItemQueue>, Options) -> Launched<W, R>,
    ) -> (Handle<R>, Self)
    where
        W: Send + 'static,
        R: Send + 'static,
        Cell<W, R>: Completion<R>,
    {
        let queue = ItemQueue::new(buffersize);
        options.extras_mut().on_end = Some(Arc::clone(&queue) as Arc<dyn OnEnd>);
        let job = job_of(launch(&queue, options));
        let items = Self {
            queue,
            job: Arc::clone(&job) as Arc<dyn AnyJob>,
            source,
            task,
            sent_type: String::new(),
            decoding: None,
            decodes_here: false,
            has_failed: false,
        };
        (Handle::new(job), items)
    }

    /// Makes the thread that reads an item decode it.
    pub(crate) fn decode_here(&mut self) {
        self.decodes_here = true;
    }

    /// Takes the next item if it has come and is decoded.
    pub(crate) fn try_next(&mut self) -> Option<Result<T, Error>> {
        self.take_next(self.decodes_here)
    }

    /// Does the same. The item is decoded on this thread if that is asked for or known to be quick, else on another one.
    fn take_next(&mut self, here: bool) -> Option<Result<T, Error>> {
        let header = self.job.header();
        if header.born.is_past() {
            let is_first = !std::mem::replace(&mut self.has_failed, true);
            return is_first.then(|| Err(header.error(ErrorKind::Forked)));
        }
        let decoded = if let Some(decoding) = &mut self.decoding {
            let decoded = decoding.try_result()?;
            self.decoding = None;
            decoded.unwrap_or_else(|error| Err(error.into_kind()))
        } else {
            let (answer, was_full) = self.queue.pop()?;
            if was_full {
                if let Some(source) = self.source.upgrade() {
                    source.resume(self.job.header().id);
                }
            }
            let (task, sent_type) = (self.task, std::mem::take(&mut self.sent_type));
            let is_plain = decode::is_plain::<T>();
            let is_quick = here || decode::is_quick(answer.body().len(), is_plain, &self.task.items);
            let decode = move || decode(&answer, sent_type, task, is_plain);
            if is_quick {
                decode()
            } else {
                match decoders().try_place(decode, Options::new()) {
                    Ok(decoding) => {
                        self.decoding = Some(decoding);
                        return None;
                    }
                    // The system gives no thread.
                    Err(rejected) => rejected.into_work()(),
                }
            }
        };
        let item = decoded.map(|(item, sent_type)| {
            self.sent_type = sent_type;
            item
        });
        Some(item.map_err(|kind| {
            let header = self.job.header();
            let kind = match kind {
                ErrorKind::Decode(reason) => {
                    // A task that only another program has goes by the name of the job.
                    let name = if self.task.name.is_empty() { &*header.options.name } else { self.task.name };
                    ErrorKind::Decode(format!("an item of `{name}`: {reason}"))
                }
                kind => kind,
            };
            header.error(kind)
        }))
    }

    pub(crate) fn on_item(&mut self, waker: &Waker) -> bool {
        match &mut self.decoding {
            Some(decoding) => decoding.on_end(waker),
            None => self.queue.subscribe(waker, || self.job.header().has_ended()),
        }
    }

    /// Returns the next item, or `None` when the job has ended. Its handle tells how.
    ///
    /// If items of this task have taken long to be decoded, another thread decodes them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Decode`] or [`ErrorKind::Panicked`] if the item could not be decoded. [`ErrorKind::Forked`] in a child
    /// that was forked after the job was submitted: the items are its parent's. After that the stream ends there.
    pub async fn next(&mut self) -> Option<Result<T, Error>> {
        self.read(self.decodes_here).await
    }

    /// Does the same as [`next`](Self::next), blocking this thread, which decodes the item.
    pub fn wait_next(&mut self) -> Option<Result<T, Error>> {
        block_on(std::pin::pin!(self.read(true)))
    }

    async fn read(&mut self, here: bool) -> Option<Result<T, Error>> {
        std::future::poll_fn(|cx| {
            let has_ended = self.job.header().has_ended() || self.job.header().born.is_past();
            match self.take_next(here) {
                Some(item) => Poll::Ready(Some(item)),
                None if has_ended && (self.decoding.is_none() || self.job.header().born.is_past()) => {
                    Poll::Ready(None)
                }
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
}

/// Decodes an item whose type has to be `T`. `sent_type` is the name of a type that was found to be right.
fn decode<T: DeserializeOwned + 'static>(
    answer: &Answer,
    sent_type: String,
    task: &Task,
    is_plain: bool,
) -> Decoded<T> {
    let received = answer.received();
    let body = received.settled();
    let incoming = Incoming { body: &body, parts: received.parts };
    let wrong = |reason: &dyn fmt::Display| ErrorKind::Decode(reason.to_string());
    let (sent, item) = incoming.split::<&str>().map_err(|error| wrong(&error))?;
    // One of another language has no name that could be compared, and `Encoded` stands for all types.
    let fits_any = sent.is_empty() || decode::is_encoded::<T>();
    let sent_type = if sent == sent_type || fits_any {
        sent_type
    } else if type_names::are_alike(sent, type_name::<T>()) {
        sent.to_owned()
    } else {
        let asked = type_name::<T>();
        return Err(wrong(&format_args!(
            "the task sends a `{sent}`, and the stream was asked for `{asked}`; ask for what the task sends"
        )));
    };
    let decode = || panic::catch(|| decode::decode_in_place(item));
    match if is_plain { decode() } else { task.items.measure(decode) } {
        Ok(Ok(item)) => Ok((item, sent_type)),
        Ok(Err(error)) => Err(wrong(&error)),
        Err(panic) => Err(ErrorKind::Panicked(panic)),
    }
}

impl<T> fmt::Debug for ItemStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ItemStream").field("job", &self.job.header().id).finish_non_exhaustive()
    }
}
