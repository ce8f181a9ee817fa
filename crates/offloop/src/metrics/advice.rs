//! Advice about jobs that would be better off elsewhere, found by the time that they are on a core.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::cpu::{CpuMeter, Usage};
use crate::base::activity::Activity;
use crate::base::panic::{self, drop_quietly};
use crate::base::sync::Mutex;
use crate::core::current::take_description;
use crate::core::header::Header;

/// Jobs that would be better off elsewhere. Displays as a sentence that says where.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Advice {
    /// The pool that the jobs run on.
    pub pool: Arc<str>,
    /// The name that the jobs have in common.
    pub task: String,
    /// The activity of the jobs: they compute on a pool for calls that wait, or they only wait on a pool for calls that
    /// compute.
    pub activity: Activity,
    /// The number of these jobs that were measured. Jobs that take less than 2 ms are not.
    pub jobs: u64,
    /// The time that the measured jobs ran, without the time in which other threads and programs had the cores.
    pub ran: Duration,
    /// The part of `ran` that they were on a core.
    pub on_core: Duration,
}

impl Advice {
    /// Returns whether both are about jobs of the same name that do the same.
    pub(super) fn is_about_same(&self, other: &Self) -> bool {
        self.task == other.task && self.activity == other.activity
    }

    /// Adds the jobs of another pool.
    pub(super) fn merge(&mut self, other: &Self) {
        self.jobs += other.jobs;
        self.ran += other.ran;
        self.on_core += other.on_core;
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pool, task, jobs, ran, on_core, .. } = self;
        let share = 100.0 * share_of(*on_core, *ran);
        write!(
            f,
            "`{task}` on the pool `{pool}` was on a core for {share:.0} % of {ran:.1?} ({jobs} jobs): "
        )?;
        f.write_str(match self.activity {
            Activity::Computes => {
                "it computes, on threads that are meant for calls that wait; `run_cpu` or a process pool is the place"
            }
            Activity::Waits => {
                "it only waits, on workers that are meant for calls that compute; threads (`run`) are the place"
            }
        })
    }
}

fn share_of(part: Duration, whole: Duration) -> f64 {
    part.as_secs_f64() / whole.as_secs_f64().max(f64::MIN_POSITIVE)
}

/// A callback that is called with each advice once.
pub(crate) type OnAdvice = Arc<dyn Fn(&Advice) + Send + Sync>;

// There is no advice about a task before this much of it was measured: jobs, their time on a core if they compute,
// and the time that they ran if they wait.
const MIN_JOBS: u64 = 5;
const MIN_ON_CORE: Duration = Duration::from_millis(100);
const MIN_RAN: Duration = Duration::from_secs(1);

/// On a pool for calls that compute, jobs below this share of a core only wait. It is far below the share of
/// [`Activity::Computes`]: jobs that wait and compute by turns are in the right place there.
const ONLY_WAITS: f64 = 0.1;

/// Jobs that share a lock and are on a core for this long on average compute: it is the time for which a
/// thread of Python keeps the lock once it has it.
const LONG_WITH_LOCK: Duration = Duration::from_millis(5);

/// At most this many tasks of a pool are measured, further ones are not. Names that are made up for each job must not
/// fill the memory.
const TASKS: usize = 1000;

/// Keeps account of the long jobs of a pool, by task, and advises about those in the wrong place.
pub(crate) struct Advisor {
    pool: Arc<str>,
    /// The activity that the pool is for. Without it there is no advice.
    activity: Option<Activity>,
    /// Whether the jobs share an interpreter's lock, for which they wait while others compute.
    has_lock: bool,
    on_advice: Option<OnAdvice>,
    tasks: Mutex<HashMap<String, Account>>,
}

/// The measured jobs of one task.
#[derive(Debug, Default)]
struct Account {
    jobs: u64,
    /// About the number of its jobs that were too short to be measured.
    short: u64,
    ran: Duration,
    on_core: Duration,
    /// Whether there was advice about it already.
    is_reported: bool,
}

impl Advisor {
    pub(crate) fn new(
        pool: &str,
        activity: Option<Activity>,
        has_lock: bool,
        on_advice: Option<OnAdvice>,
    ) -> Self {
        Self { pool: pool.into(), activity, has_lock, on_advice, tasks: Mutex::default() }
    }

    pub(crate) fn pool(&self) -> Arc<str> {
        Arc::clone(&self.pool)
    }

    /// Records a long job, or one that counts for many short ones, and gives advice if it is due. May call the user's callback, so no lock of a pool may be
    /// held.
    pub(crate) fn record(&self, header: &Header, took: Duration, usage: Usage) {
        if took < CpuMeter::LONG {
            if self.activity == Some(Activity::Computes) {
                self.record_short(&header.options.name);
            }
        } else if self.activity.is_some() {
            let described = take_description();
            let ran = took.saturating_sub(usage.run_delay);
            self.record_task(described.as_deref().unwrap_or(&header.options.name), ran, usage.on_core);
        }
    }

    /// Counts the short jobs of a task, of which one was sampled.
    fn record_short(&self, task: &str) {
        let mut tasks = self.tasks.lock();
        if let Some(account) = tasks.get_mut(task) {
            account.short += u64::from(CpuMeter::SAMPLED);
        } else if tasks.len() < TASKS / 2 {
            let account = Account { short: CpuMeter::SAMPLED.into(), ..Account::default() };
            tasks.insert(task.to_owned(), account);
        }
    }

