//! The data that processes exchange: shared memory, payloads in it, and calls of tasks by name.

pub(crate) mod arena;
pub(crate) mod blob;
pub(crate) mod memfd;
pub(crate) mod payload;
pub(crate) mod task;
pub(crate) mod task_fn;
pub(crate) mod unmarked;
