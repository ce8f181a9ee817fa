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

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

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
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Job {
    /// The version of the record. [`Job::encode`] sets it.
    v: u32,
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
    /// True if what the job prints is kept and comes back with its end.
    pub capture: bool,
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

/// The end of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
    let found = shape::version(bytes)?;
    if found > u64::from(VERSION) {
        return Err(RecordError::Newer { found, known: VERSION });
    }
    rmp_serde::from_slice(bytes).map_err(|error| RecordError::Malformed(error.to_string()))
}
