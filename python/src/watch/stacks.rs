//! Stacks of threads while the interpreter is out of reach.
//!
//! A signal makes a thread write down its own stack, which is the only one that can be read without the interpreter:
//! nobody else changes it meanwhile. What does so is the standard library's `faulthandler`. Around its handler
//! there is one of ours that says when it is done, and leaves it uncalled where it would not survive.

use std::ffi::c_void;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rustix::fs::MemfdFlags;

use super::{clocks, interrupted};

/// So long a thread may take to write its stack. It takes microseconds, once it has a core.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often a thread is asked. It may be found where its stack cannot be read, for a moment.
const ATTEMPTS: usize = 20;

/// The handler of `faulthandler`, while one of ours is installed. So there is one such signal in a process.
static INNER: AtomicUsize = AtomicUsize::new(0);

/// How many stacks have been written.
static WRITTEN: AtomicUsize = AtomicUsize::new(0);

extern "C" fn handler(signal: libc::c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    let inner = INNER.load(Ordering::Acquire);
    if inner != 0 {
        // SAFETY: it is the handler that faulthandler has installed for one argument; and that does nothing that
        // a handler must not. The context is that of this signal.
        unsafe {
            let inner = std::mem::transmute::<usize, extern "C" fn(libc::c_int)>(inner);
            interrupted::if_sound(context, || inner(signal));
        }
    }
    WRITTEN.fetch_add(1, Ordering::Release);
}

/// A signal at which the thread that gets it writes its stack down.
#[pyclass(frozen, module = "offloop._offloop")]
pub(crate) struct Stacks(pub(super) Arc<Signal>);

pub(super) struct Signal {
    number: i32,
    /// `None` when it is given up.
    file: Mutex<Option<Pad>>,
}

/// What the stacks are written to.
struct Pad {
    file: File,
    /// How many signals were sent, and the last one to whom.
    sent: usize,
    asked: i32,
}

#[pymethods]
impl Stacks {
    /// Takes the signal, or a real-time one that nobody uses. `ValueError` if somebody does.
    #[new]
    fn new(py: Python<'_>, signal: Option<i32>) -> PyResult<Self> {
        let number = match signal {
            Some(number) if is_free(number) => number,
            Some(number) => {
                return Err(PyValueError::new_err(format!("signal {number} has a handler already")));
            }
            // The highest, as those who count begin at the lowest.
            None => (libc::SIGRTMIN()..=libc::SIGRTMAX())
                .rev()
                .find(|number| is_free(*number))
                .ok_or_else(|| PyValueError::new_err("all real-time signals have handlers"))?,
        };
        if INNER.load(Ordering::Acquire) != 0 {
            return Err(PyRuntimeError::new_err("this process has such a signal already"));
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
        let pad = Pad { file, sent: WRITTEN.load(Ordering::Acquire), asked: 0 };
        Ok(Self(Arc::new(Signal { number, file: Mutex::new(Some(pad)) })))
    }

    /// Which signal it is.
    #[getter]
    fn signal(&self) -> i32 {
        self.0.number
    }

    /// The stack of a thread. Blocks for half a second at most.
    fn take(&self, py: Python<'_>, tid: i32) -> Option<String> {
        py.detach(|| self.0.take(tid))
    }

    /// Gives the signal up, unless somebody has taken it meanwhile. Blocks while a stack is being taken.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let taken = || self.0.file.lock().unwrap_or_else(PoisonError::into_inner).take();
        match py.detach(taken) {
            // One that is under way would kill the process once there is no handler.
            Some(mut pad) => self.0.release(py, !pad.is_settled()),
            None => Ok(()),
        }
    }

    /// The same in a child made by `fork()`, where whoever was taking a stack is not.
    fn forget(&self, py: Python<'_>) -> PyResult<()> {
        self.0.release(py, false)
    }
}

impl Signal {
    fn release(&self, py: Python<'_>, is_under_way: bool) -> PyResult<()> {
        let mut action = current(self.number)?;
        if action.sa_sigaction != handler as *const () as usize {
            return Ok(());
        }
        if is_under_way {
            // What is ignored is disposed of.
            action.sa_sigaction = libc::SIG_IGN;
            install(self.number, &action)?;
        }
        py.import("faulthandler")?.call_method1("unregister", (self.number,))?;
        INNER.store(0, Ordering::Release);
        Ok(())
    }

    /// Has the thread write down its stack. None if that cannot be had: it is gone, has the signal blocked, is in a
    /// call that the system does not interrupt, has nothing of Python, waits for the interpreter (in 3.10), or evaluates
    /// bytecode whenever it is asked; who does that lets others have the interpreter now and then.
    pub(super) fn take(&self, tid: i32) -> Option<String> {
        let mut guard = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let pad = guard.as_mut()?;
        (0..ATTEMPTS).find_map(|_| pad.ask(tid, self.number).transpose())?.ok()
    }
}

/// Why no further attempt is worth while.
struct Hopeless;

impl From<io::Error> for Hopeless {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl Pad {
    /// Has the thread write down its stack; `None` if it has written nothing.
    fn ask(&mut self, tid: i32, signal: i32) -> Result<Option<String>, Hopeless> {
        if !self.is_settled() || clocks::blocks(tid, signal) {
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
        while self.sent != WRITTEN.load(Ordering::Acquire) {
            if sent.elapsed() > PATIENCE {
                return Err(Hopeless);
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        let mut written = Vec::new();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.read_to_end(&mut written)?;
        Ok((!written.is_empty()).then(|| String::from_utf8_lossy(&written).into_owned()))
    }

    /// Whether no signal is under way. What a thread had not taken when it ended, nobody will.
    fn is_settled(&mut self) -> bool {
        if self.sent != WRITTEN.load(Ordering::Acquire) && !send(self.asked, 0) {
            self.sent = WRITTEN.load(Ordering::Acquire);
        }
        self.sent == WRITTEN.load(Ordering::Acquire)
    }
}

/// Sends a signal to a thread of this process; 0 only asks whether there is such a thread. Says whether there is.
fn send(tid: i32, signal: i32) -> bool {
    // SAFETY: it takes three numbers.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, signal) == 0 }
}

fn current(signal: i32) -> PyResult<libc::sigaction> {
    let mut action = MaybeUninit::uninit();
    // SAFETY: nothing is set, and the pointer is to room for what is written.
    if unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: it was written, as the call has not failed.
    Ok(unsafe { action.assume_init() })
}

fn install(signal: i32, action: &libc::sigaction) -> PyResult<()> {
    // SAFETY: the action is a valid one, with a handler that may run at any time.
    if unsafe { libc::sigaction(signal, action, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(())
}

/// Whether nobody handles or ignores it.
fn is_free(signal: i32) -> bool {
    current(signal).is_ok_and(|action| action.sa_sigaction == libc::SIG_DFL)
}
