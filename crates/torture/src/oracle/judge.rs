//! Decides whether the end of one job is right. Uses no clock and no lock, only what is known of that job.

use std::time::Duration;

use offloop::{OnFull, WorkerExit};

use super::outcome::Outcome;
use crate::plan::{Job, Kind, Nature};
use crate::run_log::JobRuns;
use crate::tasks::NOT_KILLED;

/// A pool gives its jobs up after this many workers that did not start. Here only kills from outside prevent a
/// worker from starting.
pub(super) const KILLS_UNTIL_GIVEN_UP: usize = 3;

/// A pool kills a worker that has lost its link for this long, and reports `WorkerExit::Protocol`. On an overloaded machine
/// that can be a worker killed from outside: the kernel closes its link first and reports its death later.
const WITHOUT_LINK: Duration = Duration::from_millis(200);

/// The result of a call of `cancel`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cancel {
    NotCalled,
    /// The job had ended before.
    TooLate,
    Done,
}

/// The kill from outside that can explain a worker's death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OutsideKill {
    No,
    /// The kill of this index can. It explains no other job's death yet, and was sent this long ago.
    Unclaimed {
        kill: usize,
        age: Duration,
    },
    /// It was killed, but that kill explains the death of this other job.
    ClaimedBy(u64),
}

/// Everything that is known of one job when its client sees its end.
#[derive(Debug, Clone)]
pub(super) struct Evidence<'a> {
    pub(super) job: &'a Job,
    pub(super) outcome: &'a Outcome,
    pub(super) cancel: Cancel,
    /// Its handle was cancelled or dropped when no worker can have had it.
    pub(super) surely_queued: bool,
    /// From its submission until its client saw its end.
    pub(super) lasted: Duration,
    pub(super) runs: JobRuns,
    pub(super) outside_kill: OutsideKill,
    pub(super) on_full: OnFull,
    pub(super) capacity: usize,
    /// Its pool takes no more jobs.
    pub(super) pool_closing: bool,
    /// Its pool's drain is over, so the pool cancels what is left.
    pub(super) pool_cancels: bool,
    /// Counts the workers of its pool that were killed from outside.
    pub(super) pool_kills: usize,
}

/// How often a job may have run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExpectedRuns {
    Never,
    AtMostOnce,
    Once,
}

impl ExpectedRuns {
    /// Compares with the run log.
    pub(super) fn check(self, runs: &JobRuns) -> Result<(), String> {
        let (agrees, expected) = match self {
            Self::Never => (runs.begun == 0, "never run"),
            Self::AtMostOnce => (runs.begun <= 1, "run at most once"),
            Self::Once => (runs.begun == 1, "run once"),
        };
        if agrees && runs.ended <= runs.begun { Ok(()) } else { Err(format!("it should {expected}")) }
    }
}

/// The verdict on an end that is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) runs: ExpectedRuns,
    /// The kill from outside that explains it, if one does.
    pub(super) kill: Option<usize>,
}

/// Decides whether the end of a job is right. The error says what is wrong.
pub(super) fn judge(evidence: &Evidence<'_>) -> Result<Verdict, String> {
    if evidence.cancel == Cancel::Done && *evidence.outcome != Outcome::Cancelled {
        return Err("`cancel` returned that it ended the job, but the job ended otherwise".to_owned());
    }
    let mut verdict = match evidence.outcome {
        Outcome::Died { pid, exit } => judge_death(evidence, *pid, *exit)?,
        _ => Verdict { runs: judge_outcome(evidence)?, kill: None },
    };
    if evidence.surely_queued {
        verdict.runs = ExpectedRuns::Never;
    }
    verdict.runs.check(&evidence.runs)?;
    Ok(verdict)
}

