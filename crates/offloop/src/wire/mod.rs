//! The data that processes exchange: shared memory, payloads in it, and calls of tasks by name.

#[cfg(target_os = "linux")]
pub(crate) mod arena;
pub(crate) mod blob;
pub(crate) mod call;
pub(crate) mod copies;
pub(crate) mod decode;
#[cfg(target_os = "linux")]
pub(crate) mod fork_copy;
#[cfg(target_os = "linux")]
pub(crate) mod memfd;
pub(crate) mod msgpack;
#[cfg(not(target_os = "linux"))]
mod no_shared_memory;
pub(crate) mod payload;
#[cfg(target_os = "linux")]
pub(crate) mod pool_memory;
pub(crate) mod registry;
pub(crate) mod task;
pub(crate) mod task_fn;
pub(crate) mod type_names;
pub(crate) mod unmarked;

#[cfg(not(target_os = "linux"))]
use no_shared_memory::{arena, fork_copy, memfd, pool_memory};