    fn record_task(&self, task: &str, ran: Duration, on_core: Duration) {
        let mut tasks = self.tasks.lock();
        if !tasks.contains_key(task) {
            if tasks.len() >= TASKS {
                return;
            }
            tasks.insert(task.to_owned(), Account::default());
        }
        let Some(account) = tasks.get_mut(task) else { return };
        account.jobs += 1;
        account.ran += ran;
        account.on_core += on_core;
        let Some(activity) = self.misplaced(account).filter(|_| !account.is_reported) else { return };
        account.is_reported = true;
        let advice = self.advice(task, account, activity);
        drop(tasks);
        #[cfg(feature = "tracing")]
        tracing::warn!(target: "offloop", task = advice.task, pool = &*advice.pool, "{advice}");
        if let Some(on_advice) = &self.on_advice {
            drop_quietly(panic::catch(|| on_advice(&advice)));
        }
    }

    /// Returns the activity of a task's jobs, if the pool is not for it.
    fn misplaced(&self, account: &Account) -> Option<Activity> {
        let Account { jobs, ran, on_core, .. } = *account;
        let share = share_of(on_core, ran);
        // Jobs that wait for the lock are not on a core, so there the share says little.
        let keeps_lock =
            self.has_lock && on_core / u32::try_from(jobs).unwrap_or(u32::MAX).max(1) >= LONG_WITH_LOCK;
        let computes = keeps_lock || Activity::of_share(share) == Activity::Computes;
        match self.activity {
            _ if jobs < MIN_JOBS => None,
            Some(Activity::Waits) if computes && on_core >= MIN_ON_CORE => Some(Activity::Computes),
            // If most calls are short, the long ones are those that were interrupted.
            Some(Activity::Computes) if share < ONLY_WAITS && ran >= MIN_RAN && jobs > account.short => {
                Some(Activity::Waits)
            }
            _ => None,
        }
    }

    fn advice(&self, task: &str, account: &Account, activity: Activity) -> Advice {
        let Account { jobs, ran, on_core, .. } = *account;
        Advice { pool: Arc::clone(&self.pool), task: task.to_owned(), activity, jobs, ran, on_core }
    }

    /// Returns all advice that there is until now, about the longest run time first.
    pub(crate) fn all(&self) -> Vec<Advice> {
        let tasks = self.tasks.lock();
        let misplaced = tasks
            .iter()
            .filter_map(|(task, account)| Some(self.advice(task, account, self.misplaced(account)?)));
        let mut all: Vec<_> = misplaced.collect();
        drop(tasks);
        all.sort_by(|one, other| other.ran.cmp(&one.ran).then_with(|| one.task.cmp(&other.task)));
        all
    }
}

impl fmt::Debug for Advisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Advisor")
            .field("pool", &self.pool)
            .field("activity", &self.activity)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(any(shuttle, weak_memory))))]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn advice_about_a_task_is_reported_once_and_stays_in_the_metrics() {
        let reported = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&reported);
        let on_advice: OnAdvice = Arc::new(move |advice: &Advice| sink.lock().push(advice.to_string()));
        let advisor = Advisor::new("io", Some(Activity::Waits), false, Some(on_advice));
        for _ in 0..7 {
            advisor.record_task("burns", 30 * MS, 29 * MS);
            advisor.record_task("sleeps", 300 * MS, MS);
        }
        let reported = reported.lock();
        assert_eq!(reported.len(), 1);
        assert!(
            reported[0].starts_with("`burns` on the pool `io` was on a core for 97 % of 150.0ms (5 jobs)")
        );
        let all = advisor.all();
        assert_eq!((all.len(), all[0].jobs, all[0].activity), (1, 7, Activity::Computes));
    }

    #[test]
    fn where_jobs_share_a_lock_the_time_on_a_core_decides_instead_of_the_share() {
        for has_lock in [false, true] {
            let advisor = Advisor::new("io", Some(Activity::Waits), has_lock, None);
            for _ in 0..20 {
                advisor.record_task("burns beside others", 80 * MS, 10 * MS);
                advisor.record_task("waits", 80 * MS, MS);
            }
            assert_eq!(advisor.all().len(), usize::from(has_lock));
        }
    }

    #[test]
    fn a_task_most_of_whose_jobs_are_short_does_not_only_wait() {
        let advisor = Advisor::new("cpu", Some(Activity::Computes), false, None);
        for _ in 0..60 {
            advisor.record_task("waits", 200 * MS, MS);
            advisor.record_task("is interrupted", 200 * MS, MS);
        }
        advisor.record_short("is interrupted");
        let all = advisor.all();
        assert_eq!(all.iter().map(|advice| &*advice.task).collect::<Vec<_>>(), ["waits"]);
    }

    #[test]
    fn names_without_end_do_not_fill_the_memory() {
        let advisor = Advisor::new("cpu", Some(Activity::Computes), false, None);
        for number in 0..2 * TASKS {
            for _ in 0..MIN_JOBS {
                advisor.record_task(&format!("job {number}"), 200 * MS, MS);
            }
        }
        assert_eq!(advisor.all().len(), TASKS);
    }
}
