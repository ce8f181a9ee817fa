//! The snapshot as a document: plain values, the same in JSON, in Rust and in Python.
//!
//! Times of day are seconds since the Unix epoch, durations are seconds, sizes are bytes, and shares go from 0 to 1. A value
//! that is not known is `null`. Within a version fields are only added: a reader leaves out what it does not know, and takes
//! the default for what is missing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version of the document that this crate writes.
pub const VERSION: u32 = 1;

/// The state of one process at one moment. [`snapshot`](super::snapshot) makes it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Snapshot {
    /// The version of the document: [`VERSION`].
    pub version: u32,
    /// The time of day of the snapshot.
    pub time: f64,
    /// The process that it is about.
    pub process: Process,
    /// The lack of cores, apart from what blocks a loop.
    pub starvation: Starvation,
    /// The pools that have not ended, in the order in which they were built.
    pub pools: Vec<Pool>,
    /// The event loops that are watched.
    pub loops: Vec<EventLoop>,
    /// The last 20 deaths of worker processes, the newest first.
    pub deaths: Vec<Death>,
    /// Jobs that would be better off elsewhere.
    pub advice: Vec<Advice>,
}

/// A process.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// The service that it belongs to. All processes of one service are shown in one view.
    pub service: String,
    /// Its command line, each argument by itself.
    pub command: Vec<String>,
    /// The language that it uses offloop from: `rust` or `python`.
    pub language: String,
    /// The version of offloop.
    pub offloop: String,
    /// The time of day at which it was started.
    pub started: f64,
    /// The cores that it has used on average over about the last second in which somebody looked: 1.0 is one core.
    pub cores_used: Option<f64>,
    /// The cores that it may use.
    pub cores: usize,
    /// Its resident memory.
    pub rss: Option<u64>,
    /// The number of its threads.
    pub threads: Option<usize>,
    /// Set if a viewer may cancel its jobs.
    pub may_cancel: bool,
}

/// The time in which threads could have run but had no core, over the last seconds.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Starvation {
    /// The time that the shares are about: about the last second in which somebody looked. 0 in the first snapshot.
    pub seconds: f64,
    /// The time that the process's threads waited for a core, as a share of the time of one core. It exceeds 1 if several
    /// threads wait at once.
    pub run_delay: Option<f64>,
    /// The part of the time that the control group was throttled.
    pub throttled: Option<f64>,
    /// The part of the machine's time that its host took away.
    pub stolen: Option<f64>,
}

/// A pool.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Pool {
    /// Its number, unique within the process.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// The kind of its workers: `threads`, `processes` or `remote`.
    pub kind: String,
    /// The number of jobs in its queue.
    pub queued: usize,
    /// The number of jobs that its queue can hold.
    pub capacity: Option<usize>,
    /// The time that the oldest job of its queue has been waiting.
    pub oldest_queued: Option<f64>,
    /// The number of jobs that run.
    pub running: usize,
    /// The number of its workers in each state: `busy`, `idle`, `blocked`, `starting`, `leaving`.
    pub workers_by_state: BTreeMap<String, usize>,
    /// The number of workers that it may have.
    pub max_workers: usize,
    /// Its worker processes, or the threads that have a job.
    pub workers: Vec<Worker>,
    /// The jobs that run, the longest first. At most [`MAX_JOBS`].
    pub jobs: Vec<Job>,
    /// The time that jobs wait before they run.
    pub queue_wait: Times,
    /// The time that jobs run.
    pub run_time: Times,
    /// The number of jobs that have ended in each way, since the pool was built.
    pub outcomes: BTreeMap<String, u64>,
    /// The number of jobs a second that have ended in each way, over about the last second in which somebody looked.
    /// Empty in the first snapshot.
    pub outcomes_per_second: BTreeMap<String, f64>,
    /// The number of times that a job was run again because its worker had died.
    pub retried: u64,
    /// The number of workers that were replaced, by reason, since the pool was built.
    pub restarts: BTreeMap<String, u64>,
    /// The shared memory of a process pool.
    pub arena: Option<Arena>,
}

/// The most jobs that a snapshot lists of one pool.
pub const MAX_JOBS: usize = 200;

/// A worker of a pool.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Worker {
    /// The process id of a worker process.
    pub pid: Option<u32>,
    /// The id of a thread, as the system has it.
    pub thread: Option<u32>,
    /// Its state: `busy`, `idle`, `blocked`, `starting`, `leaving`.
    pub state: String,
    /// The resident memory of a worker process.
    pub rss: Option<u64>,
    /// The cores that it has used on average over about the last second in which somebody looked: 1.0 is one core.
    pub cores_used: Option<f64>,
    /// The time since it was started.
    pub age: Option<f64>,
}

/// A job that runs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Job {
    /// Its number, unique within the process.
    pub id: u64,
    /// Its name, or that of its function.
    pub name: Option<String>,
    /// The id of the request that it works for, if the program names it.
    pub request: Option<String>,
    /// The time that it has been running.
    pub running: f64,
    /// The time that it may still run before its run timeout.
    pub time_left: Option<f64>,
    /// The process id of its worker process.
    pub pid: Option<u32>,
    /// The id of its thread.
    pub thread: Option<u32>,
    /// Set once it was asked to stop.
    pub is_cancelled: bool,
}

