//! `POST /documents`: walks every key of a JSON document.

mod answer;
mod events;
mod walking;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use offloop::Blob;
use serde::Deserialize;

use self::answer::DocumentResult;
use self::walking::{Order, Walking};
use crate::body::{self, MAX_DOCUMENT};
use crate::error::ApiError;
use crate::headers::{time_limit, wants_events};
use crate::mode::Mode;
use crate::request::RequestId;
use crate::service::Service;

/// The time that a walk may take, unless the request says otherwise.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// The longest path of a value that is looked for, in bytes.
const MAX_FIND: usize = 1024;

/// The parameters in the URL.
#[derive(Debug, Deserialize)]
pub struct Parameters {
    find: Option<String>,
}

/// Walks a document. If the client goes meanwhile, this future is dropped, and with it the walk: its worker is killed.
pub async fn walk(
    State(service): State<Arc<Service>>,
    Extension(RequestId(request)): Extension<RequestId>,
    parameters: Result<Query<Parameters>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let Query(Parameters { find }) =
        parameters.map_err(|error| ApiError::bad_arguments(error.body_text()))?;
    if find.as_ref().is_some_and(|find| find.len() > MAX_FIND) {
        return Err(ApiError::bad_arguments(format!("find has at most {MAX_FIND} bytes")));
    }
    let limit = time_limit(&headers, TIME_LIMIT)?;
    // Bodies are in memory before a worker has room for them, so their number is limited.
    let permit = Arc::clone(&service.document_permits);
    let permit = permit.try_acquire_owned().map_err(|_| ApiError::overloaded())?;
    let mode = service.places.mode();
    let document = read_document(&service, mode, &headers, body).await?;
    service.check_open()?;
    let began = Instant::now();
    let order = Order { document, find, limit, reports: wants_events(&headers) };
    let mut walking = Walking::begin(&service.places, mode, order);
    if wants_events(&headers) {
        let stream = events::Events::new(service, walking, permit, mode, began, request);
        return Ok(stream.into_response());
    }
    let counts = walking.result().await?;
    Ok(axum::Json(DocumentResult::new(counts, began.elapsed(), mode)).into_response())
}

/// Reads the body into memory. For offloop that is the shared memory of the pool, where the worker will read it in place.
async fn read_document(
    service: &Service,
    mode: Mode,
    headers: &HeaderMap,
    body: Body,
) -> Result<Blob, ApiError> {
    let length = headers.get("content-length").and_then(|length| length.to_str().ok()?.parse().ok());
    let capacity = length.unwrap_or(64 * 1024).min(MAX_DOCUMENT);
    if mode == Mode::Offloop {
        let mut bytes = service.places.documents().blob(capacity);
        body::read(body, MAX_DOCUMENT, service.body_pause, &mut bytes).await?;
        Ok(bytes.freeze())
    } else {
        let mut bytes = Vec::with_capacity(capacity);
        body::read(body, MAX_DOCUMENT, service.body_pause, &mut bytes).await?;
        Ok(bytes.into())
    }
}
