//! Which jobs belong elsewhere: told by the time that they were on a core.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Usage;
use crate::base::panic::{self, drop_quietly};
use crate::base::sync::Mutex;
use crate::core::current::take_description;
use crate::core::header::Header;

/// What a pool is for, and so what is out of place there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Purpose {
    /// Anything: there is no advice.
    #[default]
    Any,
    /// Calls that wait, as on the I/O lane. Those that compute are advised upon.
    Waiting,
    /// Calls that compute, as in a process pool. Those that only wait are advised upon.
    Computing,
}

/// Jobs that would be better off elsewhere. Displays as a sentence that says where.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Advice {
    /// The pool that they run on.
    pub pool: Arc<str>,
    /// What they are called.
    pub task: String,
    /// What is out of place.
    pub found: Found,
    /// How many of these jobs were measured. Short ones, below 2 ms, are not.
    pub jobs: u64,
    /// How long those ran, without the time in which other threads and programs had the cores.
    pub ran: Duration,
    /// For how much of that they were on a core.
    pub on_core: Duration,
}

/// What is out of place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Found {
    /// They compute, on a pool for calls that wait.
    Computes,
    /// They only wait, on a pool for calls that compute.
    OnlyWaits,
}

impl Found {
    /// As a word for labels: `computes`, `only_waits`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Computes => "computes",
            Self::OnlyWaits => "only_waits",
        }
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pool, task, jobs, ran, on_core, .. } = self;
        let share = 100.0 * on_core.as_secs_f64() / ran.as_secs_f64().max(f64::MIN_POSITIVE);
        write!(
            f,
            "`{task}` on the pool `{pool}` was on a core for {share:.0} % of {ran:.1?} ({jobs} jobs): "
        )?;
        f.write_str(match self.found {
            Found::Computes => {
                "it computes, on threads that are meant for calls that wait; `run_cpu` or a process pool is the place"
            }
            Found::OnlyWaits => {
                "it only waits, on workers that are meant for calls that compute; threads (`run`) are the place"
            }
        })
    }
}

/// Is called with each advice once.
pub(crate) type OnAdvice = Arc<dyn Fn(&Advice) + Send + Sync>;

/// So much must have been seen before something is said: jobs, their time on a core, the time that they ran.
const ENOUGH_JOBS: u64 = 5;
const ENOUGH_ON_CORE: Duration = Duration::from_millis(100);
const ENOUGH_WAITED: Duration = Duration::from_secs(1);

/// Whoever is on a core for more than this share computes; for less than this one, only waits.
const COMPUTES: f64 = 0.5;
const ONLY_WAITS: f64 = 0.1;

/// Where jobs share a lock, whoever is on a core for so long on average computes: for so long a thread keeps the lock of
/// Python once it has it.
const LONG_WITH_LOCK: Duration = Duration::from_millis(5);

/// So many tasks are told apart; the others go unwatched. Names that are made up for each job must not fill the memory.
const TASKS: usize = 1000;

/// Keeps account of the long jobs of a pool, by task.
pub(crate) struct Advisor {
    pool: Arc<str>,
    purpose: Purpose,
    /// Jobs share an interpreter's lock, for which they wait while others compute.
    has_lock: bool,
    on_advice: Option<OnAdvice>,
    tasks: Mutex<HashMap<String, Account>>,
}

#[derive(Debug, Default)]
struct Account {
    jobs: u64,
    ran: Duration,
    on_core: Duration,
    is_told: bool,
}

impl Advisor {
    pub(crate) fn new(pool: &str, purpose: Purpose, has_lock: bool, on_advice: Option<OnAdvice>) -> Self {
        Self { pool: pool.into(), purpose, has_lock, on_advice, tasks: Mutex::default() }
    }

    pub(crate) fn pool(&self) -> Arc<str> {
        Arc::clone(&self.pool)
    }

    /// A job has taken so long. No lock of a pool is held.
    pub(crate) fn note(&self, header: &Header, took: Duration, usage: Usage) {
        if self.purpose != Purpose::Any {
            let described = take_description();
            let ran = took.saturating_sub(usage.run_delay);
            self.note_task(described.as_deref().unwrap_or(&header.options.name), ran, usage.on_core);
        }
    }

