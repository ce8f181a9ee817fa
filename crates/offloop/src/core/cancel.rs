//! Callbacks for the moment in which a running job is asked to stop.
//!
//! ```text
//! Armed(callback) ──asked to stop──▶ Running ──returns──▶ Over
//!       └─────────── guard dropped ────────────────────────▲
//! ```
//!
//! The arrows are taken under the hook's lock, so a callback runs at most once, however many threads race to call it. A
//! guard that is dropped while the callback runs waits for it. So a stop request never hits what the job does
//! afterwards, with the same connection for instance.
//!
//! No stop request is missed. The thread that makes one first sets the job's flag and then looks for hooks. The job
//! first adds its hook and then looks at its flag. The lock of the list puts one before the other.

use std::fmt;
use std::sync::{Arc, PoisonError, Weak};

use super::compensation::Compensation;
use crate::base::fork::OwnProcess;
use crate::base::panic::{self, drop_quietly};
use crate::base::sync::atomic::{AtomicBool, Ordering};
use crate::base::sync::{Condvar, Mutex, thread};

type Callback = Box<dyn FnOnce() + Send>;

/// One callback and its state.
pub(crate) struct Hook {
    /// In a forked child nothing is called or waited for: the callback is its parent's.
    stage: OwnProcess<Mutex<Stage>>,
    /// Signalled when the callback has returned.
    over: Condvar,
    /// Calls [`Hook::run`] soon, on a thread that may block. The layer that arms the hook brings it along, since this
    /// layer knows no threads.
    spawn: fn(Arc<Hook>),
}

enum Stage {
    Armed(Callback),
    Running(thread::ThreadId),
    Over,
}

impl Hook {
    pub(crate) fn new(callback: Callback, spawn: fn(Arc<Hook>)) -> Arc<Self> {
        let stage = OwnProcess::new(Mutex::new(Stage::Armed(callback)));
        Arc::new(Self { stage, over: Condvar::new(), spawn })
    }

    /// Makes the callback run soon, on another thread.
    pub(crate) fn call(self: Arc<Self>) {
        (self.spawn)(self);
    }

    /// Runs the callback on this thread, unless it runs, has run or was disarmed.
    pub(crate) fn run(&self) {
        let Some(lock) = self.stage.get() else { return };
        let mut stage = lock.lock();
        match std::mem::replace(&mut *stage, Stage::Running(thread::current().id())) {
            Stage::Armed(callback) => {
                drop(stage);
                drop_quietly(panic::catch(callback));
                *lock.lock() = Stage::Over;
                self.over.notify_all();
            }
            other => *stage = other,
        }
    }

    /// Makes sure that the callback does not run from now on. Blocks while it runs on another thread.
    pub(crate) fn disarm(&self) {
        let Some(lock) = self.stage.get() else { return };
        let mut stage = lock.lock();
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
                let mut stage = lock.lock();
                while !matches!(*stage, Stage::Over) {
                    stage = self.over.wait(stage).unwrap_or_else(PoisonError::into_inner);
                }
            }
            Stage::Over => {}
        }
    }
}

/// Keeps a callback of [`on_cancel`](crate::job::on_cancel) in place until it is dropped. Dropping it blocks while the
/// callback runs.
#[must_use = "without its guard the callback is removed"]
pub struct OnCancel(pub(crate) Arc<Hook>);

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

/// The hooks of one job.
#[derive(Default)]
pub(crate) struct Hooks {
    hooks: Mutex<Vec<Weak<Hook>>>,
    /// Set with the first hook. Written and read by the job's thread alone, so that the many jobs without a hook never
    /// take the lock.
    any: AtomicBool,
}

impl Hooks {
    pub(crate) fn add(&self, hook: &Arc<Hook>) {
        self.any.store(true, Ordering::Relaxed);
        let mut hooks = self.hooks.lock();
        // A job may make a thousand calls with a guard each.
        hooks.retain(|hook| hook.strong_count() > 0);
        hooks.push(Arc::downgrade(hook));
    }

    /// Makes all callbacks run soon. The job's flag is set already.
    pub(crate) fn call(&self) {
        // They stay in the list: until a callback has its thread, the job may still close it.
        let hooks = self.hooks.lock().clone();
        hooks.iter().filter_map(Weak::upgrade).for_each(Hook::call);
    }

    /// Disarms all hooks: the job's function has returned, and a guard that it leaked has no effect any more.
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
