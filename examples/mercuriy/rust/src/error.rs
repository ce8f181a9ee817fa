//! What a client gets instead of a result: a status, and JSON that says what happened and what to do.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::systems::CallError;
use crate::walk::{WalkError, WalkErrorKind};

/// An answer that is an error. [`request::respond`](crate::request) writes it, since it knows the request's id.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// The byte of the body at which the fault shows.
    offset: Option<usize>,
}

impl ApiError {
    /// Makes an error from its status, its code for programs and its message for people.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), offset: None }
    }

    /// Something in the request is not as the interface says.
    pub fn bad_arguments(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_arguments", message)
    }

    /// There is no such thing.
    pub fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    /// A fault of the service. The reason goes to the log.
    pub fn internal(reason: impl std::fmt::Display) -> Self {
        tracing::error!(%reason, "a fault of the service");
        let message = "a fault of the service: its log has the reason, under the id of this request";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    /// The service is being stopped.
    pub fn stopping() -> Self {
        let message = "the service is stopping: try again when it has been started again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", message)
    }

    /// There is too much work.
    pub fn overloaded() -> Self {
        let message = "too much work waits already: try again in a second";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message)
    }

    /// Says what a failure in `what` means for the client.
    pub fn of(failure: Failure, what: &str) -> Self {
        match failure {
            Failure::Call(CallError::Function(message)) => {
                Self::new(StatusCode::BAD_GATEWAY, "function_failed", message)
            }
            Failure::Call(error @ (CallError::Down(_) | CallError::Lost(_))) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "system_down",
                format!("{what} does not answer ({error}): try again in a second"),
            ),
            Failure::Timeout(limit) => Self::new(
                StatusCode::GATEWAY_TIMEOUT,
                "timeout",
                format!(
                    "{what} was not done within {} ms, and has been ended: allow more with X-Timeout-Ms",
                    limit.as_millis()
                ),
            ),
            Failure::Overloaded => Self::overloaded(),
            Failure::Stopping | Failure::Call(CallError::Cancelled) => Self::stopping(),
            Failure::WorkerDied(reason) => {
                tracing::error!(reason, "a worker has died");
                let message = format!("the process that did {what} has died: try again");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "worker_died", message)
            }
            Failure::OutOfReach(reason) => {
                tracing::error!(reason, "no machine can do the work");
                let message = format!("no machine can do {what} now: try again in a second");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "system_down", message)
            }
            Failure::NoAsyncConnector => Self::new(
                StatusCode::BAD_REQUEST,
                "no_async_connector",
                format!("{what} has no async connector: leave via=async out"),
            ),
            Failure::Internal(reason) => Self::internal(reason),
        }
    }

    /// Returns the status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the object that the client gets.
    pub fn to_json(&self, request: &str) -> Value {
        let mut error = json!({"code": self.code, "message": self.message, "request": request});
        if let Some(offset) = self.offset {
            error["offset"] = offset.into();
        }
        json!({"error": error})
    }

    /// Returns the answer.
    pub fn to_response(&self, request: &str) -> Response {
        let mut response = (self.status, axum::Json(self.to_json(request))).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<WalkError> for ApiError {
    fn from(error: WalkError) -> Self {
        let (code, advice) = match error.kind {
            WalkErrorKind::NotJson => ("not_json", "send JSON"),
            WalkErrorKind::NotUtf8 => ("not_utf8", "send UTF-8"),
            WalkErrorKind::Truncated => ("truncated", "send the whole document"),
            WalkErrorKind::TooDeep => ("too_deep", "nest less deeply"),
            WalkErrorKind::Stopped => return Self::stopping(),
        };
        let mut api = Self::new(StatusCode::BAD_REQUEST, code, format!("{error}: {advice}"));
        api.offset = Some(error.at);
        api
    }
}

/// Puts the error into the answer's extensions, where the outermost layer finds it.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}
