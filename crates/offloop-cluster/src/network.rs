//! The thread that drives the network: one for each process, started on first use, which all clients and workers share.

use std::future::{Future, pending};
use std::io;

use offloop::embed::{PerProcess, start_thread};
use tokio::runtime::{Builder, Handle};

/// The runtime of this process. A forked child has none of its parent's threads, so it gets its own.
static RUNTIME: PerProcess<Handle> = PerProcess::new();

/// Returns the runtime on the network's thread. Starts both, the first time in a process.
pub(crate) fn runtime() -> io::Result<&'static Handle> {
    RUNTIME.try_get(|| {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
        let handle = runtime.handle().clone();
        // If two threads get here at once, one of the two runtimes stays idle.
        start_thread("offloop-net", move || runtime.block_on(pending::<()>()))?;
        Ok(handle)
    })
}

/// Runs a future on the network's thread until it is done, and blocks this thread meanwhile. For threads that may wait.
pub(crate) fn block_on<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    runtime()?.spawn(async move {
        // Nobody may wait any more.
        let _ = sender.send(future.await);
    });
    receiver.recv().map_err(|_| io::Error::other("the request to the cluster has panicked"))
}
