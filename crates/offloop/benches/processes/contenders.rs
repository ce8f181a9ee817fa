//! The contenders, each behind the same few lines.

mod bare;
mod ours;
mod peer;
mod shm;

use std::time::{Duration, Instant};

pub(crate) use bare::{BARE_PIPE, echo_if_asked};
pub(crate) use peer::PROCSPAWN;
pub(crate) use shm::SHM_COPY;

use crate::alarm::Alarm;
use crate::support::{Spread, field};

pub(crate) const OURS: [&str; 3] = [ours::AWAIT, ours::WAIT, ours::BLOB];
pub(crate) const PEERS: [&str; 5] = [PROCSPAWN, peer::PROCSPAWN_SHM, BARE_PIPE, bare::SOCKETPAIR, SHM_COPY];

/// All contenders, started, in the order of their names above.
pub(crate) fn all() -> Vec<Box<dyn Contender>> {
    let _alarm = Alarm::set("the start of the contenders".to_owned());
    let all: Vec<Box<dyn Contender>> = vec![
        Box::new(ours::Ours::<ours::Await>::start()),
        Box::new(ours::Ours::<ours::Wait>::start()),
        Box::new(ours::Blobs::start()),
        Box::new(peer::Procspawn::start()),
        Box::new(peer::Shared::start()),
        Box::new(bare::Bare::over_pipes()),
        Box::new(bare::Bare::over_a_socketpair()),
        Box::new(shm::Copy::new()),
    ];
    assert!(all.iter().map(|contender| contender.name()).eq([OURS.as_slice(), &PEERS].concat()));
    all
}

/// How many jobs a burst has.
const BURST: u32 = 1000;
/// How many workers a pool has, unless a workload says otherwise.
const WORKERS: usize = 2;

/// A way to have another process work, or a part of one. `None` where a workload has no meaning for it: one that
/// differs from another in how bytes travel has only [`argument`](Self::argument) and [`result`](Self::result).
pub(crate) trait Contender {
    fn name(&self) -> &'static str;

    /// No-ops, one after another.
    fn round_trips(&mut self, _trips: usize) -> Option<Spread> {
        None
    }

    /// No-ops a second, the median of some bursts.
    fn bursts(&mut self, _bursts: usize) -> Option<f64> {
        None
    }

    /// One job that [counts the pages](pages) of `bytes`.
    fn argument(&mut self, _bytes: &[u8]) -> Option<Duration> {
        None
    }

    /// One job that [makes](make) so many bytes, whose pages are counted here.
    fn result(&mut self, _length: usize) -> Option<Duration> {
        None
    }

    /// What a pool of one worker goes through.
    fn life(&mut self) -> Option<Life> {
        None
    }
}

pub(crate) struct Life {
    /// From building the pool to the first result.
    pub(crate) cold_start: Duration,
    /// What the worker occupies then.
    pub(crate) idle_kib: Option<f64>,
    /// From its being killed to the next result. `None` if there was none within [`PATIENCE`].
    pub(crate) replacement: Option<Duration>,
}

/// How long a killed worker's replacement is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Follows a worker from `begin`, before its pool was built. `process_id` runs a job that returns its process's
/// id; it fails if the worker is lost, or after a wait of the time given.
fn life(begin: Instant, process_id: impl Fn(Duration) -> Result<u32, String>) -> Life {
    let worker = process_id(PATIENCE).expect("a new pool works");
    let cold_start = begin.elapsed();
    // It is on its way from the job to its rest.
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

/// What the jobs with a result do.
pub(crate) fn make(length: usize) -> Vec<u8> {
    vec![BYTE; length]
}

/// What the jobs with an argument do: looks at one byte of each page, and counts the pages that are as made.
fn pages(bytes: &[u8]) -> usize {
    bytes.chunks(PAGE).filter(|page| page[0] == BYTE).count()
}

/// Bytes that did not arrive would have travelled fast.
fn check(pages: usize, length: usize) {
    assert_eq!(pages, length.div_ceil(PAGE), "all bytes arrive as they were made");
}
