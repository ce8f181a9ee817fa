//! Whether a job's end is right: no clock, no locks, only what is known of one job.

use std::time::Duration;

use offloop::{Exit, OnFull};

use super::verdict::Verdict;
use crate::book::Mark;
use crate::plan::{Job, Kind, Nature};
use crate::tasks::NOT_KILLED;

/// After so many workers that did not come up a pool gives its jobs up. Only kills from outside stop workers here
/// from coming up.
pub(super) const KILLS_UNTIL_GIVEN_UP: usize = 3;

/// What a call of `cancel` said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cancel {
    NotCalled,
    /// It had ended before.
    TooLate,
    Done,
}

/// Whether a death that a job is told of was a kill from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outside {
    /// Nobody killed that worker.
    No,
    Killed,
    /// It was killed, but this other job has been told of it already.
    KilledWith(u64),
}

/// All that matters of one job at the moment when its client saw its end.
#[derive(Debug, Clone)]
pub(super) struct Case<'a> {
    pub(super) job: &'a Job,
    pub(super) verdict: &'a Verdict,
    pub(super) cancel: Cancel,
    /// Its handle was cancelled or dropped when no worker can have had it.
    pub(super) queued_for_certain: bool,
    /// From its submission until its end was seen.
    pub(super) lasted: Duration,
    pub(super) mark: Mark,
    pub(super) outside: Outside,
    /// The pool's queue.
    pub(super) on_full: OnFull,
    pub(super) capacity: usize,
    /// The pool takes no more jobs.
    pub(super) pool_closing: bool,
    /// The pool's drain is over, so it cancels what is left.
    pub(super) pool_cancels: bool,
    /// How many of the pool's workers were killed from outside.
    pub(super) pool_kills: usize,
}

/// How often a job may have run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runs {
    Never,
    AtMostOnce,
    Once,
}

impl Runs {
    /// Whether the book agrees.
    pub(super) fn check(self, mark: &Mark) -> Result<(), String> {
        let Mark { begun, ended, .. } = *mark;
        let agrees = match self {
            Self::Never => begun == 0,
            Self::AtMostOnce => begun <= 1,
            Self::Once => begun == 1,
        };
        if agrees && ended <= begun {
            return Ok(());
        }
        let expected = match self {
            Self::Never => "never",
            Self::AtMostOnce => "at most once",
            Self::Once => "once",
        };
        Err(format!("it was to run {expected}"))
    }
}

/// A right end, and what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Right {
    pub(super) runs: Runs,
    /// A kill from outside was the reason.
    pub(super) by_outside: bool,
}

/// Says whether a job's end is right, or what is wrong with it.
pub(super) fn judge(case: &Case<'_>) -> Result<Right, String> {
    if case.cancel == Cancel::Done && *case.verdict != Verdict::Cancelled {
        return Err("`cancel` said that it ended the job, but it has another end".to_owned());
    }
    let Right { runs, by_outside } = verdict(case)?;
    let runs = if case.queued_for_certain { Runs::Never } else { runs };
    runs.check(&case.mark)?;
    Ok(Right { runs, by_outside })
}

fn verdict(case: &Case<'_>) -> Result<Right, String> {
    let right = |runs| Ok(Right { runs, by_outside: false });
    let unless =
        |is_right: bool, runs, fault: &str| if is_right { right(runs) } else { Err(fault.to_owned()) };
    let nature = case.job.kind.nature();
    match case.verdict {
        Verdict::Ok if matches!(nature, Nature::Returns | Nature::MayDie) => {
            unless(case.mark.ended > 0, Runs::Once, "it has a result, but its body did not come to its end")
        }
        Verdict::Ok => Err("a job of this kind has no result".to_owned()),
        Verdict::WrongValue(_) | Verdict::Strange(_) => Err("no job may end so".to_owned()),
        Verdict::Panicked => {
            unless(nature == Nature::Panics, Runs::Once, "a job of this kind does not panic")
        }
        Verdict::Cancelled => unless(
            case.cancel == Cancel::Done || case.pool_cancels,
            Runs::AtMostOnce,
            "nobody cancelled it, and its pool had no reason to",
        ),
        Verdict::QueueDeadline(limit) => {
            deadline(case, *limit, [case.job.queue_limit, case.job.total_limit]).map(|()| Right::unrun())
        }
        Verdict::RunDeadline(limit) => {
            deadline(case, *limit, [case.job.run_limit, case.job.total_limit])?;
            right(Runs::AtMostOnce)
        }
        Verdict::Full(capacity) => {
            let may_be = case.job.tried || matches!(case.on_full, OnFull::Reject | OnFull::ShedOldest);
            let is_right = may_be && *capacity == case.capacity;
            unless(is_right, Runs::Never, "this pool does not reject work, or is of another size")
        }
        Verdict::Shed => {
            unless(case.on_full == OnFull::ShedOldest, Runs::Never, "this pool does not shed work")
        }
        Verdict::Closed => unless(case.pool_closing, Runs::Never, "its pool was open"),
        Verdict::CouldNotStart(_) => unless(
            case.pool_kills >= KILLS_UNTIL_GIVEN_UP,
            Runs::Never,
            "nobody kept its pool's workers from coming up",
        ),
        Verdict::Died { pid, exit } => death(case, *pid, *exit),
        Verdict::Dropped | Verdict::Detached => right(Runs::AtMostOnce),
    }
}

