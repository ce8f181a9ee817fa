//! The public types can be used across `catch_unwind`, as those of the async runtimes can.
//!
//! A panic leaves none of them in a state that breaks what they promise: what they share is behind the library's own
//! locks, no code of the user runs under these, and errors and blobs do not change.

use std::panic::{RefUnwindSafe, UnwindSafe};

use crate::core::error::{BuildError, Error};
use crate::core::handle::Handle;
use crate::core::job::Job;
use crate::threads::{StatePool, ThreadPool};

impl<T> UnwindSafe for Handle<T> {}
impl<T> RefUnwindSafe for Handle<T> {}

impl UnwindSafe for Job {}
impl RefUnwindSafe for Job {}

impl UnwindSafe for ThreadPool {}
impl RefUnwindSafe for ThreadPool {}

impl<S> UnwindSafe for StatePool<S> {}
impl<S> RefUnwindSafe for StatePool<S> {}

impl UnwindSafe for Error {}
impl RefUnwindSafe for Error {}

impl UnwindSafe for BuildError {}
impl RefUnwindSafe for BuildError {}

#[cfg(feature = "process")]
mod process {
    use super::{RefUnwindSafe, UnwindSafe};
    #[cfg(target_os = "linux")]
    use crate::processes::pool::{items::ItemStream, pool::ProcessPool};
    #[cfg(not(target_os = "linux"))]
    use crate::processes::unsupported::{ItemStream, ProcessPool};
    use crate::wire::blob::{Blob, PrivateBlob};

    impl UnwindSafe for ProcessPool {}
    impl RefUnwindSafe for ProcessPool {}

    impl<T> UnwindSafe for ItemStream<T> {}
    impl<T> RefUnwindSafe for ItemStream<T> {}

    impl UnwindSafe for Blob {}
    impl RefUnwindSafe for Blob {}

    impl UnwindSafe for PrivateBlob {}
    impl RefUnwindSafe for PrivateBlob {}
}
