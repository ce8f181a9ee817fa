//! The thread that drives the network: one for each process, started on first use, which all clients and workers share.

use std::future::{Future, pending};
use std::io;

use offloop::embed::{PerProcess, panic_message, start_thread};
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
///
/// Fails if there is no such thread. A panic of the future is an error as well, with its message.
pub(crate) fn block_on<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    runtime()?.spawn(async move {
        // Nobody may wait any more.
        let _ = sender.send(tokio::spawn(future).await);
    });
    let ended = receiver.recv().map_err(|_| io::Error::other("the network's thread has ended"))?;
    ended.map_err(|error| {
        let message = error.try_into_panic().map(|panic| panic_message(&*panic)).unwrap_or_default();
        io::Error::other(format!("the request to the cluster has panicked: {message}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_on_the_networks_thread_is_the_error_of_who_waits_and_the_thread_goes_on() {
        for text in [None, Some("formatted")] {
            let error = block_on(async move { text.map_or_else(|| panic!("literal"), |it| panic!("{it}")) });
            let error: io::Error = error.map(|(): ()| ()).unwrap_err();
            assert!(error.to_string().ends_with(text.unwrap_or("literal")), "{error}");
        }
        assert_eq!(block_on(async { 7 }).unwrap(), 7);
    }
}
