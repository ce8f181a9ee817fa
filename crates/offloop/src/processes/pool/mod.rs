//! The parent's side of a process pool.

pub(crate) mod builder;
pub(crate) mod dispatcher;
pub(crate) mod item_queue;
pub(crate) mod items;
pub(crate) mod output;
#[expect(clippy::module_inception, reason = "the pool's public type")]
pub(crate) mod pool;
pub(crate) mod remote;
pub(crate) mod results;
pub(crate) mod supervisor;
pub(crate) mod template;
pub(crate) mod worker;
