//! A stream of results of many jobs, which are submitted lazily, a bounded number at a time.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::error::Error;
use super::executor::Accepts;
use super::handle::{Handle, block_on};
use super::options::Options;

/// Submits each piece of work to `executor` as the stream is read. Results come in order, unless the stream is
/// [`unordered`](MapStream::unordered).
///
/// For a process pool: `offloop::map(pool.clone(), numbers.map(|n| sum.with(n)))`.
#[track_caller]
pub fn map<E, I>(executor: E, work: I) -> MapStream<I::IntoIter, E::Output>
where
    I: IntoIterator,
    E: Accepts<I::Item> + Send + 'static,
{
    let options = Options::new();
    MapStream::new(work.into_iter(), move |work| executor.place(work, options.clone()))
}

/// A stream of results, made by [`map`](crate::map) or by a pool's `map`.
///
/// It holds at most [`buffersize`](Self::buffersize) jobs at a time, finished but unread ones included, so an endless
/// iterator and a slow reader are fine. Dropping it cancels the jobs under way. One job's error is one item;
/// the others go on.
#[must_use = "a map submits nothing until it is read"]
pub struct MapStream<I: Iterator, T> {
    items: std::iter::Fuse<I>,
    submit: Box<dyn FnMut(I::Item) -> Handle<T> + Send>,
    buffersize: usize,
    ordered: bool,
    under_way: VecDeque<Handle<T>>,
}

impl<I: Iterator, T> MapStream<I, T> {
    pub(crate) fn new(items: I, submit: impl FnMut(I::Item) -> Handle<T> + Send + 'static) -> Self {
        Self {
            items: items.fuse(),
            submit: Box::new(submit),
            buffersize: 2 * crate::base::cores::cores(),
            ordered: true,
            under_way: VecDeque::new(),
        }
    }

    /// Sets the number of jobs that there may be at a time; at least 1. Default: twice the number of cores.
    pub fn buffersize(mut self, jobs: usize) -> Self {
        self.buffersize = jobs.max(1);
        self
    }

    /// Makes the stream yield results as the jobs end, instead of in order.
    pub fn unordered(mut self) -> Self {
        self.ordered = false;
        self
    }

    /// Returns the next result, blocking this thread. Returns `None` after the last.
    pub fn wait_next(&mut self) -> Option<Result<T, Error>> {
        let next = std::pin::pin!(std::future::poll_fn(|cx| self.poll(cx)));
        let next = block_on(next);
        self.under_way.iter_mut().for_each(Handle::release_stand_in);
        next
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, Error>>> {
        while self.under_way.len() < self.buffersize {
            let Some(item) = self.items.next() else { break };
            self.under_way.push_back((self.submit)(item));
        }
        if self.under_way.is_empty() {
            return Poll::Ready(None);
        }
        let candidates = if self.ordered { 1 } else { self.under_way.len() };
        for at in 0..candidates {
            if let Poll::Ready(result) = Pin::new(&mut self.under_way[at]).poll(cx) {
                self.under_way.remove(at);
                return Poll::Ready(Some(result));
            }
        }
        Poll::Pending
    }
}

// Nothing in it is pinned: iterators and handles are moved and called through plain references.
impl<I: Iterator, T> Unpin for MapStream<I, T> {}

impl<I: Iterator, T> Stream for MapStream<I, T> {
    type Item = Result<T, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll(cx)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let (low, high) = self.items.size_hint();
        let more = self.under_way.len();
        (low.saturating_add(more), high.and_then(|high| high.checked_add(more)))
    }
}

impl<I: Iterator, T> fmt::Debug for MapStream<I, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapStream")
            .field("buffersize", &self.buffersize)
            .field("ordered", &self.ordered)
            .field("under_way", &self.under_way.len())
            .finish_non_exhaustive()
    }
}
