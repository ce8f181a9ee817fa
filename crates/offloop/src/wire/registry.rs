//! All tasks of this program.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::Ordering;
#[cfg(target_os = "linux")]
use std::{
    ffi::{CStr, OsStr},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use super::task::Task;
use crate::base::fork::PerProcess;
use crate::core::error::ErrorKind;

/// Not public API: every task that is linked into this program.
#[linkme::distributed_slice]
pub static TASKS: [Task];

/// Returns all tasks, in an order that is the same in all processes of one build.
pub(crate) fn registry() -> &'static [&'static Task] {
    static REGISTRY: PerProcess<Vec<&'static Task>> = PerProcess::new();
    REGISTRY.get(|| {
        let mut tasks: Vec<&'static Task> = TASKS.iter().collect();
        tasks.sort_by_key(|task| task.identity());
        for (index, task) in (0..).zip(&tasks) {
            task.index.store(index, Ordering::Relaxed);
        }
        tasks
    })
}

/// The tasks of one name.
#[derive(Debug, Clone, Copy)]
enum Named {
    One(&'static Task),
    /// Two of them, or the first two of more.
    Several([&'static Task; 2]),
}

/// Returns the tasks of this program by their names.
fn names() -> &'static HashMap<&'static str, Named> {
    static NAMES: PerProcess<HashMap<&'static str, Named>> = PerProcess::new();
    NAMES.get(|| {
        let mut names: HashMap<&'static str, Named> = HashMap::new();
        for task in registry() {
            let entry = names.entry(task.name);
            entry
                .and_modify(|named| {
                    if let Named::One(first) = named {
                        *named = Named::Several([*first, *task]);
                    }
                })
                .or_insert(Named::One(task));
        }
        names
    })
}

/// Describes two tasks that have the same name.
fn name_conflict([first, second]: [&'static Task; 2]) -> String {
    format!(
        "two tasks of this program have the name `{}`, the functions at {} and {}; give each a name of its own: \
         `#[offloop::task(name = \"…\")]`",
        first.name,
        first.place(),
        second.place()
    )
}

/// Fails if a name that the program has given a task is also that of another one. Tasks without such a name may have the
/// same path, as those of a crate that is linked in two versions: within one program they are not called by it.
pub(crate) fn check_names() -> Result<(), String> {
    let conflict = names().values().find_map(|named| match named {
        Named::Several(tasks) if registry().iter().any(|it| it.name == tasks[0].name && it.is_name_fixed) => {
            Some(*tasks)
        }
        _ => None,
    });
    conflict.map_or(Ok(()), |tasks| Err(name_conflict(tasks)))
}

/// Returns the only task with this name. Returns `None` if there is none, and an error if there are several.
pub(crate) fn find(name: &str) -> Result<Option<&'static Task>, String> {
    match names().get(name) {
        None => Ok(None),
        Some(Named::One(task)) => Ok(Some(task)),
        Some(Named::Several(tasks)) => Err(name_conflict(*tasks)),
    }
}

/// Returns a hash of what two processes must have in common to understand each other: this crate's version, the tasks
/// with their signatures, and the file of the program.
pub(crate) fn fingerprint() -> u64 {
    let mut hasher = DefaultHasher::new();
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    for task in registry() {
        task.identity().hash(&mut hasher);
    }
    #[cfg(target_os = "linux")]
    if let Ok(file) = std::fs::metadata(file_of_this_code()) {
        use std::os::unix::fs::MetadataExt;
        (file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()).hash(&mut hasher);
    }
    hasher.finish()
}

/// Returns the path of the file that this code was loaded from: the running program, or the library that has this crate in
/// it. Other programs may load the same library.
#[cfg(target_os = "linux")]
fn file_of_this_code() -> PathBuf {
    let path = library_of(fingerprint as fn() -> u64 as *const libc::c_void).filter(|path| is_library(path));
    path.unwrap_or_else(|| PathBuf::from("/proc/self/exe"))
}

/// Returns whether a path of a loaded object is that of a library. The path of the program may be as the user has typed it.
#[cfg(target_os = "linux")]
fn is_library(path: &Path) -> bool {
    path.is_absolute()
        && path.file_name().is_some_and(|name| name.as_bytes().windows(3).any(|part| part == b".so"))
}

/// Returns the path of the object that has an address, as the loader reports it.
#[cfg(target_os = "linux")]
fn library_of(address: *const libc::c_void) -> Option<PathBuf> {
    // SAFETY: an all-zero `Dl_info` is a valid value of this plain C struct.
    let mut found: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: the function takes any address, and the pointer is to a live local variable.
    if unsafe { libc::dladdr(address, &raw mut found) } == 0 || found.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the loader's string ends with a NUL. It lives as long as the object, to which this code belongs.
    let name = unsafe { CStr::from_ptr(found.dli_fname) };
    Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
}

impl Task {
    /// Returns the position of the task, by which it is called over a link.
    pub(crate) fn index(&self) -> u32 {
        registry();
        self.index.load(Ordering::Relaxed)
    }

    /// Fails if workers cannot find the task. The linker collects the tasks of each shared object by itself, and the
    /// registry is that of the object which contains this crate.
    pub(super) fn check_registered(&self) -> Result<(), ErrorKind> {
        if self.index() != u32::MAX {
            return Ok(());
        }
        Err(ErrorKind::Encode(format!(
            "a call of `{}`: the task is not in the registry, because it and the crate `offloop` are in different shared \
             objects; link the crates with tasks and `offloop` statically: as `rlib`, without `dylib` or `prefer-dynamic`",
            self.name
        )))
    }
}
