//! What a job sends before its result: items for a receiver that reads them, and log records.
//!
//! Log records are handled on the log thread, one after the other, in the context of the job's submission. The job's result
//! is reported when all its records have been handled, so a slow handler delays the jobs that log, and neither an event loop
//! nor other jobs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Waker;

use offloop::embed::ItemStreamExt as _;
use offloop::remote::Encoded;
use offloop::{Blob, ItemStream};
use pyo3::prelude::*;

use crate::completion_queue::{Completion, log_thread};
use crate::errors::IntoException as _;
use crate::interpreter::Mutex;
use crate::message::{self, Reply};
use crate::once::intern;
use crate::receive::{Receive as _, Results};

/// The number of a job's log records that wait to be handled. If there are more, they are not read, and the job waits.
const LOG_BACKLOG: usize = 100;

/// The items of a job, by the place where it runs.
enum Items {
    /// In a process of a pool here.
    Replies(ItemStream<Reply>),
    /// In a cluster. They are opened by the package's Python code, and none is a log record.
    Encoded(ItemStream<Encoded>),
}

/// An item of a job.
enum Item {
    Reply(Reply),
    Encoded(Encoded),
}

impl Items {
    fn try_next(&mut self) -> Option<Result<Item, offloop::Error>> {
        match self {
            Self::Replies(items) => items.try_next().map(|next| next.map(Item::Reply)),
            Self::Encoded(items) => items.try_next().map(|next| next.map(Item::Encoded)),
        }
    }

    fn on_item(&mut self, waker: &Waker) -> bool {
        match self {
            Self::Replies(items) => items.on_item(waker),
            Self::Encoded(items) => items.on_item(waker),
        }
    }
}

/// The stream of log records, and of items for a receiver that reads them, which a job sends before its result.
pub(crate) struct SentItems {
    items: Mutex<Items>,
    /// The receiver reads items. Otherwise there are log records only.
    is_read: bool,
    results: Results,
    /// The job's name, if an answer that cannot be read breaks the pool, which then names its culprit.
    culprit: Option<String>,
    /// The context in which the job was submitted, for its log records. Taken when the last one has been read.
    context: Mutex<Option<Py<PyAny>>>,
    /// The number of log records that were passed to the log thread and are not handled yet. Increased by who reads the
    /// items, decreased by the log thread.
    unhandled: AtomicUsize,
    /// All items of a job that has ended were read. Set by who reads them.
    is_drained: AtomicBool,
}

impl SentItems {
    pub(crate) fn new(
        mut items: ItemStream<Reply>,
        is_read: bool,
        results: Results,
        culprit: Option<String>,
        context: Py<PyAny>,
    ) -> Self {
        // A reply is some numbers, and blobs that stay where they are.
        items.decode_here();
        let context = Mutex::new(Some(context));
        Self { results, culprit, context, ..Self::of(Items::Replies(items), is_read) }
    }

    /// Makes it of the items of a job in a cluster, which the receiver reads.
    pub(crate) fn of_cluster(mut items: ItemStream<Encoded>) -> Self {
        // They are passed on as they are.
        items.decode_here();
        Self::of(Items::Encoded(items), true)
    }

    fn of(items: Items, is_read: bool) -> Self {
        Self {
            items: Mutex::new(items),
            is_read,
            results: Results::default(),
            culprit: None,
            context: Mutex::new(None),
            unhandled: AtomicUsize::new(0),
            is_drained: AtomicBool::new(false),
        }
    }

    /// Gives an exception that says that an answer could not be read, `_worker.replies.Unreadable`, the job's name.
    pub(crate) fn name_culprit(&self, py: Python<'_>, error: &PyErr) -> PyResult<()> {
        let name = intern!(py, "job_name");
        match &self.culprit {
            Some(culprit) if error.value(py).hasattr(name)? => error.value(py).setattr(name, culprit),
            _ => Ok(()),
        }
    }

    /// Returns the next item that has come. Passes log records of `job` to the log thread.
    pub(crate) fn next(&self, py: Python<'_>, job: &Arc<dyn LogsRecords>) -> PyResult<Option<Py<PyAny>>> {
        loop {
            // A receiver that reads items must not take a pause for the end.
            if !self.is_read && self.unhandled.load(Ordering::Acquire) >= LOG_BACKLOG {
                return Ok(None);
            }
            let next = self.items.lock().try_next();
            let Some(next) = next else { return Ok(None) };
            match next.map_err(|error| error.into_exception(py))? {
                Item::Encoded(item) => return item.receive(py, self.results).map(Some),
                Item::Reply(reply) => match reply.into_log() {
                    Ok(body) => self.log(py, body, job)?,
                    Err(item) => return item.receive(py, self.results).map(Some),
                },
            }
        }
    }

    fn log(&self, py: Python<'_>, body: Blob, job: &Arc<dyn LogsRecords>) -> PyResult<()> {
        let context = self.context.lock().as_ref().map(|context| context.clone_ref(py));
        let Some(context) = context else { return Ok(()) };
        let thread = log_thread()?;
        self.unhandled.fetch_add(1, Ordering::Relaxed);
        let trusts_worker = self.results == Results::Pickle;
        thread.push(Arc::new(LogRecord { body, context, trusts_worker, job: Arc::clone(job) }));
        Ok(())
    }

    /// Registers for the next item. Returns whether one has come already.
    pub(crate) fn on_item(&self, waker: &Waker) -> bool {
        self.items.lock().on_item(waker)
    }

    /// Returns whether the receiver reads items.
    pub(crate) fn is_read(&self) -> bool {
        self.is_read
    }

    /// Returns what the job's result is read as.
    pub(crate) fn results(&self) -> Results {
        self.results
    }

    /// Drops the context of the submission, unless there may be log records that were not read.
    pub(crate) fn forget_context(&self) {
        if !self.is_read {
            let context = self.context.lock().take();
            drop(context);
        }
    }

    /// Records that a log record has been handled. Returns whether that lets the job go on.
    pub(crate) fn record_handled(&self) -> bool {
        let before = self.unhandled.fetch_sub(1, Ordering::AcqRel);
        before == 1 || before == LOG_BACKLOG
    }

    /// Records that all items of the job, which has ended, were read. Returns whether that is news.
    pub(crate) fn set_drained(&self) -> bool {
        !self.is_drained.swap(true, Ordering::AcqRel)
    }

    /// Returns whether there are log records, or items that may be some, whose handling the job's result must await.
    pub(crate) fn has_unhandled(&self) -> bool {
        let is_unread = self.is_read && !self.is_drained.load(Ordering::Acquire);
        is_unread || self.unhandled.load(Ordering::Acquire) > 0
    }
}

/// A log record on its way to the handlers.
struct LogRecord {
    body: Blob,
    context: Py<PyAny>,
    trusts_worker: bool,
    job: Arc<dyn LogsRecords>,
}

impl Completion for LogRecord {
    fn deliver(self: Arc<Self>, py: Python<'_>) -> PyResult<()> {
        let logged = message::log(self.context.bind(py), &self.body, self.trusts_worker);
        Arc::clone(&self.job).record_handled();
        logged
    }
}

/// A job that sends log records.
pub(crate) trait LogsRecords: Send + Sync {
    /// Records that one of its log records has been handled.
    fn record_handled(self: Arc<Self>);
}
