//! `POST /messages`: accepts messages, and delivers them by calls of functions, at least once.
//!
//! A message is accepted when the file of messages, an SQLite database, has it on the disk. Nothing accepted is lost,
//! however the service ends: what was being delivered then is delivered again.

mod delivery;
mod store;

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use self::delivery::{Delivery, Messages};
pub use self::store::{Counts, Message, MessageState, Outcome, Store, StoredMessage};
use crate::body::read_json;
use crate::error::ApiError;
use crate::failure::Failure;
use crate::functions;
use crate::request::RequestId;
use crate::service::Service;

/// A message as a client sends it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewMessage {
    to: String,
    function: String,
    args: Vec<Value>,
}

/// The parameters in the URL.
#[derive(Debug, Deserialize)]
pub struct Parameters {
    state: Option<MessageState>,
}

/// The answer to a new message.
#[derive(Debug, Serialize)]
pub struct Accepted {
    id: String,
    state: MessageState,
}

/// Accepts a message. Answers when it is on the disk.
pub async fn send(
    State(service): State<Arc<Service>>,
    Extension(RequestId(request)): Extension<RequestId>,
    body: Body,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let NewMessage { to, function, args } = read_json(body, service.body_pause).await?;
    let (system, function) = functions::find(&service, &to, &function)?;
    function.check(&args).map_err(ApiError::bad_arguments)?;
    service.check_open()?;
    let id = uuid::Uuid::new_v4().to_string();
    let message =
        Message { id: id.clone(), request, system: system.name().to_owned(), function, arguments: args };
    service.messages.accept(&service.places, message).await.map_err(failed)?;
    Ok((StatusCode::ACCEPTED, Json(Accepted { id, state: MessageState::Accepted })))
}

/// Tells the state of a message.
pub async fn read(
    State(service): State<Arc<Service>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<StoredMessage>, ApiError> {
    let missing = |what: &str| ApiError::not_found("no_such_message", format!("there is no message {what}"));
    let Path(id) = id.map_err(|error| missing(&error.body_text()))?;
    let message = service.messages.read(&service.places, id.clone()).await.map_err(failed)?;
    message.map(Json).ok_or_else(|| missing(&id))
}

/// Counts the messages by their state.
pub async fn count(
    State(service): State<Arc<Service>>,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let Query(Parameters { state }) =
        parameters.map_err(|error| ApiError::bad_arguments(error.body_text()))?;
    let counts = service.messages.count(&service.places).await.map_err(failed)?;
    let wanted = counts.iter().filter(|(one, _)| state.is_none_or(|state| state == *one));
    let counts: serde_json::Map<_, _> =
        wanted.map(|(state, count)| (state.name().to_owned(), count.into())).collect();
    Ok(Json(json!({"counts": counts})))
}

fn failed(failure: Failure) -> ApiError {
    ApiError::of(failure, "the file of messages")
}
