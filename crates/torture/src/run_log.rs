//! The run log: what the jobs themselves record, in memory that all processes share.
//!
//! An entry per job counts how often it began and ended, and says in which process and when. It survives the process
//! that wrote it, and a worker that closed all its descriptors can still write to it. Each process opens the file
//! behind it once and closes it again, so jobs that write to every open descriptor do not damage it.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap};

use crate::os::now;

/// The environment variable with the path of the log. The leak check finds workers of this run by it.
const VARIABLE: &str = "OFFLOOP_TORTURE_RUN_LOG";

/// The largest number of jobs of a run. Memory is used only for entries that are written.
pub(crate) const CAPACITY: usize = 1 << 24;

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

/// The entry of one job in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct JobRuns {
    /// How often it began.
    pub(crate) begun: u32,
    /// How often it came to its end.
    pub(crate) ended: u32,
    /// The process that began it last, and when; 0 if it never began.
    pub(crate) pid: u32,
    pub(crate) time: Duration,
}

impl fmt::Display for JobRuns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { begun, ended, pid, .. } = self;
        write!(f, "begun {begun} times, ended {ended} times, last in process {pid}")
    }
}

/// Creates the log for this process and its workers. Call it while there is only one thread.
pub(crate) fn create() -> io::Result<()> {
    let file = File::from(memfd_create("offloop-torture-runs", MemfdFlags::CLOEXEC)?);
    file.set_len((CAPACITY * size_of::<Entry>()) as u64)?;
    let entries = map(&file)?;
    ENTRIES.get_or_init(|| entries);
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    // SAFETY: there is only one thread, as the caller guarantees.
    unsafe { std::env::set_var(VARIABLE, path) };
    // Workers open it by its path for as long as this process lives.
    std::mem::forget(file);
    Ok(())
}

/// Returns the line of `/proc/PID/environ` that all processes of this run share.
pub(crate) fn environment_line() -> String {
    format!("{VARIABLE}={}", std::env::var(VARIABLE).unwrap_or_default())
}

fn map(file: impl AsFd) -> io::Result<&'static [Entry]> {
    let (length, access) = (CAPACITY * size_of::<Entry>(), ProtFlags::READ | ProtFlags::WRITE);
    // SAFETY: creates a new shared mapping at an address that the kernel chooses.
    let address = unsafe { mmap(std::ptr::null_mut(), length, access, MapFlags::SHARED, file, 0)? };
    // SAFETY: the mapping holds `CAPACITY` entries, which are valid when zero and are written by atomics only. It is
    // never unmapped, and the file never shrinks.
    Ok(unsafe { std::slice::from_raw_parts(address.cast(), CAPACITY) })
}

fn entry(number: u64) -> &'static Entry {
    let entries = ENTRIES.get_or_init(|| {
        let path = std::env::var_os(VARIABLE).expect("a worker inherits the path of the run log");
        let file = File::options().read(true).write(true).open(path).expect("the run log can be opened");
        map(&file).expect("the run log can be mapped")
    });
    &entries[usize::try_from(number).expect("job numbers are below the capacity")]
}

/// Runs the body of a job and records its begin and its end.
pub(crate) fn record<R>(number: u64, body: impl FnOnce() -> R) -> R {
    let entry = entry(number);
    entry.pid.store(std::process::id(), SeqCst);
    entry.time.store(u64::try_from(now().as_nanos()).unwrap_or(u64::MAX), SeqCst);
    entry.begun.fetch_add(1, SeqCst);
    let result = body();
    entry.ended.fetch_add(1, SeqCst);
    result
}

/// Returns what the log says of a job now.
pub(crate) fn read(number: u64) -> JobRuns {
    let entry = entry(number);
    // `ended` is read first: a job that runs meanwhile must not seem to have ended more often than it began.
    let ended = entry.ended.load(SeqCst);
    let begun = entry.begun.load(SeqCst);
    let pid = if begun == 0 { 0 } else { entry.pid.load(SeqCst) };
    JobRuns { begun, ended, pid, time: Duration::from_nanos(entry.time.load(SeqCst)) }
}
