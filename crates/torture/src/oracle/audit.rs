//! The last check of a job that has ended: what the run log says of it when all pools are gone.

use std::time::Duration;

use offloop::OnFull;

use super::judge::ExpectedRuns;
use super::order::Line;
use super::outcome::Outcome;
use super::pool_record::PoolRecord;
use crate::plan::{Job, Kind, Nature};
use crate::run_log::JobRuns;

/// The longest fair time after its end in which a job may still begin: its worker may have been stopped just before.
pub(super) const LATE: Duration = Duration::from_secs(3);

/// The longest fair time for which a process that a job started may outlive the job's killing: a grace period, and what
/// the fair clock does not see of it.
pub(super) const UNTIL_KILLED: Duration = Duration::from_secs(3);

/// The part of a job's record that is kept after its end.
pub(super) struct EndedJob {
    pub(super) number: u64,
    pub(super) pool: usize,
    pub(super) kind: Kind,
    /// The jobs among which it has its order. `None` for the job in a job.
    pub(super) line: Option<Line>,
    runs: ExpectedRuns,
    /// When its client saw its end, in fair time.
    seen: Duration,
    /// It may not begin later than this, in fair time.
    latest: Duration,
    /// It was detached, and without interference it must begin, or must come to its end once begun.
    must_begin: bool,
    must_end: bool,
    /// The pool has ended it, or its worker died: the pool ends what it started.
    is_killed: bool,
}

impl EndedJob {
    pub(super) fn new(
        (number, job, line): (u64, &Job, Line),
        outcome: &Outcome,
        runs: ExpectedRuns,
        seen: Duration,
        on_full: OnFull,
    ) -> Self {
        let is_detached = *outcome == Outcome::Detached;
        let (queue, run, total) = (job.queue_timeout, job.run_timeout, job.total_timeout);
        Self {
            number,
            pool: line.pool,
            kind: job.kind,
            line: Some(line),
            runs,
            seen,
            latest: if is_detached { Duration::MAX } else { seen + LATE },
            must_begin: is_detached && queue.or(total).is_none() && on_full != OnFull::ShedOldest,
            must_end: is_detached && run.or(total).is_none() && job.kind.nature() == Nature::Returns,
            is_killed: matches!(
                outcome,
                Outcome::RunTimeout(_) | Outcome::Cancelled | Outcome::Dropped | Outcome::Died { .. }
            ),
        }
    }

    /// Returns the job that a job of the kind `Nest` ran inside. It may begin later by the time its pool takes to start.
    pub(super) fn nested(&self, number: u64, outcome: &Outcome) -> Self {
        let runs = if *outcome == Outcome::Ok { ExpectedRuns::Once } else { ExpectedRuns::AtMostOnce };
        let latest = self.latest.saturating_add(LATE);
        Self {
            number,
            pool: self.pool,
            kind: Kind::Nap,
            line: None,
            runs,
            seen: self.seen,
            latest,
            must_begin: false,
            must_end: false,
            is_killed: false,
        }
    }

    /// Compares with the run log. Returns whether the job never began although it was detached, which a kill of its
    /// worker may explain. The error says what else is wrong.
    pub(super) fn is_missing(&self, runs: &JobRuns, pool: &PoolRecord) -> Result<bool, String> {
        self.runs.check(runs)?;
        if runs.begun > 0 && runs.time.fair > self.latest {
            return Err("it began long after its end".to_owned());
        }
        let lived_on = runs.child_seen.unwrap_or_default().saturating_sub(self.seen);
        if self.is_killed && lived_on > UNTIL_KILLED {
            return Err(format!("a process that it started lived on for {lived_on:?} after its end"));
        }
        if pool.may_have_cancelled() {
            return Ok(false);
        }
        if self.must_end && runs.begun > runs.ended && !pool.killed_pids().any(|pid| pid == runs.pid) {
            return Err("it began but did not end, and its worker was not killed".to_owned());
        }
        Ok(self.must_begin && runs.begun == 0 && !pool.gave_up)
    }
}
