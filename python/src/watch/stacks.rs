//! Stacks of threads while the interpreter is out of reach.
//!
//! A signal makes a thread write down its own stack. This is the only stack that can be read without the interpreter,
//! since no other thread changes it. The standard library's `faulthandler` has a handler that does so. The handler here
//! stands before that one: it counts the signals that are handled, and does not call it where it would crash.

use std::ffi::c_void;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use offloop::embed::thread;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rustix::fs::MemfdFlags;

use super::interrupted;
use crate::interpreter::{Mutex, detach};

/// The time in which a thread must have written its stack. Once it has a core, it takes microseconds.
const WRITE_TIMEOUT: Duration = Duration::from_millis(500);

/// The time between two looks at whether the stack is written.
const LOOK_INTERVAL: Duration = Duration::from_micros(200);

/// The number of signals that a thread gets. For short moments its stack cannot be read.
const ATTEMPTS: usize = 20;

/// The handler of `faulthandler`, while ours is installed. 0 otherwise. A process has one such signal.
static INNER: AtomicUsize = AtomicUsize::new(0);

/// The number of signals that were handled. Increased by the handler.
static HANDLED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn handler(signal: libc::c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    let inner = INNER.load(Ordering::Acquire);
    if inner != 0 {
        // SAFETY: the address is that of the handler that `faulthandler` has installed, which takes one argument and is
        // safe to call in a signal's handler. The context is the one that the system has passed for this signal.
        unsafe {
            let inner = std::mem::transmute::<usize, extern "C" fn(libc::c_int)>(inner);
            interrupted::if_sound(context, || inner(signal));
        }
    }
    HANDLED.fetch_add(1, Ordering::Release);
}

/// A signal at which the thread that gets it writes down its stack.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct Stacks(pub(super) Arc<Signal>);

pub(super) struct Signal {
    number: i32,
    /// Taken when the signal is given up.
    recorder: Mutex<Option<Recorder>>,
}

/// Takes one stack after the other.
struct Recorder {
    /// The file to which `faulthandler` writes, in memory.
    file: File,
    /// The number of signals that were sent.
    sent: usize,
    /// The thread to which the last one was sent.
    asked: i32,
}

#[pymethods]
impl Stacks {
    /// Installs a handler of this signal, or of an unused real-time one. Raises `ValueError` if the signal has a
    /// handler.
    #[new]
    fn new(py: Python<'_>, signal: Option<i32>) -> PyResult<Self> {
        let number = choose(signal)?;
        if INNER.load(Ordering::Acquire) != 0 {
            return Err(PyRuntimeError::new_err(
                "this process takes stacks by another signal already; give all watches the same one",
            ));
        }
        interrupted::prepare(py)?;
        let memory = rustix::fs::memfd_create("offloop-stacks", MemfdFlags::CLOEXEC);
        let file = File::from(memory.map_err(io::Error::from)?);
        let options = PyDict::new(py);
        options.set_item("file", file.as_raw_fd())?;
        options.set_item("all_threads", false)?;
        py.import("faulthandler")?.call_method("register", (number,), Some(&options))?;
        let mut action = current(number)?;
        INNER.store(action.sa_sigaction, Ordering::Release);
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags |= libc::SA_SIGINFO;
        install(number, &action)?;
        let recorder = Recorder { file, sent: HANDLED.load(Ordering::Acquire), asked: 0 };
        Ok(Self(Arc::new(Signal { number, recorder: Mutex::new(Some(recorder)) })))
    }

    /// The signal's number.
    #[getter]
    fn signal(&self) -> i32 {
        self.0.number
    }

    /// Returns the stack of a thread. Blocks for at most half a second.
    fn take(&self, py: Python<'_>, tid: i32) -> PyResult<Option<String>> {
        detach(py, || self.0.take(tid))
    }

    /// Gives the signal up, unless other code has set a handler since. Blocks while a stack is being taken.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        match detach(py, || self.0.recorder.lock().take())? {
            // A signal that is under way would end the process once there is no handler.
            Some(mut recorder) => self.0.release(py, !recorder.is_settled()),
            None => Ok(()),
        }
    }

    /// Gives the signal up in a child made by `fork()`, which does not have the thread that may be taking a stack.
    fn forget(&self, py: Python<'_>) -> PyResult<()> {
        self.0.release(py, false)
    }
}

