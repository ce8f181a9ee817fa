//! The record that tasks write.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// One line of the record.
#[derive(Debug, Clone)]
pub struct Line {
    pub what: String,
    pub pid: u32,
    /// In nanoseconds since 1970.
    pub at: u128,
}

/// The record, in a file that the tasks append to.
pub struct Books {
    path: PathBuf,
    next: AtomicU64,
}

impl Books {
    pub fn new(directory: &Path) -> Self {
        Self { path: directory.join("record"), next: AtomicU64::new(1) }
    }

    /// Returns the path, for tasks.
    pub fn path(&self) -> String {
        self.path.display().to_string()
    }

    /// Returns a new number of a job.
    pub fn token(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns what was recorded, by job.
    pub fn read(&self) -> BTreeMap<u64, Vec<Line>> {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        let mut lines: BTreeMap<u64, Vec<Line>> = BTreeMap::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            // A process that was killed may have written half of its line.
            let [token, what, pid, at] = words[..] else { continue };
            let (Ok(token), Ok(pid), Ok(at)) = (token.parse(), pid.parse(), at.parse()) else { continue };
            lines.entry(token).or_default().push(Line { what: what.to_owned(), pid, at });
        }
        lines
    }

    /// Returns how often a job was started.
    pub fn starts(&self, token: u64) -> usize {
        let lines = self.read().remove(&token).unwrap_or_default();
        lines.iter().filter(|line| line.what == "start").count()
    }

    pub fn await_start(&self, token: u64) {
        super::eventually("the job was started", || self.starts(token) > 0);
    }

    /// Returns the processes that have run a job, each with the times of its first and last sign of life.
    pub fn runs(&self, token: u64) -> Vec<(u128, u128)> {
        runs_of(&self.read().remove(&token).unwrap_or_default())
    }
}

/// Returns the same for a job whose lines were read.
pub fn runs_of(lines: &[Line]) -> Vec<(u128, u128)> {
    let pids: BTreeSet<u32> = lines.iter().map(|line| line.pid).collect();
    let run = |pid| {
        let times = lines.iter().filter(|line| line.pid == pid).map(|line| line.at);
        (times.clone().min().unwrap(), times.max().unwrap())
    };
    let mut runs: Vec<_> = pids.into_iter().map(run).collect();
    runs.sort_unstable();
    runs
}
