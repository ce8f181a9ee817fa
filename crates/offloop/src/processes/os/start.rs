//! The state in which a worker or a template begins, whatever the program was that started it.
//!
//! A process inherits more than its environment: signals that its parent blocks or ignores, standard descriptors that
//! are closed, and the program that runs may be the dynamic loader. The affinity and the scheduling class are those of
//! the thread that starts it. That is the supervisor, which has those of the program's main thread.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};
use rustix::io::FdFlags;

use crate::base::syscall::NameCall;

/// Gives this process, which was just started as a worker or a template, its known state: the standard descriptors are
/// open, no signal is blocked, and none is ignored.
///
/// SIGPIPE and SIGXFSZ are left as they are: the runtimes of Rust and Python have set them by now, so that a failed
/// write is an error. To be called on the first thread, before the program starts others.
pub(in crate::processes) fn begin_from_known_state() -> io::Result<()> {
    open_standard_descriptors()?;
    for signal in (1..=libc::SIGRTMAX()).filter(|it| ![libc::SIGPIPE, libc::SIGXFSZ].contains(it)) {
        stop_ignoring(signal);
    }
    unblock_all_signals()
}

fn stop_ignoring(signal: libc::c_int) {
    // SAFETY: an all-zero `sigaction` is a valid value of this plain C struct.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live local variable, and no action is set. Some numbers are refused.
    let known = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) } == 0;
    if known && action.sa_sigaction == libc::SIG_IGN {
        action.sa_sigaction = libc::SIG_DFL;
        // SAFETY: the pointer is to a live local variable, and the default action runs no code.
        unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    }
}

fn unblock_all_signals() -> io::Result<()> {
    // SAFETY: `sigemptyset` initialises the live local variable, to which both pointers are.
    let error = unsafe {
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())
    };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)).of_call("rt_sigprocmask") }
}

/// Opens `/dev/null` for each of the three standard descriptors that is closed. Otherwise the next file or socket that
/// is opened gets its number, and what is printed is written there.
pub(in crate::processes) fn open_standard_descriptors() -> io::Result<()> {
    while (0..=2).any(|descriptor| flags_of(descriptor).is_none()) {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let null = rustix::fs::open("/dev/null", flags, Mode::empty()).of_call("open of /dev/null")?;
        if null.as_raw_fd() > 2 {
            // Another thread has opened the missing one meanwhile.
            return Ok(());
        }
        // It is the standard descriptor from now on, which is inherited and never closed.
        rustix::io::fcntl_setfd(&null, FdFlags::empty()).of_call("fcntl(F_SETFD)")?;
        std::mem::forget::<OwnedFd>(null);
    }
    Ok(())
}

/// Returns whether a program that this process starts gets the descriptor.
pub(super) fn is_inherited(descriptor: RawFd) -> bool {
    flags_of(descriptor).is_some_and(|flags| !flags.contains(FdFlags::CLOEXEC))
}

fn flags_of(descriptor: RawFd) -> Option<FdFlags> {
    // SAFETY: the system call checks the number, and nothing is done with the descriptor if it is not open.
    rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(descriptor) }).ok()
}

/// Returns the path of the running executable, which is valid even if its file was replaced or removed meanwhile.
pub(in crate::processes) fn this_program() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

/// Returns the arguments with which [`this_program`] runs this program. There are some if it is the dynamic loader,
/// which was called with the program's path: `/lib64/ld-linux-x86-64.so.2 ./program`.
///
/// Fails with what to do if `/proc` is missing.
pub(super) fn arguments_of_loader() -> io::Result<&'static [OsString]> {
    static ARGUMENTS: OnceLock<Vec<OsString>> = OnceLock::new();
    if let Some(arguments) = ARGUMENTS.get() {
        return Ok(arguments);
    }
    let arguments = find_arguments_of_loader()?;
    Ok(ARGUMENTS.get_or_init(|| arguments))
}

fn find_arguments_of_loader() -> io::Result<Vec<OsString>> {
    let running = std::fs::metadata(this_program()).map_err(|error| {
        let text = format!(
            "this program is started again by /proc/self/exe, which cannot be used here ({error}); mount /proc \
             (mount -t proc proc /proc), or set the program of the workers"
        );
        io::Error::new(error.kind(), text)
    })?;
    // The loader has no interpreter. Other programs that have none are static.
    // SAFETY: `getauxval` has no preconditions.
    if unsafe { libc::getauxval(libc::AT_BASE) } != 0 {
        return Ok(Vec::new());
    }
    let Some((file, path)) = file_of_this_program() else { return Ok(Vec::new()) };
    if file == (running.dev(), running.ino()) {
        return Ok(Vec::new());
    }
    let command = std::fs::read("/proc/self/cmdline")?;
    let command: Vec<&[u8]> =
        command.strip_suffix(b"\0").unwrap_or(&command).split(|byte| *byte == 0).collect();
    // The loader removes itself, its options and nothing else from the arguments.
    let options = command.len().saturating_sub(std::env::args_os().len()).saturating_sub(1);
    let options = command.iter().skip(1).take(options).map(|option| OsString::from_vec(option.to_vec()));
    Ok(options.chain([path.into_os_string()]).collect())
}

/// Returns the identity and the path of the file from which the main program's code was loaded: its device and inode.
fn file_of_this_program() -> Option<((u64, u64), PathBuf)> {
    let address = start_of_this_program()?;
    let maps = std::fs::read("/proc/self/maps").ok()?;
    maps.split(|byte| *byte == b'\n').find_map(|line| {
        // 55d0c8a00000-55d0c8a21000 r--p 00000000 fd:00 1234   /path
        let mut fields = line.splitn(6, |byte| *byte == b' ');
        let text = |field: Option<&'_ [u8]>| std::str::from_utf8(field?).ok().map(str::to_owned);
        let range = text(fields.next())?;
        let (start, end) = range.split_once('-')?;
        let number = |digits: &str| usize::from_str_radix(digits, 16).ok();
        if !(number(start)?..number(end)?).contains(&address) {
            return None;
        }
        let path = PathBuf::from(OsStr::from_bytes(fields.nth(4)?.trim_ascii_start()));
        let file = std::fs::metadata(&path).ok()?;
        Some(((file.dev(), file.ino()), path))
    })
}

/// Returns an address in the main program, as the loader reports it.
fn start_of_this_program() -> Option<usize> {
    unsafe extern "C" fn first(
        object: *mut libc::dl_phdr_info,
        _: usize,
        found: *mut libc::c_void,
    ) -> libc::c_int {
        // SAFETY: the loader passes a live object, and `found` is the pointer that was passed along below.
        unsafe { *found.cast::<usize>() = (*object).dlpi_phdr.addr() };
        // The first object is the main program.
        1
    }
    let mut found = 0_usize;
    // SAFETY: the pointer is to a local variable that outlives the call, of the type that `first` writes.
    unsafe { libc::dl_iterate_phdr(Some(first), (&raw mut found).cast()) };
    (found != 0).then_some(found)
}
