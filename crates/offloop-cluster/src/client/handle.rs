//! The handle of a job in a cluster: a [`Handle`], and what only a cluster's jobs have.

use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll};

use offloop::{Error, Handle};
use tokio::sync::oneshot;

use super::Cluster;
use super::carrier::{Command, Ticket};
use crate::Ulid;

/// What the cluster's record says about a job that was to be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoredEnd {
    /// It never ran, and never will.
    NeverRan,
    /// It ran between two starts before, or waited for another one. It is not started again.
    Stopped,
    /// It ran, and its process was killed.
    Killed,
    /// It had ended before: with a result or an error, which the handle does not give any more.
    HadEnded,
    /// Another submission with the same key decides about the job, which goes on.
    LeftToOthers,
}

/// How far a job is, as the network's thread tells its handle.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    /// Its queue was full at the last attempt.
    pub(super) is_full: bool,
    /// The worker that runs it.
    pub(super) worker: Option<Ulid>,
    /// The end that is stored.
    pub(super) stored: Option<StoredEnd>,
}

/// The handle of a job in a cluster.
///
/// It derefs to a [`Handle`], and is awaited, cancelled and dropped like one. Dropping it cancels the job; see
/// [`Handle::detach`], for which [`into_handle`](Self::into_handle) gives the handle.
#[must_use = "dropping a handle cancels its job"]
pub struct ClusterHandle<R> {
    handle: Handle<R>,
    /// `None` if the job was not taken.
    ticket: Option<Ticket>,
    cluster: Cluster,
}

impl<R> ClusterHandle<R> {
    pub(super) fn new(handle: Handle<R>, ticket: Option<Ticket>, cluster: Cluster) -> Self {
        Self { handle, ticket, cluster }
    }

    /// Returns the job's id in the cluster, by which another program, or this one after a restart,
    /// [attaches](Cluster::attach) to it. `None` if the job was not taken: the handle has the error.
    pub fn remote_id(&self) -> Option<Ulid> {
        self.ticket.as_ref().map(|ticket| ticket.id)
    }

    /// Returns the worker that runs the job, as far as it is known here.
    pub fn worker(&self) -> Option<Ulid> {
        self.ticket.as_ref()?.progress.borrow().worker
    }

    /// Returns the reason why the job is not in its queue yet. `None` if it is, or has ended.
    pub fn waits_for(&self) -> Option<String> {
        if self.handle.state() != offloop::JobState::Waiting {
            return None;
        }
        if self.ticket.as_ref()?.progress.borrow().is_full {
            return Some("room in its queue, which is full".to_owned());
        }
        Some(self.cluster.trouble().unwrap_or_else(|| "the server's answer".to_owned()))
    }

    /// Cancels the job, and waits for what the cluster's record says about it. The handle's own part takes effect before the
    /// first poll, as [`Handle::cancel`] does.
    ///
    /// After `NeverRan` the job never runs. While the server cannot be reached this waits; to give up, drop it. The job is
    /// still stopped as soon as the server can be reached, while this program lives.
    pub fn cancel_stored(self) -> impl Future<Output = StoredEnd> + Send
    where
        R: Send,
    {
        self.handle.cancel();
        let settled = self.ticket.as_ref().map(|ticket| {
            let (sender, settled) = oneshot::channel();
            self.cluster.command(Command::Settle(ticket.job, sender));
            settled
        });
        async move {
            let (Some(settled), Some(ticket)) = (settled, &self.ticket) else { return StoredEnd::NeverRan };
            // It is dropped as soon as there is an end, or nothing is known of the job.
            let _ = settled.await;
            ticket.progress.borrow().stored.unwrap_or(StoredEnd::NeverRan)
        }
    }

    /// Returns the handle alone.
    pub fn into_handle(self) -> Handle<R> {
        self.handle
    }
}

impl<R> Future for ClusterHandle<R> {
    type Output = Result<R, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.handle).poll(cx)
    }
}

impl<R> Deref for ClusterHandle<R> {
    type Target = Handle<R>;

    fn deref(&self) -> &Handle<R> {
        &self.handle
    }
}

impl<R> DerefMut for ClusterHandle<R> {
    fn deref_mut(&mut self) -> &mut Handle<R> {
        &mut self.handle
    }
}

impl<R> fmt::Debug for ClusterHandle<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterHandle")
            .field("job", &self.handle)
            .field("id", &self.remote_id())
            .finish_non_exhaustive()
    }
}