impl Right {
    fn unrun() -> Self {
        Self { runs: Runs::Never, by_outside: false }
    }
}

/// A deadline must be one that the job was given, and must have passed.
fn deadline(case: &Case<'_>, told: Duration, given: [Option<Duration>; 2]) -> Result<(), String> {
    if !given.contains(&Some(told)) {
        return Err("it was given no such limit".to_owned());
    }
    if case.lasted < told {
        return Err(format!("it ended {:?} after its submission, before its time", case.lasted));
    }
    Ok(())
}

/// A worker's death must be the doing of the job that is told of it, or of somebody outside.
fn death(case: &Case<'_>, pid: u32, exit: Exit) -> Result<Right, String> {
    if case.mark.begun > 0 && case.mark.pid != pid {
        return Err(format!("it ran in process {}", case.mark.pid));
    }
    if case.mark.begun > 0 && dies_by(case.job, exit) {
        return Ok(Right { runs: Runs::Once, by_outside: false });
    }
    match case.outside {
        Outside::Killed if exit == Exit::Signal(libc::SIGKILL) => {
            Ok(Right { runs: Runs::AtMostOnce, by_outside: true })
        }
        Outside::Killed => Err("that worker was killed from outside, but this is not how".to_owned()),
        Outside::KilledWith(other) => Err(format!("that death was job {other}'s already")),
        Outside::No if case.job.kind.nature() == Nature::Dies => {
            Err("its kind has another death, and nobody killed that worker from outside".to_owned())
        }
        Outside::No => Err("an innocent job: nobody killed that worker from outside".to_owned()),
    }
}

