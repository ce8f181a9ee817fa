//! Errors as they travel.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::outbound::Malformed;
use crate::base::panic::Panic;
use crate::core::error::{ErrorKind, WorkerDied, WorkerExit};
use crate::core::signature::Signature;
use crate::wire::payload::{Incoming, Payload};

/// Encodes the reason why a job has no result, for its caller elsewhere: a table of MessagePack, whose entry `kind` comes
/// first and tells the reasons apart.
///
/// The payload of a panic stays behind; its text, place and backtrace travel. So does the text of an error that is a value
/// of its own.
pub fn pack_error(kind: &ErrorKind) -> Vec<u8> {
    // Its fields are texts and numbers, which can be encoded.
    Payload::encode_whole(&Packed::of(kind)).unwrap_or_default()
}

/// Decodes such a reason. Nothing in `bytes` is believed.
///
/// # Errors
///
/// The bytes are no such table, or one of a newer version of this crate that knows further reasons.
pub fn unpack_error(bytes: &[u8]) -> Result<ErrorKind, Malformed> {
    let packed: Result<Packed, _> = Incoming { body: bytes, parts: &[] }.decode();
    packed.map(Packed::into_kind).map_err(|error| Malformed(format!("an error from elsewhere: {error}")))
}

/// The form in which an [`ErrorKind`] travels. Durations are in nanoseconds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Packed {
    Panicked { message: String, location: Option<String>, backtrace: Option<String> },
    Cancelled,
    QueueTimeout { limit: u64 },
    RunTimeout { limit: u64 },
    LoadTimeout { limit: u64 },
    QueueFull { capacity: u64 },
    Shed,
    Broken { reason: String },
    Closed,
    Forked,
    Rejected { reason: String },
    WorkerDied(#[serde(with = "PackedDeath")] WorkerDied),
    WorkerStart { reason: String },
    WorkerState { reason: String },
    Encode { reason: String },
    Decode { reason: String },
    Lost { worker: String, host: String, attempt: u32, silent_for: u64 },
    NoSuchTask { task: String, wanted: u64, offered: Vec<u64>, workers: Vec<String> },
    Unreachable { reason: String },
    NotTrusted { reason: String },
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "WorkerDied")]
struct PackedDeath {
    pid: u32,
    #[serde(with = "PackedExit")]
    exit: WorkerExit,
    task: String,
    peak_memory: u64,
    out_of_memory: bool,
    max_rss: Option<u64>,
    workers_lost: u32,
    stderr: String,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "WorkerExit", rename_all = "snake_case")]
enum PackedExit {
    Code(i32),
    Signal(i32),
    Protocol,
    Lost,
    Unknown,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Packed {
    fn of(kind: &ErrorKind) -> Self {
        match kind {
            ErrorKind::Panicked(Panic { message, location, backtrace, .. }) => Self::Panicked {
                message: message.clone(),
                location: location.clone(),
                backtrace: backtrace.clone(),
            },
            ErrorKind::Cancelled => Self::Cancelled,
            ErrorKind::QueueTimeout(limit) => Self::QueueTimeout { limit: nanos(*limit) },
            ErrorKind::RunTimeout(limit) => Self::RunTimeout { limit: nanos(*limit) },
            ErrorKind::LoadTimeout(limit) => Self::LoadTimeout { limit: nanos(*limit) },
            ErrorKind::QueueFull { capacity } => Self::QueueFull { capacity: *capacity as u64 },
            ErrorKind::Shed => Self::Shed,
            ErrorKind::Broken(reason) => Self::Broken { reason: reason.clone() },
            ErrorKind::Closed => Self::Closed,
            ErrorKind::Forked => Self::Forked,
            ErrorKind::Rejected(reason) => Self::Rejected { reason: reason.to_string() },
            ErrorKind::WorkerDied(died) => Self::WorkerDied(died.clone()),
            ErrorKind::WorkerStart(reason) => Self::WorkerStart { reason: reason.to_string() },
            ErrorKind::WorkerState(error) => Self::WorkerState { reason: error.to_string() },
            ErrorKind::Encode(reason) => Self::Encode { reason: reason.clone() },
            ErrorKind::Decode(reason) => Self::Decode { reason: reason.clone() },
            ErrorKind::Lost { worker, host, attempt, silent_for } => Self::Lost {
                worker: worker.clone(),
                host: host.clone(),
                attempt: *attempt,
                silent_for: nanos(*silent_for),
            },
            ErrorKind::NoSuchTask { task, wanted, offered, workers } => Self::NoSuchTask {
                task: task.clone(),
                wanted: wanted.as_u64(),
                offered: offered.iter().map(|offered| offered.as_u64()).collect(),
                workers: workers.clone(),
            },
            ErrorKind::Unreachable(reason) => Self::Unreachable { reason: reason.to_string() },
            ErrorKind::NotTrusted(reason) => Self::NotTrusted { reason: reason.to_string() },
        }
    }

    fn into_kind(self) -> ErrorKind {
        match self {
            Self::Panicked { message, location, backtrace } => {
                ErrorKind::Panicked(Panic { message, location, backtrace, payload: None })
            }
            Self::Cancelled => ErrorKind::Cancelled,
            Self::QueueTimeout { limit } => ErrorKind::QueueTimeout(Duration::from_nanos(limit)),
            Self::RunTimeout { limit } => ErrorKind::RunTimeout(Duration::from_nanos(limit)),
            Self::LoadTimeout { limit } => ErrorKind::LoadTimeout(Duration::from_nanos(limit)),
            Self::QueueFull { capacity } => {
                ErrorKind::QueueFull { capacity: usize::try_from(capacity).unwrap_or(usize::MAX) }
            }
            Self::Shed => ErrorKind::Shed,
            Self::Broken { reason } => ErrorKind::Broken(reason),
            Self::Closed => ErrorKind::Closed,
            Self::Forked => ErrorKind::Forked,
            Self::Rejected { reason } => ErrorKind::Rejected(reason.into()),
            Self::WorkerDied(died) => ErrorKind::WorkerDied(died),
            Self::WorkerStart { reason } => ErrorKind::WorkerStart(reason.into()),
            Self::WorkerState { reason } => ErrorKind::WorkerState(reason.into()),
            Self::Encode { reason } => ErrorKind::Encode(reason),
            Self::Decode { reason } => ErrorKind::Decode(reason),
            Self::Lost { worker, host, attempt, silent_for } => {
                ErrorKind::Lost { worker, host, attempt, silent_for: Duration::from_nanos(silent_for) }
            }
            Self::NoSuchTask { task, wanted, offered, workers } => ErrorKind::NoSuchTask {
                task,
                wanted: Signature::from_u64(wanted),
                offered: offered.into_iter().map(Signature::from_u64).collect(),
                workers,
            },
            Self::Unreachable { reason } => ErrorKind::Unreachable(reason.into()),
            Self::NotTrusted { reason } => ErrorKind::NotTrusted(reason.into()),
        }
    }
}
