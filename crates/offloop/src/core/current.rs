//! The job that runs on this thread, and what it can ask about itself.

use std::cell::Cell;
use std::sync::Arc;

use super::error::{Cancelled, ErrorKind};
use super::header::Header;
use super::id::JobId;
use crate::base::panic;
use crate::base::sync::thread_local;

thread_local! {
    static CURRENT: Cell<Option<*const Header>> = const { Cell::new(None) };
    static DESCRIPTION: Cell<Option<String>> = const { Cell::new(None) };
}

/// Makes a job the current one of this thread for as long as it lives.
struct Current {
    previous: Option<*const Header>,
}

impl Current {
    /// The caller keeps the returned guard no longer than `header`, as [`Header::perform`] does.
    fn enter(header: &Header) -> Self {
        Self { previous: CURRENT.with(|current| current.replace(Some(header))) }
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        CURRENT.with(|current| current.set(self.previous));
    }
}

/// Calls `f` with the job that runs on this thread. Returns `None` outside of a job.
pub(crate) fn current<R>(f: impl FnOnce(&Header) -> R) -> Option<R> {
    CURRENT.with(Cell::get).map(|header| {
        // SAFETY: `perform` made the pointer from a reference that outlives its guard, and the guard removes the pointer
        // before it goes. Both happen on this thread.
        f(unsafe { &*header })
    })
}

impl Header {
    /// Runs the job's body: as the current job of this thread, within its span, with panics caught.
    pub(crate) fn perform<R>(&self, body: impl FnOnce() -> Result<R, ErrorKind>) -> Result<R, ErrorKind> {
        let _current = Current::enter(self);
        let in_span = || self.span.within(body);
        let result = panic::catch(in_span).unwrap_or_else(|panic| Err(ErrorKind::Panicked(panic)));
        if let Some(hooks) = self.hooks() {
            hooks.close();
        }
        self.mark_returned();
        result
    }
}

/// Returns whether the job that runs on this thread should stop: its handle was cancelled or dropped, its run
/// timeout has passed, or its pool is shutting down. Outside of a job, returns `false`.
///
/// Costs one atomic load, so it may be called in every long loop. For a call that cannot ask, see
/// [`on_cancel`](crate::job::on_cancel).
pub fn is_cancelled() -> bool {
    current(Header::is_cancelled).unwrap_or(false)
}

/// Returns `Err(Cancelled)` once the job that runs on this thread should stop, for use with `?`.
pub fn check_cancelled() -> Result<(), Cancelled> {
    if is_cancelled() { Err(Cancelled) } else { Ok(()) }
}

/// Gives the job that runs on this thread another name in [advice](crate::metrics::Advice).
///
/// For executors whose jobs all have one type in Rust. The name is set before the job returns, since it costs less to
/// make then than at submission, and only when it is needed.
pub fn describe(name: String) {
    DESCRIPTION.with(|description| description.set(Some(name)));
}

/// Takes the name that the job on this thread has given itself with [`describe`].
pub(crate) fn take_description() -> Option<String> {
    DESCRIPTION.with(Cell::take)
}

/// Counts the job that runs on this thread as failed in its pool's [metrics](crate::metrics), although its function will
/// return. For functions whose result says whether they succeeded. Outside of a job it does nothing.
pub fn mark_failed() {
    current(Header::mark_failed);
}

/// Returns the identity of the job that runs on this thread.
pub fn id() -> Option<JobId> {
    current(|header| header.id)
}

/// Returns the name of the job that runs on this thread.
pub fn name() -> Option<String> {
    current(|header| header.options.name.clone().into_owned())
}

/// Returns the id of the [request](crate::Prepared::request) that the job on this thread works for.
pub fn request() -> Option<Arc<str>> {
    current(|header| header.options.extras().request.clone()).flatten()
}

/// Returns the bytes that [travel](crate::Prepared::carry) with the job that runs on this thread.
pub fn carried() -> Option<Vec<u8>> {
    current(|header| header.options.extras().carried.as_deref().map(<[u8]>::to_vec)).flatten()
}
