//! What is known of a pool: what it was told, and what happened to its workers from outside.

use std::fmt;
use std::time::Duration;

use offloop::Report;

use super::judge::Outside;
use crate::plan::PoolPlan;

/// A kill may take so long to be noticed, and until then that worker is given jobs.
pub(super) const UNNOTICED: Duration = Duration::from_secs(1);

/// Names a pool of this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PoolNumber(pub(super) usize);

impl fmt::Display for PoolNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool {}", self.0)
    }
}

/// Names a kill of this run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KillNumber(pub(super) PoolNumber, pub(super) usize);

pub(super) struct Pool {
    pub(super) plan: PoolPlan,
    /// How many jobs it was given.
    pub(super) submitted: usize,
    /// It takes no more jobs since then.
    closing: Option<Duration>,
    /// From then on it cancels.
    cancels: Option<Duration>,
    /// Its shutdown has reported.
    over: Option<Duration>,
    /// It has told a job that no worker comes up.
    gave_up: bool,
    kills: Vec<Kill>,
}

struct Kill {
    pid: u32,
    /// When it had been sent.
    sent: Option<Duration>,
    /// There was nobody left to kill.
    void: bool,
    /// The job that was told of it.
    job: Option<u64>,
}

impl Pool {
    pub(super) fn new(plan: PoolPlan) -> Self {
        Self {
            plan,
            submitted: 0,
            closing: None,
            cancels: None,
            over: None,
            gave_up: false,
            kills: Vec::new(),
        }
    }

    pub(super) fn shuts_down(&mut self, now: Duration, drain: Duration) {
        self.closing = Some(now);
        self.cancels = Some(now + drain);
    }

    /// Takes its report down, or says what is wrong with it.
    pub(super) fn is_over(&mut self, now: Duration, report: &Report) -> Result<(), String> {
        self.over = Some(now);
        let counted = report.drained + report.cancelled + report.killed;
        if !report.stuck.is_empty() {
            return Err("is stuck after its shutdown".to_owned());
        }
        if counted > self.submitted {
            return Err(format!("reports more than the {} jobs that it had", self.submitted));
        }
        if !self.may_have_cancelled() && report.cancelled + report.killed > 0 {
            return Err("was over before its drain was, and has cancelled or killed all the same".to_owned());
        }
        Ok(())
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    pub(super) fn cancels_at(&self, now: Duration) -> bool {
        self.cancels.is_some_and(|cancels| cancels <= now)
    }

    /// Whether its shutdown, if it had one, may have run out of patience.
    pub(super) fn may_have_cancelled(&self) -> bool {
        self.cancels.is_some_and(|cancels| self.over.is_none_or(|over| over >= cancels))
    }

    pub(super) fn gave_up(&mut self) {
        self.gave_up = true;
    }

    pub(super) fn has_given_up(&self) -> bool {
        self.gave_up
    }

    /// Enters a kill before it is struck, and says by which number.
    pub(super) fn kill_intended(&mut self, pid: u32) -> usize {
        self.kills.push(Kill { pid, sent: None, void: false, job: None });
        self.kills.len() - 1
    }

    pub(super) fn kill_sent(&mut self, kill: usize, now: Duration, was_sent: bool) {
        self.kills[kill].sent = Some(now);
        self.kills[kill].void = !was_sent;
    }

    /// A job was told of this kill.
    pub(super) fn kill_felt(&mut self, kill: usize, job: u64) {
        self.kills[kill].job = Some(job);
    }

    /// The processes that were killed.
    pub(super) fn kills(&self) -> impl Iterator<Item = u32> {
        self.kills.iter().filter(|kill| !kill.void).map(|kill| kill.pid)
    }

    /// How many kills no job was told of.
    pub(super) fn spare_kills(&self) -> usize {
        self.kills.iter().filter(|kill| !kill.void && kill.job.is_none()).count()
    }

    /// Whether this worker was killed from outside when a job submitted then can have had it, and by which kill.
    pub(super) fn killed(&self, pid: u32, submitted: Duration) -> (Outside, Option<usize>) {
        let may_be = |kill: &&Kill| {
            let in_time = kill.sent.is_none_or(|sent| submitted <= sent + UNNOTICED);
            kill.pid == pid && !kill.void && in_time
        };
        if let Some(at) = self.kills.iter().position(|kill| may_be(&kill) && kill.job.is_none()) {
            return (Outside::Killed, Some(at));
        }
        let other = self.kills.iter().find(may_be).and_then(|kill| kill.job);
        (other.map_or(Outside::No, Outside::KilledWith), None)
    }
}
