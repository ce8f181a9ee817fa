//! The default executor: an elastic lane for calls that wait, a lane of one thread a core for calls that compute.

use std::sync::OnceLock;

use crate::metrics::Purpose;
use crate::sync::cores;
use crate::thread_pool::ThreadPool;

/// The pool behind [`run`](crate::run): up to 512 threads, for calls that wait.
pub fn io_lane() -> &'static ThreadPool {
    static LANE: OnceLock<ThreadPool> = OnceLock::new();
    LANE.get_or_init(|| lane("offloop-io", 512, Purpose::Waiting))
}

/// The pool behind [`run_cpu`](crate::run_cpu): as many threads as the process may use cores.
pub fn cpu_lane() -> &'static ThreadPool {
    static LANE: OnceLock<ThreadPool> = OnceLock::new();
    LANE.get_or_init(|| lane("offloop-cpu", cores(), Purpose::Computing))
}

fn lane(name: &'static str, threads: usize, purpose: Purpose) -> ThreadPool {
    let lane = ThreadPool::builder().name(name).max_threads(threads).purpose(purpose);
    lane.build().expect("these settings are valid")
}
