//! Becoming a worker before `main`, from a constructor of the program: the way of test crates.

use std::ffi::{CString, c_char, c_int};
use std::mem::transmute;
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;
use std::ptr;

use super::main::{init, is_worker};

/// An entry of the section `.init_array`.
pub type Constructor = extern "C" fn();

/// The signature with which the loader of the GNU C library calls constructors.
type WithArguments = extern "C" fn(c_int, *const *const c_char, *const *const c_char);

unsafe extern "C" {
    static environ: *const *const c_char;
}

/// Calls [`init`] in the constructor `own`. In a worker, which never returns from there, the constructors that come
/// after it in `all` run first: those of the crates that the program depends on.
///
/// # Safety
///
/// `all` is the section of constructors of this program, and the loader is calling `own`, which is one of them.
pub unsafe fn init_as_constructor(own: Constructor, all: Range<*const Constructor>) {
    if is_worker() {
        let arguments: Vec<_> =
            std::env::args_os().filter_map(|it| CString::new(it.into_vec()).ok()).collect();
        let mut pointers: Vec<_> = arguments.iter().map(|it| it.as_ptr()).collect();
        let count = c_int::try_from(pointers.len()).unwrap_or(c_int::MAX);
        pointers.push(ptr::null());
        // A constructor may keep the pointers.
        let (_, pointers) = (Vec::leak(arguments), Vec::leak(pointers));
        let mut at = all.start;
        let mut is_after_own = false;
        while at < all.end {
            // SAFETY: the caller promises that the range is a section of such entries.
            let constructor = unsafe { *at };
            if is_after_own {
                // SAFETY: a constructor that takes no arguments ignores them. The loader calls it in this way, too.
                let constructor = unsafe { transmute::<Constructor, WithArguments>(constructor) };
                // SAFETY: the C library has set the variable, and this is the only thread.
                constructor(count, pointers.as_ptr(), unsafe { environ });
            }
            is_after_own |= ptr::fn_addr_eq(constructor, own);
            // SAFETY: `at` is below the end of the section.
            at = unsafe { at.add(1) };
        }
    }
    init();
}
