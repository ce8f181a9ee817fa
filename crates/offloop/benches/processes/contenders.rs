//! The contenders, behind one trait.

mod bare;
mod ours;
mod peer;
mod rows;
mod shm;

use std::time::{Duration, Instant};

pub(crate) use bare::{BARE_PIPE, echo_if_asked};
pub(crate) use peer::PROCSPAWN;
pub(crate) use shm::SHM_COPY;

use crate::alarm::Alarm;
use crate::support::{Spread, field};

pub(crate) const OURS: [&str; 4] = [ours::AWAIT, ours::WAIT, ours::BLOB, rows::POSTCARD];
pub(crate) const PEERS: [&str; 2] = [PROCSPAWN, peer::PROCSPAWN_SHM];
pub(crate) const BOUNDS: [&str; 4] = [BARE_PIPE, bare::SOCKETPAIR, SHM_COPY, shm::TWO_COPIES];

/// All contenders, started, in the order of their names above.
pub(crate) fn all() -> Vec<Box<dyn Contender>> {
    let _alarm = Alarm::set("the start of the contenders".to_owned());
    let all: Vec<Box<dyn Contender>> = vec![
        Box::new(ours::Ours::<ours::Await>::start()),
        Box::new(ours::Ours::<ours::Wait>::start()),
        Box::new(ours::Blobs::start()),
        Box::new(rows::Postcard::start()),
        Box::new(peer::Procspawn::start()),
        Box::new(peer::Shared::start()),
        Box::new(bare::Bare::over_pipes()),
        Box::new(bare::Bare::over_a_socketpair()),
        Box::new(shm::Copy::new()),
        Box::new(shm::TwoCopies::new()),
    ];
    assert!(all.iter().map(|contender| contender.name()).eq([OURS.as_slice(), &PEERS, &BOUNDS].concat()));
    all
}

/// The number of jobs in a burst.
const BURST: u32 = 1000;
/// The number of workers of a pool, unless a workload says otherwise.
const WORKERS: usize = 2;

/// A way to let another process work, or a part of such a way. A method returns `None` if its workload does not apply.
/// A contender that only sends bytes in another way has just [`argument`](Self::argument) and [`result`](Self::result).
pub(crate) trait Contender {
    fn name(&self) -> &'static str;

    /// Measures no-ops, one after another.
    fn round_trips(&mut self, _trips: usize) -> Option<Spread> {
        None
    }

    /// Returns the number of no-ops per second: the median of some bursts.
    fn bursts(&mut self, _bursts: usize) -> Option<f64> {
        None
    }

    /// Measures one job that [counts the pages](pages) of `bytes`.
    fn argument(&mut self, _bytes: &[u8]) -> Option<Duration> {
        None
    }

    /// Measures one job that [makes](make) `length` bytes, whose pages are counted here.
    fn result(&mut self, _length: usize) -> Option<Duration> {
        None
    }

    /// Measures one job that returns its argument, a list of `count` structs with twenty fields.
    fn rows(&mut self, _count: u64) -> Option<Duration> {
        None
    }

    /// Measures the life of a pool of one worker.
    fn life(&mut self) -> Option<Life> {
        None
    }
}

/// The life of a pool of one worker.
pub(crate) struct Life {
    /// From building the pool to the first result.
    pub(crate) cold_start: Duration,
    /// The memory of the worker after that, as its proportional set size.
    pub(crate) idle_kib: Option<f64>,
    /// From the worker's kill to the next result. `None` if there was no result within [`PATIENCE`].
    pub(crate) replacement: Option<Duration>,
}

/// The longest wait for the replacement of a killed worker.
const PATIENCE: Duration = Duration::from_secs(5);

/// Measures a life that began at `begin`, before the pool was built. `process_id` runs a job that returns the id of its
/// process. It fails if the worker is lost, or after a wait of the given time.
fn life(begin: Instant, process_id: impl Fn(Duration) -> Result<u32, String>) -> Life {
    let worker = process_id(PATIENCE).expect("a new pool works");
    let cold_start = begin.elapsed();
    // The worker has answered, but it may not be idle yet.
    std::thread::sleep(Duration::from_millis(20));
    let idle_kib = field(&format!("/proc/{worker}/smaps_rollup"), "Pss:");
    let pid = i32::try_from(worker).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
    let killed = Instant::now();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("the worker is alive");
    let replacement = loop {
        let Some(left) = PATIENCE.checked_sub(killed.elapsed()) else { break None };
        // A job may be lost with the worker.
        if process_id(left).is_ok_and(|id| id != worker) {
            break Some(killed.elapsed());
        }
    };
    Life { cold_start, idle_kib, replacement }
}

const PAGE: usize = 4096;
const BYTE: u8 = 0xA5;

/// The work of the jobs with a result.
pub(crate) fn make(length: usize) -> Vec<u8> {
    vec![BYTE; length]
}

/// The work of the jobs with an argument: reads one byte of each page, and counts the pages whose byte is right.
fn pages(bytes: &[u8]) -> usize {
    bytes.chunks(PAGE).filter(|page| page[0] == BYTE).count()
}

/// Checks that all bytes have arrived. A contender that loses some would seem fast.
fn check(pages: usize, length: usize) {
    assert_eq!(pages, length.div_ceil(PAGE), "all bytes arrive as they were made");
}
