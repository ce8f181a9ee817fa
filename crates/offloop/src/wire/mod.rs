//! The data that processes exchange: shared memory, payloads in it, and calls of tasks by name.

pub(crate) mod arena;
pub(crate) mod blob;
pub(crate) mod memfd;
pub(crate) mod msgpack;
pub(crate) mod payload;
pub(crate) mod task;
pub(crate) mod type_names;
