//! The book of marks: what the jobs themselves say, in memory that all processes share.
//!
//! Each job has a number and each number a mark: how often the job was begun and ended, in which process, and when.
//! A mark outlives whoever made it, and a worker that closes all its descriptors still writes to its mapping. The
//! file behind it is opened once in each process and closed again, so that jobs that write to every descriptor
//! they find do not spoil it.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock;

/// The environment variable that tells workers where the book is. It also tells them from other processes.
pub(crate) const MARKER: &str = "OFFLOOP_TORTURE_BOOK";

/// How many jobs a run can have. The memory behind it comes with use.
pub(crate) const CAPACITY: u64 = 1 << 24;

#[derive(Debug, Default)]
struct Entry {
    begun: AtomicU32,
    ended: AtomicU32,
    /// The process that began it last.
    pid: AtomicU32,
    /// When that was, in nanoseconds.
    time: AtomicU64,
}

static ENTRIES: OnceLock<&'static [Entry]> = OnceLock::new();

/// What the book says of one job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// How often it was begun.
    pub(crate) begun: u32,
    /// How often its body came to its end.
    pub(crate) ended: u32,
    /// The process that began it last; 0 if none did.
    pub(crate) pid: u32,
    /// When it was begun last.
    pub(crate) time: Duration,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.begun {
            0 => f.write_str("never begun"),
            begun => write!(f, "begun {begun} times, ended {}, in process {}", self.ended, self.pid),
        }
    }
}

/// Opens a new book for this process and all that it starts. To be called while there is one thread only.
pub(crate) fn open() -> io::Result<()> {
    // SAFETY: the name is a C string; an error is returned as -1.
    let descriptor = unsafe { libc::memfd_create(c"offloop-torture-book".as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else owns it.
    let file = unsafe { File::from_raw_fd(descriptor) };
    file.set_len(CAPACITY * size_of::<Entry>() as u64)?;
    ENTRIES.get_or_init(|| map(&file).expect("the book can be mapped"));
    // SAFETY: this is the only thread, as the caller has promised.
    unsafe { std::env::set_var(MARKER, format!("/proc/{}/fd/{descriptor}", std::process::id())) };
    // Workers open it for as long as this process lives.
    std::mem::forget(file);
    Ok(())
}

/// What the marker says in this run's processes, as it appears in `/proc/…/environ`.
pub(crate) fn marker() -> Option<OsString> {
    let value = std::env::var_os(MARKER)?;
    let mut line = OsString::from(format!("{MARKER}="));
    line.push(value);
    Some(line)
}

fn map(file: &File) -> io::Result<&'static [Entry]> {
    let count = usize::try_from(CAPACITY).expect("it fits into the address space");
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new shared mapping at an address of the kernel's choice.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            count * size_of::<Entry>(),
            protection,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping has room for `count` entries, is never unmapped, and is all zeroes or atomics' doing; the
    // file does not shrink.
    Ok(unsafe { std::slice::from_raw_parts(address.cast(), count) })
}

fn entry(number: u64) -> &'static Entry {
    let entries = ENTRIES.get_or_init(|| {
        let path =
            std::env::var_os(MARKER).expect("a worker of the torture finds its book in the environment");
        let file = File::options().read(true).write(true).open(path).expect("the book can be opened");
        map(&file).expect("the book can be mapped")
    });
    &entries[usize::try_from(number).expect("numbers are below the capacity")]
}

/// Runs a job's body and marks its begin and its end.
pub(crate) fn run<R>(number: u64, body: impl FnOnce() -> R) -> R {
    let entry = entry(number);
    entry.pid.store(std::process::id(), Ordering::SeqCst);
    let nanos = u64::try_from(clock::now().as_nanos()).unwrap_or(u64::MAX);
    entry.time.store(nanos, Ordering::SeqCst);
    entry.begun.fetch_add(1, Ordering::SeqCst);
    let result = body();
    entry.ended.fetch_add(1, Ordering::SeqCst);
    result
}

/// What the book says of this job at the moment.
pub(crate) fn read(number: u64) -> Mark {
    let entry = entry(number);
    // In this order, so that a job which runs meanwhile has not ended more often than it was begun.
    let ended = entry.ended.load(Ordering::SeqCst);
    let begun = entry.begun.load(Ordering::SeqCst);
    Mark {
        begun,
        ended,
        pid: if begun == 0 { 0 } else { entry.pid.load(Ordering::SeqCst) },
        time: Duration::from_nanos(entry.time.load(Ordering::SeqCst)),
    }
}
