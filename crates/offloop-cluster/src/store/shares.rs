//! The shares of streams in the server's store.
//!
//! A store that is full takes nothing any more, not even the claims and the ends that would make room. So the streams that
//! grow with what is submitted have limits of their own, and the stream of states has the rest, without a limit. The server
//! reserves what a limit says.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Failure, Store};

/// The parts that a store is divided into. Those that are in no share are left for states.
const PARTS: u64 = 16;

/// The largest store that is looked for, in bytes.
const LARGEST: u64 = 1 << 43;

/// The smallest store that is divided, in bytes. In a smaller one a share would not hold a chunk of a payload.
const SMALLEST: u64 = 8 << 20;

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
    /// Returns the limit of a stream with this share, in bytes. `None`: it has none.
    pub(super) fn of(self, storage: u64) -> Option<u64> {
        let parts = match self {
            Self::Jobs => 2,
            Self::Arguments => 4,
            Self::Blobs => 6,
            Self::Dead => 1,
            Self::Rest => return None,
        };
        (storage >= SMALLEST).then_some(storage / PARTS * parts)
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
    /// Returns the number of bytes that the namespace may store. `None`: that cannot be found out, or so much of the store
    /// is reserved by others that shares of the rest would be too small for what they hold.
    pub(super) async fn storage(&self) -> Option<u64> {
        if self.0.storage.is_some() {
            return self.0.storage;
        }
        let AccountInfo { reserved_storage, limits } = self.api("INFO", &Value::Null).await.ok()?;
        if let Some(limit) = u64::try_from(limits.max_storage).ok().filter(|limit| *limit > 0) {
            return Some(limit.saturating_sub(reserved_storage)).filter(|free| *free >= limit / 8);
        }
        // Several servers tell each other from time to time what is reserved, so what one of them says may be old.
        if self.0.replicas > 1 {
            return None;
        }
        self.measure().await.filter(|free| *free >= reserved_storage / 7)
    }

    /// Finds how much the server can reserve, by a stream that is deleted at once. The limit of its whole store is told
    /// to its operator only. Returns the largest power of two that fits.
    async fn measure(&self) -> Option<u64> {
        let probe = self.names().probe();
        let mut size = LARGEST;
        // One may be left of a party that has died.
        self.api::<Value>(&format!("STREAM.DELETE.{probe}"), &Value::Null).await.or_else(refused).ok()?;
        loop {
            let subject = self.names().subject("probe");
            let request = json!({
                "name": probe, "subjects": [subject], "storage": "file", "max_bytes": size,
            });
            match self.api::<Value>(&format!("STREAM.CREATE.{probe}"), &request).await {
                Ok(_) => break,
                Err(Failure::Refused(_)) if size > SMALLEST => size /= 2,
                Err(_) => return None,
            }
        }
        // If that gets lost, the next party to lay a namespace out deletes it.
        let _ = self.api::<Value>(&format!("STREAM.DELETE.{probe}"), &Value::Null).await;
        Some(size)
    }
}

/// Takes a refusal for an answer.
fn refused(failure: Failure) -> Result<Value, Failure> {
    match failure {
        Failure::Refused(_) => Ok(Value::Null),
        failure => Err(failure),
    }
}
