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
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap};

use crate::clock::{Moment, now};
use crate::places::{Place, Places};
use crate::proc::{self, Identity};

/// The environment variable with the path of the log. The leak check finds workers of this run by it.
const VARIABLE: &str = "OFFLOOP_TORTURE_RUN_LOG";

/// The largest number of jobs of a run. Memory is used only for entries that are written.
pub(crate) const CAPACITY: usize = 1 << 24;

/// The largest number of pools of a run.
pub(crate) const POOLS: usize = 1 << 16;

/// The number of crowds that are kept. One is a fault already.
const CROWDS: usize = 32;

/// The whole log. It is never made by code: zeroed memory is a valid one.
struct Log {
    /// The process that started the run.
    main: AtomicU32,
    /// The fair clock, in nanoseconds.
    fair: AtomicU64,
    pools: [Places; POOLS],
    /// Counts the crowds that were found, and the first of them.
    crowds: AtomicUsize,
    found: [Crowd; CROWDS],
    entries: [Entry; CAPACITY],
}

/// More jobs at once than a pool has workers.
struct Crowd {
    /// The number of jobs, of which as many as there is room for are listed.
    at_once: AtomicUsize,
    jobs: [AtomicU64; 8],
    /// The processes of these jobs.
    pids: [AtomicU32; 8],
    /// The job that began last, and when.
    job: AtomicU64,
    time: AtomicU64,
}

struct Entry {
    begun: AtomicU32,
    ended: AtomicU32,
    /// The process that began it last.
    pid: AtomicU32,
    /// The number of the pool that it was submitted to, plus one; 0 if it belongs to a pool inside a job.
    pool: AtomicU32,
    /// When it began last, in nanoseconds.
    time: AtomicU64,
    fair: AtomicU64,
    /// When the process that it started was last alive, in nanoseconds of fair time; 0 if it started none.
    child_seen: AtomicU64,
}

static LOG: OnceLock<&'static Log> = OnceLock::new();

/// The entry of one job in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct JobRuns {
    /// How often it began.
    pub(crate) begun: u32,
    /// How often it came to its end.
    pub(crate) ended: u32,
    /// The process that began it last, and when; 0 if it never began.
    pub(crate) pid: u32,
    pub(crate) time: Moment,
    /// The thread that submitted it ran it.
    pub(crate) is_here: bool,
    /// When the process that it started was last alive, in fair time.
    pub(crate) child_seen: Option<Duration>,
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
    file.set_len(size_of::<Log>() as u64)?;
    let log = map(&file)?;
    log.main.store(std::process::id(), SeqCst);
    LOG.get_or_init(|| log);
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

fn map(file: impl AsFd) -> io::Result<&'static Log> {
    let (length, access) = (size_of::<Log>(), ProtFlags::READ | ProtFlags::WRITE);
    // SAFETY: creates a new shared mapping at an address that the kernel chooses.
    let address = unsafe { mmap(std::ptr::null_mut(), length, access, MapFlags::SHARED, file, 0)? };
    // SAFETY: the mapping has the size and the alignment of a log. A log consists of atomics only, so it is valid when
    // zero, and other processes may write to it. It is never unmapped, and the file never shrinks.
    Ok(unsafe { &*address.cast() })
}

fn log() -> &'static Log {
    LOG.get_or_init(|| {
        let path = std::env::var_os(VARIABLE).expect("a worker inherits the path of the run log");
        let file = File::options().read(true).write(true).open(path).expect("the run log can be opened");
        map(&file).expect("the run log can be mapped")
    })
}

fn entry(number: u64) -> &'static Entry {
    &log().entries[usize::try_from(number).expect("job numbers are below the capacity")]
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns the process that started the run.
pub(crate) fn main_process() -> u32 {
    log().main.load(SeqCst)
}

pub(crate) fn fair_time() -> Duration {
    Duration::from_nanos(log().fair.load(SeqCst))
}

pub(crate) fn advance_fair_time(by: Duration) {
    log().fair.fetch_add(nanos(by), SeqCst);
}

/// Records the number of jobs that a pool may run at once. Call it before the pool's first job.
pub(crate) fn add_pool(pool: usize, workers: usize) {
    log().pools[pool].set_size(u32::try_from(workers).unwrap_or(u32::MAX));
}

