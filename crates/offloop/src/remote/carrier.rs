//! The trait of what takes calls to another place.

use std::sync::Arc;

use super::ender::Ender;
use super::outbound::Outbound;
use crate::core::error::Rejected;
use crate::core::id::JobId;

/// Takes calls to the place where they run: the one trait to implement for a [`Remote`](super::Remote) executor.
///
/// All methods are called on the submitter's thread, which may be that of an event loop, so they must not block. Where a
/// carrier talks to a network it has a thread of its own. They may be called by many threads at a time.
pub trait Carrier: Send + Sync + 'static {
    /// Takes a call over, or hands the ender back with the reason.
    ///
    /// A carrier that returns `Ok` has undertaken to [end](Ender::end) the job, later and on any thread. It says when there
    /// is room for the job ([`accept`](Ender::accept)) and when the job begins ([`start`](Ender::start)).
    ///
    /// # Backpressure
    ///
    /// A carrier without room does one of three things. It keeps the call and does not `accept` it until there is room, so
    /// that the handle stays pending; it hands the ender back with [`ErrorKind::QueueFull`](crate::ErrorKind::QueueFull);
    /// or it calls [`run_here`](Ender::run_here), which blocks the submitter. If
    /// [`never_wait`](super::Instructions::never_wait) is set, it hands the ender back.
    fn carry(&self, outbound: Outbound, ender: Ender) -> Result<(), Rejected<Ender>>;

    /// Stops a job that has ended here: it was cancelled, its handle was dropped, a time limit has passed, or the executor
    /// was shut down.
    ///
    /// The handle has its error already, and what the ender says has no effect any more. The carrier drops the ender, takes
    /// the call out of its queue for certain, or sees to it that the other place [kills](super::Performance::cancel) it.
    ///
    /// It is called once for a job, and never before `carry` has returned `Ok` for it. If the carrier uses up the ender at
    /// this very moment, it may be called or not; then there is nothing left to do.
    fn cancel(&self, job: JobId);

    /// Returns the name of the queue that a call goes to, for the job's [error](crate::Error::queue). It is called on the
    /// submitter's thread, before `carry`. The default is `None`: there is one queue, without a name.
    fn queue(&self) -> Option<Arc<str>> {
        None
    }

    /// Goes on with the items of a job: its reader has room for items again, after there was none. The default does
    /// nothing.
    fn resume(&self, job: JobId) {
        let _ = job;
    }
}
