//! The oracle's record of one pool: its plan, its shutdown, and which of its workers were killed from outside.

use std::time::Duration;

use offloop::ShutdownReport;

use super::judge::OutsideKill;
use crate::clock::Moment;
use crate::plan::PoolPlan;

/// The longest fair time that a kill may stay unnoticed. Until then the pool may give that worker jobs.
pub(super) const UNNOTICED: Duration = Duration::from_secs(1);

pub(crate) struct PoolRecord {
    pub(super) plan: PoolPlan,
    /// Counts the jobs that were submitted to it, including those that it refused.
    pub(crate) submitted: u64,
    /// When its drain is over and it cancels what is left; set just before its shutdown is called.
    pub(super) cancels_from: Option<Duration>,
    /// When its shutdown had reported.
    reported: Option<Duration>,
    /// It has ended a job because no worker could start.
    pub(super) gave_up: bool,
    kills: Vec<Kill>,
}

struct Kill {
    pid: u32,
    /// When the signal had been sent.
    sent: Option<Moment>,
    /// The process was gone before the signal was sent.
    missed: bool,
    /// The job whose death it explains.
    job: Option<u64>,
}

impl PoolRecord {
    pub(super) fn new(plan: PoolPlan) -> Self {
        Self { plan, submitted: 0, cancels_from: None, reported: None, gave_up: false, kills: Vec::new() }
    }

    /// Records a shutdown. Call it before the shutdown itself.
    pub(crate) fn begin_shutdown(&mut self, now: Duration, drain: Duration) {
        self.cancels_from = Some(now + drain);
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.cancels_from.is_some()
    }

    /// Records the report of a shutdown. The error says what is wrong with it.
    pub(crate) fn end_shutdown(&mut self, now: Duration, report: &ShutdownReport) -> Result<(), String> {
        self.reported = Some(now);
        if !report.stuck.is_empty() {
            return Err(format!("has stuck jobs after its shutdown: {report:?}"));
        }
        if (report.drained + report.cancelled + report.killed) as u64 > self.submitted {
            return Err(format!("reports more than the {} jobs submitted to it: {report:?}", self.submitted));
        }
        if !self.may_have_cancelled() && report.cancelled + report.killed > 0 {
            return Err(format!("ended before its drain was over, but cancelled or killed jobs: {report:?}"));
        }
        Ok(())
    }

    /// Returns whether the drain of its shutdown may have ended with jobs left.
    pub(super) fn may_have_cancelled(&self) -> bool {
        self.cancels_from.is_some_and(|from| self.reported.is_none_or(|reported| reported >= from))
    }

    /// Records a kill from outside and returns its index. Call it before the signal is sent.
    pub(crate) fn intend_kill(&mut self, pid: u32) -> usize {
        self.kills.push(Kill { pid, sent: None, missed: false, job: None });
        self.kills.len() - 1
    }

    /// Records that a signal was sent, or that there was no process to take it.
    pub(crate) fn confirm_kill(&mut self, kill: usize, now: Moment, was_sent: bool) {
        self.kills[kill].sent = Some(now);
        self.kills[kill].missed = !was_sent;
    }

    pub(super) fn claim_kill(&mut self, kill: usize, job: u64) {
        self.kills[kill].job = Some(job);
    }

    /// Returns the processes that were killed.
    pub(crate) fn killed_pids(&self) -> impl Iterator<Item = u32> {
        self.kills.iter().filter(|kill| !kill.missed).map(|kill| kill.pid)
    }

    /// Returns the number of kills that explain no job's death.
    pub(crate) fn unclaimed_kills(&self) -> usize {
        self.kills.iter().filter(|kill| !kill.missed && kill.job.is_none()).count()
    }

    /// Returns whether this worker was killed from outside when it can have had a job submitted at that time.
    pub(super) fn outside_kill(&self, pid: u32, submitted: Moment, now: Moment) -> OutsideKill {
        let possible = |kill: &Kill| {
            let in_time = kill.sent.is_none_or(|sent| submitted.fair <= sent.fair + UNNOTICED);
            kill.pid == pid && !kill.missed && in_time
        };
        if let Some(at) = self.kills.iter().position(|kill| possible(kill) && kill.job.is_none()) {
            let age = self.kills[at].sent.map_or(Duration::ZERO, |sent| now.real.saturating_sub(sent.real));
            return OutsideKill::Unclaimed { kill: at, age };
        }
        let claimed = self.kills.iter().find(|kill| possible(kill)).and_then(|kill| kill.job);
        claimed.map_or(OutsideKill::No, OutsideKill::ClaimedBy)
    }
}
