//! The queue for the items of a stream, under one name on all systems.

#[cfg(target_os = "linux")]
pub(super) use crate::processes::pool::item_queue::ItemQueue;
#[cfg(not(target_os = "linux"))]
pub(super) use crate::processes::unsupported::ItemQueue;
