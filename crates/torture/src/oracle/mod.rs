//! The oracle: knows every job from its submission to its end, every pool and every injected fault, and decides
//! whether they agree.
//!
//! A job's end is judged when its client sees it (`judge`), with what is known at that moment. A kill is recorded
//! *before* its signal is sent, so every death that it causes finds it. How often each job ran is looked up once more
//! when all pools are gone (`audit`): a job that should not run at all may still have run later.

mod audit;
mod judge;
mod order;
mod outcome;
mod pool_record;

use std::collections::BTreeMap;
use std::sync::Arc;

use audit::EndedJob;
use judge::{Evidence, ExpectedRuns, OutsideKill, judge};
use order::{Begins, Line};

pub(crate) use judge::Cancel;
pub(crate) use outcome::Outcome;
pub(crate) use pool_record::PoolRecord;

use crate::clock::Moment;
use crate::plan::{Job, Kind, PoolPlan};
use crate::run_log::{self, JobRuns};

#[derive(Default)]
pub(crate) struct Oracle {
    /// The number of the next job.
    next: u64,
    pub(crate) pools: Vec<PoolRecord>,
    /// The jobs whose ends their clients have not seen.
    submitted: BTreeMap<u64, SubmittedJob>,
    ended: Vec<EndedJob>,
    /// Counts the jobs of each kind by the name of their outcome.
    pub(crate) counts: BTreeMap<Kind, BTreeMap<String, usize>>,
    /// Counts the jobs that were cancelled or dropped while no worker can have had them.
    pub(crate) surely_queued: usize,
    /// Counts the jobs that reported a kill from outside before they began.
    pub(crate) killed_before_begin: usize,
    /// Counts the workers that were stopped. The fault injection counts them.
    pub(crate) stops: usize,
    discrepancies: Vec<String>,
}

struct SubmittedJob {
    job: Arc<Job>,
    line: Line,
    /// When it was submitted.
    at: Moment,
}

/// The end of a job as its client saw it.
#[derive(Debug)]
pub(crate) struct Observation {
    pub(crate) outcome: Outcome,
    pub(crate) cancel: Cancel,
    /// Its handle was cancelled or dropped when no worker can have had it.
    pub(crate) surely_queued: bool,
}

impl From<Outcome> for Observation {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, cancel: Cancel::NotCalled, surely_queued: false }
    }
}

impl Oracle {
    pub(crate) fn report(&mut self, discrepancy: String) {
        self.discrepancies.push(discrepancy);
    }

    pub(crate) fn discrepancies(&self) -> &[String] {
        &self.discrepancies
    }

    /// Records a new pool and returns its number.
    pub(crate) fn add_pool(&mut self, plan: &PoolPlan) -> usize {
        self.pools.push(PoolRecord::new(plan.clone()));
        self.pools.len() - 1
    }

    /// Records a job before its client submits it. Returns its number; the next one is that of the job nested in it.
    /// Returns `None` when the run log is full.
    pub(crate) fn submit(&mut self, job: &Arc<Job>, pool: usize, client: usize, now: Moment) -> Option<u64> {
        let number = self.next;
        if number + 1 >= run_log::CAPACITY as u64 {
            return None;
        }
        self.next += 2;
        self.pools[pool].submitted += 1;
        let line = Line { pool, client, priority: job.priority };
        self.submitted.insert(number, SubmittedJob { job: Arc::clone(job), line, at: now });
        Some(number)
    }

