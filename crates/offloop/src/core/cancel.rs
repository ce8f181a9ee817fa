//! What a running job wants done when it is asked to stop.
//!
//! ```text
//! Armed(callback) ──asked to stop──▶ Running ──returns──▶ Over
//!       └─────────── guard dropped ────────────────────────▲
//! ```
//!
//! The arrows are taken under the hook's lock, so a callback runs at most once whoever comes for it. A guard that
//! is dropped while the callback runs waits for it: what the job does next, with the same connection say, is not
//! hit by a stop that was meant for what it did before.
//!
//! No stop is missed: who asks for one first sets the job's token, then looks for hooks; a job first adds its hook,
//! then looks at its token. The lock of the list puts one before the other.

use std::fmt;
use std::sync::{Arc, PoisonError, Weak};

use crate::api::lanes::cancel_lane;
use crate::base::panic::{self, drop_quietly};
use crate::base::sync::atomic::{AtomicBool, Ordering};
use crate::base::sync::{Condvar, Mutex, thread};
use crate::core::compensation::Compensation;
use crate::core::job::{current, prepare};

/// Has `callback` run when the job that runs on this thread is asked to stop: its handle is cancelled or dropped,
/// its run deadline passes, or its pool's shutdown cancels it. For calls that look at no token: the callback ends
/// what they wait for, by shutting a socket down or by telling the server.
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
/// - It runs once at most, and not after the guard was dropped or the job's function has returned.
/// - It may block: it runs on a thread kept for callbacks, never on the event loop that cancels and never under a
///   lock. If the job was asked to stop before this call, it runs there, soon. If 10,000
///   callbacks wait for a thread, it runs where the job is cancelled; if the system starts no thread, it does not run.
/// - A panic in it is caught, and told by the panic hook alone.
/// - Dropping the guard waits for a callback that has begun, so the callback must not wait for its job.
///
/// Outside of a job it is dropped uncalled at once. So it is in a worker process, which is killed instead.
pub fn on_cancel(callback: impl FnOnce() + Send + 'static) -> OnCancel {
    let hook = Arc::new(Hook::new(Box::new(callback)));
    match current(|core| {
        core.hooks.add(&hook);
        core.is_cancelled()
    }) {
        Some(true) => Arc::clone(&hook).call(),
        Some(false) => {}
        None => hook.disarm(),
    }
    OnCancel(hook)
}

/// Keeps a callback of [`on_cancel`] in place until dropped. Dropping it blocks while the callback runs.
#[must_use = "without its guard the callback is gone"]
pub struct OnCancel(Arc<Hook>);

impl Drop for OnCancel {
    fn drop(&mut self) {
        self.0.disarm();
    }
}

impl fmt::Debug for OnCancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnCancel").finish_non_exhaustive()
    }
}

type Callback = Box<dyn FnOnce() + Send>;

struct Hook {
    stage: Mutex<Stage>,
    over: Condvar,
}

enum Stage {
    Armed(Callback),
    Running(thread::ThreadId),
    Over,
}

impl Hook {
    fn new(callback: Callback) -> Self {
        Self { stage: Mutex::new(Stage::Armed(callback)), over: Condvar::new() }
    }

    /// Has it run soon.
    fn call(self: Arc<Self>) {
        match cancel_lane().try_run(prepare(move || self.run()).name("on_cancel")) {
            Ok(handle) => handle.detach(),
            Err(rejected) => (rejected.into_work().work)(),
        }
    }

    /// Runs it, unless somebody else does or did, or nobody is to.
    fn run(&self) {
        let mut stage = self.stage.lock();
        match std::mem::replace(&mut *stage, Stage::Running(thread::current().id())) {
            Stage::Armed(callback) => {
                drop(stage);
                drop_quietly(panic::catch(callback));
                *self.stage.lock() = Stage::Over;
                self.over.notify_all();
            }
            other => *stage = other,
        }
    }

    /// Makes sure that it does not run from now on.
    fn disarm(&self) {
        let mut stage = self.stage.lock();
        match &*stage {
            Stage::Armed(_) => {
                let armed = std::mem::replace(&mut *stage, Stage::Over);
                drop(stage);
                drop_quietly(armed);
            }
            // The callback itself drops its guard.
            Stage::Running(thread) if *thread == thread::current().id() => {}
            Stage::Running(_) => {
                drop(stage);
                // The callback may use the pool whose thread waits here.
                let _stand_in = Compensation::begin();
                let mut stage = self.stage.lock();
                while !matches!(*stage, Stage::Over) {
                    stage = self.over.wait(stage).unwrap_or_else(PoisonError::into_inner);
                }
            }
            Stage::Over => {}
        }
    }
}

/// The hooks of one job.
#[derive(Default)]
pub(crate) struct Hooks {
    hooks: Mutex<Vec<Weak<Hook>>>,
    /// Written and read by the job's thread: most jobs have none, and pay nothing for it.
    any: AtomicBool,
}

impl Hooks {
    fn add(&self, hook: &Arc<Hook>) {
        self.any.store(true, Ordering::Relaxed);
        let mut hooks = self.hooks.lock();
        // A job may make a thousand calls with a guard each.
        hooks.retain(|hook| hook.strong_count() > 0);
        hooks.push(Arc::downgrade(hook));
    }

    /// Has them called, soon. The job's token is set already.
    pub(crate) fn call(&self) {
        // They stay in the list: until one has its thread, the job may yet close it.
        let hooks = self.hooks.lock().clone();
        hooks.iter().filter_map(Weak::upgrade).for_each(Hook::call);
    }

    /// The job's function has returned: a guard that it forgot counts no more.
    pub(crate) fn close(&self) {
        if self.any.load(Ordering::Relaxed) {
            let hooks = std::mem::take(&mut *self.hooks.lock());
            for hook in hooks.iter().filter_map(Weak::upgrade) {
                hook.disarm();
            }
        }
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}
