//! What a running job can do and ask: whether it should stop, who it is, and how to send items.

use std::sync::Arc;

use crate::core::cancel::Hook;
pub use crate::core::cancel::OnCancel;
pub use crate::core::compensation::blocking;
use crate::core::current::current;
pub use crate::core::current::{carried, check_cancelled, id, is_cancelled, name, request};
pub use crate::core::error::Cancelled;
use crate::core::options::prepare;
pub use crate::threads::discard_worker_state;

use super::lanes::cancel_lane;

#[cfg(feature = "process")]
pub use crate::core::error::NotSent;

/// Calls `callback` when the job that runs on this thread is asked to stop: when its handle is cancelled or dropped, its
/// run timeout passes, or its pool's shutdown cancels it.
///
/// For calls that look at no flag. The callback ends what they wait for, by shutting a socket down or by telling the
/// server.
///
/// ```
/// use std::io::Read;
/// use std::net::{Shutdown, TcpListener, TcpStream};
/// use offloop::job;
///
/// let silent = TcpListener::bind("127.0.0.1:0")?;
/// let mut stream = TcpStream::connect(silent.local_addr()?)?;
/// let read = offloop::run(move || {
///     let other_end = stream.try_clone()?;
///     let _hook = job::on_cancel(move || drop(other_end.shutdown(Shutdown::Both)));
///     stream.read(&mut [0]) // would never return
/// });
/// drop(read); // its thread is free again
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// - It runs at most once, and not after the guard was dropped or the job's function has returned.
/// - It may block: it runs on a thread kept for callbacks, never on the event loop that cancels and never under a lock. If
///   the job was asked to stop before this call, it runs there, soon. If 10,000 callbacks wait for a thread, it runs where
///   the job is cancelled. If the system starts no thread, it does not run.
/// - A panic in it is caught, and reported by the panic hook alone.
/// - Dropping the guard waits for a callback that has begun, so the callback must not wait for its job.
///
/// Outside of a job it is dropped uncalled at once. So it is in a worker process, which is killed instead, and in a child
/// that a job has forked.
pub fn on_cancel(callback: impl FnOnce() + Send + 'static) -> OnCancel {
    let hook = Hook::new(Box::new(callback), run_on_cancel_lane);
    let is_cancelled = current(|header| {
        header.hooks()?.add(&hook);
        Some(header.is_cancelled())
    });
    match is_cancelled.flatten() {
        Some(true) => Arc::clone(&hook).call(),
        Some(false) => {}
        None => hook.disarm(),
    }
    OnCancel(hook)
}

fn run_on_cancel_lane(hook: Arc<Hook>) {
    match cancel_lane().try_run(prepare(move || hook.run()).name("on_cancel")) {
        Ok(handle) => handle.detach(),
        Err(rejected) => (rejected.into_work().work)(),
    }
}

/// Sends an item to the reader of the job's [`ItemStream`](crate::ItemStream).
///
/// Blocks while the stream is full. Fails if nobody can read the item: the job was not submitted by
/// [`ProcessPool::stream`](crate::ProcessPool::stream), or it runs in a thread.
#[cfg(feature = "process")]
pub fn emit<T: serde::Serialize + ?Sized>(item: &T) -> Result<(), NotSent> {
    #[cfg(target_os = "linux")]
    return crate::processes::worker::main::emit(item);
    #[cfg(not(target_os = "linux"))]
    crate::processes::unsupported::emit(item)
}

/// Installs `hook` around each job that this worker process runs from now on. Returns whether it is the first hook;
/// later ones are ignored.
///
/// To be called once, by the pool's initializer. The hook gets the job as a function and should call it. [`name`], [`id`]
/// and [`carried`] describe the job. If the hook does not call it, or panics, the job ends with the reason. This is the
/// place to make a context that was carried the context of the thread.
///
/// On systems other than Linux there are no worker processes, and it returns true.
#[cfg(feature = "process")]
pub fn surround(hook: impl Fn(&mut dyn FnMut()) + Send + Sync + 'static) -> bool {
    #[cfg(target_os = "linux")]
    return crate::processes::worker::perform::surround(Box::new(hook));
    #[cfg(not(target_os = "linux"))]
    {
        drop(hook);
        true
    }
}