    /// Judges a job's end. `runs` is what the run log says of the job now.
    pub(crate) fn settle(&mut self, number: u64, observed: &Observation, runs: JobRuns, now: Moment) {
        let Observation { outcome, cancel, surely_queued } = observed;
        let Some(submitted) = self.submitted.remove(&number) else {
            return self.report(format!("job {number} ended a second time: {outcome:?}"));
        };
        let SubmittedJob { job, line, .. } = &submitted;
        let pool = &mut self.pools[line.pool];
        let outside_kill = match outcome {
            Outcome::Died { pid, .. } => pool.outside_kill(*pid, submitted.at, now),
            _ => OutsideKill::No,
        };
        let verdict = judge(&Evidence {
            job,
            outcome,
            cancel: *cancel,
            surely_queued: *surely_queued,
            lasted: now.real.saturating_sub(submitted.at.real),
            runs,
            outside_kill,
            on_full: pool.plan.on_full,
            capacity: pool.plan.capacity,
            pool_closing: pool.is_closing(),
            pool_cancels: pool.cancels_from.is_some_and(|from| from <= now.real),
            pool_kills: pool.killed_pids().count(),
        });
        pool.gave_up |= matches!(outcome, Outcome::NoWorker(_));
        let (expected, label) = match verdict {
            Ok(verdict) => {
                if let Some(kill) = verdict.kill {
                    pool.claim_kill(kill, number);
                    self.killed_before_begin += usize::from(runs.begun == 0);
                }
                let label = if verdict.kill.is_some() { "Killed".to_owned() } else { outcome.label() };
                (verdict.runs, label)
            }
            Err(fault) => {
                let what = self.describe(number, &submitted);
                self.report(format!("{fault}: ended with {outcome:?}, {runs}: {what}"));
                (ExpectedRuns::AtMostOnce, "WRONG".to_owned())
            }
        };
        self.surely_queued += usize::from(*surely_queued);
        *self.counts.entry(job.kind).or_default().entry(label).or_default() += 1;
        let on_full = self.pools[line.pool].plan.on_full;
        let ended = EndedJob::new((number, job, *line), outcome, expected, now.fair, on_full);
        if job.kind == Kind::Nest {
            self.ended.push(ended.nested(number + 1, outcome));
        }
        self.ended.push(ended);
    }

    /// Checks once more how often each job ran. Call it when all pools are gone.
    pub(crate) fn audit(&mut self, read: impl Fn(u64) -> JobRuns) {
        let never_ended = self.pending(&read).into_iter().map(|job| format!("never ended: {job}"));
        let mut wrong: Vec<_> = never_ended.collect();
        let mut missing: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        let mut begins = Begins::default();
        for ended @ EndedJob { number, pool, kind, line, .. } in &self.ended {
            let runs = read(*number);
            let shows_order = self.pools[*pool].plan.workers == 1 && runs.begun == 1 && !runs.is_here;
            if let Some(line) = line.filter(|_| shows_order) {
                begins.add(line, *number, runs.time.real);
            }
            match ended.is_missing(&runs, &self.pools[*pool]) {
                Ok(false) => {}
                Ok(true) => missing.entry(*pool).or_default().push(*number),
                Err(fault) => wrong.push(format!("{fault}: {runs}: job {number} ({kind:?}) of pool {pool}")),
            }
        }
        // A worker killed before its job began takes that job with it, and the run log does not say which.
        for (pool, jobs) in missing {
            let spare = self.pools[pool].unclaimed_kills();
            if jobs.len() > spare {
                wrong.push(format!(
                    "pool {pool}: detached jobs {jobs:?} never began; {spare} kills explain too few"
                ));
            }
        }
        wrong.extend(begins.faults());
        self.discrepancies.extend(wrong);
    }

    /// Reports the moments when a pool ran more jobs at once than it has workers. Call it after the last job.
    pub(crate) fn check_crowds(&mut self) {
        let kinds: BTreeMap<u64, Kind> = self.ended.iter().map(|ended| (ended.number, ended.kind)).collect();
        let describe = |job| kinds.get(&job).map_or("not ended".to_owned(), |kind| format!("{kind:?}"));
        self.discrepancies.extend(run_log::crowds(describe));
    }

    /// Describes each job whose end its client has not seen.
    pub(crate) fn pending(&self, read: impl Fn(u64) -> JobRuns) -> Vec<String> {
        let line = |(number, job): (&u64, &_)| format!("{}: {}", read(*number), self.describe(*number, job));
        self.submitted.iter().map(line).collect()
    }

