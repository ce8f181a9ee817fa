//! The default executor: an elastic lane for calls that wait, and a lane with one thread per core for calls that compute.

use crate::base::activity::Activity;
use crate::base::cores::cores;
use crate::base::fork::PerProcess;
use crate::threads::{ThreadPool, ThreadPoolBuilder};

/// Returns the pool behind [`run`](crate::run): up to 512 threads, for calls that wait.
pub fn io_lane() -> &'static ThreadPool {
    static LANE: PerProcess<ThreadPool> = PerProcess::new();
    LANE.get(|| lane("offloop-io", 512, Activity::Waits))
}

/// Returns the pool behind [`run_cpu`](crate::run_cpu): as many threads as the process may use cores.
pub fn cpu_lane() -> &'static ThreadPool {
    static LANE: PerProcess<ThreadPool> = PerProcess::new();
    LANE.get(|| lane("offloop-cpu", cores(), Activity::Computes))
}

/// Returns the pool that runs the callbacks of [`on_cancel`](crate::job::on_cancel), which may wait like any call to a
/// server.
///
/// It is not the I/O lane, which may be full of the very calls that the callbacks are to stop.
#[cfg(not(shuttle))]
pub(crate) fn cancel_lane() -> ThreadPool {
    static LANE: PerProcess<ThreadPool> = PerProcess::new();
    LANE.get(|| build(callbacks(512))).clone()
}

/// Returns a new pool each time, since a thread of a model must not outlive one execution.
#[cfg(shuttle)]
pub(crate) fn cancel_lane() -> ThreadPool {
    build(callbacks(1))
}

fn lane(name: &'static str, threads: usize, activity: Activity) -> ThreadPool {
    build(ThreadPool::builder().name(name).max_workers(threads).activity(activity))
}

fn callbacks(threads: usize) -> ThreadPoolBuilder {
    ThreadPool::builder().name("offloop-cancel").max_workers(threads).unlisted()
}

fn build(lane: ThreadPoolBuilder) -> ThreadPool {
    lane.build().expect("these settings are valid")
}
