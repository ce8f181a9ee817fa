//! The two records that are stored for a job: the *job record*, which says what to run, and the *state record*, which
//! says how far that is.
//!
//! Each is a MessagePack map with strings as keys. The first key is `v`, the version of the format. A reader ignores
//! keys that it does not know, and takes a default for one that is missing, so that a version can gain keys. A change
//! that an old reader would misunderstand raises the version, and an old reader refuses it with both versions.
//!
//! A record comes from another machine, so nothing in it is believed: its size, its depth and each length in it are
//! checked before memory is taken for them.

mod shape;
#[cfg(test)]
mod tests;

use std::time::Duration;

use offloop::ErrorKind;
use offloop::remote::pack_error;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(crate) use shape::{check, check_size};

use crate::Ulid;

/// The version of the records that this build writes, and the newest that it reads.
pub const VERSION: u32 = 1;

/// The largest record, in bytes: what a NATS server takes for one message by default.
pub const MAX_RECORD: usize = 1 << 20;

/// The deepest nesting of a record. The records themselves have one level; more is for keys of later builds.
pub const MAX_DEPTH: usize = 16;

/// A record that cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The record was written by a newer build, which may mean something else by it.
    #[error(
        "the record has version {found}, and this build reads versions up to {known}: update this program"
    )]
    Newer {
        /// The record's version.
        found: u64,
        /// The newest version that this build reads.
        known: u32,
    },
    /// The record is larger than a message may be.
    #[error("the record has {size} bytes, and at most {limit} are allowed: send less, or a reference to it")]
    TooLarge {
        /// The record's size, in bytes.
        size: usize,
        /// The largest size, in bytes.
        limit: usize,
    },
    /// Maps or lists in the record are nested too deeply.
    #[error("the record is nested more than {limit} levels deep")]
    TooDeep {
        /// The number of levels that are allowed.
        limit: usize,
    },
    /// The bytes are no record. The text says what is wrong with them.
    #[error("this is no record: {0}")]
    Malformed(String),
}

/// The format of arguments and results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Codec {
    /// MessagePack with the names of fields, which both languages read.
    #[default]
    #[serde(rename = "m")]
    MessagePack,
    /// A pickle of Python's, which only a worker that was told to accept it reads.
    #[serde(rename = "p")]
    Pickle,
}

/// The task to run, its arguments and the instructions for it. It is written once, by the submitter.
#[allow(clippy::struct_excessive_bools, reason = "they are independent of each other")]
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Job {
    /// The version of the record. [`Job::encode`] sets it.
    pub(crate) v: u32,
    /// The job's id.
    pub id: Ulid,
    /// The name of the task.
    pub task: String,
    /// The hash of the task's name, version and types. A worker whose hash is another one does not run the job. Empty
    /// if the submitter does not know it.
    #[serde(rename = "sig", with = "serde_bytes")]
    pub signature: Vec<u8>,
    /// The format of the arguments.
    pub codec: Codec,
    /// The arguments.
    #[serde(rename = "args", with = "serde_bytes")]
    pub arguments: Vec<u8>,
    /// The name for errors, logs and metrics. Empty if that is the task's.
    pub name: String,
    /// The priority.
    #[serde(rename = "prio")]
    pub priority: i8,
    /// The longest wait for the job's start, in milliseconds.
    #[serde(rename = "queue_ms")]
    queue_timeout: Option<u64>,
    /// The longest run, in milliseconds.
    #[serde(rename = "run_ms")]
    run_timeout: Option<u64>,
    /// The number of starts that are allowed after the first.
    pub retry: u32,
    /// The pause before the second start, in milliseconds. The pause before the third is twice as long, and so on.
    #[serde(rename = "backoff_ms")]
    backoff: u64,
    /// True if the task's own failure leads to another start, as the death of its worker does.
    pub on_failure: bool,
    /// True if two starts may never overlap, even when the network is divided.
    pub exclusive: bool,
    /// Bytes that the job may read, such as the context of a trace.
    #[serde(with = "serde_bytes")]
    pub carry: Vec<u8>,
    /// The number of bytes to keep of each stream that the job prints to, which come back with its end.
    pub capture: Option<u64>,
    /// The id of the request that the job works for. Empty if there is none.
    pub request: String,
    /// The number of items that may be unread, if the job may send items.
    pub stream: Option<u32>,
    /// True if the job's id is the hash of a key, so that its states belong to no client.
    pub keyed: bool,
    /// The arguments, if they are too large for the record.
    pub blob: Option<BlobRef>,
    /// The minor version of Python that has written a pickle, such as `3.13`. Empty for other arguments.
    pub python: String,
    /// True if the job is to be stopped when its submitter is lost.
    pub cancel_if_lost: bool,
    /// The queue that it was submitted to.
    pub queue: String,
    /// The submitter.
    pub client: Ulid,
    /// The time of submission by the submitter's clock, in milliseconds since 1970.
    pub issued: u64,
}