    fn describe(&self, number: u64, SubmittedJob { job, line, .. }: &SubmittedJob) -> String {
        let pool = line.pool;
        format!("job {number} ({job:?}) of pool {pool} ({:?})", self.pools[pool].plan)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use offloop::{OnFull, WorkerExit};

    use super::audit::{LATE, UNTIL_KILLED};
    use super::pool_record::UNNOTICED;
    use super::*;
    use crate::clock;
    use crate::plan::generator;

    const PID: u32 = 4000;
    const KILLED: Outcome = Outcome::Died { pid: PID, exit: WorkerExit::Signal(libc::SIGKILL) };
    /// The only pool.
    const POOL: usize = 0;
    const CLIENT: usize = 0;

    impl Oracle {
        /// Makes one that knows a pool which neither rejects nor sheds jobs.
        fn with_pool() -> Self {
            let mut oracle = Self::default();
            let plan = PoolPlan::random(&mut generator(1, "keeper-0"), Some(1));
            assert_eq!(oracle.add_pool(&PoolPlan { on_full: OnFull::Wait, ..plan }), POOL);
            oracle
        }

        fn submit_nap(&mut self) -> u64 {
            let job = Job::blocker(&mut generator(1, "client-0"));
            self.submit(&Arc::new(job), POOL, CLIENT, now()).unwrap()
        }

        fn kill(&mut self, was_sent: bool) {
            let kill = self.pools[POOL].intend_kill(PID);
            self.pools[POOL].confirm_kill(kill, now(), was_sent);
        }

        fn end(&mut self, number: u64, observed: impl Into<Observation>, runs: JobRuns) {
            self.settle(number, &observed.into(), runs, now());
        }
    }

    /// Returns the present moment, with a fair clock that goes like the other.
    fn now() -> Moment {
        Moment { real: clock::now(), fair: clock::now() }
    }

    fn begun(pid: u32) -> JobRuns {
        JobRuns { begun: 1, pid, time: now(), ..JobRuns::default() }
    }

    fn ran() -> JobRuns {
        JobRuns { ended: 1, ..begun(PID) }
    }

    #[test]
    fn one_kill_explains_one_death() {
        let mut oracle = Oracle::with_pool();
        let jobs = [oracle.submit_nap(), oracle.submit_nap()];
        let kill = oracle.pools[POOL].intend_kill(PID);
        oracle.end(jobs[0], KILLED, begun(PID));
        oracle.pools[POOL].confirm_kill(kill, now(), true);
        assert!(oracle.discrepancies.is_empty(), "a kill counts from its intention on");
        oracle.end(jobs[1], KILLED, begun(PID));
        assert!(oracle.discrepancies[0].contains("already"), "{:?}", oracle.discrepancies);
        assert_eq!(oracle.pools[POOL].killed_pids().count() - oracle.pools[POOL].unclaimed_kills(), 1);
    }

    #[test]
    fn a_kill_explains_no_death_of_a_later_process_of_that_number_and_a_missed_kill_explains_none() {
        let mut oracle = Oracle::with_pool();
        let before = oracle.submit_nap();
        oracle.kill(false);
        oracle.end(before, KILLED, begun(PID));
        assert_eq!(oracle.discrepancies.len(), 1);

        oracle.kill(true);
        let after = oracle.submit_nap();
        oracle.submitted.get_mut(&after).unwrap().at.fair += 2 * UNNOTICED;
        oracle.end(after, KILLED, begun(PID));
        assert_eq!(oracle.discrepancies.len(), 2);
    }

    #[test]
    fn a_job_ends_once_and_runs_once() {
        let mut oracle = Oracle::with_pool();
        let job = oracle.submit_nap();
        oracle.end(job, Outcome::Ok, ran());
        assert!(oracle.discrepancies.is_empty());
        oracle.end(job, Outcome::Ok, ran());
        assert!(oracle.discrepancies[0].contains("second time"));
        oracle.audit(|_| JobRuns { begun: 2, ..ran() });
        assert!(oracle.discrepancies[1].contains("begun 2 times"), "a run that came later");
    }

    #[test]
    fn a_job_that_never_ended_or_began_after_its_end_is_found() {
        let mut oracle = Oracle::with_pool();
        let (open, cancelled) = (oracle.submit_nap(), oracle.submit_nap());
        let observed = Observation { cancel: Cancel::Done, ..Outcome::Cancelled.into() };
        oracle.end(cancelled, observed, JobRuns::default());
        oracle.audit(|number| {
            let late = now().fair + 2 * LATE;
            let late = JobRuns { time: Moment { fair: late, ..now() }, ..ran() };
            if number == open { JobRuns::default() } else { late }
        });
        let found = &oracle.discrepancies;
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("never ended") && found[1].contains("long after"), "{found:?}");
    }