/// Judges any outcome but a worker's death.
fn judge_outcome(evidence: &Evidence<'_>) -> Result<ExpectedRuns, String> {
    use ExpectedRuns::{AtMostOnce, Never, Once};
    let Evidence { job, on_full, .. } = *evidence;
    let nature = job.kind.nature();
    let (is_right, runs, fault) = match evidence.outcome {
        Outcome::Ok if !matches!(nature, Nature::Returns | Nature::MayDie | Nature::MayBeRefused) => {
            (false, Once, "a job of this kind has no result")
        }
        Outcome::Refused(_) => (
            matches!(nature, Nature::IsRefused | Nature::MayBeRefused) && evidence.runs.ended > 0,
            Once,
            "its result is right, or its body did not reach its end",
        ),
        Outcome::Ok => (evidence.runs.ended > 0, Once, "it has a result, but its body did not reach its end"),
        Outcome::Panicked => (nature == Nature::Panics, Once, "a job of this kind does not panic"),
        Outcome::Cancelled => (
            evidence.cancel == Cancel::Done || evidence.pool_cancels,
            AtMostOnce,
            "its client did not cancel it, and its pool had no reason to",
        ),
        Outcome::QueueTimeout(limit) => {
            check_timeout(evidence.lasted, *limit, [job.queue_timeout, job.total_timeout])?;
            (true, Never, "")
        }
        Outcome::RunTimeout(limit) => {
            check_timeout(evidence.lasted, *limit, [job.run_timeout, job.total_timeout])?;
            (true, AtMostOnce, "")
        }
        Outcome::QueueFull(capacity) => (
            (job.tried || matches!(on_full, OnFull::Reject | OnFull::ShedOldest))
                && *capacity == evidence.capacity,
            Never,
            "its pool does not reject jobs, or has another capacity",
        ),
        Outcome::Shed => (on_full == OnFull::ShedOldest, Never, "its pool does not shed jobs"),
        Outcome::Closed => (evidence.pool_closing, Never, "its pool was open"),
        Outcome::NoWorker(_) => (
            evidence.pool_kills >= KILLS_UNTIL_GIVEN_UP,
            Never,
            "too few workers were killed to explain that none could start",
        ),
        Outcome::Dropped | Outcome::Detached => (true, AtMostOnce, ""),
        Outcome::Died { .. } | Outcome::WrongValue(_) | Outcome::Unexpected(_) => {
            (false, AtMostOnce, "no job may end like this")
        }
    };
    if is_right { Ok(runs) } else { Err(fault.to_owned()) }
}

/// Checks that a timeout is one that the job was given and has passed.
fn check_timeout(lasted: Duration, limit: Duration, given: [Option<Duration>; 2]) -> Result<(), String> {
    if !given.contains(&Some(limit)) {
        return Err("it was given no such timeout".to_owned());
    }
    if lasted < limit {
        return Err(format!("it ended {lasted:?} after its submission, before its timeout"));
    }
    Ok(())
}

/// Checks that the death of a worker was caused by the job that reports it, or by a kill from outside.
fn judge_death(evidence: &Evidence<'_>, pid: u32, exit: WorkerExit) -> Result<Verdict, String> {
    let Evidence { job, runs, .. } = evidence;
    if runs.begun > 0 && runs.pid != pid {
        return Err(format!("it ran in process {}", runs.pid));
    }
    if runs.begun > 0 && is_own_death(job, exit) {
        return Ok(Verdict { runs: ExpectedRuns::Once, kill: None });
    }
    match evidence.outside_kill {
        OutsideKill::Unclaimed { kill, age }
            if exit == WorkerExit::Signal(libc::SIGKILL)
                || (exit == WorkerExit::Protocol && age >= WITHOUT_LINK) =>
        {
            Ok(Verdict { runs: ExpectedRuns::AtMostOnce, kill: Some(kill) })
        }
        OutsideKill::Unclaimed { .. } => {
            Err("its worker was killed from outside, but exited otherwise".to_owned())
        }
        OutsideKill::ClaimedBy(other) => Err(format!("that death was reported to job {other} already")),
        OutsideKill::No if job.kind.nature() == Nature::Dies => {
            Err("its kind dies otherwise, and its worker was not killed from outside".to_owned())
        }
        OutsideKill::No => Err("an innocent job: its worker was not killed from outside".to_owned()),
    }
}

