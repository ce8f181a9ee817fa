//! Facts about this process and its workers, read from `/proc`.
//!
//! The process must hold the same before the run and after it, or it leaks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock::ThreadTimes;
use crate::run_log;

/// Things that the library keeps for the whole life of a process: the beginning of the line, and the number.
const KEPT: [(&str, usize); 4] = [
    ("thread offloop-timer", usize::MAX),
    ("thread offloop-decode", usize::MAX),
    ("thread offloop-io", usize::MAX),
    ("thread offloop-cpu", usize::MAX),
];

/// The things that this process holds: a line for each, with their number.
#[derive(Debug, Default)]
pub(crate) struct Holdings(BTreeMap<String, usize>);

impl Holdings {
    pub(crate) fn now() -> Self {
        let mut held = BTreeMap::new();
        for line in [descriptors(), mappings(), threads(), shared_files(), processes()].concat() {
            *held.entry(line).or_default() += 1;
        }
        Self(held)
    }

    /// Returns what is held now and was not held `before`.
    pub(crate) fn surplus(&self, before: &Self) -> Vec<String> {
        let surplus = self.0.iter().filter_map(|(line, count)| {
            let kept = KEPT.iter().find(|(start, _)| line.starts_with(start)).map_or(0, |(_, kept)| *kept);
            let more = count.saturating_sub(before.0.get(line).copied().unwrap_or(0)).saturating_sub(kept);
            let is_foreign = || line.strip_prefix("file ").is_some_and(is_used_by_another_program);
            (more > 0 && !is_foreign()).then(|| format!("left over: {more} x {line}"))
        });
        surplus.collect()
    }
}

fn entries(directory: impl AsRef<Path>) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn read(path: impl AsRef<Path>) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

fn descriptors() -> Vec<String> {
    // The descriptor that reads this directory is gone when the links are read.
    let links = entries("/proc/self/fd").into_iter().filter_map(|path| fs::read_link(path).ok());
    links.map(|link| format!("descriptor of {}", link.display())).collect()
}

/// Returns the mappings of memory files.
fn mappings() -> Vec<String> {
    let maps = read("/proc/self/maps");
    maps.lines().filter_map(|line| Some(format!("mapping of {}", &line[line.find("/memfd:")?..]))).collect()
}

fn threads() -> Vec<String> {
    entries("/proc/self/task")
        .iter()
        .map(|task| format!("thread {}", read(task.join("comm")).trim()))
        .collect()
}

fn shared_files() -> Vec<String> {
    entries("/dev/shm").iter().map(|file| format!("file {}", file.display())).collect()
}

/// Returns the children of this process, including zombies, and all other processes of this run.
fn processes() -> Vec<String> {
    let others = all_pids().filter(|pid| *pid != std::process::id() && is_of_this_run(*pid));
    let pids: BTreeSet<u32> = child_pids(std::process::id()).into_iter().chain(others).collect();
    let state = |pid: u32| stat(pid).map_or('?', |stat| stat.state);
    pids.into_iter().map(|pid| format!("process {pid} (state {})", state(pid))).collect()
}

fn child_pids(parent: u32) -> Vec<u32> {
    let tasks = entries(format!("/proc/{parent}/task"));
    let lists: Vec<_> = tasks.iter().map(|task| read(task.join("children"))).collect();
    lists.concat().split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Returns this process and all that descend from it.
fn family() -> Vec<u32> {
    let mut found = vec![std::process::id()];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        found.extend(child_pids(parent));
        at += 1;
    }
    found
}

/// What the kernel says of a process.
pub(crate) struct Stat {
    state: char,
    pub(crate) parent: u32,
    /// When it started, in ticks.
    start: u64,
}

/// Returns what the kernel says of a process, or `None` if there is none of this number.
pub(crate) fn stat(pid: u32) -> Option<Stat> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may contain anything; after it come the state and the parent.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let state = fields.first()?.chars().next()?;
    Some(Stat { state, parent: u32::try_from(number(1)?).ok()?, start: number(19)? })
}

/// A process that is not confused with a later one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity(pub(crate) u64);

impl Identity {
    pub(crate) fn pid(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Returns the identity of a process, or `None` if it is dead.
pub(crate) fn identity(pid: u32) -> Option<Identity> {
    let Stat { state, start, .. } = stat(pid)?;
    let is_alive = !matches!(state, 'Z' | 'X');
    is_alive.then(|| Identity(u64::from(pid) << 32 | (start & u64::from(u32::MAX))))
}

/// Returns the times of all threads of this run.
pub(crate) fn thread_times() -> HashMap<u32, ThreadTimes> {
    let tasks = family().into_iter().flat_map(|pid| entries(format!("/proc/{pid}/task")));
    let times = tasks.filter_map(|task| {
        let stat = read(task.join("schedstat"));
        let mut fields = stat.split_whitespace().map(|field| field.parse().map(Duration::from_nanos));
        let (ran, waited) = (fields.next()?.ok()?, fields.next()?.ok()?);
        Some((task.file_name()?.to_str()?.parse().ok()?, ThreadTimes { ran, waited }))
    });
    times.collect()
}

fn all_pids() -> impl Iterator<Item = u32> {
    entries("/proc").into_iter().filter_map(|path| path.file_name()?.to_str()?.parse().ok())
}

/// Returns whether a process inherited the run log, wherever it is in the tree of processes.
fn is_of_this_run(pid: u32) -> bool {
    let line = run_log::environment_line();
    read(format!("/proc/{pid}/environ")).split('\0').any(|variable| variable == line)
}

/// Returns whether a process that is not of this run has the file open or mapped.
fn is_used_by_another_program(file: &str) -> bool {
    all_pids().filter(|pid| !is_of_this_run(*pid) && *pid != std::process::id()).any(|pid| {
        let is_open =
            |descriptor: &PathBuf| fs::read_link(descriptor).is_ok_and(|link| link == Path::new(file));
        entries(format!("/proc/{pid}/fd")).iter().any(is_open)
            || read(format!("/proc/{pid}/maps")).lines().any(|line| line.ends_with(file))
    })
}

/// Describes the memory of this process: what is resident, and what of the heap is in use.
pub(crate) fn memory() -> String {
    let status = read("/proc/self/status");
    let resident = status.lines().filter(|line| line.starts_with("Rss")).flat_map(str::split_whitespace);
    // SAFETY: takes nothing and returns plain numbers.
    let heap = unsafe { libc::mallinfo2() };
    let in_use = (heap.uordblks + heap.hblkhd) / 1024;
    format!("{}, heap in use: {in_use} kB", resident.collect::<Vec<_>>().join(" "))
}

/// Returns a line for each thread of this run: what it does now.
pub(crate) fn thread_states() -> Vec<String> {
    let tasks = family().into_iter().flat_map(|pid| entries(format!("/proc/{pid}/task")));
    let line = |task: PathBuf| {
        let [name, place, call, status] =
            ["comm", "wchan", "syscall", "status"].map(|file| read(task.join(file)));
        let state = status.lines().find(|line| line.starts_with("State:")).unwrap_or("gone");
        format!("{} `{}`: {state}, at {place}, call {}", task.display(), name.trim(), call.trim())
    };
    tasks.map(line).collect()
}
