//! The ledger: every job from its submission to its end, every pool, every blow from outside, and whether they
//! agree.
//!
//! A job's end is judged when its client sees it (`judge`), with what is known then: a kill is entered *before* it is
//! struck, so a death that it causes always finds it. How often a job ran is looked up once more at the end of all
//! (`audit`), for what should not run at all may still have run later.

mod audit;
mod judge;
mod pool;
mod tally;
mod verdict;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use offloop::Report;

use audit::Settled;
use judge::{Case, Outside, Runs, judge};
use pool::Pool;

pub(crate) use judge::Cancel;
pub(crate) use pool::{KillNumber, PoolNumber};
pub(crate) use tally::{Column, Totals};
pub(crate) use verdict::{Identity, Value, Verdict};

use crate::book::{self, Mark};
use crate::clock;
use crate::plan::{Job, Kind, PoolPlan};

/// Faults beyond these are counted only.
const FAULTS_KEPT: usize = 60;

pub(crate) struct Ledger {
    next: AtomicU64,
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    open: HashMap<u64, Open>,
    settled: Vec<Settled>,
    pools: Vec<Pool>,
    counts: BTreeMap<(Kind, Column), usize>,
    queued_for_certain: usize,
    killed_unbegun: usize,
    stops: usize,
    faults: Vec<String>,
    faults_left_out: usize,
}

/// A job whose end nobody has seen.
struct Open {
    job: Arc<Job>,
    pool: PoolNumber,
    inner: Option<u64>,
    submitted: Duration,
}

/// The numbers by which the book knows a job and the one inside of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbers {
    pub(crate) number: u64,
    pub(crate) inner: u64,
}

/// What a client saw of a job's end.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) verdict: Verdict,
    pub(crate) cancel: Cancel,
    /// Its handle was cancelled or dropped when no worker can have had it.
    pub(crate) queued_for_certain: bool,
}

impl From<Verdict> for Ending {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, cancel: Cancel::NotCalled, queued_for_certain: false }
    }
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Self { next: AtomicU64::new(0), books: Mutex::new(Books::default()) }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that something is wrong.
    pub(crate) fn complain(&self, fault: String) {
        self.books().complain(fault);
    }

    // Pools.

    pub(crate) fn pool_opened(&self, plan: &PoolPlan) -> PoolNumber {
        let mut books = self.books();
        books.pools.push(Pool::new(plan.clone()));
        PoolNumber(books.pools.len() - 1)
    }

    /// To be called before its shutdown is.
    pub(crate) fn pool_shuts_down(&self, pool: PoolNumber, drain: Duration) {
        self.books().pools[pool.0].shuts_down(clock::now(), drain);
    }

    /// To be called when its shutdown has reported.
    pub(crate) fn pool_is_over(&self, pool: PoolNumber, report: &Report) {
        let mut books = self.books();
        if let Err(fault) = books.pools[pool.0].is_over(clock::now(), report) {
            books.complain(format!("{pool} {fault}: {report:?}"));
        }
    }

    // Blows from outside.

    /// To be called before a worker is killed.
    pub(crate) fn kill_intended(&self, pool: PoolNumber, pid: u32) -> KillNumber {
        KillNumber(pool, self.books().pools[pool.0].kill_intended(pid))
    }

    /// To be called when the signal was sent, or could not be.
    pub(crate) fn kill_sent(&self, KillNumber(pool, kill): KillNumber, was_sent: bool) {
        self.books().pools[pool.0].kill_sent(kill, clock::now(), was_sent);
    }

    pub(crate) fn stopped(&self) {
        self.books().stops += 1;
    }

    // Jobs.

    /// Enters a job before it is submitted. `None` when the book is full.
    pub(crate) fn submit(&self, job: &Arc<Job>, pool: PoolNumber) -> Option<Numbers> {
        let number = self.next.fetch_add(2, Ordering::Relaxed);
        let inner = number + 1;
        if inner >= book::CAPACITY {
            return None;
        }
        let open = Open {
            job: Arc::clone(job),
            pool,
            inner: (job.kind == Kind::Nest).then_some(inner),
            submitted: clock::now(),
        };
        let mut books = self.books();
        books.pools[pool.0].submitted += 1;
        books.open.insert(number, open);
        Some(Numbers { number, inner })
    }

    /// Takes a job's end down and judges it. `mark` is what the book says of it now.
    pub(crate) fn settle(&self, number: u64, ending: &Ending, mark: Mark) {
        self.books().settle(number, ending, mark, clock::now());
    }

    /// Looks up once more how often each job has run. To be called when all pools are gone.
    pub(crate) fn audit(&self, read: impl Fn(u64) -> Mark) {
        self.books().audit(read);
    }

    /// The jobs whose end nobody has seen.
    pub(crate) fn pending(&self) -> Vec<String> {
        let (books, now) = (self.books(), clock::now());
        let mut open: Vec<_> = books.open.iter().collect();
        open.sort_by_key(|(number, _)| **number);
        open.into_iter()
            .map(|(number, open)| {
                let age = now.saturating_sub(open.submitted);
                format!("{}, submitted {age:?} ago; {}", books.describe(*number, open), book::read(*number))
            })
            .collect()
    }

    /// What is wrong, as far as it is known, and how much more there is of it.
    pub(crate) fn faults(&self) -> (Vec<String>, usize) {
        let books = self.books();
        (books.faults.clone(), books.faults_left_out)
    }

    pub(crate) fn totals(&self) -> Totals {
        let books = self.books();
        Totals {
            jobs: books.counts.clone(),
            pools: books.pools.len(),
            shut_down: books.pools.iter().filter(|pool| pool.is_closing()).count(),
            kills: books.pools.iter().map(|pool| pool.kills().count()).sum(),
            kills_felt: books.pools.iter().map(|pool| pool.kills().count() - pool.spare_kills()).sum(),
            kills_felt_unbegun: books.killed_unbegun,
            stops: books.stops,
            queued_for_certain: books.queued_for_certain,
        }
    }
}

