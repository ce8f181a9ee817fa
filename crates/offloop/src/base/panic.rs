//! Catches panics together with their location and backtrace.
//!
//! `catch_unwind` alone yields only the payload, so a panic hook records the rest. It is installed once, on top of the
//! program's own hook, which still runs first and prints what it always prints.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, Once};
use std::task::Waker;

/// A panic caught in a job.
pub struct Panic {
    pub(crate) message: String,
    pub(crate) location: Option<String>,
    pub(crate) backtrace: Option<String>,
    pub(crate) payload: Option<PanicPayload>,
}

/// The value given to `panic_any`. The mutex only makes it `Sync`; the value is taken out whole.
pub(crate) type PanicPayload = Mutex<Box<dyn Any + Send>>;

impl Panic {
    /// Returns the message of the panic.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the place that panicked, as `file:line:column`. `None` if the program replaced the panic hook after
    /// offloop's first job.
    pub fn location(&self) -> Option<&str> {
        self.location.as_deref()
    }

    /// Returns the stack at that moment, if `RUST_BACKTRACE` or `RUST_LIB_BACKTRACE` asks for one.
    pub fn backtrace(&self) -> Option<&str> {
        self.backtrace.as_deref()
    }

    /// Resumes the panic on this thread with the job's own payload, as if the job had been called here.
    pub fn resume(self) -> ! {
        let payload = match self.payload {
            Some(payload) => payload.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner),
            None => Box::new(self.message),
        };
        std::panic::resume_unwind(payload)
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.location {
            write!(f, " at {location}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl fmt::Debug for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Panic")
            .field("message", &self.message)
            .field("location", &self.location)
            .field("backtrace", &self.backtrace.is_some())
            .finish_non_exhaustive()
    }
}

/// The details of a panic that the hook has recorded.
#[derive(Default)]
struct Recorded {
    location: Option<String>,
    backtrace: Option<String>,
}

thread_local! {
    /// Counts the `catch` frames on this thread's stack.
    static CATCHING: Cell<u32> = const { Cell::new(0) };
    /// The details of the newest panic on this thread.
    static RECORDED: RefCell<Recorded> = const { RefCell::new(Recorded { location: None, backtrace: None }) };
}

/// Runs `f`. Returns its value, or its panic with location and backtrace.
pub(crate) fn catch<R>(f: impl FnOnce() -> R) -> Result<R, Panic> {
    install_hook();
    CATCHING.set(CATCHING.get() + 1);
    let outcome = catch_unwind(AssertUnwindSafe(f));
    CATCHING.set(CATCHING.get() - 1);
    outcome.map_err(|payload| {
        let recorded = RECORDED.take();
        Panic {
            message: message(&*payload),
            location: recorded.location,
            backtrace: recorded.backtrace,
            payload: Some(Mutex::new(payload)),
        }
    })
}

/// Drops `value`. A panic of its destructor does not unwind further.
pub(crate) fn drop_quietly<T>(value: T) {
    if std::mem::needs_drop::<T>() {
        // The destructor of the payload may panic as well, so the payload is leaked.
        if let Err(payload) = catch_unwind(AssertUnwindSafe(move || drop(value))) {
            std::mem::forget(payload);
        }
    }
}

/// Wakes a task. A panic of its waker, which is the user's code, does not unwind further.
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
    // The hook cannot be changed while this thread unwinds. The next job does it.
    if std::thread::panicking() {
        return;
    }
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            previous(panic);
            if CATCHING.try_with(Cell::get).unwrap_or(0) > 0 {
                let backtrace = Backtrace::capture();
                let recorded = Recorded {
                    location: panic.location().map(ToString::to_string),
                    backtrace: (backtrace.status() == BacktraceStatus::Captured)
                        .then(|| backtrace.to_string()),
                };
                // A panic while the thread's locals are being destroyed only loses its location.
                let _ = RECORDED.try_with(|slot| slot.replace(recorded));
            }
        }));
    });
}