/// Returns whether a job of this plan ends its worker in this way.
fn is_own_death(job: &Job, exit: WorkerExit) -> bool {
    match job.kind {
        Kind::Exit => exit == WorkerExit::Code(job.status()),
        Kind::Abort | Kind::Exhaust => exit == WorkerExit::Signal(libc::SIGABRT),
        Kind::Segfault => exit == WorkerExit::Signal(libc::SIGSEGV),
        Kind::KillSelf => exit == WorkerExit::Signal(libc::SIGKILL),
        Kind::CloseAll | Kind::Garbage => matches!(exit, WorkerExit::Protocol | WorkerExit::Code(NOT_KILLED)),
        // The worker itself may notice that it lost its link, and exit.
        Kind::CloseAllReturn => matches!(exit, WorkerExit::Protocol | WorkerExit::Code(_)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;

    const PID: u32 = 4000;
    const KILLED: WorkerExit = WorkerExit::Signal(libc::SIGKILL);
    const OUTSIDE: OutsideKill = OutsideKill::Unclaimed { kill: 0, age: Duration::ZERO };
    const NEVER_RAN: JobRuns = JobRuns {
        begun: 0,
        ended: 0,
        pid: 0,
        time: Moment { real: Duration::ZERO, fair: Duration::ZERO },
        is_here: false,
        child_seen: None,
    };
    const BEGUN: JobRuns = JobRuns { begun: 1, pid: PID, ..NEVER_RAN };
    const RAN: JobRuns = JobRuns { ended: 1, ..BEGUN };

    fn job(kind: Kind) -> Job {
        Job { kind, millis: 50, ..Job::default() }
    }

    fn evidence<'a>(job: &'a Job, outcome: &'a Outcome, runs: JobRuns) -> Evidence<'a> {
        Evidence {
            job,
            outcome,
            cancel: Cancel::NotCalled,
            surely_queued: false,
            lasted: Duration::from_secs(1),
            runs,
            outside_kill: OutsideKill::No,
            on_full: OnFull::Wait,
            capacity: 16,
            pool_closing: false,
            pool_cancels: false,
            pool_kills: 0,
        }
    }

    fn is_right(evidence: &Evidence<'_>) -> bool {
        judge(evidence).is_ok()
    }

    fn died(exit: WorkerExit) -> Outcome {
        Outcome::Died { pid: PID, exit }
    }

    #[test]
    fn a_result_is_right_if_the_job_ran_once_to_its_end() {
        let nap = job(Kind::Nap);
        assert!(is_right(&evidence(&nap, &Outcome::Ok, RAN)));
        assert!(!is_right(&evidence(&nap, &Outcome::Ok, BEGUN)));
        assert!(!is_right(&evidence(&nap, &Outcome::Ok, NEVER_RAN)));
        assert!(!is_right(&evidence(&nap, &Outcome::Ok, JobRuns { begun: 2, ..RAN })));
        assert!(!is_right(&evidence(&job(Kind::Abort), &Outcome::Ok, RAN)));
        assert!(!is_right(&evidence(&nap, &Outcome::WrongValue(String::new()), RAN)));
    }

    #[test]
    fn a_result_is_refused_only_if_it_cannot_be_right() {
        let refused = Outcome::Refused("its depth".to_owned());
        for kind in [Kind::Lie, Kind::TooDeep, Kind::Deeper] {
            assert!(is_right(&evidence(&job(kind), &refused, RAN)), "{kind:?}");
            assert!(!is_right(&evidence(&job(kind), &refused, BEGUN)), "{kind:?} before its end");
        }
        assert!(!is_right(&evidence(&job(Kind::Odd), &refused, RAN)));
        assert!(!is_right(&evidence(&job(Kind::Lie), &Outcome::Ok, RAN)));
        assert!(is_right(&evidence(&job(Kind::Deeper), &Outcome::Ok, RAN)));
    }

    #[test]
    fn an_innocent_job_reports_a_death_only_for_a_kill_from_outside_and_one_job_for_each() {
        let nap = job(Kind::Nap);
        let killed = died(KILLED);
        let alone = evidence(&nap, &killed, BEGUN);
        assert!(!is_right(&alone));
        let outside = Evidence { outside_kill: OUTSIDE, ..alone.clone() };
        assert_eq!(judge(&outside).unwrap().kill, Some(0));
        assert!(is_right(&Evidence { runs: NEVER_RAN, ..outside.clone() }));
        assert!(!is_right(&Evidence { outside_kill: OutsideKill::ClaimedBy(7), ..alone }));
        assert!(!is_right(&Evidence { runs: JobRuns { pid: PID + 1, ..BEGUN }, ..outside.clone() }));
        assert!(!is_right(&Evidence {
            outcome: &died(WorkerExit::Signal(libc::SIGABRT)),
            ..outside.clone()
        }));
        let cut_off = died(WorkerExit::Protocol);
        let at_once = Evidence { outcome: &cut_off, ..outside };
        assert!(!is_right(&at_once));
        let slow = OutsideKill::Unclaimed { kill: 0, age: WITHOUT_LINK };
        assert!(is_right(&Evidence { outside_kill: slow, ..at_once }), "its link closed first");
    }

    #[test]
    fn a_job_that_ends_its_worker_reports_its_own_kind_of_death() {
        let own = [
            (Kind::Abort, WorkerExit::Signal(libc::SIGABRT)),
            (Kind::Exhaust, WorkerExit::Signal(libc::SIGABRT)),
            (Kind::Segfault, WorkerExit::Signal(libc::SIGSEGV)),
            (Kind::KillSelf, KILLED),
            (Kind::Exit, WorkerExit::Code(job(Kind::Exit).status())),
            (Kind::Garbage, WorkerExit::Protocol),
        ];
        for (kind, exit) in own {
            let (job, outcome) = (job(kind), died(exit));
            assert!(is_right(&evidence(&job, &outcome, BEGUN)), "{kind:?}");
            assert!(!is_right(&evidence(&job, &outcome, NEVER_RAN)), "{kind:?} before it ran");
            assert!(!is_right(&evidence(&job, &died(WorkerExit::Code(99)), BEGUN)), "{kind:?}");
            let killed = died(KILLED);
            assert!(
                is_right(&Evidence { outside_kill: OUTSIDE, ..evidence(&job, &killed, BEGUN) }),
                "{kind:?}"
            );
        }
    }

    #[test]
    fn a_cancelled_job_has_a_reason() {
        let nap = job(Kind::Nap);
        let cancelled = evidence(&nap, &Outcome::Cancelled, BEGUN);
        assert!(!is_right(&cancelled));
        assert!(is_right(&Evidence { cancel: Cancel::Done, ..cancelled.clone() }));
        assert!(is_right(&Evidence { pool_cancels: true, ..cancelled.clone() }));
        assert!(!is_right(&Evidence { cancel: Cancel::TooLate, ..cancelled }));
        let faster = evidence(&nap, &Outcome::Ok, RAN);
        assert!(is_right(&Evidence { cancel: Cancel::TooLate, ..faster.clone() }));
        assert!(!is_right(&Evidence { cancel: Cancel::Done, ..faster }));
    }

    #[test]
    fn a_job_that_was_cancelled_while_surely_queued_never_ran() {
        let nap = job(Kind::Nap);
        let cancelled = evidence(&nap, &Outcome::Cancelled, NEVER_RAN);
        let cancelled = Evidence { cancel: Cancel::Done, surely_queued: true, ..cancelled };
        assert_eq!(judge(&cancelled).unwrap().runs, ExpectedRuns::Never);
        assert!(!is_right(&Evidence { runs: BEGUN, ..cancelled }));
    }

    #[test]
    fn a_timeout_is_one_that_was_given_and_has_passed() {
        let mut overrun = job(Kind::Overrun);
        let limit = Duration::from_millis(50);
        let run = Outcome::RunTimeout(limit);
        assert!(!is_right(&evidence(&overrun, &run, BEGUN)));
        overrun.run_timeout = Some(limit);
        assert!(is_right(&evidence(&overrun, &run, BEGUN)));
        assert!(!is_right(&Evidence { lasted: limit / 2, ..evidence(&overrun, &run, BEGUN) }));
        let queue = Outcome::QueueTimeout(limit);
        assert!(!is_right(&evidence(&overrun, &queue, NEVER_RAN)));
        overrun.queue_timeout = Some(limit);
        assert!(is_right(&evidence(&overrun, &queue, NEVER_RAN)));
        assert!(!is_right(&evidence(&overrun, &queue, BEGUN)), "removed from the queue, so it never ran");
    }

    #[test]
    fn a_refusal_fits_its_pool_and_the_job_never_ran() {
        let nap = job(Kind::Nap);
        let full = evidence(&nap, &Outcome::QueueFull(16), NEVER_RAN);
        assert!(!is_right(&full));
        let full = Evidence { on_full: OnFull::Reject, ..full };
        assert!(is_right(&full));
        assert!(!is_right(&Evidence { runs: RAN, ..full.clone() }));
        assert!(!is_right(&Evidence { capacity: 3, ..full }));
        let shed = evidence(&nap, &Outcome::Shed, NEVER_RAN);
        assert!(!is_right(&shed));
        assert!(is_right(&Evidence { on_full: OnFull::ShedOldest, ..shed }));
        let closed = evidence(&nap, &Outcome::Closed, NEVER_RAN);
        assert!(!is_right(&closed));
        assert!(is_right(&Evidence { pool_closing: true, ..closed }));
        let reason = Outcome::NoWorker(String::new());
        let given_up = evidence(&nap, &reason, NEVER_RAN);
        assert!(!is_right(&Evidence { pool_kills: 2, ..given_up.clone() }));
        assert!(is_right(&Evidence { pool_kills: 3, ..given_up }));
    }
}