    fn note_task(&self, task: &str, ran: Duration, on_core: Duration) {
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
        let Some(found) = self.found(account).filter(|_| !account.is_told) else { return };
        account.is_told = true;
        let advice = self.advice(task, account, found);
        drop(tasks);
        #[cfg(feature = "tracing")]
        tracing::warn!(target: "offloop", task = advice.task, pool = &*advice.pool, "{advice}");
        if let Some(tell) = &self.on_advice {
            drop_quietly(panic::catch(|| tell(&advice)));
        }
    }

    fn found(&self, account: &Account) -> Option<Found> {
        let Account { jobs, ran, on_core, .. } = *account;
        let share = on_core.as_secs_f64() / ran.as_secs_f64().max(f64::MIN_POSITIVE);
        // Who waits for the lock is not on a core, so there the share says little.
        let keeps_lock =
            self.has_lock && on_core / u32::try_from(jobs).unwrap_or(u32::MAX).max(1) >= LONG_WITH_LOCK;
        match self.purpose {
            _ if jobs < ENOUGH_JOBS => None,
            Purpose::Waiting if (share > COMPUTES || keeps_lock) && on_core >= ENOUGH_ON_CORE => {
                Some(Found::Computes)
            }
            Purpose::Computing if share < ONLY_WAITS && ran >= ENOUGH_WAITED => Some(Found::OnlyWaits),
            _ => None,
        }
    }

    fn advice(&self, task: &str, account: &Account, found: Found) -> Advice {
        let Account { jobs, ran, on_core, .. } = *account;
        Advice { pool: Arc::clone(&self.pool), task: task.to_owned(), found, jobs, ran, on_core }
    }

    /// What there is to advise until now, the gravest first.
    pub(crate) fn all(&self) -> Vec<Advice> {
        let tasks = self.tasks.lock();
        let found =
            tasks.iter().filter_map(|(task, account)| Some(self.advice(task, account, self.found(account)?)));
        let mut all: Vec<_> = found.collect();
        drop(tasks);
        all.sort_by(|one, other| other.ran.cmp(&one.ran).then_with(|| one.task.cmp(&other.task)));
        all
    }
}

impl fmt::Debug for Advisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Advisor")
            .field("pool", &self.pool)
            .field("purpose", &self.purpose)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn each_task_is_advised_upon_once_and_told_for_ever() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let ears = Arc::clone(&told);
        let tell: OnAdvice = Arc::new(move |advice: &Advice| ears.lock().push(advice.to_string()));
        let advisor = Advisor::new("io", Purpose::Waiting, false, Some(tell));
        for _ in 0..7 {
            advisor.note_task("burns", 30 * MS, 29 * MS);
            advisor.note_task("sleeps", 300 * MS, MS);
        }
        assert_eq!(told.lock().len(), 1);
        assert!(
            told.lock()[0].starts_with("`burns` on the pool `io` was on a core for 97 % of 150.0ms (5 jobs)")
        );
        let all = advisor.all();
        assert_eq!((all.len(), all[0].jobs, all[0].found), (1, 7, Found::Computes));
    }

    #[test]
    fn where_jobs_share_a_lock_their_share_of_a_core_says_little() {
        for has_lock in [false, true] {
            let advisor = Advisor::new("io", Purpose::Waiting, has_lock, None);
            for _ in 0..20 {
                advisor.note_task("burns beside others", 80 * MS, 10 * MS);
                advisor.note_task("waits", 80 * MS, MS);
            }
            assert_eq!(advisor.all().len(), usize::from(has_lock));
        }
    }

    #[test]
    fn names_without_end_do_not_fill_the_memory() {
        let advisor = Advisor::new("cpu", Purpose::Computing, false, None);
        for number in 0..2 * TASKS {
            for _ in 0..ENOUGH_JOBS {
                advisor.note_task(&format!("job {number}"), 200 * MS, MS);
            }
        }
        assert_eq!(advisor.all().len(), TASKS);
    }
}
