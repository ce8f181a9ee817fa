//! The readings that earlier snapshots have left: what rates and quantiles of the last minute are compared with.
//!
//! There are some only while somebody looks. When nobody does, nothing is read and nothing is added.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::base::clock::Moment;
use crate::base::fork::PerProcess;
use crate::base::histogram::Histogram;
use crate::base::starvation::{CoreTimes, Losses};
use crate::metrics::Outcomes;

/// The age from which on a reading is forgotten.
const MINUTE: Duration = Duration::from_secs(60);

/// Readings that are closer together are not kept. A bit less than a second, so that one who looks each second finds
/// the reading before.
const APART: Duration = Duration::from_millis(900);

/// Readings that are older than this are kept as far apart. So there are about twenty of them at most.
const SPARSE: Duration = Duration::from_secs(5);

/// The counters at one moment. They only grow.
pub(super) struct Reading {
    pub(super) at: Moment,
    /// The time that this process was on cores.
    pub(super) cpu: Option<Duration>,
    /// The time that each worker process was on cores, by its id.
    pub(super) workers: HashMap<u32, Duration>,
    /// The times of each thread, by its id.
    pub(super) threads: HashMap<i32, CoreTimes>,
    pub(super) losses: Losses,
    pub(super) pools: HashMap<u64, PoolReading>,
    /// The lateness of each watched loop, by its number.
    pub(super) loops: HashMap<u64, Histogram>,
}

/// The counters of one pool.
pub(super) struct PoolReading {
    pub(super) outcomes: Outcomes,
    pub(super) queue_wait: Histogram,
    pub(super) run_time: Histogram,
}

/// The readings, the oldest first.
#[derive(Default)]
pub(super) struct History(Vec<Reading>);

impl History {
    pub(super) fn of_this_process() -> MutexGuard<'static, Self> {
        static HISTORY: PerProcess<Mutex<History>> = PerProcess::new();
        HISTORY.get(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the readings that are too old.
    pub(super) fn forget(&mut self, now: Moment) {
        self.0.retain(|reading| now.since(reading.at) <= MINUTE);
    }

    /// Returns the reading that rates are compared with: the newest that is not too close, else the oldest.
    pub(super) fn before(&self, now: Moment) -> Option<&Reading> {
        let far = self.0.iter().rev().find(|reading| now.since(reading.at) >= APART);
        far.or_else(|| self.0.first())
    }

    /// Returns the newest reading.
    pub(super) fn newest(&self) -> Option<&Reading> {
        self.0.last()
    }

    /// Returns the oldest reading.
    pub(super) fn oldest(&self) -> Option<&Reading> {
        self.0.first()
    }

    /// Returns whether a reading of this moment is to be kept.
    pub(super) fn is_due(&self, now: Moment) -> bool {
        self.0.last().is_none_or(|last| now.since(last.at) >= APART)
    }

    /// Keeps a reading, and lets go of some between older ones.
    pub(super) fn keep(&mut self, reading: Reading) {
        let now = reading.at;
        let mut kept: Option<Moment> = None;
        self.0.retain(|old| {
            let is_kept = now.since(old.at) <= SPARSE || kept.is_none_or(|kept| old.at.since(kept) >= SPARSE);
            if is_kept {
                kept = Some(old.at);
            }
            is_kept
        });
        self.0.push(reading);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(second: u64) -> Moment {
        Moment::from_nanos(1_000_000_000 * second)
    }

    fn reading(at: Moment) -> Reading {
        Reading {
            at,
            cpu: None,
            workers: HashMap::new(),
            threads: HashMap::new(),
            losses: Losses::default(),
            pools: HashMap::new(),
            loops: HashMap::new(),
        }
    }

    #[test]
    fn a_minute_is_remembered_in_few_readings() {
        let mut history = History::default();
        assert!(history.before(second(0)).is_none());
        for now in (1..=600).map(second) {
            history.forget(now);
            assert!(history.is_due(now));
            history.keep(reading(now));
        }
        let now = second(601);
        history.forget(now);
        assert!(history.0.len() <= 20, "{}", history.0.len());
        assert_eq!(history.before(now).map(|reading| reading.at), Some(second(600)));
        let oldest = now.since(history.oldest().expect("there is one").at);
        assert!(oldest <= MINUTE && oldest + 2 * SPARSE >= MINUTE, "{oldest:?}");
    }

    #[test]
    fn many_who_look_share_one_reading() {
        let mut history = History::default();
        history.keep(reading(second(1)));
        let soon = Moment::from_nanos(1_200_000_000);
        assert!(!history.is_due(soon));
        assert_eq!(history.before(soon).map(|reading| reading.at), Some(second(1)));
    }
}