impl Job {
    /// Returns a record of a task with its encoded arguments. All instructions have their defaults.
    pub fn new(id: Ulid, client: Ulid, task: impl Into<String>, arguments: Vec<u8>) -> Self {
        Self { v: VERSION, id, client, task: task.into(), arguments, ..Self::default() }
    }

    /// Returns the longest wait for the job's start.
    pub fn queue_timeout(&self) -> Option<Duration> {
        self.queue_timeout.map(Duration::from_millis)
    }

    /// Limits the wait for the job's start, to whole milliseconds.
    pub fn set_queue_timeout(&mut self, limit: Option<Duration>) {
        self.queue_timeout = limit.map(milliseconds);
    }

    /// Returns the longest run.
    pub fn run_timeout(&self) -> Option<Duration> {
        self.run_timeout.map(Duration::from_millis)
    }

    /// Limits the run, to whole milliseconds.
    pub fn set_run_timeout(&mut self, limit: Option<Duration>) {
        self.run_timeout = limit.map(milliseconds);
    }

    /// Sets the pause before the second start, in whole milliseconds.
    pub fn set_backoff(&mut self, first: Duration) {
        self.backoff = milliseconds(first);
    }

    /// Returns the pause before the second start.
    pub fn backoff(&self) -> Duration {
        Duration::from_millis(self.backoff)
    }

    /// Encodes the record.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        encode(&Self { v: VERSION, ..self.clone() })
    }

    /// Decodes a record of any origin.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        decode(bytes)
    }
}

/// A payload that is stored by itself, in chunks, because it is large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BlobRef {
    /// The size, in bytes.
    pub size: u64,
    /// The SHA-256 of the whole.
    #[serde(with = "serde_bytes")]
    pub sha256: [u8; 32],
}

/// The outcome of a start: the body of the end that a worker writes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The version of the record. Encoding sets it.
    pub(crate) v: u32,
    /// The encoded result, if the task returned.
    #[serde(with = "serde_bytes", skip_serializing_if = "Vec::is_empty")]
    pub answer: Vec<u8>,
    /// True if the task has declared itself failed although it returned.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub has_failed: bool,
    /// The encoded error, if there is one.
    #[serde(with = "serde_bytes", skip_serializing_if = "Vec::is_empty")]
    pub error: Vec<u8>,
    /// The kept part of what the job has printed to its standard output.
    #[serde(with = "serde_bytes", skip_serializing_if = "Vec::is_empty")]
    pub stdout: Vec<u8>,
    /// The same of its standard error.
    #[serde(with = "serde_bytes", skip_serializing_if = "Vec::is_empty")]
    pub stderr: Vec<u8>,
    /// True if it has printed more than is kept.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_truncated: bool,
    /// The place of the report, if it is too large for the end. All else is empty then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blob: Option<BlobRef>,
}

impl Report {
    /// Returns the encoded report of a job that has no result, for this reason.
    pub(crate) fn of_error(kind: &ErrorKind) -> Vec<u8> {
        let report = Self { error: pack_error(kind), ..Self::default() };
        report.encode().expect("a report of texts, bytes and numbers can be encoded")
    }