/// Records the pool of a job, before its submission.
pub(crate) fn add_job(number: u64, pool: usize) {
    entry(number).pool.store(u32::try_from(pool + 1).unwrap_or(0), SeqCst);
}

/// Runs the body of a job and records its begin and its end.
pub(crate) fn record<R>(number: u64, body: impl FnOnce() -> R) -> R {
    let (entry, now) = (entry(number), Moment::now());
    entry.pid.store(std::process::id(), SeqCst);
    entry.time.store(nanos(now.real), SeqCst);
    entry.fair.store(nanos(now.fair), SeqCst);
    entry.begun.fetch_add(1, SeqCst);
    let running = Running::begin(entry, number);
    let result = body();
    drop(running);
    entry.ended.fetch_add(1, SeqCst);
    result
}

/// Holds a job's place among those that run in its pool's workers, until it returns or panics.
struct Running(Option<&'static Place>);

impl Running {
    fn begin(entry: &Entry, number: u64) -> Self {
        static ME: OnceLock<Option<Identity>> = OnceLock::new();
        let log = log();
        // A job that runs on the submitting thread needs no worker.
        let is_here = std::process::id() == log.main.load(SeqCst);
        let pool = (entry.pool.load(SeqCst) as usize).checked_sub(1).filter(|_| !is_here);
        let me = ME.get_or_init(|| proc::identity(std::process::id()));
        let (Some(pool), Some(me)) = (pool, *me) else { return Self(None) };
        let (place, crowd) =
            log.pools[pool].enter(me, number, |other| proc::identity(other.pid()) == Some(other));
        if !crowd.is_empty() {
            if let Some(found) = log.found.get(log.crowds.fetch_add(1, SeqCst)) {
                found.at_once.store(crowd.len(), SeqCst);
                for (at, running) in crowd.iter().enumerate().take(found.jobs.len()) {
                    found.jobs[at].store(running.job, SeqCst);
                    found.pids[at].store(running.process.pid(), SeqCst);
                }
                found.job.store(number, SeqCst);
                found.time.store(nanos(now()), SeqCst);
            }
        }
        Self(place)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.inspect(|place| place.leave());
    }
}

/// Records that the process that a job started is alive.
pub(crate) fn see_child(number: u64) {
    entry(number).child_seen.store(nanos(fair_time()).max(1), SeqCst);
}

/// Returns what the log says of a job now.
pub(crate) fn read(number: u64) -> JobRuns {
    let entry = entry(number);
    let nanos = |time: &AtomicU64| Duration::from_nanos(time.load(SeqCst));
    // `ended` is read first: a job that runs meanwhile must not seem to have ended more often than it began.
    let ended = entry.ended.load(SeqCst);
    let begun = entry.begun.load(SeqCst);
    let pid = if begun == 0 { 0 } else { entry.pid.load(SeqCst) };
    let time = Moment { real: nanos(&entry.time), fair: nanos(&entry.fair) };
    let child_seen = Some(nanos(&entry.child_seen)).filter(|seen| !seen.is_zero());
    JobRuns { begun, ended, pid, time, is_here: pid == main_process(), child_seen }
}

/// Describes the moments when a pool ran more jobs at once than it has workers. `describe` tells a job's kind.
pub(crate) fn crowds(describe: impl Fn(u64) -> String) -> Vec<String> {
    let log = log();
    let line = |Crowd { at_once, jobs, pids, job, time }: &Crowd| {
        let (job, time) = (job.load(SeqCst), Duration::from_nanos(time.load(SeqCst)));
        let pool = entry(job).pool.load(SeqCst).saturating_sub(1);
        let size = log.pools[pool as usize].size();
        let describe = |(job, pid): (&AtomicU64, &AtomicU32)| {
            let (job, pid) = (job.load(SeqCst), pid.load(SeqCst));
            let runs = read(job);
            let (kind, begun) = (describe(job), time.saturating_sub(runs.time.real));
            format!("{job} ({kind}, in process {pid}, begun {begun:?} before; in the end {runs})")
        };
        let jobs: Vec<_> = jobs.iter().zip(pids).take(at_once.load(SeqCst)).map(describe).collect();
        let jobs = jobs.join(", ");
        format!("pool {pool} with workers for {size} jobs ran others when job {job} began: {jobs}")
    };
    log.found.iter().take(log.crowds.load(SeqCst)).map(line).collect()
}
