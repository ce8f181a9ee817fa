//! Calls `faulthandler` where a signal has interrupted a thread, unless it would crash there.
//!
//! `faulthandler` reads the thread's frames as they are, and a signal may come between any two instructions. It crashes
//! in three situations. Each of them has ended a program within a minute of sampling:
//!
//! - Within the function that evaluates bytecode, the links between frames may be incomplete. At its beginning, 3.11
//!   and 3.12 make `tstate->cframe` point to memory that they fill in afterwards.
//! - 3.12 and 3.13 have frames of the interpreter's own between those of a function and of the C code that has called
//!   it. `faulthandler` skips one that stands alone between two others. But while the values of a function that has
//!   returned are freed, which may take long, that frame is the innermost one (issue 123967 of `CPython`, fixed in
//!   3.12.8 and 3.13.1). If one of these values has a destructor in Python, there are two such frames in a row.
//! - In 3.10 it counts references, which only the thread that has the interpreter may do.

use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::{mem, ptr};

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::interpreter;

/// The addresses at which the function that evaluates bytecode begins and ends. Set by [`prepare`].
static EVALUATION: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

/// The way from a thread's state to its innermost frame, if there may be frames that must be hidden. Set by
/// [`prepare`].
static INNERMOST: AtomicU8 = AtomicU8::new(HARMLESS);

/// Up to 3.11: all frames are Python's, so none must be hidden.
const HARMLESS: u8 = 0;
/// 3.12: the state has a pointer to a structure that has a pointer to the frame.
const BY_CFRAME: u8 = 1;
/// 3.13: the state has a pointer to the frame.
const DIRECT: u8 = 2;

// The positions of these pointers in the state, in words. They do not change within a minor version.
const CFRAME: usize = 7;
const CURRENT_FRAME: usize = 9;

/// In 3.10, the function that returns the state of the thread that has the interpreter: only that thread may be asked.
/// 0 in later versions. Set by [`prepare`].
static HAS_INTERPRETER: AtomicUsize = AtomicUsize::new(0);

/// The number of frames that `faulthandler` reads.
const DEPTH: usize = 100;

/// A frame of 3.12 or 3.13.
#[repr(C)]
struct Frame {
    executable: *mut c_void,
    previous: *mut Frame,
    _unused: [usize; 6],
    stacktop: c_int,
    return_offset: u16,
    owner: u8,
}

/// The owner of a frame that is the interpreter's own, on the stack of C.
const OWNED_BY_C: u8 = 3;

/// Looks up where this interpreter has its frames. Fails if that is not known for its version.
pub(super) fn prepare(py: Python<'_>) -> PyResult<()> {
    let version = py.version_info();
    let innermost = match (version.major, version.minor) {
        (3, ..=11) => HARMLESS,
        (3, 12) => BY_CFRAME,
        (3, 13) => DIRECT,
        (major, minor) => {
            let reason = format!(
                "stacks cannot be taken by a signal in Python {major}.{minor}: its frames are not known"
            );
            return Err(PyRuntimeError::new_err(reason));
        }
    };
    INNERMOST.store(innermost, Ordering::Relaxed);
    if cfg!(not(any(target_arch = "x86_64", target_arch = "aarch64"))) {
        return Err(PyRuntimeError::new_err("stacks cannot be taken by a signal on this architecture"));
    }
    let begin = find(c"_PyEval_EvalFrameDefault")?;
    let current = if version >= (3, 11) { ptr::null_mut() } else { find(c"_PyThreadState_UncheckedGet")? };
    HAS_INTERPRETER.store(current as usize, Ordering::Relaxed);
    EVALUATION[0].store(begin as usize, Ordering::Relaxed);
    EVALUATION[1].store(begin as usize + size_of_function(begin), Ordering::Relaxed);
    Ok(())
}

/// Returns the address of a function of the interpreter.
fn find(name: &CStr) -> PyResult<*mut c_void> {
    interpreter::find(name).ok_or_else(|| {
        let name = name.to_string_lossy();
        PyRuntimeError::new_err(format!(
            "stacks cannot be taken by a signal, as this interpreter does not export {name}"
        ))
    })
}

