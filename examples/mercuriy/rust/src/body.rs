//! The bodies of requests: their size and their pace are limited, wherever they go.

use std::ops::ControlFlow;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::StatusCode;
use http_body_util::BodyExt;
use offloop::BlobMut;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::error::ApiError;
use crate::walk::{self, WalkErrorKind};

/// The largest document, in bytes.
pub const MAX_DOCUMENT: usize = 64 * 1024 * 1024;

/// The largest other body, in bytes.
const MAX_SMALL: usize = 256 * 1024;

/// The time for which the rest of a body that is too large is read and dropped. A client that is still sending does not
/// read the answer.
const LINGER: Duration = Duration::from_secs(5);

/// Takes the bytes of a body as they come.
pub trait Sink {
    /// Appends bytes. Does not block.
    fn append(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn append(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl Sink for BlobMut {
    fn append(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Reads a body of at most `limit` bytes. Nothing may come for at most `pause`.
pub async fn read(
    mut body: Body,
    limit: usize,
    pause: Duration,
    sink: &mut impl Sink,
) -> Result<(), ApiError> {
    let too_large = || {
        let message = format!("the body has more than {limit} bytes: send it in parts");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let mut length = 0;
    while let Some(chunk) = next_chunk(&mut body, pause).await? {
        length += chunk.len();
        if length > limit {
            // The outcome does not matter: the answer is sent anyway.
            let _ = timeout(LINGER, drain(body, limit)).await;
            return Err(too_large());
        }
        sink.append(&chunk);
    }
    Ok(())
}

async fn next_chunk(body: &mut Body, pause: Duration) -> Result<Option<Bytes>, ApiError> {
    loop {
        match timeout(pause, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                // Trailers are no data.
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Ok(None) => return Ok(None),
            // The client has gone; nobody reads this.
            Ok(Some(Err(error))) => {
                let message = format!("the body has not come whole ({error}): send it again");
                return Err(ApiError::new(StatusCode::BAD_REQUEST, "truncated", message));
            }
            Err(_) => {
                let message = format!("nothing of the body has come for {pause:?}: send it without pauses");
                return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message));
            }
        }
    }
}

/// Reads and drops up to `limit` more bytes.
async fn drain(mut body: Body, limit: usize) {
    let mut dropped = 0;
    while let Some(Ok(frame)) = body.frame().await {
        dropped += frame.data_ref().map_or(0, Bytes::len);
        if dropped > limit {
            break;
        }
    }
}

/// Reads a small body of JSON.
pub async fn read_json<T: DeserializeOwned>(body: Body, pause: Duration) -> Result<T, ApiError> {
    let mut bytes = Vec::new();
    read(body, MAX_SMALL, pause, &mut bytes).await?;
    // The walk finds the fault of what is no JSON, with its place.
    if let Err(error) = walk::walk(&bytes, None, |_| ControlFlow::Continue(())) {
        return Err(match error.kind {
            WalkErrorKind::TooDeep => ApiError::new(StatusCode::BAD_REQUEST, "not_json", error.to_string()),
            _ => error.into(),
        });
    }
    let json = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    serde_json::from_slice(json)
        .map_err(|error| ApiError::bad_arguments(format!("the body is not as openapi.json says: {error}")))
}
