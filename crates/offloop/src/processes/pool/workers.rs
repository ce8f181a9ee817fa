//! The records of a pool's workers, and the choice of one for the next job.
//!
//! The choice looks at all workers. The facts that it reads are kept together, so that hundreds of workers cost little.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use super::worker::WorkerRecord;

/// Waking a worker costs more than waiting this long behind the calls of an awake one.
const WAKE_UP: Duration = Duration::from_micros(20);

/// The records of the workers, from the start of a process until it is collected. It can be read as a slice.
#[derive(Default)]
pub(super) struct Workers {
    records: Vec<WorkerRecord>,
    /// The summaries of the records, in the same order. Written when a record may have changed.
    summaries: Vec<Summary>,
    /// The number of workers that have a job. Written with `summaries`.
    with_jobs: usize,
    /// The number of workers whose first call is withdrawn. Written with `summaries`.
    with_withdrawn: usize,
    /// The target at which no worker had room for any job, if none has got some since. Written when one is chosen, and
    /// with `summaries`.
    full_at: Option<usize>,
}

/// The facts about a worker that the choice of one reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Summary {
    rank: Rank,
    activity: Activity,
    /// See `WorkerRecord::has_jobs`.
    has_jobs: bool,
    /// Its first call is withdrawn, and it will pass that.
    has_withdrawn: bool,
}

/// The activity of a worker, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    /// It has no calls, and was not found asleep since it had some.
    Idle,
    /// It has no calls, and was found asleep.
    Asleep,
    /// It has calls.
    Busy,
}

impl Summary {
    /// The summary of a worker that is not there.
    const NONE: Self =
        Self { rank: Rank::NONE, activity: Activity::Idle, has_jobs: false, has_withdrawn: false };

    fn of(worker: &WorkerRecord, idle: Activity) -> Self {
        let activity = if worker.calls.is_empty() { idle } else { Activity::Busy };
        Self {
            rank: Rank::of(worker, activity),
            activity,
            has_jobs: worker.has_jobs(),
            has_withdrawn: worker.calls.front().is_some_and(|first| first.work.is_none()),
        }
    }
}

/// The place of a worker in the order in which workers are chosen. From the highest bits to the lowest: what it does (2),
/// the nanoseconds for which it is expected to be busy (20), and how long ago it was given its newest call, counted
/// in calls (42).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank(u64);

impl Rank {
    /// The rank of a worker that may be given no call.
    const NONE: Self = Self(u64::MAX);
    const LOAD_BITS: u32 = 20;
    const AGE_BITS: u32 = 42;

    fn of(worker: &WorkerRecord, activity: Activity) -> Self {
        let Some(load) = worker.room() else { return Self::NONE };
        let preference: u64 = match activity {
            Activity::Idle => 0,
            Activity::Busy if load < WAKE_UP => 1,
            Activity::Asleep => 2,
            Activity::Busy => 3,
        };
        let load = u64::from(load.subsec_nanos()).min((1 << Self::LOAD_BITS) - 1);
        let age = !worker.last_given & ((1 << Self::AGE_BITS) - 1);
        Self((preference << Self::LOAD_BITS | load) << Self::AGE_BITS | age)
    }
}

impl Workers {
    /// Adds a worker's record.
    pub(super) fn push(&mut self, record: WorkerRecord) {
        self.records.push(record);
        self.summaries.push(Summary::NONE);
        self.summarise(self.records.len() - 1);
    }

    /// Removes a worker's record. The last one takes its index.
    pub(super) fn swap_remove(&mut self, at: usize) -> WorkerRecord {
        self.replace(at, Summary::NONE);
        self.summaries.swap_remove(at);
        self.records.swap_remove(at)
    }

    /// Returns a worker's record, to change it.
    pub(super) fn edit(&mut self, at: usize) -> Edit<'_> {
        Edit { workers: self, at }
    }

    /// Returns whether a worker may have passed a withdrawn call that its record still has.
    pub(super) fn may_have_passed_withdrawn(&self) -> bool {
        self.with_withdrawn > 0
    }

    /// Returns the worker for the next job: an idle one that is awake; else one whose calls will be done very soon;
    /// else an idle one that sleeps, preferably the last that had a call; else the least busy one.
    ///
    /// A captured job goes only to an idle worker, so that its output does not mingle with that of other jobs.
    ///
    /// A worker that retires still runs its last job, and the worker that takes its place is there already. So that the
    /// pool never runs more jobs than `target`, an idle worker gets none while as many others have some.
    pub(super) fn choose(&mut self, is_captured: bool, target: usize) -> Option<usize> {
        debug_assert!(self.are_summarised());
        if self.full_at == Some(target) {
            return None;
        }
        let all_busy = self.with_jobs >= target;
        let may_take =
            |it: &Summary| (it.has_jobs || !all_busy) && !(is_captured && it.activity == Activity::Busy);
        loop {
            let those = self.summaries.iter().enumerate().filter(|(_, it)| may_take(it));
            let best = those.min_by_key(|(_, it)| it.rank).filter(|(_, it)| it.rank != Rank::NONE);
            let Some((at, Summary { activity, .. })) = best else {
                self.full_at = (!is_captured).then_some(target);
                return None;
            };
            // Whether a worker sleeps is read from the memory that it shares with the pool. So that no job reads that of
            // all workers, one that was found asleep counts so until it gets something.
            if *activity != Activity::Idle || self.records[at].link.is_awake() {
                return Some(at);
            }
            self.replace(at, Summary::of(&self.records[at], Activity::Asleep));
        }
    }

    /// Reads a record that may have changed.
    fn summarise(&mut self, at: usize) {
        self.replace(at, Summary::of(&self.records[at], Activity::Idle));
    }

    fn replace(&mut self, at: usize, summary: Summary) {
        let former = std::mem::replace(&mut self.summaries[at], summary);
        let count =
            |count: &mut usize, was: bool, is: bool| *count = *count + usize::from(is) - usize::from(was);
        count(&mut self.with_jobs, former.has_jobs, summary.has_jobs);
        count(&mut self.with_withdrawn, former.has_withdrawn, summary.has_withdrawn);
        if summary.rank != Rank::NONE || (former.has_jobs && !summary.has_jobs) {
            self.full_at = None;
        }
    }

    fn are_summarised(&self) -> bool {
        let is_asleep = |it: &Summary| it.activity == Activity::Asleep;
        let idle = |it| if is_asleep(it) { Activity::Asleep } else { Activity::Idle };
        self.summaries.iter().zip(&self.records).all(|(it, record)| *it == Summary::of(record, idle(it)))
    }
}

impl Deref for Workers {
    type Target = [WorkerRecord];

    fn deref(&self) -> &[WorkerRecord] {
        &self.records
    }
}

impl IntoIterator for Workers {
    type Item = WorkerRecord;
    type IntoIter = std::vec::IntoIter<WorkerRecord>;

    fn into_iter(self) -> Self::IntoIter {
        self.records.into_iter()
    }
}

/// A worker's record that is being changed. When it is dropped, the choice of a worker learns of that.
pub(super) struct Edit<'a> {
    workers: &'a mut Workers,
    at: usize,
}

impl Deref for Edit<'_> {
    type Target = WorkerRecord;

    fn deref(&self) -> &WorkerRecord {
        &self.workers.records[self.at]
    }
}

impl DerefMut for Edit<'_> {
    fn deref_mut(&mut self) -> &mut WorkerRecord {
        &mut self.workers.records[self.at]
    }
}

impl Drop for Edit<'_> {
    fn drop(&mut self) {
        self.workers.summarise(self.at);
    }
}
