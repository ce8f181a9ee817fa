//! The number of cores.

use std::num::NonZero;

use super::fork::PerProcess;

/// Returns the number of cores that this process may use. Its affinity, which is that of its main thread, and the quota
/// of its cgroup are respected. Read once.
pub(crate) fn cores() -> usize {
    static CORES: PerProcess<usize> = PerProcess::new();
    *CORES.get(present_cores)
}

/// Returns the number of cores that this process may use at this moment: as its pools count them when they are made, by
/// the affinity of its main thread and the quota of its cgroup. May start a thread, and waits for it.
pub fn present_cores() -> usize {
    of_the_process().unwrap_or_else(of_this_thread)
}

fn of_this_thread() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Asks on a thread that has the affinity of the main thread. Returns `None` if the system refuses the thread.
#[cfg(all(target_os = "linux", not(any(shuttle, weak_memory)), not(miri)))]
fn of_the_process() -> Option<usize> {
    use super::{spawn, sync::thread};

    if spawn::has_affinity_of_main() {
        return Some(of_this_thread());
    }
    let (send, receive) = std::sync::mpsc::channel();
    let builder = thread::Builder::new().name("offloop-cores".into());
    spawn::spawn(builder, move || send.send(of_this_thread()).unwrap_or_default()).ok()?.join().ok()?;
    receive.recv().ok()
}

#[cfg(not(all(target_os = "linux", not(any(shuttle, weak_memory)), not(miri))))]
fn of_the_process() -> Option<usize> {
    None
}