impl Books {
    fn complain(&mut self, fault: String) {
        if self.faults.len() < FAULTS_KEPT {
            self.faults.push(fault);
        } else {
            self.faults_left_out += 1;
        }
    }

    fn describe(&self, number: u64, open: &Open) -> String {
        let Open { job, pool, .. } = open;
        let plan = &self.pools[pool.0].plan;
        format!(
            "job {number} ({job}) of {pool} ({} workers, queue of {}, {:?})",
            plan.workers, plan.capacity, plan.on_full
        )
    }

    fn settle(&mut self, number: u64, ending: &Ending, mark: Mark, now: Duration) {
        let Some(open) = self.open.remove(&number) else {
            return self.complain(format!("job {number} ended a second time: {}", ending.verdict));
        };
        let pool = &self.pools[open.pool.0];
        let (outside, kill) = match ending.verdict {
            Verdict::Died { pid, .. } => pool.killed(pid, open.submitted),
            _ => (Outside::No, None),
        };
        let judgement = judge(&Case {
            job: &open.job,
            verdict: &ending.verdict,
            cancel: ending.cancel,
            queued_for_certain: ending.queued_for_certain,
            lasted: now.saturating_sub(open.submitted),
            mark,
            outside,
            on_full: pool.plan.on_full,
            capacity: pool.plan.capacity,
            pool_closing: pool.is_closing(),
            pool_cancels: pool.cancels_at(now),
            pool_kills: pool.kills().count(),
        });
        let (runs, column) = match judgement {
            Ok(right) => {
                if let (true, Some(kill)) = (right.by_outside, kill) {
                    self.pools[open.pool.0].kill_felt(kill, number);
                    self.killed_unbegun += usize::from(mark.begun == 0);
                }
                (right.runs, Column::of(&ending.verdict, right.by_outside))
            }
            Err(fault) => {
                let what = self.describe(number, &open);
                self.complain(format!("{what} ended so: {}; {mark}: {fault}", ending.verdict));
                (Runs::AtMostOnce, Column::Wrong)
            }
        };
        self.queued_for_certain += usize::from(ending.queued_for_certain);
        *self.counts.entry((open.job.kind, column)).or_default() += 1;
        let pool = &mut self.pools[open.pool.0];
        if matches!(ending.verdict, Verdict::CouldNotStart(_)) {
            pool.gave_up();
        }
        self.settled.extend(Settled::of(number, &open, &ending.verdict, runs, now, &pool.plan));
    }
}

#[cfg(test)]
mod tests {
    use offloop::{Exit, OnFull};

    use super::audit::LATE;
    use super::pool::UNNOTICED;
    use super::*;
    use crate::plan::{Choices, Stream};

    const PID: u32 = 4000;
    const KILLED: Verdict = Verdict::Died { pid: PID, exit: Exit::Signal(libc::SIGKILL) };

    /// A ledger with one pool, of a policy that refuses and sheds nothing.
    fn ledger() -> (Ledger, PoolNumber) {
        let ledger = Ledger::new();
        let mut plan = Choices::of(1, Stream::Keeper(0)).pool(Some(1));
        plan.on_full = OnFull::Wait;
        let pool = ledger.pool_opened(&plan);
        (ledger, pool)
    }

    fn faults(ledger: &Ledger) -> Vec<String> {
        ledger.faults().0
    }

