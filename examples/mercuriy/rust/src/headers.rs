//! Headers with a meaning for the work.

use std::time::Duration;

use axum::http::HeaderMap;

use crate::error::ApiError;

/// The most milliseconds that work may be given.
const MAX_MS: u64 = 60_000;

/// Returns the time that the work may take: the header's, or the default.
pub fn time_limit(headers: &HeaderMap, default: Duration) -> Result<Duration, ApiError> {
    let Some(value) = headers.get("x-timeout-ms") else { return Ok(default) };
    let ms = value.to_str().ok().and_then(|ms| ms.parse().ok()).filter(|ms| (1..=MAX_MS).contains(ms));
    ms.map(Duration::from_millis).ok_or_else(|| {
        ApiError::bad_arguments(format!("X-Timeout-Ms is a whole number of milliseconds from 1 to {MAX_MS}"))
    })
}

/// Returns whether the client takes a stream of events.
pub fn wants_events(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all("accept").iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|kind| {
        kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
    })
}
