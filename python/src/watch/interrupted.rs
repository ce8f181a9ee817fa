//! How `faulthandler` may be called where a signal has interrupted a thread.
//!
//! It reads the thread's frames as it finds them, and a signal may come between any two instructions. Three things it does
//! not survive, and each was seen to end a program within a minute of sampling:
//!
//! - Within the function that evaluates bytecode the frames may be half linked. When it begins, 3.11 and 3.12 make
//!   `tstate->cframe` point to memory that they fill in afterwards.
//! - 3.12 and 3.13 have frames of the interpreter's own between those of a function and of the C code that has called
//!   it. `faulthandler` passes over one that is alone and between two others. But when the function has returned and what
//!   it had is freed, which may take long, that frame is the innermost one (issue 123967 of `CPython`, mended in 3.12.8
//!   and 3.13.1); and if something of it has a destructor in Python, there are two in a row.
//! - In 3.10 it counts references, which only the thread that has the interpreter may do.

use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::{mem, ptr};

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;

/// Where the function that evaluates bytecode begins and ends.
static EVALUATION: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

/// Where the thread's state has its innermost frame, if there may be frames that must not be seen.
static INNERMOST: AtomicU8 = AtomicU8::new(HARMLESS);

/// Up to 3.11: all frames are Python's.
const HARMLESS: u8 = 0;
/// 3.12: it has a pointer to what has a pointer to the frame.
const BY_CFRAME: u8 = 1;
/// 3.13: it has a pointer to the frame.
const DIRECT: u8 = 2;

// Where it has that, in words. What is in these structures does not change within a minor version.
const CFRAME: usize = 7;
const CURRENT_FRAME: usize = 9;

/// The function that returns the state of the thread that has the interpreter, if no other may be asked.
static HAS_INTERPRETER: AtomicUsize = AtomicUsize::new(0);

/// So many frames `faulthandler` looks at.
const DEPTH: usize = 100;

/// A frame of 3.12 or 3.13.
#[repr(C)]
struct Frame {
    executable: *mut c_void,
    previous: *mut Frame,
    _of_no_interest: [usize; 6],
    stacktop: c_int,
    return_offset: u16,
    owner: u8,
}

/// The frame's owner: it is the interpreter's own, on the stack of C.
const OWNED_BY_C: u8 = 3;

/// Takes note of which interpreter this is. An error if it is not known how to interrupt it.
pub(super) fn prepare(py: Python<'_>) -> PyResult<()> {
    let version = py.version_info();
    let innermost = match (version.major, version.minor) {
        (3, ..=11) => HARMLESS,
        (3, 12) => BY_CFRAME,
        (3, 13) => DIRECT,
        (major, minor) => {
            let reason = format!("it is not known how to take stacks by a signal in Python {major}.{minor}");
            return Err(PyRuntimeError::new_err(reason));
        }
    };
    INNERMOST.store(innermost, Ordering::Relaxed);
    if cfg!(not(any(target_arch = "x86_64", target_arch = "aarch64"))) {
        return Err(PyRuntimeError::new_err("stacks are not taken on this architecture"));
    }
    let begin = find(c"_PyEval_EvalFrameDefault")?;
    let current = if version >= (3, 11) { ptr::null_mut() } else { find(c"_PyThreadState_UncheckedGet")? };
    HAS_INTERPRETER.store(current as usize, Ordering::Relaxed);
    EVALUATION[0].store(begin as usize, Ordering::Relaxed);
    EVALUATION[1].store(begin as usize + size_of_function(begin), Ordering::Relaxed);
    Ok(())
}

/// A function of the interpreter.
fn find(name: &CStr) -> PyResult<*mut c_void> {
    // SAFETY: the name ends with a NUL.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    let hides = || PyRuntimeError::new_err(format!("this interpreter hides {}", name.to_string_lossy()));
    if found.is_null() { Err(hides()) } else { Ok(found) }
}

/// In bytes; more where that is not known.
fn size_of_function(begin: *mut c_void) -> usize {
    const PLENTY: usize = 256 * 1024;
    #[cfg(all(target_env = "gnu", target_pointer_width = "64"))]
    {
        // The C library's `RTLD_DL_SYMENT`.
        const THE_SYMBOL: c_int = 1;
        let mut symbol: *mut c_void = ptr::null_mut();
        let mut about = mem::MaybeUninit::<libc::Dl_info>::uninit();
        // SAFETY: both pointers are to room for what is written.
        let found = unsafe { libc::dladdr1(begin, about.as_mut_ptr(), &raw mut symbol, THE_SYMBOL) } != 0;
        // SAFETY: if found, it is null or in a table that stays for as long as the interpreter is loaded.
        let symbol = unsafe { if found { symbol.cast::<libc::Elf64_Sym>().as_ref() } else { None } };
        if let Some(size) =
            symbol.and_then(|symbol| usize::try_from(symbol.st_size).ok()).filter(|it| *it > 0)
        {
            return size;
        }
    }
    PLENTY
}

/// Calls `dump`, which looks at this thread's frames, if they are sound where it was interrupted; the interpreter's own
/// are out of its sight. For a signal's handler: no lock, no allocation, no panic.
///
/// # Safety
///
/// `context` is what the system gave to the handler that calls this.
pub(super) unsafe fn if_sound(context: *mut c_void, dump: impl FnOnce()) {
    // SAFETY: as promised by the caller.
    let at = unsafe { instruction(context.cast()) };
    if (EVALUATION[0].load(Ordering::Relaxed)..EVALUATION[1].load(Ordering::Relaxed)).contains(&at) {
        return;
    }
    // SAFETY: it only reads a word of this thread's; `faulthandler` asks the same.
    let thread = unsafe { ffi::PyGILState_GetThisThreadState() }.cast::<c_void>();
    let current = HAS_INTERPRETER.load(Ordering::Relaxed);
    // SAFETY: it is that function, of the interpreter, which loads a word.
    if current != 0 && unsafe { mem::transmute::<usize, extern "C" fn() -> *mut c_void>(current)() } != thread
    {
        return;
    }
    // SAFETY: the state of a thread that has one is alive, and has its fields where this version has them. Outside of
    // the evaluation they hold what they should: the frame is null or alive, and so are those before it.
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

/// Takes the interpreter's own frames out of the chain, and notes which link has led to which. Whoever else follows it
/// meanwhile, with the interpreter in hand, passes over them anyway.
///
/// # Safety
///
/// `link` leads to this thread's innermost frame, and the chain is sound.
unsafe fn hide(mut link: *mut *mut Frame, hidden: &mut [(*mut *mut Frame, *mut Frame); DEPTH]) {
    for hidden in hidden {
        // SAFETY: as promised by the caller; the chain ends with null.
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

/// The address of the instruction that comes next.
///
/// # Safety
///
/// `context` is valid.
unsafe fn instruction(context: *const libc::ucontext_t) -> usize {
    // SAFETY: as promised by the caller.
    let context = unsafe { &*context };
    #[cfg(target_arch = "x86_64")]
    let at = u64::from_ne_bytes(context.uc_mcontext.gregs[libc::REG_RIP as usize].to_ne_bytes());
    #[cfg(target_arch = "aarch64")]
    let at = context.uc_mcontext.pc;
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let at = 0_u64;
    usize::try_from(at).unwrap_or(0)
}
