//! The shares of streams in the server's store.
//!
//! A store that is full takes nothing any more, not even the claims and the ends that would make room. So the streams that
//! grow with what is submitted have limits of their own, and the stream of states has the rest, without a limit. The server
//! reserves what a limit says.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Failure, Store};
use crate::Ulid;

/// The parts that a store is divided into. Those that are in no share are left for states.
const PARTS: u64 = 16;

/// The largest store that is looked for, in bytes.
const LARGEST: u64 = 1 << 43;

/// The smallest store that is divided, in bytes. In a smaller one a share would not hold a chunk of a payload.
const SMALLEST: u64 = 8 << 20;

/// The age at which a party that measures is taken for dead.
const ABANDONED: Duration = Duration::from_secs(30);

/// The store that the streams of a namespace divide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Storage {
    /// Nobody has laid the namespace out yet.
    Unknown,
    Bytes(u64),
    /// Streams have no limits.
    Unlimited,
}

/// The reason why it is not known what a namespace may store.
pub(super) enum Unmeasured {
    /// Another party measures the store at this moment, or has just laid the namespace out.
    Busy,
    Failed(Failure),
}

impl From<Failure> for Unmeasured {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// The share of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    Jobs,
    Arguments,
    /// Results and items.
    Blobs,
    Dead,
    /// All that the others leave.
    Rest,
}

impl Share {
    fn parts(self) -> u64 {
        match self {
            Self::Jobs => 2,
            Self::Arguments => 4,
            Self::Blobs => 6,
            Self::Dead => 1,
            Self::Rest => 0,
        }
    }

    /// Returns the limit of a stream with this share, in bytes. `None`: it has none.
    pub(super) fn of(self, storage: Storage) -> Option<u64> {
        match storage {
            Storage::Bytes(bytes) if bytes >= SMALLEST && self != Self::Rest => {
                Some(bytes / PARTS * self.parts())
            }
            _ => None,
        }
    }

    /// Returns what is divided so that a stream with this share has this limit.
    pub(super) fn whole(self, limit: Option<u64>) -> Storage {
        limit.map_or(Storage::Unlimited, |limit| Storage::Bytes(limit / self.parts() * PARTS))
    }
}

#[derive(Deserialize)]
struct AccountInfo {
    #[serde(default)]
    reserved_storage: u64,
    #[serde(default)]
    limits: AccountLimits,
}

#[derive(Default, Deserialize)]
struct AccountLimits {
    /// 0 and less: none.
    #[serde(default)]
    max_storage: i64,
}

impl Store {
    /// Finds what the namespace may store. It has no limit if so much of the store is reserved by others that shares of the
    /// rest would be too small for what they hold, or if several servers have a limit that only their operator knows.
    pub(super) async fn storage(&self) -> Result<Storage, Unmeasured> {
        if let Some(bytes) = self.0.storage {
            return Ok(Storage::Bytes(bytes));
        }
        let AccountInfo { reserved_storage, limits } = self.ask_about("INFO", &Value::Null).await?;
        let limit = u64::try_from(limits.max_storage).ok().filter(|limit| *limit > 0);
        let (free, least) = match limit {
            Some(limit) => (Some(limit.saturating_sub(reserved_storage)), limit / 8),
            // Several servers tell each other from time to time what is reserved, so what one of them says may be old.
            None if self.0.replicas > 1 => (None, 0),
            None => (self.measure().await?, reserved_storage / 7),
        };
        Ok(free.filter(|free| *free >= least).map_or(Storage::Unlimited, Storage::Bytes))
    }

    /// Finds how much the server can reserve. The limit of its whole store is told to its operator only. Returns the
    /// largest power of two that fits. `None`: not even the smallest store does.
    ///
    /// Two parties that measured at once would find what the other one leaves. So one at a time does, the one that has
    /// made a certain stream. It has no limit, for which there is always room.
    async fn measure(&self) -> Result<Option<u64>, Unmeasured> {
        let lock = self.names().measuring();
        let request = json!({
            "name": lock, "subjects": [self.names().subject("measuring")], "storage": "file",
            // That of another party is another stream.
            "description": Ulid::new().to_string(),
        });
        match self.ask_about::<Value>(&format!("STREAM.CREATE.{lock}"), &request).await {
            Ok(_) => {}
            // 10058: it is there.
            Err(Failure::Refused(error)) if error.err_code == 10058 => {
                match self.age_of(&lock).await {
                    Ok(age) if age > ABANDONED => self.delete_stream(&lock).await?,
                    // It may be gone by now.
                    Ok(_) | Err(Failure::Refused(_)) => {}
                    Err(failure) => return Err(failure.into()),
                }
                return Err(Unmeasured::Busy);
            }
            Err(failure) => return Err(failure.into()),
        }
        let measured = match self.age_of(&self.names().jobs()).await {
            Ok(_) => Err(Unmeasured::Busy),
            Err(Failure::Refused(_)) => self.find_room().await.map_err(Into::into),
            Err(failure) => Err(failure.into()),
        };
        // If that gets lost, another party deletes it when it is old.
        let _ = self.delete_stream(&lock).await;
        measured
    }

    /// Does the measuring, by a stream that is deleted at once.
    async fn find_room(&self) -> Result<Option<u64>, Failure> {
        let probe = self.names().probe();
        // One may be left of a party that has died.
        self.delete_stream(&probe).await?;
        let mut size = LARGEST;
        let found = loop {
            let request = json!({
                "name": probe, "subjects": [self.names().subject("probe")], "storage": "file", "max_bytes": size,
            });
            match self.ask_about::<Value>(&format!("STREAM.CREATE.{probe}"), &request).await {
                Ok(_) => break Some(size),
                Err(Failure::Refused(_)) if size > SMALLEST => size /= 2,
                Err(Failure::Refused(_)) => break None,
                Err(failure) => return Err(failure),
            }
        };
        self.delete_stream(&probe).await?;
        Ok(found)
    }

    /// Deletes a stream, which may not be there.
    async fn delete_stream(&self, stream: &str) -> Result<(), Failure> {
        match self.ask_about::<Value>(&format!("STREAM.DELETE.{stream}"), &Value::Null).await {
            Ok(_) | Err(Failure::Refused(_)) => Ok(()),
            Err(failure) => Err(failure),
        }
    }
}
