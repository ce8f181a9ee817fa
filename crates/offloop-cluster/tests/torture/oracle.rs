//! What may become of a job, and what must not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use offloop::ErrorKind;
use offloop_cluster::StoredEnd;

use crate::harness::books::{Books, runs_of};

/// The kinds of jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Nap,
    Keyed,
    Attached,
    Exclusive,
    Crash,
    Fail,
    Poison,
    Echo,
    Stream,
    TooLong,
    Impatient,
}

/// What has become of a job.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    /// It has ended, as its handle says.
    Ok,
    /// It has another value than it should have.
    Wrong,
    Panicked,
    Died,
    Lost,
    RunTimeout,
    QueueTimeout,
    /// The reader of its items was out of reach for too long.
    Unread,
    /// It has ended otherwise, which no job may.
    Other(String),
    /// It was cancelled, and the cluster's record says so.
    Stored(String),
    /// It never ran.
    NeverRan,
    /// Its handle was dropped.
    Dropped,
}

impl Fate {
    pub(crate) fn of(kind: &ErrorKind) -> Self {
        match kind {
            ErrorKind::Panicked(_) => Self::Panicked,
            ErrorKind::WorkerDied(_) => Self::Died,
            ErrorKind::Lost { .. } => Self::Lost,
            ErrorKind::RunTimeout(_) => Self::RunTimeout,
            ErrorKind::QueueTimeout(_) => Self::QueueTimeout,
            ErrorKind::Unreachable(reason) if reason.contains("the reader of its items") => Self::Unread,
            other => Self::Other(other.to_string()),
        }
    }

    pub(crate) fn of_stored(end: StoredEnd) -> Self {
        if end == StoredEnd::NeverRan { Self::NeverRan } else { Self::Stored(format!("{end:?}")) }
    }
}

/// A job that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) token: u64,
    pub(crate) kind: Kind,
    pub(crate) retries: u32,
    pub(crate) fate: Fate,
}

/// The jobs that have ended, and what is wrong with them.
#[derive(Default)]
pub(crate) struct Oracle {
    ended: Mutex<Vec<Ended>>,
    wrong: Mutex<Vec<String>>,
}

impl Oracle {
    pub(crate) fn ended(&self, ended: Ended) {
        let is_allowed = match &ended.fate {
            Fate::Ok => !matches!(ended.kind, Kind::Crash | Kind::Fail | Kind::Poison | Kind::TooLong),
            Fate::Panicked => ended.kind == Kind::Fail,
            // The agent is killed at the same time, and either is noticed first.
            Fate::Died => matches!(ended.kind, Kind::Crash | Kind::Poison),
            Fate::RunTimeout => ended.kind == Kind::TooLong,
            Fate::QueueTimeout => ended.kind == Kind::Impatient,
            Fate::Unread => ended.kind == Kind::Stream,
            Fate::Lost | Fate::Stored(_) | Fate::NeverRan | Fate::Dropped => true,
            Fate::Wrong | Fate::Other(_) => false,
        };
        if !is_allowed {
            self.wrong(format!("job {} of kind {:?} ended with {:?}", ended.token, ended.kind, ended.fate));
        }
        self.ended.lock().unwrap().push(ended);
    }

    pub(crate) fn wrong(&self, text: String) {
        println!("WRONG: {text}");
        self.wrong.lock().unwrap().push(text);
    }

    /// Checks the jobs against the record of their starts, when all is over. Returns the number of what is wrong.
    pub(crate) fn audit(&self, books: &Books) -> usize {
        let record = books.read();
        let ended = self.ended.lock().unwrap();
        let mut counts: BTreeMap<Kind, BTreeMap<&Fate, u64>> = BTreeMap::new();
        let mut tokens = BTreeSet::new();
        for job in ended.iter() {
            *counts.entry(job.kind).or_default().entry(&job.fate).or_default() += 1;
            if !tokens.insert(job.token) {
                self.wrong(format!("job {} ended twice", job.token));
            }
            let lines = record.get(&job.token).map_or(&[][..], Vec::as_slice);
            let starts = lines.iter().filter(|line| line.what == "start").count();
            let text =
                |what: &str| format!("job {} of kind {:?} ({:?}) {what}", job.token, job.kind, job.fate);
            if starts > 1 + job.retries as usize {
                self.wrong(text(&format!(
                    "was started {starts} times, and may be {} times",
                    1 + job.retries
                )));
            }
            // A handle whose wait is over ends at once, and its job may begin at this moment: then it is killed.
            if job.fate == Fate::NeverRan && starts > 0 {
                self.wrong(text("ran"));
            }
            if job.fate == Fate::Ok && starts == 0 {
                self.wrong(text("has a result and never ran"));
            }
            if job.kind == Kind::Exclusive {
                let runs = runs_of(lines);
                if runs.windows(2).any(|pair| pair[0].1 > pair[1].0) {
                    self.wrong(text(&format!("overlapped with itself: {runs:?}")));
                }
            }
        }
        for (kind, fates) in counts {
            let total: u64 = fates.values().sum();
            let fates: Vec<_> = fates.iter().map(|(fate, count)| format!("{count} {fate:?}")).collect();
            println!("{:<10} {total:>7}: {}", format!("{kind:?}"), fates.join(", "));
        }
        let unknown = record.keys().filter(|token| !tokens.contains(*token)).count();
        if unknown > 0 {
            self.wrong(format!("{unknown} jobs have run and never ended"));
        }
        self.wrong.lock().unwrap().len()
    }
}
