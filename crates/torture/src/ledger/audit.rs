//! The last look into the book, when all pools are gone.

use std::collections::BTreeMap;
use std::time::Duration;

use offloop::OnFull;

use super::judge::Runs;
use super::pool::{Pool, PoolNumber};
use super::verdict::Verdict;
use super::{Books, Open};
use crate::book::Mark;
use crate::plan::{Job, Kind, Nature, PoolPlan};

/// What has ended may begin so much later at most: a worker may have been stopped just before.
pub(super) const LATE: Duration = Duration::from_secs(3);

/// What remains to be looked up of a job at the end.
pub(super) struct Settled {
    number: u64,
    pool: PoolNumber,
    kind: Kind,
    runs: Runs,
    /// Nobody may begin it later.
    latest: Duration,
    detached: Option<Detached>,
}

/// What a detached job owes, if nothing comes between.
#[derive(Debug, Clone, Copy)]
struct Detached {
    begins: bool,
    ends: bool,
}

impl Detached {
    fn new(job: &Job, plan: &PoolPlan) -> Self {
        Self {
            begins: job.queue_deadline().is_none() && plan.on_full != OnFull::ShedOldest,
            ends: job.kind.nature() == Nature::Returns && job.run_deadline().is_none(),
        }
    }
}

impl Settled {
    /// The job, and the one inside of it if it has one.
    pub(super) fn of(
        number: u64,
        open: &Open,
        verdict: &Verdict,
        runs: Runs,
        seen: Duration,
        plan: &PoolPlan,
    ) -> impl Iterator<Item = Self> {
        let (kind, pool) = (open.job.kind, open.pool);
        let detached = (*verdict == Verdict::Detached).then(|| Detached::new(&open.job, plan));
        // A detached one may take its time.
        let until = |late: Duration| if detached.is_some() { Duration::MAX } else { seen + late };
        let outer = Self { number, pool, kind, runs, latest: until(LATE), detached };
        // The outer one may begin late, and the inner one later by the time that its pool takes to start.
        let inner = open.inner.map(|number| {
            let runs = if *verdict == Verdict::Ok { Runs::Once } else { Runs::AtMostOnce };
            Self { number, pool, kind: Kind::Nap, runs, latest: until(2 * LATE), detached: None }
        });
        [outer].into_iter().chain(inner)
    }

    /// Says what is wrong in the light of what the book says now.
    fn audit(&self, mark: &Mark, pool: &Pool) -> Result<Audited, String> {
        self.runs.check(mark)?;
        match self.detached {
            None if mark.begun > 0 && mark.time > self.latest => {
                Err("it was begun long after its end".to_owned())
            }
            None => Ok(Audited::InOrder),
            Some(_) if pool.may_have_cancelled() => Ok(Audited::InOrder),
            Some(detached) if mark.begun == 0 => {
                let is_missing = detached.begins && !pool.has_given_up();
                Ok(if is_missing { Audited::Missing } else { Audited::InOrder })
            }
            Some(detached) => {
                if detached.ends && mark.ended == 0 && !pool.kills().any(|pid| pid == mark.pid) {
                    return Err("it was begun, but not ended, and nobody killed its worker".to_owned());
                }
                Ok(Audited::InOrder)
            }
        }
    }
}

enum Audited {
    InOrder,
    /// It was detached and has not begun: perhaps its worker was killed before.
    Missing,
}

impl Books {
    pub(super) fn audit(&mut self, read: impl Fn(u64) -> Mark) {
        let mut faults: Vec<_> = self
            .open
            .iter()
            .map(|(number, open)| format!("never ended: {}", self.describe(*number, open)))
            .collect();
        let mut missing: BTreeMap<PoolNumber, Vec<u64>> = BTreeMap::new();
        for settled in &self.settled {
            let Settled { number, kind, pool, .. } = settled;
            let mark = read(*number);
            match settled.audit(&mark, &self.pools[pool.0]) {
                Ok(Audited::InOrder) => {}
                Ok(Audited::Missing) => missing.entry(*pool).or_default().push(*number),
                Err(fault) => faults.push(format!("job {number} ({kind:?}) of {pool}; {mark}: {fault}")),
            }
        }
        // A worker that was killed before it began takes one job with it, and the book does not say which.
        for (pool, jobs) in missing {
            let spare = self.pools[pool.0].spare_kills();
            if jobs.len() > spare {
                faults.push(format!(
                    "{pool}: the detached jobs {jobs:?} never began, with {spare} kills to explain it"
                ));
            }
        }
        for fault in faults {
            self.complain(fault);
        }
    }
}
