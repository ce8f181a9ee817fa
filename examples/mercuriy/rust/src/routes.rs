//! The routes.

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode};
use axum::middleware;
use axum::response::{Html, IntoResponse};
use axum::routing::{get, post};
use axum::{Router, http::Uri};
use offloop::observe::{self, Handler};

use crate::error::ApiError;
use crate::service::Service;
use crate::{documents, files, functions, messages, request, status};

const PAGE: &str = include_str!("../../page/index.html");
const OPENAPI: &str = include_str!("../../openapi.json");

/// Returns the routes of a service.
pub fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/", get(Html(PAGE)))
        .route("/openapi.json", get(([(CONTENT_TYPE, "application/json")], OPENAPI)))
        .route("/documents", post(documents::walk))
        .route("/functions/{system}/{name}", post(functions::call))
        .route("/files/{name}", get(files::read))
        .route("/messages", post(messages::send).get(messages::count))
        .route("/messages/{id}", get(messages::read))
        .route("/health", get(status::health))
        .route("/metrics", get(status::metrics))
        .route("/status", get(status::status))
        .route("/mode", post(status::set_mode))
        .fallback(no_such_route)
        .method_not_allowed_fallback(method_not_allowed)
        // Each handler limits its body itself.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(Arc::clone(&service), request::serve))
        .with_state(service)
        // The live view is for operators: it is not in the audit log, and only this machine may look.
        .nest_service(
            "/offloop",
            observe::router(Handler::builder().service("mercuriy").allow_cancel(true).build()),
        )
}

async fn no_such_route(uri: Uri) -> impl IntoResponse {
    let message = format!("there is no route {}: see /openapi.json", uri.path());
    ApiError::not_found("no_such_route", message)
}

async fn method_not_allowed(method: Method, uri: Uri) -> impl IntoResponse {
    let message = format!("{} does not take {method}: see /openapi.json", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}
