//! The threads that decode results which may take long.

use crate::base::fork::PerProcess;
use crate::threads::ThreadPool;

/// The number of threads that decode at a time. They may be slow for other reasons than the use of a core.
const MAX_DECODERS: usize = 32;

/// Returns this process's threads for decoding.
pub(crate) fn decoders() -> &'static ThreadPool {
    static DECODERS: PerProcess<ThreadPool> = PerProcess::new();
    DECODERS.get(|| {
        // The queue is as long as the pools' own queues allow.
        let pool = ThreadPool::builder().name("offloop-decode").max_workers(MAX_DECODERS);
        let pool = pool.queue_capacity(usize::MAX).unlisted();
        pool.build().expect("these settings are valid")
    })
}
