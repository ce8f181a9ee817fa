//! The answer as it goes: server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tracing::Span;
use tracing::instrument::Instrument;

use super::answer::DocumentResult;
use super::walking::Walking;
use crate::mode::Mode;
use crate::service::Service;

/// The events of a walk: reports, and at last its result or an error. If the client goes, the server drops this, and with
/// it the walk.
pub(super) struct Events {
    service: Arc<Service>,
    /// `None` once the last event was given.
    walking: Option<Walking>,
    mode: Mode,
    began: Instant,
    request: String,
    span: Span,
    _permit: OwnedSemaphorePermit,
}

impl Events {
    pub(super) fn new(
        service: Arc<Service>,
        walking: Walking,
        permit: OwnedSemaphorePermit,
        mode: Mode,
        began: Instant,
        request: String,
    ) -> Self {
        let span = Span::current();
        Self { service, walking: Some(walking), mode, began, request, span, _permit: permit }
    }

    async fn next(&mut self) -> Option<Event> {
        let progress = self.walking.as_mut()?.next_report().await;
        if let Some(progress) = progress {
            return Some(event("progress", &progress));
        }
        // While the result is awaited, a drop of these events is the client's.
        let result = match &mut self.walking {
            Some(walking) => walking.result().await,
            None => return None,
        };
        self.walking = None;
        Some(match result {
            Ok(counts) => event("result", &DocumentResult::new(counts, self.began.elapsed(), self.mode)),
            Err(error) => event("error", &error.to_json(&self.request)),
        })
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if self.walking.is_some() {
            self.service.metrics.count_client_gone();
        }
    }
}

impl IntoResponse for Events {
    fn into_response(self) -> Response {
        let events = stream::unfold(self, |mut events| async move {
            let span = events.span.clone();
            let event = events.next().instrument(span).await?;
            Some((Ok::<_, Infallible>(event), events))
        });
        Sse::new(events).into_response()
    }
}

fn event(name: &str, data: &impl Serialize) -> Event {
    let event = Event::default().event(name);
    // What is serialised here has text keys and no foreign code, so it cannot fail.
    event.json_data(data).unwrap_or_default()
}