/// A distribution of times.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Times {
    /// Over the last minute, or since somebody began to look if that is less.
    pub recent: Quantiles,
    /// Since the pool was built.
    pub total: Quantiles,
    /// The counts since the pool was built, for heat maps: the upper bound of each bucket that is not empty, and its count.
    /// Of two snapshots the difference is what happened between them.
    pub buckets: Vec<(f64, u64)>,
}

/// Quantiles of a distribution of times.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Quantiles {
    /// The number of times.
    pub count: u64,
    /// The time that this covers.
    pub seconds: f64,
    /// The median.
    pub p50: Option<f64>,
    /// The time that one of a hundred exceeds.
    pub p99: Option<f64>,
    /// The longest time, up to the width of its bucket.
    pub max: Option<f64>,
}

/// The shared memory of a process pool.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Arena {
    /// The bytes that hold a payload.
    pub used: u64,
    /// The bytes that are kept for payloads to come.
    pub kept: u64,
}

/// An event loop that is watched.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct EventLoop {
    /// Its number, unique within the process.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Its kind: `asyncio`, `uvloop`, `tokio`, or `other`.
    pub kind: String,
    /// The lateness from which on it counts as stalled.
    pub threshold: f64,
    /// The lateness at this moment. Zero unless a beat is overdue.
    pub late_now: f64,
    /// The lateness of its beats.
    pub lateness: Times,
    /// The number of stalls since the watch began.
    pub stalls: u64,
    /// The time that it was stalled, in total.
    pub stalled: f64,
    /// The number of times that it was late because it had no core. These are no stalls.
    pub starved: u64,
    /// The time that it was late for lack of a core, in total.
    pub starved_seconds: f64,
    /// The places that have stalled it, the worst first. At most 20.
    pub places: Vec<Place>,
}

/// A place in a program that stalls an event loop.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Place {
    /// The file. `None` if only the function or the task is known.
    pub file: Option<String>,
    /// The line.
    pub line: Option<u32>,
    /// The function, the task or the call.
    pub function: String,
    /// The number of stalls.
    pub stalls: u64,
    /// The time that the stalls took, in total.
    pub stalled: f64,
    /// The longest of them.
    pub longest: f64,
    /// The time of day of the last one.
    pub last: f64,
    /// The activity of the thread meanwhile: `computes` or `waits`.
    pub activity: Option<String>,
    /// The advice that mends it, as a sentence.
    pub advice: Option<String>,
}

/// The death of a worker process.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Death {
    /// The time of day.
    pub time: f64,
    /// The name of its pool.
    pub pool: String,
    /// Its process id.
    pub pid: u32,
    /// How it ended, in words that follow "it": `was ended by signal 11 (SIGSEGV)`, `exited with status 3`.
    pub how: String,
    /// The number of the job that it ran.
    pub job: Option<u64>,
    /// The name of that job, or of its function.
    pub task: Option<String>,
    /// The most resident memory that it used.
    pub peak_rss: Option<u64>,
    /// The last lines that it wrote to its standard error, if the pool reads them.
    pub last_words: Option<String>,
}

/// Jobs that would be better off elsewhere.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Advice {
    /// The name of the pool that they run on.
    pub pool: String,
    /// The name that they have in common.
    pub task: String,
    /// Their activity: `computes` or `waits`.
    pub activity: String,
    /// The advice as a sentence.
    pub text: String,
}

/// The processes of one service, as the servers of the live view send them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Service {
    /// The version of the document: [`VERSION`].
    pub version: u32,
    /// One snapshot of each process that answers, the serving process first.
    pub processes: Vec<Snapshot>,
    /// The processes that did not answer in time, with the reason.
    pub missing: Vec<Missing>,
}

/// A process that did not answer.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Missing {
    /// Its process id.
    pub pid: u32,
    /// The reason, as a sentence.
    pub reason: String,
}

/// The place where a job is, as `jobs/PID/ID/stack` answers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Stack {
    /// The thread or the process that runs the job.
    pub thread: String,
    /// The calls, the innermost first.
    pub frames: Vec<Frame>,
    /// A remark, such as the reason why there are no calls. A sentence.
    pub note: Option<String>,
}

/// One call of a stack.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Frame {
    /// The function, or the address if it has no name.
    pub function: String,
    /// The source file.
    pub file: Option<String>,
    /// The line in that file.
    pub line: Option<u32>,
}

impl Snapshot {
    /// Returns the document as JSON, on one line.
    pub fn to_json(&self) -> String {
        to_json(self)
    }
}

impl Service {
    /// Returns the document as JSON, on one line.
    pub fn to_json(&self) -> String {
        to_json(self)
    }
}

pub(super) fn to_json(document: &impl Serialize) -> String {
    serde_json::to_string(document)
        .expect("the documents have names for keys, and nothing that JSON does not")
}