    fn nap(ledger: &Ledger, pool: PoolNumber) -> u64 {
        let job = Choices::of(1, Stream::Client(0)).blocker();
        ledger.submit(&Arc::new(job), pool).unwrap().number
    }

    fn begun(pid: u32) -> Mark {
        Mark { begun: 1, ended: 0, pid, time: clock::now() }
    }

    fn ran() -> Mark {
        Mark { ended: 1, ..begun(PID) }
    }

    #[test]
    fn one_kill_explains_one_death() {
        let (ledger, pool) = ledger();
        let jobs = [nap(&ledger, pool), nap(&ledger, pool)];
        let kill = ledger.kill_intended(pool, PID);
        ledger.settle(jobs[0], &KILLED.into(), begun(PID));
        ledger.kill_sent(kill, true);
        assert!(faults(&ledger).is_empty(), "a kill counts from its intention on");
        ledger.settle(jobs[1], &KILLED.into(), begun(PID));
        assert!(faults(&ledger)[0].contains("already"), "{:?}", faults(&ledger));
        assert_eq!(ledger.totals().kills_felt, 1);
    }

    #[test]
    fn a_kill_explains_no_death_of_a_later_process_of_that_number_and_a_void_one_none() {
        let (ledger, pool) = ledger();
        let before = nap(&ledger, pool);
        let kill = ledger.kill_intended(pool, PID);
        ledger.kill_sent(kill, false);
        ledger.settle(before, &KILLED.into(), begun(PID));
        assert_eq!(faults(&ledger).len(), 1);

        let kill = ledger.kill_intended(pool, PID);
        ledger.kill_sent(kill, true);
        let after = nap(&ledger, pool);
        let mut books = ledger.books();
        books.open.get_mut(&after).unwrap().submitted += 2 * UNNOTICED;
        drop(books);
        ledger.settle(after, &KILLED.into(), begun(PID));
        assert_eq!(faults(&ledger).len(), 2);
    }

    #[test]
    fn a_job_ends_once_and_runs_once() {
        let (ledger, pool) = ledger();
        let job = nap(&ledger, pool);
        ledger.settle(job, &Verdict::Ok.into(), ran());
        assert!(faults(&ledger).is_empty());
        ledger.settle(job, &Verdict::Ok.into(), ran());
        assert!(faults(&ledger)[0].contains("second time"));
        ledger.audit(|_| Mark { begun: 2, ..ran() });
        assert!(faults(&ledger)[1].contains("begun 2 times"), "a run that came later");
    }

    #[test]
    fn a_job_that_never_ended_or_was_begun_after_its_end_is_found() {
        let (ledger, pool) = ledger();
        let (open, cancelled) = (nap(&ledger, pool), nap(&ledger, pool));
        let ending = Ending { cancel: Cancel::Done, ..Verdict::Cancelled.into() };
        ledger.settle(cancelled, &ending, Mark::default());
        ledger.audit(|number| {
            if number == open { Mark::default() } else { Mark { time: clock::now() + 2 * LATE, ..ran() } }
        });
        let faults = ledger.faults().0;
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].contains("never ended") && faults[1].contains("long after"), "{faults:?}");
    }

    #[test]
    fn a_detached_job_runs_to_its_end_unless_its_worker_was_killed() {
        let (ledger, pool) = ledger();
        let jobs = [nap(&ledger, pool), nap(&ledger, pool), nap(&ledger, pool)];
        for job in jobs {
            ledger.settle(job, &Verdict::Detached.into(), Mark::default());
        }
        let kill = ledger.kill_intended(pool, PID);
        ledger.kill_sent(kill, true);
        // One ran, one was killed while it ran, one may have been killed before: two kills, of which one is unknown.
        ledger.audit(|number| match jobs.iter().position(|job| *job == number) {
            Some(0) => ran(),
            Some(1) => begun(PID),
            _ => Mark::default(),
        });
        assert!(faults(&ledger).is_empty(), "{:?}", faults(&ledger));
        ledger.audit(|number| if number == jobs[0] { begun(PID + 1) } else { Mark::default() });
        assert_eq!(faults(&ledger).len(), 2, "{:?}", faults(&ledger));
    }

    #[test]
    fn a_shutdown_cancels_only_when_its_drain_is_over() {
        let (ledger, pool) = ledger();
        let jobs = [nap(&ledger, pool), nap(&ledger, pool)];
        ledger.pool_shuts_down(pool, Duration::from_secs(600));
        ledger.settle(jobs[0], &Verdict::Cancelled.into(), Mark::default());
        assert_eq!(faults(&ledger).len(), 1);
        ledger.pool_shuts_down(pool, Duration::ZERO);
        ledger.settle(jobs[1], &Verdict::Cancelled.into(), Mark::default());
        assert_eq!(faults(&ledger).len(), 1);
    }
}
