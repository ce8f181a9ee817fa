//! The last deaths of worker processes, of all pools of this process.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::base::fork::PerProcess;

/// The number of deaths that are remembered.
const REMEMBERED: usize = 20;

/// The death of a worker process that was not told to leave.
#[derive(Debug, Clone)]
pub(crate) struct DeathRecord {
    pub(crate) time: SystemTime,
    /// The name of its pool.
    pub(crate) pool: String,
    pub(crate) pid: u32,
    /// How it ended, as a phrase that follows "it".
    pub(crate) how: String,
    /// The number and the name of the job that it ran.
    pub(crate) job: Option<(u64, String)>,
    /// The most memory that it had resident, in bytes. 0 if it is not known.
    pub(crate) peak_memory: u64,
    /// The end of what it wrote to standard error. Empty if the pool does not read that.
    pub(crate) last_words: String,
}

fn deaths() -> MutexGuard<'static, VecDeque<DeathRecord>> {
    static DEATHS: PerProcess<Mutex<VecDeque<DeathRecord>>> = PerProcess::new();
    DEATHS.get(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers a death, and forgets the oldest one if there are too many.
pub(crate) fn record(death: DeathRecord) {
    let mut deaths = deaths();
    deaths.truncate(REMEMBERED - 1);
    deaths.push_front(death);
}

/// Returns the last deaths, the newest first.
pub(crate) fn last() -> Vec<DeathRecord> {
    deaths().iter().cloned().collect()
}
