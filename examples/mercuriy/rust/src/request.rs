//! What is done for each request: its id, its line in the logs, in the audit log and in the metrics, and the form of errors.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tracing::Instrument;

use crate::error::ApiError;
use crate::logs::rfc3339;
use crate::service::Service;
use crate::traces;

/// The header with the request's id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The status in metrics and in the audit log of a request whose client has not waited for the answer.
const CLIENT_GONE: u16 = 499;

/// The id of a request, for its handler.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

/// Serves a request within its span. The outermost layer.
pub async fn serve(State(service): State<Arc<Service>>, mut request: Request, next: Next) -> Response {
    let id = id_of(request.headers());
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut line = Line::begin(&service, &request, id.clone());
    let span = tracing::info_span!("request", request = id, method = %line.method, path = line.path);
    service.audit.room().await;
    traces::continue_from_headers(&span, request.headers());
    let refuse = service.is_stopping() && !line.is_always_answered();
    let respond = async {
        let response = if refuse { ApiError::stopping().into_response() } else { next.run(request).await };
        with_id(response, &id)
    };
    let response = respond.instrument(span.clone()).await;
    span.in_scope(|| line.end(response.status().as_u16()));
    response
}

/// Returns the id that the client has given, if it fits, else a new one.
fn id_of(headers: &HeaderMap) -> String {
    let fits = |id: &&str| {
        (1..=64).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
    };
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
    given.filter(fits).map_or_else(|| uuid::Uuid::new_v4().simple().to_string(), str::to_owned)
}

fn with_id(mut response: Response, id: &str) -> Response {
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        tracing::info!(%error, "the answer is an error");
        let headers = std::mem::take(response.headers_mut());
        response = error.to_response(id);
        // What a handler has added, such as `Allow`.
        response.headers_mut().extend(headers.into_iter().filter_map(|(name, value)| {
            let name = name?;
            (name != axum::http::header::CONTENT_LENGTH).then_some((name, value))
        }));
    }
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// The line of a request in the audit log and in the metrics. If it is dropped before its end, the client has gone: the
/// server drops what works for a connection that is closed.
struct Line<'a> {
    service: &'a Service,
    id: String,
    method: Method,
    path: String,
    route: String,
    began: Instant,
    has_ended: bool,
}

impl<'a> Line<'a> {
    fn begin(service: &'a Service, request: &Request, id: String) -> Self {
        let route = request.extensions().get::<MatchedPath>();
        Self {
            service,
            id,
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            route: route.map_or("none", |route| route.as_str()).to_owned(),
            began: Instant::now(),
            has_ended: false,
        }
    }

    /// Returns whether the request is one of those by which the service is watched.
    fn is_always_answered(&self) -> bool {
        matches!(self.route.as_str(), "/health" | "/metrics" | "/status")
    }

    fn end(&mut self, status: u16) {
        self.has_ended = true;
        self.service.metrics.count_request(&self.route, status);
        let seconds = self.began.elapsed().as_secs_f64();
        if matches!(self.route.as_str(), "/health" | "/metrics") {
            return;
        }
        tracing::info!(method = %self.method, path = self.path, status, seconds, "answered");
        self.service.audit.record(&json!({
            "time": rfc3339(SystemTime::now()),
            "request": self.id,
            "method": self.method.as_str(),
            "path": self.path,
            "status": status,
            "seconds": seconds,
        }));
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.service.metrics.count_client_gone();
            self.end(CLIENT_GONE);
        }
    }
}
