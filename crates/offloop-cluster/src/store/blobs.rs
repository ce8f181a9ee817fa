//! Payloads that are too large for a record: in chunks, several of which are under way at a time.

use std::time::Duration;

use async_nats::{HeaderMap, StatusCode};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use ring::digest::{Context, SHA256};
use serde::Deserialize;
use serde_json::json;

use super::jobs::Receipt;
use super::{ApiError, Failure, Store, is_full, read_answer};
use crate::Ulid;
use crate::names::{Part, TTL};
use crate::records::BlobRef;

/// The largest payload that goes into a record, in bytes.
pub(crate) const INLINE: usize = 512 * 1024;

/// The size of a chunk, in bytes. With its headers it is below what a server takes for one message by default, 1 MiB.
const CHUNK: usize = (1 << 20) - 4096;

/// The number of chunks that are under way at a time.
const IN_FLIGHT: usize = 8;

/// The largest payload that is read, in bytes.
const LARGEST: u64 = 4 << 30;

/// The share of one dead job's arguments in the room for all dead jobs: a quarter at most. The oldest dead jobs make room
/// for new ones, and one job must not take the place of all others.
const OF_DEAD: u64 = 4;

/// A payload that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// The server has not answered.
    #[error("the server does not answer")]
    Unreachable,
    /// It is not there, or not whole.
    #[error("it is not stored any more: it was kept for its time, or deleted")]
    Missing,
    /// It is not what was stored.
    #[error("it is not what was stored: its size or its checksum is another one")]
    Damaged,
}

/// The reason why a payload is not stored. To store it again does no harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotStored {
    /// Its stream, or the store, has no room.
    Full,
    /// A chunk was not confirmed.
    Unknown,
}

/// A stored message, as the server that leads its stream returns it.
#[derive(Deserialize)]
struct FromLeader {
    message: LeadersMessage,
}

#[derive(Deserialize)]
struct LeadersMessage {
    /// In base 64.
    #[serde(default)]
    data: String,
}

impl Store {
    /// Stores a payload, to be forgotten after `ttl`. `None`: a chunk was not confirmed; storing it again does no harm.
    pub(crate) async fn put_blob(
        &self,
        job: Ulid,
        part: Part,
        bytes: Bytes,
        ttl: Duration,
    ) -> Option<BlobRef> {
        self.try_put_blob(job, part, bytes, ttl).await.ok()
    }

    /// Does the same, and tells a store that is full from a server that does not answer.
    pub(crate) async fn try_put_blob(
        &self,
        job: Ulid,
        part: Part,
        bytes: Bytes,
        ttl: Duration,
    ) -> Result<BlobRef, NotStored> {
        // Each chunk is added when its turn comes, while the server stores those before it.
        let mut sum = Context::new(&SHA256);
        let puts = (0_u32..).zip(chunks(&bytes)).map(|(number, chunk)| {
            sum.update(&chunk);
            self.put_chunk(job, part, number, chunk, ttl)
        });
        let mut puts = stream::iter(puts).buffer_unordered(IN_FLIGHT);
        while let Some(stored) = puts.next().await {
            stored?;
        }
        drop(puts);
        let sha256 = sum.finish().as_ref().try_into().map_err(|_| NotStored::Unknown)?;
        Ok(BlobRef { size: bytes.len() as u64, sha256 })
    }

    async fn put_chunk(
        &self,
        job: Ulid,
        part: Part,
        number: u32,
        chunk: Bytes,
        ttl: Duration,
    ) -> Result<(), NotStored> {
        let mut headers = HeaderMap::new();
        // Dead letters stay for the time that their stream says.
        if part != Part::DeadArguments {
            headers.insert(TTL, format!("{}s", ttl.as_secs().max(1)));
        }
        let answer = self.request(self.names().blob(job, part, number), Some(headers), chunk).await;
        match answer.and_then(|message| read_answer::<Receipt>(&message)) {
            Ok(_) => Ok(()),
            Err(Failure::Refused(ApiError { err_code, .. })) if is_full(err_code) => Err(NotStored::Full),
            Err(_) => Err(NotStored::Unknown),
        }
    }

