//! Catches panics together with their location and backtrace.
//!
//! `catch_unwind` alone yields only the payload, so a panic hook records the rest. It is installed once, on top of the
//! program's own hook, which still runs first and prints what it always prints.

use std::any::{Any, TypeId};
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

    /// Returns the place that panicked, as `file:line:column`. `None` if the job resumed the panic of another thread, as
    /// it does by `resume_unwind` and by the functions of rayon, or if the program replaced the panic hook after offloop's
    /// first job.
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
struct Recorded {
    /// The [`catch`] frame that the panic was in.
    frame: u64,
    payload: Identity,
    location: Option<String>,
    backtrace: Option<String>,
}

/// The traits by which a payload is recognised when it is caught. The hook sees it before it has its box, so its address
/// says nothing.
///
/// Two panics with the same literal, or with values of one other type, are not told apart. The later one counts.
#[derive(PartialEq, Eq)]
enum Identity {
    Literal(*const u8, usize),
    /// The text is in the same place, since a `String` is moved into the box and not copied.
    Text(*const u8, String),
    Other(TypeId),
}

impl Identity {
    fn of(payload: &(dyn Any + Send)) -> Self {
        if let Some(text) = payload.downcast_ref::<&'static str>() {
            Self::Literal(text.as_ptr(), text.len())
        } else if let Some(text) = payload.downcast_ref::<String>() {
            Self::Text(text.as_ptr(), text.clone())
        } else {
            Self::Other(payload.type_id())
        }
    }
}

/// The number of panics per thread whose details are kept. Destructors may panic, and catch that, while the thread
/// unwinds from another panic.
const KEPT: usize = 8;

thread_local! {
    /// Counts the `catch` frames that this thread has had.
    static FRAMES: Cell<u64> = const { Cell::new(0) };
    /// The number of the innermost `catch` frame on this thread's stack; 0 if there is none.
    static FRAME: Cell<u64> = const { Cell::new(0) };
    /// The details of the newest panics in `catch` frames of this thread, the newest last.
    static RECORDED: RefCell<Vec<Recorded>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f`. Returns its value, or its panic with location and backtrace.
///
/// A payload that was resumed by hand comes without them, unless its panic was in this very call of `f`.
pub(crate) fn catch<R>(f: impl FnOnce() -> R) -> Result<R, Panic> {
    install_hook();
    let frame = FRAMES.get() + 1;
    FRAMES.set(frame);
    let outer = FRAME.replace(frame);
    let outcome = catch_unwind(AssertUnwindSafe(f));
    FRAME.set(outer);
    outcome.map_err(|payload| {
        let (location, backtrace) = take_details(frame, &*payload);
        Panic { message: message(&*payload), location, backtrace, payload: Some(Mutex::new(payload)) }
    })
}

/// Removes and returns the location and the backtrace of the panic with this payload in a `catch` frame.
///
/// Others may have been recorded there: panics that `f` has caught itself. And this one may not: resuming a panic, as
/// threads and other pools do with that of another thread, calls no hook.
fn take_details(frame: u64, payload: &(dyn Any + Send)) -> (Option<String>, Option<String>) {
    let payload = Identity::of(payload);
    let found = RECORDED.try_with(|recorded| {
        let mut recorded = recorded.borrow_mut();
        let at = recorded.iter().rposition(|it| it.frame == frame && it.payload == payload)?;
        Some(recorded.remove(at))
    });
    found.ok().flatten().map_or((None, None), |found| (found.location, found.backtrace))
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

/// Returns the text of a panic, by its payload.
pub fn message(payload: &(dyn Any + Send)) -> String {
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
            let frame = FRAME.try_with(Cell::get).unwrap_or(0);
            if frame > 0 {
                let backtrace = Backtrace::capture();
                let new = Recorded {
                    frame,
                    payload: Identity::of(panic.payload()),
                    location: panic.location().map(ToString::to_string),
                    backtrace: (backtrace.status() == BacktraceStatus::Captured)
                        .then(|| backtrace.to_string()),
                };
                // A panic while the thread's locals are being destroyed only loses its location.
                let _ = RECORDED.try_with(|recorded| {
                    let mut recorded = recorded.borrow_mut();
                    if recorded.len() == KEPT {
                        recorded.remove(0);
                    }
                    recorded.push(new);
                });
            }
        }));
    });
}