    /// Encodes the report. One that is larger than [`MAX_RECORD`] has to be stored by itself.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        rmp_serde::to_vec_named(&Self { v: VERSION, ..self.clone() })
            .map_err(|error| RecordError::Malformed(error.to_string()))
    }

    /// Decodes a report of any origin. Its size is that of `bytes`, which are in memory already.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        shape::check_within(bytes, usize::MAX)?;
        decode_checked(bytes)
    }
}

/// A streamed item, as it travels from a worker to the reader.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Item {
    /// The version of the record. Encoding sets it.
    pub(crate) v: u32,
    /// The number of the start that has sent it.
    pub attempt: u32,
    /// Its place among the items of that start, from 0.
    pub number: u64,
    /// The encoded item.
    #[serde(with = "serde_bytes")]
    pub item: Vec<u8>,
    /// The place of the item, if it is too large for a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blob: Option<BlobRef>,
}

impl Item {
    /// Returns the record of an item.
    pub fn new(attempt: u32, number: u64, item: Vec<u8>) -> Self {
        Self { v: VERSION, attempt, number, item, blob: None }
    }

    /// Encodes the record.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        encode(self)
    }

    /// Decodes a record of any origin.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        decode(bytes)
    }
}

/// A worker's description of itself, which it stores again and again while it lives.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Presence {
    /// The version of the record. Encoding sets it.
    pub(crate) v: u32,
    /// The worker's id.
    pub worker: Ulid,
    /// The name that it was given, or its program's.
    pub name: String,
    /// The name of its machine.
    pub host: String,
    /// The id of that machine's start, by which two processes with one id are told apart.
    pub boot: String,
    /// The id of its process.
    pub pid: u32,
    /// Its build, as it calls it.
    pub build: String,
    /// The tasks that it has, with the signatures of those that are known.
    pub tasks: Vec<(String, Option<u64>)>,
    /// The queues that it takes jobs from, with their weights.
    pub queues: Vec<(String, u32)>,
    /// The labels that it was given.
    pub labels: Vec<String>,
    /// The number of jobs that it runs at most at a time.
    pub slots: u32,
    /// The jobs that it runs, with the names of their tasks.
    pub running: Vec<(Ulid, String)>,
    /// True if it takes no more jobs.
    pub draining: bool,
}

impl Presence {
    /// Encodes the record.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        encode(&Self { v: VERSION, ..self.clone() })
    }

    /// Decodes a record of any origin.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        decode(bytes)
    }
}

/// A question or a message from one party to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Ask {
    /// Asks a worker whether it runs the job, or a client whether it still wants it.
    Has {
        /// The job.
        id: Ulid,
    },
    /// Asks a worker to cancel the job.
    Cancel {
        /// The job.
        id: Ulid,
    },
    /// Asks a worker to take no more jobs and to end.
    Drain,
    /// Tells a worker that the reader of a job's items has those below `next` and room for `room` more.
    Credit {
        /// The job.
        id: Ulid,
        /// The start whose items are meant.
        attempt: u32,
        /// The number of the first item that has not come.
        next: u64,
        /// The number of items from there on that there is room for.
        room: u64,
    },
    /// Asks a worker for the end of its log.
    Logs,
}

/// A question, as it is sent.
#[derive(Serialize, Deserialize)]
struct VersionedAsk {
    v: u32,
    #[serde(flatten)]
    ask: Ask,
}

impl Ask {
    /// Encodes the record.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        encode(&VersionedAsk { v: VERSION, ask: self.clone() })
    }

    /// Decodes a record of any origin.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        decode::<VersionedAsk>(bytes).map(|it| it.ask)
    }
}

/// The end of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The task returned. The body is its result.
    Returned,
    /// The job ran and failed. The body is the error.
    Failed,
    /// It was cancelled: before it ran, or by a kill.
    Cancelled,
    /// It waited longer than its limit, and never ran.
    QueueTimeout,
    /// Its worker was lost, and no start was left. The body names the worker.
    Lost,
    /// No worker had the task with the submitter's types. The body says what was wanted and what was there.
    NoSuchTask,
    /// It lay in the queue for longer than states are remembered, so it may have run. It was not run again.
    Expired,
    /// Its last state is not kept any more. It is never run again.
    Forgotten,
}