/// Whether this is how a job ends its worker.
fn dies_by(job: &Job, exit: Exit) -> bool {
    match job.kind {
        Kind::Exit => exit == Exit::Code(job.status()),
        Kind::Abort | Kind::Exhaust => exit == Exit::Signal(libc::SIGABRT),
        Kind::Segfault => exit == Exit::Signal(libc::SIGSEGV),
        Kind::KillSelf => exit == Exit::Signal(libc::SIGKILL),
        Kind::CloseAll | Kind::Garbage => matches!(exit, Exit::Protocol | Exit::Code(NOT_KILLED)),
        // It may have noticed for itself that it has lost its link.
        Kind::CloseAllReturn => matches!(exit, Exit::Protocol | Exit::Code(_)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Choices, Stream};

    const PID: u32 = 4000;

    fn job(kind: Kind) -> Job {
        let mut choices = Choices::of(1, Stream::Client(0));
        let mut job = choices.blocker();
        job.kind = kind;
        job
    }

    fn ran() -> Mark {
        Mark { begun: 1, ended: 1, pid: PID, time: Duration::ZERO }
    }

    fn begun() -> Mark {
        Mark { ended: 0, ..ran() }
    }

    fn case<'a>(job: &'a Job, verdict: &'a Verdict, mark: Mark) -> Case<'a> {
        Case {
            job,
            verdict,
            cancel: Cancel::NotCalled,
            queued_for_certain: false,
            lasted: Duration::from_secs(1),
            mark,
            outside: Outside::No,
            on_full: OnFull::Wait,
            capacity: 16,
            pool_closing: false,
            pool_cancels: false,
            pool_kills: 0,
        }
    }

    fn is_right(case: &Case<'_>) -> bool {
        judge(case).is_ok()
    }

    fn died(exit: Exit) -> Verdict {
        Verdict::Died { pid: PID, exit }
    }

    const KILLED: Exit = Exit::Signal(libc::SIGKILL);

    #[test]
    fn a_result_is_right_if_the_job_ran_once_to_its_end() {
        let nap = job(Kind::Nap);
        assert!(is_right(&case(&nap, &Verdict::Ok, ran())));
        assert!(!is_right(&case(&nap, &Verdict::Ok, begun())));
        assert!(!is_right(&case(&nap, &Verdict::Ok, Mark::default())));
        assert!(!is_right(&case(&nap, &Verdict::Ok, Mark { begun: 2, ended: 1, ..ran() })));
        assert!(!is_right(&case(&job(Kind::Abort), &Verdict::Ok, ran())));
        assert!(!is_right(&case(&nap, &Verdict::WrongValue(String::new()), ran())));
    }

    #[test]
    fn an_innocent_job_is_blamed_only_for_a_kill_from_outside_and_one_job_for_each() {
        let nap = job(Kind::Nap);
        let killed = died(KILLED);
        let alone = case(&nap, &killed, begun());
        assert!(!is_right(&alone));
        let right = judge(&Case { outside: Outside::Killed, ..alone.clone() }).unwrap();
        assert!(right.by_outside);
        assert!(is_right(&Case { outside: Outside::Killed, mark: Mark::default(), ..alone.clone() }));
        assert!(!is_right(&Case { outside: Outside::KilledWith(7), ..alone.clone() }));
        let elsewhere = Mark { pid: PID + 1, ..begun() };
        assert!(!is_right(&Case { outside: Outside::Killed, mark: elsewhere, ..alone }));
        let aborted = died(Exit::Signal(libc::SIGABRT));
        assert!(!is_right(&Case { outside: Outside::Killed, ..case(&nap, &aborted, begun()) }));
    }

    #[test]
    fn a_job_that_kills_its_worker_is_told_of_its_own_way() {
        let own = [
            (Kind::Abort, Exit::Signal(libc::SIGABRT)),
            (Kind::Exhaust, Exit::Signal(libc::SIGABRT)),
            (Kind::Segfault, Exit::Signal(libc::SIGSEGV)),
            (Kind::KillSelf, KILLED),
            (Kind::Exit, Exit::Code(job(Kind::Exit).status())),
            (Kind::Garbage, Exit::Protocol),
        ];
        for (kind, exit) in own {
            let (job, verdict) = (job(kind), died(exit));
            assert!(is_right(&case(&job, &verdict, begun())), "{kind:?}");
            assert!(!is_right(&case(&job, &verdict, Mark::default())), "{kind:?} before it ran");
            let wrong = died(Exit::Code(99));
            assert!(!is_right(&case(&job, &wrong, begun())), "{kind:?}");
            let killed = died(KILLED);
            assert!(is_right(&Case { outside: Outside::Killed, ..case(&job, &killed, begun()) }), "{kind:?}");
        }
    }

    #[test]
    fn a_cancelled_job_has_a_reason() {
        let nap = job(Kind::Nap);
        let cancelled = case(&nap, &Verdict::Cancelled, begun());
        assert!(!is_right(&cancelled));
        assert!(is_right(&Case { cancel: Cancel::Done, ..cancelled.clone() }));
        assert!(is_right(&Case { pool_cancels: true, ..cancelled.clone() }));
        assert!(!is_right(&Case { cancel: Cancel::TooLate, ..cancelled }));
        let faster = case(&nap, &Verdict::Ok, ran());
        assert!(is_right(&Case { cancel: Cancel::TooLate, ..faster.clone() }));
        assert!(!is_right(&Case { cancel: Cancel::Done, ..faster }));
    }

    #[test]
    fn what_was_queued_for_certain_when_it_was_cancelled_never_ran() {
        let nap = job(Kind::Nap);
        let cancelled = Case {
            cancel: Cancel::Done,
            queued_for_certain: true,
            ..case(&nap, &Verdict::Cancelled, Mark::default())
        };
        assert_eq!(judge(&cancelled).unwrap().runs, Runs::Never);
        assert!(!is_right(&Case { mark: begun(), ..cancelled }));
    }

    #[test]
    fn a_deadline_is_one_that_was_given_and_has_passed() {
        let mut overrun = job(Kind::Overrun);
        let limit = Duration::from_millis(50);
        let verdict = Verdict::RunDeadline(limit);
        assert!(!is_right(&case(&overrun, &verdict, begun())));
        overrun.run_limit = Some(limit);
        assert!(is_right(&case(&overrun, &verdict, begun())));
        assert!(!is_right(&Case { lasted: limit / 2, ..case(&overrun, &verdict, begun()) }));
        let queue = Verdict::QueueDeadline(limit);
        assert!(!is_right(&case(&overrun, &queue, Mark::default())));
        overrun.queue_limit = Some(limit);
        assert!(is_right(&case(&overrun, &queue, Mark::default())));
        assert!(!is_right(&case(&overrun, &queue, begun())), "removed unrun");
    }

    #[test]
    fn a_refusal_is_its_pools_way_and_the_job_never_ran() {
        let nap = job(Kind::Nap);
        let full = case(&nap, &Verdict::Full(16), Mark::default());
        assert!(!is_right(&full));
        assert!(is_right(&Case { on_full: OnFull::Reject, ..full.clone() }));
        assert!(!is_right(&Case { on_full: OnFull::Reject, mark: ran(), ..full.clone() }));
        assert!(!is_right(&Case { on_full: OnFull::Reject, capacity: 3, ..full }));
        let shed = case(&nap, &Verdict::Shed, Mark::default());
        assert!(!is_right(&shed));
        assert!(is_right(&Case { on_full: OnFull::ShedOldest, ..shed }));
        let closed = case(&nap, &Verdict::Closed, Mark::default());
        assert!(!is_right(&closed));
        assert!(is_right(&Case { pool_closing: true, ..closed }));
        let reason = Verdict::CouldNotStart(String::new());
        let stranded = case(&nap, &reason, Mark::default());
        assert!(!is_right(&Case { pool_kills: 2, ..stranded.clone() }));
        assert!(is_right(&Case { pool_kills: 3, ..stranded }));
    }
}
