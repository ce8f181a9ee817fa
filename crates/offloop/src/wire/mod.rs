//! The data that processes exchange: shared memory, payloads in it, and calls of tasks by name.

pub(crate) mod arena;
pub(crate) mod blob;
pub(crate) mod fork_copy;
pub(crate) mod memfd;
pub(crate) mod payload;
pub(crate) mod pool_memory;
pub(crate) mod task;
