//! Catches a job's panic together with its place and backtrace.
//!
//! `catch_unwind` alone yields only the payload, so a panic hook notes the rest. It is installed once, on top
//! of the program's own hook, which still runs first and prints what it always prints.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, Once};
use std::task::Waker;

use crate::core::error::Panic;

#[derive(Default)]
struct Noted {
    place: Option<String>,
    backtrace: Option<String>,
}

thread_local! {
    /// How many `catch` frames are on this thread's stack.
    static CATCHING: Cell<u32> = const { Cell::new(0) };
    /// What the hook noted of the newest panic on this thread.
    static NOTED: RefCell<Noted> = const { RefCell::new(Noted { place: None, backtrace: None }) };
}

/// Runs `f` and returns its value, or its panic with all that is known of it.
pub(crate) fn catch<R>(f: impl FnOnce() -> R) -> Result<R, Panic> {
    install_hook();
    CATCHING.set(CATCHING.get() + 1);
    let outcome = catch_unwind(AssertUnwindSafe(f));
    CATCHING.set(CATCHING.get() - 1);
    outcome.map_err(|payload| {
        let noted = NOTED.take();
        Panic {
            message: message(&*payload),
            place: noted.place,
            backtrace: noted.backtrace,
            payload: Some(Mutex::new(payload)),
        }
    })
}

/// Drops `value` where a panic of its destructor must not unwind further.
pub(crate) fn drop_quietly<T>(value: T) {
    if std::mem::needs_drop::<T>() {
        // A payload's own destructor may panic as well; that one is forgotten rather than risked.
        if let Err(payload) = catch_unwind(AssertUnwindSafe(move || drop(value))) {
            std::mem::forget(payload);
        }
    }
}

/// Wakes where a panic of the waker, which is the user's code, must not unwind further.
pub(crate) fn wake_quietly(waker: Waker) {
    drop_quietly(catch_unwind(AssertUnwindSafe(move || waker.wake())));
}

fn message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a value that is not a string".to_owned()
    }
}

fn install_hook() {
    static HOOK: Once = Once::new();
    // While a thread unwinds its hook can't be changed; the next job does it.
    if std::thread::panicking() {
        return;
    }
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            previous(panic);
            if CATCHING.try_with(Cell::get).unwrap_or(0) > 0 {
                let backtrace = Backtrace::capture();
                let noted = Noted {
                    place: panic.location().map(ToString::to_string),
                    backtrace: (backtrace.status() == BacktraceStatus::Captured)
                        .then(|| backtrace.to_string()),
                };
                // A panic while the thread's locals are being destroyed only loses its place.
                let _ = NOTED.try_with(|slot| slot.replace(noted));
            }
        }));
    });
}
