//! A walk under way, in each of the places.

use std::collections::VecDeque;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::time::Duration;

use offloop::{Blob, Handle, ItemStream, Retry, job, prepare};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::error::ApiError;
use crate::failure::Failure;
use crate::logs;
use crate::mode::Mode;
use crate::places::{Places, on_blocking_thread};
use crate::walk::{Counts, Progress, WalkError, walk};

/// The reports of progress that may wait for a slow client. Then the walk waits, too.
const REPORTS: usize = 16;

type Walked = Result<Counts, WalkError>;

/// What is to be walked.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) document: Blob,
    pub(super) find: Option<String>,
    pub(super) limit: Duration,
    /// Whether the client wants to know how far it is.
    pub(super) reports: bool,
}

/// A walk under way. Dropping it ends the walk.
pub(super) struct Walking {
    reports: Reports,
    result: Pin<Box<dyn Future<Output = Result<Walked, Failure>> + Send>>,
}

enum Reports {
    /// Items of a job of offloop.
    Items(ItemStream<Progress>),
    /// Sent by a thread, and awaited until the deadline.
    Sent(mpsc::Receiver<Progress>, Instant),
    /// Those that there are.
    Ready(VecDeque<Progress>),
    None,
}

impl Walking {
    /// Begins a walk in the place for it. On the loop it is over when this returns.
    pub(super) fn begin(places: &Places, mode: Mode, order: Order) -> Self {
        match mode {
            Mode::Loop => Self::here(&order),
            Mode::Threads => Self::on_tokio_thread(order),
            Mode::Processes => Self::in_procspawn(places, order),
            Mode::Offloop => Self::on_offloop(places, order),
            Mode::Cluster => Self::on_cluster(places, order),
        }
    }

    /// The document is in the pool's memory already, so what travels to the worker is its address. Dropping the handle
    /// kills the worker.
    fn on_offloop(places: &Places, order: Order) -> Self {
        let Order { document, find, limit, reports } = order;
        // A walk changes nothing, so another worker may begin it again.
        let call = prepare(walk_document.with(document, find))
            .retry(Retry::times(1))
            .request(logs::current_request());
        let (handle, reports) = if reports {
            let (handle, items) = places.documents().stream(call, REPORTS);
            (handle, Reports::Items(items))
        } else {
            (places.documents().run(call), Reports::None)
        };
        let handle: Handle<Walked> = handle.timeout(limit);
        Self { reports, result: Box::pin(async { Ok(handle.await?) }) }
    }

    /// The document travels to a worker, which may be on another machine. Dropping the handle kills the job there.
    fn on_cluster(places: &Places, order: Order) -> Self {
        let Order { document, find, limit, reports } = order;
        let cluster = places.cluster().expect("it is a mode of services with a cluster only");
        let call = prepare(walk_document_elsewhere.with(document, find))
            .retry(Retry::times(1))
            .request(logs::current_request());
        let (handle, reports) = if reports {
            let (handle, items) = cluster.stream(call, REPORTS);
            (handle, Reports::Items(items))
        } else {
            (cluster.run(call), Reports::None)
        };
        let handle: Handle<Walked> = handle.timeout(limit);
        Self { reports, result: Box::pin(async { Ok(handle.await?) }) }
    }

    fn on_tokio_thread(order: Order) -> Self {
        let (send, receive) = mpsc::channel(REPORTS);
        let deadline = Instant::now() + order.limit;
        let Order { document, find, limit, reports } = order;
        // Dropping the receiver is what stops a thread: it looks at each report.
        let work = on_blocking_thread(move || {
            walk(&document, find.as_deref(), |progress| {
                let is_read = if reports { send.blocking_send(progress).is_ok() } else { !send.is_closed() };
                if is_read { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })
        });
        let result = async move { timeout_at(deadline, work).await.map_err(|_| Failure::Timeout(limit))? };
        Self { reports: Reports::Sent(receive, deadline), result: Box::pin(result) }
    }

    fn in_procspawn(places: &Places, order: Order) -> Self {
        let Order { document, find, limit, .. } = order;
        let copy = Copied { document: ByteBuf::from(&*document), find, request: logs::current_request() };
        let begin = Progress { bytes_done: 0, bytes: document.len(), keys: 0 };
        let work = places.processes().run(copy, walk_copied, limit, || ());
        // There are no others: procspawn's processes send a result alone.
        Self { reports: Reports::Ready([begin].into()), result: Box::pin(work) }
    }

    /// Blocks the loop until the walk is over.
    fn here(order: &Order) -> Self {
        let mut reports = VecDeque::new();
        let result = walk(&order.document, order.find.as_deref(), |progress| {
            if order.reports {
                reports.push_back(progress);
            }
            ControlFlow::Continue(())
        });
        Self { reports: Reports::Ready(reports), result: Box::pin(std::future::ready(Ok(result))) }
    }

    /// Returns the next report, or `None` when the walk is over.
    pub(super) async fn next_report(&mut self) -> Option<Progress> {
        match &mut self.reports {
            // An item that cannot be read is no reason to end the walk.
            Reports::Items(items) => items.next().await?.ok(),
            Reports::Sent(receive, deadline) => timeout_at(*deadline, receive.recv()).await.ok().flatten(),
            Reports::Ready(reports) => reports.pop_front(),
            Reports::None => None,
        }
    }

    /// Returns the result. To be called once.
    pub(super) async fn result(&mut self) -> Result<Counts, ApiError> {
        let walked = self.result.as_mut().await;
        Ok(walked.map_err(|failure| ApiError::of(failure, "the walk"))??)
    }
}

/// Walks a document in a worker process of offloop, which reads it where it is.
#[offloop::task]
fn walk_document(document: Blob, find: Option<String>) -> Walked {
    walk_and_report(&document, find.as_deref())
}

/// Walks a document that was sent to this machine. Other builds find the task by its name.
#[offloop::task(name = "mercuriy:walk_document")]
fn walk_document_elsewhere(document: Blob, find: Option<String>) -> Walked {
    let _span = logs::enter_in_worker(&job::request().unwrap_or_default());
    walk_and_report(&document, find.as_deref())
}

fn walk_and_report(document: &[u8], find: Option<&str>) -> Walked {
    let mut is_heard = true;
    let walked = walk(document, find, |progress| {
        // It fails if nobody has asked for reports.
        is_heard = is_heard && job::emit(&progress).is_ok();
        ControlFlow::Continue(())
    });
    log(document.len(), &walked);
    walked
}

/// What travels to a process of procspawn: the whole document.
#[derive(Debug, Serialize, Deserialize)]
struct Copied {
    document: ByteBuf,
    find: Option<String>,
    request: String,
}

#[allow(clippy::needless_pass_by_value, reason = "procspawn gives it so")]
fn walk_copied(copied: Copied) -> Walked {
    let _span = logs::enter_in_worker(&copied.request);
    let walked = walk(&copied.document, copied.find.as_deref(), |_| ControlFlow::Continue(()));
    log(copied.document.len(), &walked);
    walked
}

fn log(bytes: usize, walked: &Walked) {
    let worker = std::process::id();
    match walked {
        Ok(counts) => tracing::info!(worker, bytes, keys = counts.keys, "a document was walked"),
        Err(error) => tracing::info!(worker, bytes, %error, "a document was not walked to its end"),
    }
}
