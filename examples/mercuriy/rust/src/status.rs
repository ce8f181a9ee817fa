//! What must answer at any time: health, metrics, the status, and the switch of the mode.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::body::read_json;
use crate::error::ApiError;
use crate::metrics;
use crate::mode::Mode;
use crate::service::Service;
use crate::systems::Function;

/// The time that the metrics wait for the file of messages.
const MESSAGES_LIMIT: Duration = Duration::from_secs(1);

/// Answers if the loop does.
pub async fn health(State(service): State<Arc<Service>>) -> Json<Value> {
    let late_ms = service.heartbeat.worst().as_secs_f64() * 1000.0;
    Json(json!({"ok": true, "late_ms": late_ms}))
}

/// Returns the metrics, for Prometheus.
pub async fn metrics(State(service): State<Arc<Service>>) -> Response {
    let counts = timeout(MESSAGES_LIMIT, service.messages.count(&service.places)).await;
    let counts = counts.map(Result::unwrap_or_default).unwrap_or_default();
    let page = metrics::page(&service, &counts);
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response()
}

/// The answer of `/status`.
#[derive(Debug, Serialize)]
pub struct Status {
    on: Mode,
    modes: Vec<Mode>,
    systems: BTreeMap<&'static str, SystemStatus>,
    functions: [&'static str; 6],
    language: &'static str,
    version: &'static str,
    pid: u32,
}

#[derive(Debug, Serialize)]
struct SystemStatus {
    up: bool,
    stand_in: Option<&'static str>,
    r#async: bool,
    address: Option<String>,
    pid: Option<u32>,
}

/// Tells the mode, and which systems are there.
pub async fn status(State(service): State<Arc<Service>>) -> Json<Status> {
    let system = |system| {
        let status = SystemStatus {
            up: crate::systems::System::is_up(system),
            stand_in: system.stand_in(),
            r#async: system.has_async_connector(),
            address: system.address().shown(),
            pid: service.systems.server_pid(system),
        };
        (system.name(), status)
    };
    Json(Status {
        on: service.places.mode(),
        modes: service.places.modes().collect(),
        systems: service.systems.all().iter().map(system).collect(),
        functions: Function::ALL.map(Function::name),
        language: "rust",
        version: env!("CARGO_PKG_VERSION"),
        pid: std::process::id(),
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewMode {
    on: Mode,
}

/// Sets the place of the blocking work.
pub async fn set_mode(State(service): State<Arc<Service>>, body: Body) -> Result<Json<Value>, ApiError> {
    let NewMode { on } = read_json(body, service.body_pause).await?;
    if !service.places.modes().any(|mode| mode == on) {
        return Err(ApiError::bad_arguments(
            "`cluster` is there if the service is started with `--on cluster`",
        ));
    }
    let was = service.places.set_mode(on);
    tracing::info!(on = on.name(), was = was.name(), "the blocking work goes elsewhere");
    Ok(Json(json!({"on": on, "was": was})))
}