/// The stage of a job. Each is stored in place of the one before it, if that is still the last one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum State {
    /// A job with a key is being submitted, or waits. Jobs without a key have no state while they wait.
    Queued {
        /// The submitter that was the first with this key.
        by: Ulid,
    },
    /// A worker runs the job.
    Claim {
        /// The worker.
        by: Ulid,
        /// The number of this start: 1 for the first.
        attempt: u32,
    },
    /// The job waits for another start.
    Release {
        /// The worker that ran it.
        by: Ulid,
        /// The number of the start that did not end it.
        attempt: u32,
        /// The wait before the next start, from when this was stored.
        delay: Duration,
    },
    /// The job has ended.
    End(Box<End>),
}

/// The end of a job.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct End {
    /// The worker or the client that wrote it.
    pub by: Ulid,
    /// The number of the start that it belongs to; 0 if there was none.
    pub attempt: u32,
    /// The job's end.
    pub outcome: Outcome,
    /// The result, or the error's description. Its meaning depends on the outcome.
    pub body: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    #[default]
    Queued,
    Claim,
    Release,
    End,
}

/// A state as it is stored.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct StoredState {
    v: u32,
    kind: Kind,
    attempt: u32,
    #[serde(rename = "worker")]
    by: Ulid,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
    #[serde(rename = "result", with = "serde_bytes", skip_serializing_if = "Vec::is_empty")]
    body: Vec<u8>,
}

impl State {
    /// Encodes the record.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        let with =
            |kind, by, attempt| StoredState { v: VERSION, kind, attempt, by, ..StoredState::default() };
        encode(&match self {
            Self::Queued { by } => with(Kind::Queued, *by, 0),
            Self::Claim { by, attempt } => with(Kind::Claim, *by, *attempt),
            Self::Release { by, attempt, delay } => {
                StoredState { delay_ms: Some(milliseconds(*delay)), ..with(Kind::Release, *by, *attempt) }
            }
            Self::End(end) => {
                let body = end.body.clone();
                StoredState { outcome: Some(end.outcome), body, ..with(Kind::End, end.by, end.attempt) }
            }
        })
    }

    /// Decodes a record of any origin.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let StoredState { kind, attempt, by, delay_ms, outcome, body, .. } = decode(bytes)?;
        Ok(match kind {
            Kind::Queued => Self::Queued { by },
            Kind::Claim => Self::Claim { by, attempt },
            Kind::Release => {
                Self::Release { by, attempt, delay: Duration::from_millis(delay_ms.unwrap_or(0)) }
            }
            Kind::End => {
                let none = || RecordError::Malformed("an end without an outcome".to_owned());
                Self::End(Box::new(End { by, attempt, outcome: outcome.ok_or_else(none)?, body }))
            }
        })
    }
}

/// Returns the pause after this number of starts, from the first pause: it doubles with each, up to 30 s, unless the first
/// is longer.
pub(crate) fn pause_after(first: Duration, starts: u32) -> Duration {
    const LONGEST: Duration = Duration::from_secs(30);
    let doubled = 1_u32.checked_shl(starts.saturating_sub(1)).unwrap_or(u32::MAX);
    first.saturating_mul(doubled).min(LONGEST.max(first))
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn encode(record: &impl Serialize) -> Result<Vec<u8>, RecordError> {
    let bytes = rmp_serde::to_vec_named(record).map_err(|error| RecordError::Malformed(error.to_string()))?;
    shape::check_size(bytes.len())?;
    Ok(bytes)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RecordError> {
    shape::check(bytes)?;
    decode_checked(bytes)
}

fn decode_checked<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RecordError> {
    let found = shape::version(bytes)?;
    if found > u64::from(VERSION) {
        return Err(RecordError::Newer { found, known: VERSION });
    }
    rmp_serde::from_slice(bytes).map_err(|error| RecordError::Malformed(error.to_string()))
}
