//! The life of one job, from its submission to its end. Nothing here knows a pool, a process or a metric.

pub(crate) mod backlog;
pub(crate) mod cancel;
pub(crate) mod captured;
pub(crate) mod cell;
pub(crate) mod compensation;
pub(crate) mod error;
pub(crate) mod executor;
pub(crate) mod handle;
pub mod job;
pub(crate) mod map;
pub(crate) mod queue;
pub(crate) mod shutdown;
pub(crate) mod span;
pub(crate) mod spin;
pub(crate) mod timer;
pub(crate) mod work;
