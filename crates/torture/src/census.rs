//! What this process has and who belongs to it: taken at the beginning and at the end, it must be the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::book;

/// Threads that the library keeps for the whole life of a process, by the beginning of their names.
const LASTING_THREADS: [&str; 4] = ["offloop-timer", "offloop-decode", "offloop-io", "offloop-cpu"];

/// The memory that the library keeps for the whole life of a process: one mapping of it, with a descriptor to write
/// by and one to be lent to readers.
const LASTING_MEMORY: &str = "/memfd:offloop-arena";
const LASTING_MAPPINGS: usize = 1;
const LASTING_DESCRIPTORS: usize = 2;

#[derive(Debug, Clone, Default)]
pub(crate) struct Census {
    /// What each descriptor is.
    descriptors: BTreeMap<String, String>,
    /// The mappings of memory files: their names, and how many.
    memory_files: BTreeMap<String, usize>,
    /// The threads' names, and how many have each.
    threads: BTreeMap<String, usize>,
    /// Entries of `/dev/shm`.
    shared_files: BTreeSet<PathBuf>,
    children: Vec<u32>,
}

impl Census {
    pub(crate) fn take() -> Self {
        Self {
            descriptors: descriptors(),
            memory_files: count(memory_files()),
            threads: count(thread_names()),
            shared_files: entries("/dev/shm").collect(),
            children: children(),
        }
    }

    /// What there is now that was not there before, and who is left.
    pub(crate) fn surplus(&self, before: &Self) -> Vec<String> {
        let mut surplus = Vec::new();
        for pid in &self.children {
            surplus.push(format!("a child is left: {}", describe(*pid)));
        }
        for pid in workers_anywhere().into_iter().filter(|pid| !self.children.contains(pid)) {
            surplus.push(format!("a worker's worker is left: {}", describe(pid)));
        }
        let mut lasting = 0;
        for (number, what) in &self.descriptors {
            if before.descriptors.get(number) != Some(what) {
                let is_lasting = what.starts_with(LASTING_MEMORY);
                lasting += usize::from(is_lasting);
                if !is_lasting || lasting > LASTING_DESCRIPTORS {
                    surplus.push(format!("a descriptor is left: {number} is {what}"));
                }
            }
        }
        more(&self.memory_files, &before.memory_files, |name, more| {
            if !name.starts_with(LASTING_MEMORY) || more > LASTING_MAPPINGS {
                surplus.push(format!("{more} mappings of {name} are left"));
            }
        });
        more(&self.threads, &before.threads, |name, more| {
            if !LASTING_THREADS.iter().any(|lasting| name.starts_with(lasting)) {
                surplus.push(format!("{more} threads called {name} are left"));
            }
        });
        for file in self.shared_files.difference(&before.shared_files) {
            if !is_of_another_program(file) {
                surplus.push(format!("a file is left: {}", file.display()));
            }
        }
        surplus
    }
}

/// Tells `f` what there is more of, and how many.
fn more(now: &BTreeMap<String, usize>, before: &BTreeMap<String, usize>, mut f: impl FnMut(&str, usize)) {
    for (name, count) in now {
        let more = count.saturating_sub(before.get(name).copied().unwrap_or(0));
        if more > 0 {
            f(name, more);
        }
    }
}

fn count(names: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    names.fold(BTreeMap::new(), |mut counts, name| {
        *counts.entry(name).or_default() += 1;
        counts
    })
}

fn entries(directory: impl AsRef<Path>) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn descriptors() -> BTreeMap<String, String> {
    let listing = format!("/proc/{}/fd", std::process::id());
    let all = entries("/proc/self/fd").filter_map(|path| {
        let number = path.file_name()?.to_string_lossy().into_owned();
        Some((number, fs::read_link(&path).ok()?.to_string_lossy().into_owned()))
    });
    // Without the one that reads this list.
    all.filter(|(_, what)| *what != listing).collect()
}

fn memory_files() -> impl Iterator<Item = String> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let names = maps.lines().filter_map(|line| line.find("/memfd:").map(|at| line[at..].to_owned()));
    names.collect::<Vec<_>>().into_iter()
}

fn thread_names() -> impl Iterator<Item = String> {
    entries("/proc/self/task")
        .filter_map(|task| Some(fs::read_to_string(task.join("comm")).ok()?.trim().to_owned()))
}

/// The children of all threads of this process, those included that have ended and were not collected.
fn children() -> Vec<u32> {
    let lists = entries("/proc/self/task").filter_map(|task| fs::read_to_string(task.join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// Every process that was started with this run's book, wherever it stands in the tree of processes.
fn workers_anywhere() -> Vec<u32> {
    let Some(marker) = book::marker() else { return Vec::new() };
    let has_it = |path: &Path| {
        fs::read(path.join("environ")).is_ok_and(|environment| {
            environment.split(|byte| *byte == 0).any(|line| line == marker.as_bytes())
        })
    };
    processes().filter(|path| has_it(path)).filter_map(|path| pid(&path)).collect()
}

fn processes() -> impl Iterator<Item = PathBuf> {
    entries("/proc").filter(|path| pid(path).is_some())
}

fn pid(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.parse().ok()
}

/// Whether a program that has nothing to do with this run has the file open or mapped.
fn is_of_another_program(file: &Path) -> bool {
    let ours = workers_anywhere();
    let others = processes()
        .filter(|path| pid(path).is_some_and(|pid| pid != std::process::id() && !ours.contains(&pid)));
    let name = file.to_string_lossy();
    others.into_iter().any(|process| {
        entries(process.join("fd")).any(|descriptor| fs::read_link(descriptor).is_ok_and(|it| it == file))
            || fs::read_to_string(process.join("maps"))
                .is_ok_and(|maps| maps.lines().any(|line| line.ends_with(&*name)))
    })
}

fn describe(pid: u32) -> String {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = line.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('?');
    format!("process {pid} (state {state})")
}

/// The memory that is resident, as `/proc` tells it: in all, of that anonymous and shared.
pub(crate) fn resident() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mib = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0) / 1024
    };
    format!("{} MiB ({} anonymous, {} shared)", mib("VmRSS"), mib("RssAnon"), mib("RssShmem"))
}

/// How much of the heap is in use: what is resident and free does not count.
pub(crate) fn heap_in_use() -> String {
    // SAFETY: takes nothing and returns plain numbers.
    let heap = unsafe { libc::mallinfo2() };
    format!("{} KiB", (heap.uordblks + heap.hblkhd) / 1024)
}