    /// Reads a payload, and checks that it is the one that was stored.
    pub(crate) async fn get_blob(&self, job: Ulid, part: Part, blob: &BlobRef) -> Result<Vec<u8>, BlobError> {
        // The size comes from a record, which is not believed: memory is taken for what has come only.
        if blob.size > LARGEST {
            return Err(BlobError::Damaged);
        }
        let count = u32::try_from(blob.size.div_ceil(CHUNK as u64)).map_err(|_| BlobError::Damaged)?;
        let gets = (0..count).map(|number| self.get_chunk(job, part, number));
        let mut gets = stream::iter(gets).buffered(IN_FLIGHT);
        let (mut bytes, mut sum) = (Vec::new(), Context::new(&SHA256));
        while let Some(chunk) = gets.next().await {
            let chunk = chunk?;
            if bytes.len() as u64 + chunk.len() as u64 > blob.size {
                return Err(BlobError::Damaged);
            }
            sum.update(&chunk);
            bytes.extend_from_slice(&chunk);
        }
        if bytes.len() as u64 == blob.size && sum.finish().as_ref() == blob.sha256 {
            Ok(bytes)
        } else {
            Err(BlobError::Damaged)
        }
    }

    /// Reads one chunk. Any of several servers answers, also one that does not have it yet. So it is missing only if the
    /// one that leads the stream says so, which answers more slowly.
    async fn get_chunk(&self, job: Ulid, part: Part, number: u32) -> Result<Bytes, BlobError> {
        let (stream, subject) = (self.names().stream_of(part), self.names().blob(job, part, number));
        let direct = self.request(format!("$JS.API.DIRECT.GET.{stream}.{subject}"), None, Bytes::new()).await;
        let raw = direct.map_err(|_| BlobError::Unreachable)?;
        if raw.status == Some(StatusCode::NOT_FOUND) {
            self.get_from_leader(job, part, number).await
        } else {
            Ok(raw.payload)
        }
    }

    pub(super) async fn get_from_leader(
        &self,
        job: Ulid,
        part: Part,
        number: u32,
    ) -> Result<Bytes, BlobError> {
        let (stream, subject) = (self.names().stream_of(part), self.names().blob(job, part, number));
        let request = json!({ "last_by_subj": subject });
        match self.api::<FromLeader>(&format!("STREAM.MSG.GET.{stream}"), &request).await {
            Ok(FromLeader { message }) => {
                BASE64_STANDARD.decode(message.data).map(Bytes::from).map_err(|_| BlobError::Damaged)
            }
            // 10037: there is no such message.
            Err(Failure::Refused(error)) if error.err_code == 10037 => Err(BlobError::Missing),
            Err(_) => Err(BlobError::Unreachable),
        }
    }

    /// Copies the arguments of a job that is dead to its dead letter, as far as they are stored and there is room for them.
    /// Returns whether that is certain.
    pub(crate) async fn keep_arguments(&self, job: Ulid, blob: &BlobRef) -> bool {
        let Ok(room) = self.capacity_of(&self.names().dead()).await else { return false };
        if room.is_some_and(|room| blob.size > room / OF_DEAD) {
            return true;
        }
        // The size comes from a record, which is not believed: what is not there ends the copy.
        let count = u32::try_from(blob.size.min(LARGEST).div_ceil(CHUNK as u64)).unwrap_or(0);
        for number in 0..count {
            let chunk = match self.get_chunk(job, Part::Arguments, number).await {
                Ok(chunk) => chunk,
                Err(BlobError::Missing | BlobError::Damaged) => return true,
                Err(BlobError::Unreachable) => return false,
            };
            match self.put_chunk(job, Part::DeadArguments, number, chunk, Duration::ZERO).await {
                Ok(()) => {}
                // The letter is of more use without them than none.
                Err(NotStored::Full) => return true,
                Err(NotStored::Unknown) => return false,
            }
        }
        true
    }

    /// Deletes a payload, if the server answers. Else it goes when its time has passed.
    pub(crate) async fn delete_blob(&self, job: Ulid, part: Part) {
        self.purge(&self.names().stream_of(part), &self.names().chunks(job, part)).await;
    }
}

fn chunks(bytes: &Bytes) -> impl Iterator<Item = Bytes> {
    (0..bytes.len()).step_by(CHUNK).map(|from| bytes.slice(from..bytes.len().min(from + CHUNK)))
}
