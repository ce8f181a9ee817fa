//! The outcome of a call's submission, as the executors of calls share it.

use std::sync::Arc;

use crate::core::cell::Cell;
use crate::core::error::ErrorKind;
use crate::core::options::Options;

/// The reason why a call was not accepted, with its instructions.
pub(crate) type Refusal = Box<(ErrorKind, Options)>;

/// The job of a call that was accepted, or the refusal.
pub(crate) type Launched<W, R> = Result<Arc<Cell<W, R>>, Refusal>;

/// Returns the job for its handle. That of a refused call has ended.
pub(crate) fn job_of<W: Send + 'static, R: Send + 'static>(launched: Launched<W, R>) -> Arc<Cell<W, R>> {
    launched.unwrap_or_else(|refusal| {
        let (kind, options) = *refusal;
        Cell::ended(options, kind)
    })
}