/// Returns the given signal, or the highest unused real-time one: programs that use some begin at the lowest.
fn choose(signal: Option<i32>) -> PyResult<i32> {
    match signal {
        Some(number) if is_free(number) => Ok(number),
        Some(number) => Err(PyValueError::new_err(format!("signal {number} has a handler already"))),
        None => (libc::SIGRTMIN()..=libc::SIGRTMAX())
            .rev()
            .find(|number| is_free(*number))
            .ok_or_else(|| PyValueError::new_err("all real-time signals have handlers already")),
    }
}

impl Signal {
    fn release(&self, py: Python<'_>, is_under_way: bool) -> PyResult<()> {
        let mut action = current(self.number)?;
        if action.sa_sigaction != handler as *const () as usize {
            return Ok(());
        }
        if is_under_way {
            // To ignore a signal discards those that are under way.
            action.sa_sigaction = libc::SIG_IGN;
            install(self.number, &action)?;
        }
        py.import("faulthandler")?.call_method1("unregister", (self.number,))?;
        INNER.store(0, Ordering::Release);
        Ok(())
    }

    /// Makes the thread write down its stack.
    ///
    /// Returns `None` if that is not possible: the thread has ended, blocks the signal, is in a system call that cannot
    /// be interrupted, runs no Python code, or (in 3.10) waits for the interpreter. It is not possible either if the
    /// thread evaluates bytecode at each attempt; such a thread releases the interpreter now and then.
    pub(super) fn take(&self, tid: i32) -> Option<String> {
        let mut recorder = self.recorder.lock();
        let recorder = recorder.as_mut()?;
        (0..ATTEMPTS).find_map(|_| recorder.ask(tid, self.number).transpose())?.ok()
    }
}

/// The error of an attempt after which no other one can succeed.
struct Hopeless;

impl From<io::Error> for Hopeless {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl Recorder {
    /// Makes the thread write down its stack. Returns `None` if it has written nothing this time.
    fn ask(&mut self, tid: i32, signal: i32) -> Result<Option<String>, Hopeless> {
        if !self.is_settled() || thread::blocks_signal(tid, signal).unwrap_or(true) {
            return Err(Hopeless);
        }
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.sent += 1;
        self.asked = tid;
        if !send(tid, signal) {
            self.sent -= 1;
            return Err(Hopeless);
        }
        let sent = Instant::now();
        while self.sent != HANDLED.load(Ordering::Acquire) {
            if sent.elapsed() > WRITE_TIMEOUT {
                return Err(Hopeless);
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        let mut written = Vec::new();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.read_to_end(&mut written)?;
        Ok((!written.is_empty()).then(|| String::from_utf8_lossy(&written).into_owned()))
    }

    /// Returns whether no signal is under way. A signal that its thread had not handled when it ended is lost.
    fn is_settled(&mut self) -> bool {
        if self.sent != HANDLED.load(Ordering::Acquire) && !send(self.asked, 0) {
            self.sent = HANDLED.load(Ordering::Acquire);
        }
        self.sent == HANDLED.load(Ordering::Acquire)
    }
}

/// Sends a signal to a thread of this process. Returns whether there is such a thread. Signal 0 only asks for that.
fn send(tid: i32, signal: i32) -> bool {
    // SAFETY: the system call takes three numbers, and refuses those that are not valid.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, signal) == 0 }
}

/// Returns the signal's present action.
fn current(signal: i32) -> PyResult<libc::sigaction> {
    let mut action = MaybeUninit::uninit();
    // SAFETY: the null pointer means that no action is set. The other one is to room for the action that is written.
    if unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: the call has not failed, so it has written the action.
    Ok(unsafe { action.assume_init() })
}

fn install(signal: i32, action: &libc::sigaction) -> PyResult<()> {
    // SAFETY: the action is valid. Its handler only does what is allowed in one, so it may run at any time.
    if unsafe { libc::sigaction(signal, action, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(())
}

/// Returns whether the signal is neither handled nor ignored.
fn is_free(signal: i32) -> bool {
    current(signal).is_ok_and(|action| action.sa_sigaction == libc::SIG_DFL)
}