    #[test]
    fn a_detached_job_runs_to_its_end_unless_its_worker_was_killed() {
        let mut oracle = Oracle::with_pool();
        let jobs = [oracle.submit_nap(), oracle.submit_nap(), oracle.submit_nap()];
        for job in jobs {
            oracle.end(job, Outcome::Detached, JobRuns::default());
        }
        oracle.kill(true);
        // One ran, one was killed while it ran, and one may have been killed before it began.
        oracle.audit(|number| match jobs.iter().position(|job| *job == number) {
            Some(0) => ran(),
            Some(1) => begun(PID),
            _ => JobRuns::default(),
        });
        assert!(oracle.discrepancies.is_empty(), "{:?}", oracle.discrepancies);
        oracle.audit(|number| if number == jobs[0] { begun(PID + 1) } else { JobRuns::default() });
        assert_eq!(oracle.discrepancies.len(), 2, "{:?}", oracle.discrepancies);
    }

    #[test]
    fn a_shutdown_cancels_only_when_its_drain_is_over() {
        let mut oracle = Oracle::with_pool();
        let jobs = [oracle.submit_nap(), oracle.submit_nap()];
        oracle.pools[POOL].begin_shutdown(now().real, Duration::from_secs(600));
        oracle.end(jobs[0], Outcome::Cancelled, JobRuns::default());
        assert_eq!(oracle.discrepancies.len(), 1);
        oracle.pools[POOL].begin_shutdown(now().real, Duration::ZERO);
        oracle.end(jobs[1], Outcome::Cancelled, JobRuns::default());
        assert_eq!(oracle.discrepancies.len(), 1);
    }

    #[test]
    fn a_job_that_overtook_another_is_found_in_a_pool_of_one_worker() {
        for (workers, found) in [(1, 1), (2, 0)] {
            let mut oracle = Oracle::with_pool();
            oracle.pools[POOL].plan.workers = workers;
            let jobs = [oracle.submit_nap(), oracle.submit_nap()];
            let at = now();
            let begun = |number| {
                let earlier = if number == jobs[0] { Duration::ZERO } else { Duration::from_millis(1) };
                let real = at.real.saturating_sub(earlier);
                JobRuns { time: Moment { real, ..at }, ..ran() }
            };
            for job in jobs {
                oracle.end(job, Outcome::Ok, begun(job));
            }
            oracle.audit(begun);
            assert_eq!(oracle.discrepancies.len(), found, "{workers} workers: {:?}", oracle.discrepancies);
            let here = |number| JobRuns { is_here: number == jobs[1], ..begun(number) };
            oracle.discrepancies.clear();
            oracle.audit(here);
            assert!(oracle.discrepancies.is_empty(), "the submitting thread ran it");
        }
    }

    #[test]
    fn a_process_that_a_killed_job_started_is_gone_soon() {
        let second = Duration::from_secs(1);
        for (outcome, lived_on, found) in [
            (Outcome::RunTimeout(second), second, 0),
            (Outcome::RunTimeout(second), UNTIL_KILLED + second, 1),
            (Outcome::Dropped, UNTIL_KILLED + second, 1),
            (KILLED, second, 0),
            (KILLED, UNTIL_KILLED + second, 1),
            (Outcome::Ok, UNTIL_KILLED + second, 0),
        ] {
            let mut oracle = Oracle::with_pool();
            let job = Arc::new(Job { run_timeout: Some(second), ..Job::default() });
            let number = oracle.submit(&job, POOL, CLIENT, now()).unwrap();
            oracle.kill(true);
            let end = Moment { real: now().real + 2 * second, ..now() };
            let runs = JobRuns { child_seen: Some(end.fair + lived_on), ..ran() };
            oracle.settle(number, &outcome.clone().into(), runs, end);
            oracle.audit(|_| runs);
            assert_eq!(oracle.discrepancies.len(), found, "{outcome:?}: {:?}", oracle.discrepancies);
        }
    }
}
