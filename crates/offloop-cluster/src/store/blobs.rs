//! Payloads that are too large for a record: in chunks, several of which are under way at a time.

use std::time::Duration;

use async_nats::{HeaderMap, StatusCode};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use ring::digest::{SHA256, digest};

use super::jobs::Receipt;
use super::{Store, read_answer};
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

impl Store {
    /// Stores a payload, to be forgotten after `ttl`. `None`: a chunk was not confirmed; storing it again does no harm.
    pub(crate) async fn put_blob(
        &self,
        job: Ulid,
        part: Part,
        bytes: Bytes,
        ttl: Duration,
    ) -> Option<BlobRef> {
        let sha256 = digest(&SHA256, &bytes).as_ref().try_into().ok()?;
        let reference = BlobRef { size: bytes.len() as u64, sha256 };
        let puts = (0_u32..).zip(chunks(&bytes)).map(|(number, chunk)| async move {
            let mut headers = HeaderMap::new();
            headers.insert(TTL, format!("{}s", ttl.as_secs().max(1)));
            let answer = self.request(self.names().blob(job, part, number), Some(headers), chunk).await;
            answer.and_then(|message| read_answer::<Receipt>(&message)).is_ok()
        });
        let mut puts = stream::iter(puts).buffer_unordered(IN_FLIGHT);
        while let Some(is_stored) = puts.next().await {
            if !is_stored {
                return None;
            }
        }
        Some(reference)
    }

    /// Reads a payload, and checks that it is the one that was stored.
    pub(crate) async fn get_blob(&self, job: Ulid, part: Part, blob: &BlobRef) -> Result<Vec<u8>, BlobError> {
        // The size comes from a record, which is not believed: memory is taken for what has come only.
        if blob.size > LARGEST {
            return Err(BlobError::Damaged);
        }
        let count = u32::try_from(blob.size.div_ceil(CHUNK as u64)).map_err(|_| BlobError::Damaged)?;
        let stream_name = self.names().blobs();
        let gets = (0..count).map(|number| {
            let subject = self.names().blob(job, part, number);
            let subject = format!("$JS.API.DIRECT.GET.{stream_name}.{subject}");
            async move { self.request(subject, None, Bytes::new()).await }
        });
        let mut gets = stream::iter(gets).buffered(IN_FLIGHT);
        let mut bytes = Vec::new();
        while let Some(answer) = gets.next().await {
            let raw = answer.map_err(|_| BlobError::Unreachable)?;
            if raw.status == Some(StatusCode::NOT_FOUND) {
                return Err(BlobError::Missing);
            }
            if bytes.len() as u64 + raw.payload.len() as u64 > blob.size {
                return Err(BlobError::Damaged);
            }
            bytes.extend_from_slice(&raw.payload);
        }
        if bytes.len() as u64 == blob.size && digest(&SHA256, &bytes).as_ref() == blob.sha256 {
            Ok(bytes)
        } else {
            Err(BlobError::Damaged)
        }
    }

    /// Deletes a payload, if the server answers. Else it goes when its time has passed.
    pub(crate) async fn delete_blob(&self, job: Ulid, part: Part) {
        self.purge(&self.names().blobs(), &self.names().chunks(job, part)).await;
    }
}

fn chunks(bytes: &Bytes) -> impl Iterator<Item = Bytes> {
    (0..bytes.len()).step_by(CHUNK).map(|from| bytes.slice(from..bytes.len().min(from + CHUNK)))
}