/// Returns the length of a function in bytes. If it is not known, returns more.
fn size_of_function(begin: *mut c_void) -> usize {
    const PLENTY: usize = 256 * 1024;
    #[cfg(all(target_env = "gnu", target_pointer_width = "64"))]
    {
        const RTLD_DL_SYMENT: c_int = 1;
        let mut symbol: *mut c_void = ptr::null_mut();
        let mut about = mem::MaybeUninit::<libc::Dl_info>::uninit();
        // SAFETY: both pointers are to room for the values that are written.
        let found = unsafe { libc::dladdr1(begin, about.as_mut_ptr(), &raw mut symbol, RTLD_DL_SYMENT) } != 0;
        // SAFETY: if found, the pointer is null or into a table that stays as long as the interpreter is loaded.
        let symbol = unsafe { if found { symbol.cast::<libc::Elf64_Sym>().as_ref() } else { None } };
        if let Some(size) =
            symbol.and_then(|symbol| usize::try_from(symbol.st_size).ok()).filter(|it| *it > 0)
        {
            return size;
        }
    }
    PLENTY
}

/// Calls `dump`, which reads this thread's frames, unless they are incomplete where the thread was interrupted. The
/// interpreter's own frames are hidden meanwhile. For a signal's handler: takes no lock, allocates nothing, never
/// panics.
///
/// # Safety
///
/// `context` is the one that the system has passed to the signal's handler that calls this.
pub(super) unsafe fn if_sound(context: *mut c_void, dump: impl FnOnce()) {
    // SAFETY: the caller guarantees that the context is valid.
    let at = unsafe { instruction(context.cast()) };
    if (EVALUATION[0].load(Ordering::Relaxed)..EVALUATION[1].load(Ordering::Relaxed)).contains(&at) {
        return;
    }
    // SAFETY: the function only reads a word of this thread's own, and `faulthandler` calls it in its handlers too.
    let thread = unsafe { ffi::PyGILState_GetThisThreadState() }.cast::<c_void>();
    let current = HAS_INTERPRETER.load(Ordering::Relaxed);
    // SAFETY: `prepare` has stored the address of a function of this signature, which only reads a word.
    if current != 0 && unsafe { mem::transmute::<usize, extern "C" fn() -> *mut c_void>(current)() } != thread
    {
        return;
    }
    // SAFETY: the state of a running thread is alive, and `prepare` has checked that this version has its fields at
    // these positions. Outside of the function that evaluates bytecode the links are complete: the innermost frame is
    // null or alive, and so are all frames before it. No other thread changes the links of this one.
    unsafe {
        let innermost: *mut *mut Frame = match INNERMOST.load(Ordering::Relaxed) {
            BY_CFRAME if !thread.is_null() => thread.cast::<*mut *mut Frame>().add(CFRAME).read(),
            DIRECT if !thread.is_null() => thread.cast::<*mut Frame>().add(CURRENT_FRAME),
            _ => return dump(),
        };
        let mut hidden = [(ptr::null_mut(), ptr::null_mut()); DEPTH];
        hide(innermost, &mut hidden);
        dump();
        for (link, frame) in hidden {
            if !link.is_null() {
                *link = frame;
            }
        }
    }
}

/// Removes the interpreter's own frames from the chain, and records which link has led to which frame. Threads that
/// have the interpreter may follow the chain meanwhile: they skip these frames anyway.
///
/// # Safety
///
/// `link` points to the pointer to this thread's innermost frame, and all frames of the chain are alive.
unsafe fn hide(mut link: *mut *mut Frame, hidden: &mut [(*mut *mut Frame, *mut Frame); DEPTH]) {
    for hidden in hidden {
        // SAFETY: the caller guarantees that all frames of the chain are alive, and the chain ends with null.
        unsafe {
            let first = *link;
            let mut frame = first;
            while !frame.is_null() && (*frame).owner == OWNED_BY_C {
                frame = (*frame).previous;
            }
            if frame != first {
                *link = frame;
                *hidden = (link, first);
            }
            if frame.is_null() {
                return;
            }
            link = &raw mut (*frame).previous;
        }
    }
}

/// Returns the address of the next instruction.
///
/// # Safety
///
/// `context` is valid.
unsafe fn instruction(context: *const libc::ucontext_t) -> usize {
    // SAFETY: the caller guarantees that the pointer is valid.
    let context = unsafe { &*context };
    #[cfg(target_arch = "x86_64")]
    let at = u64::from_ne_bytes(context.uc_mcontext.gregs[libc::REG_RIP as usize].to_ne_bytes());
    #[cfg(target_arch = "aarch64")]
    let at = context.uc_mcontext.pc;
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let at = 0_u64;
    usize::try_from(at).unwrap_or(0)
}
