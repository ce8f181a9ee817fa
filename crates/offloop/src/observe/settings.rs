//! The name of the service that this process belongs to.

use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::metrics::view::inspector::program;

/// The environment variable that names the service.
const VARIABLE: &str = "OFFLOOP_SERVICE";

/// The name that the program has given. Null if it has given none. A forked child has it as well, and finds no lock.
static SERVICE: AtomicPtr<String> = AtomicPtr::new(ptr::null_mut());

/// Names the service. The name before is leaked, since somebody may be reading it.
pub(super) fn set_service(name: String) {
    SERVICE.store(Box::into_raw(Box::new(name)), Ordering::Release);
}

/// Returns the name: the one that the program has given, that of the environment, that of the binding, that of the
/// program's file.
pub(super) fn service() -> String {
    // SAFETY: the pointer is null or comes from a `Box`, and is never freed.
    if let Some(name) = unsafe { SERVICE.load(Ordering::Acquire).as_ref() } {
        return name.clone();
    }
    if let Some(name) = std::env::var_os(VARIABLE).filter(|name| !name.is_empty()) {
        return name.to_string_lossy().into_owned();
    }
    if let Some((_, service)) = program().filter(|(_, service)| !service.is_empty()) {
        return service.to_owned();
    }
    let program = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&program).file_name().unwrap_or(&program);
    name.to_string_lossy().into_owned()
}
