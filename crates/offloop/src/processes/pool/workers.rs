//! The records of a pool's workers, and the choice of one for the next job.
//!
//! Neither the choice nor a search looks at all records, so that hundreds of workers cost little.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use super::worker::WorkerRecord;

/// Waking a worker costs more than waiting this long behind the calls of an awake one.
const WAKE_UP: Duration = Duration::from_micros(20);

/// The records of the workers, from the start of a process until it is collected. It can be read as a slice.
#[derive(Default)]
pub(super) struct Workers {
    records: Vec<WorkerRecord>,
    /// The process ids of the workers, in the same order.
    pids: Vec<u32>,
    /// The summaries of the records, in the same order. Written when a record may have changed.
    summaries: Vec<Summary>,
    /// The ranks of the summaries.
    ranking: Ranking,
    /// The number of workers that have a job. Written with `summaries`.
    with_jobs: usize,
    /// The number of workers whose first call is withdrawn. Written with `summaries`.
    with_withdrawn: usize,
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

/// The ranks of all workers as a tournament: a tree in which each node is the better one of its two children.
struct Ranking {
    /// The winner is at 1, and the children of `n` are at `2 n` and `2 n + 1`. The second half are the workers' ranks.
    nodes: Vec<Rank>,
}

impl Default for Ranking {
    fn default() -> Self {
        Self { nodes: vec![Rank::NONE; 2] }
    }
}

impl Ranking {
    fn set(&mut self, at: usize, rank: Rank) {
        while at >= self.nodes.len() / 2 {
            self.grow();
        }
        let mut node = self.nodes.len() / 2 + at;
        self.nodes[node] = rank;
        while node > 1 {
            node /= 2;
            let best = self.nodes[2 * node].min(self.nodes[2 * node + 1]);
            if self.nodes[node] == best {
                return;
            }
            self.nodes[node] = best;
        }
    }

    /// Makes room for twice as many workers.
    fn grow(&mut self) {
        let ranks = self.nodes.split_off(self.nodes.len() / 2);
        self.nodes = vec![Rank::NONE; 4 * ranks.len()];
        for (at, rank) in ranks.into_iter().enumerate() {
            self.set(at, rank);
        }
    }

    /// Returns the worker of the best rank, unless none may be given a call.
    fn best(&self) -> Option<usize> {
        let best = self.nodes[1];
        if best == Rank::NONE {
            return None;
        }
        let mut node = 1;
        while node < self.nodes.len() / 2 {
            node = if self.nodes[2 * node] == best { 2 * node } else { 2 * node + 1 };
        }
        Some(node - self.nodes.len() / 2)
    }
}

impl Workers {
    /// Adds a worker's record.
    pub(super) fn push(&mut self, record: WorkerRecord) {
        self.pids.push(record.pid);
        self.records.push(record);
        self.summaries.push(Summary::NONE);
        self.summarise(self.records.len() - 1);
    }

    /// Removes a worker's record. The last one takes its index.
    pub(super) fn swap_remove(&mut self, at: usize) -> WorkerRecord {
        let last = self.records.len() - 1;
        let summary = self.summaries[last];
        self.replace(last, Summary::NONE);
        if at != last {
            self.replace(at, summary);
        }
        self.summaries.pop();
        self.pids.swap_remove(at);
        self.records.swap_remove(at)
    }

    /// Returns the index of the worker with this process id.
    pub(super) fn find(&self, pid: u32) -> Option<usize> {
        self.pids.iter().position(|it| *it == pid)
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
        let all_busy = self.with_jobs >= target;
        let may_take =
            |it: &Summary| (it.has_jobs || !all_busy) && !(is_captured && it.activity == Activity::Busy);
        loop {
            let mut at = self.ranking.best()?;
            if !may_take(&self.summaries[at]) {
                let others = self.summaries.iter().enumerate();
                let others = others.filter(|(_, it)| it.rank != Rank::NONE && may_take(it));
                (at, _) = others.min_by_key(|(_, it)| it.rank)?;
            }
            // Whether a worker sleeps is read from the memory that it shares with the pool. So that no job reads that of
            // all workers, one that was found asleep counts so until it gets something.
            if self.summaries[at].activity != Activity::Idle || self.records[at].link.is_awake() {
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
        if summary.rank != former.rank {
            self.ranking.set(at, summary.rank);
        }
    }

    fn are_summarised(&self) -> bool {
        let is_asleep = |it: &Summary| it.activity == Activity::Asleep;
        let idle = |it| if is_asleep(it) { Activity::Asleep } else { Activity::Idle };
        let best = self.summaries.iter().map(|it| it.rank).min().filter(|it| *it != Rank::NONE);
        self.ranking.best().map(|at| self.summaries[at].rank) == best
            && self
                .summaries
                .iter()
                .zip(&self.records)
                .all(|(it, record)| *it == Summary::of(record, idle(it)))
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
