//! `POST /functions/{system}/{name}`: calls a function of a system.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::body::read_json;
use crate::error::ApiError;
use crate::headers::time_limit;
use crate::service::Service;
use crate::systems::{Call, Function, System, Via};

/// The time that a call may take, unless the request says otherwise.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// The parameters in the URL.
#[derive(Debug, Deserialize)]
pub struct Parameters {
    #[serde(default)]
    via: WantedVia,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WantedVia {
    #[default]
    Blocking,
    Async,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    args: Vec<Value>,
}

/// The answer.
#[derive(Debug, Serialize)]
pub struct CallResult {
    result: Value,
    system: &'static str,
    via: WantedVia,
    seconds: f64,
    worker: String,
    stand_in: Option<&'static str>,
}

/// Calls a function. If the client goes meanwhile, this future is dropped, and the call is cancelled on the server.
pub async fn call(
    State(service): State<Arc<Service>>,
    path: Result<Path<(String, String)>, PathRejection>,
    parameters: Result<Query<Parameters>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<CallResult>, ApiError> {
    let Path((system, name)) =
        path.map_err(|error| ApiError::not_found("unknown_system", error.body_text()))?;
    let (system, function) = find(&service, &system, &name)?;
    let Query(Parameters { via }) = parameters.map_err(|error| ApiError::bad_arguments(error.body_text()))?;
    let limit = time_limit(&headers, TIME_LIMIT)?;
    let Arguments { args } = read_json(body, service.body_pause).await?;
    function.check(&args).map_err(ApiError::bad_arguments)?;
    service.check_open()?;

    let began = Instant::now();
    let call = Call { function, arguments: args, message: None };
    let connector = match via {
        WantedVia::Blocking => Via::Blocking,
        WantedVia::Async => Via::Async,
    };
    let answer = system.call(&service.places, connector, call, limit).await;
    let answer = answer.map_err(|failure| ApiError::of(failure, system.name()))?;
    Ok(Json(CallResult {
        result: answer.result,
        system: system.name(),
        via,
        seconds: began.elapsed().as_secs_f64(),
        worker: answer.worker,
        stand_in: system.stand_in(),
    }))
}

/// Returns the system and its function of these names.
pub fn find<'a>(service: &'a Service, system: &str, name: &str) -> Result<(&'a System, Function), ApiError> {
    let system = service.systems.named(system).ok_or_else(|| {
        let known: Vec<_> = service.systems.all().iter().map(System::name).collect();
        let message = format!("there is no system `{system}`: use one of {}", known.join(", "));
        ApiError::not_found("unknown_system", message)
    })?;
    let function = Function::named(name).ok_or_else(|| {
        let known = Function::ALL.map(Function::name).join(", ");
        let message = format!("there is no function `{name}`: use one of {known}");
        ApiError::not_found("unknown_function", message)
    })?;
    Ok((system, function))
}
