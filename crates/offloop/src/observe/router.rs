//! The view as a router of axum.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{ConnectInfo, OriginalUri, Request};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_core::Stream;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Sleep, sleep};

use super::handler::{EventStream, Handler, Reply};
use super::message::{self, Peer};

/// Returns a router with the view. To be nested as a service where the program wants it: so it also gets the path with
/// nothing below, which is the page.
///
/// ```no_run
/// use std::net::SocketAddr;
///
/// use axum::Router;
/// use offloop::observe::{self, Handler};
///
/// # async fn serve(routes: Router) -> std::io::Result<()> {
/// let app = routes.nest_service("/offloop", observe::router(Handler::builder().token("s3cret").build()));
/// let listener = tokio::net::TcpListener::bind("0.0.0.0:8000").await?;
/// axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await
/// # }
/// ```
///
/// Without a token the address of the client must be known, which takes `into_make_service_with_connect_info`, and only
/// this machine may look. Requests are answered on tokio's blocking threads, and events need tokio's timers.
pub fn router(handler: Handler) -> axum::Router {
    axum::Router::new().fallback(move |request: Request| answer(handler.clone(), request))
}

async fn answer(handler: Handler, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let original = parts.extensions.get::<OriginalUri>().map_or(parts.uri.path(), |uri| uri.path());
    if parts.uri.path() == "/" && !original.ends_with('/') {
        // The page refers to its own routes, which are below it.
        let last = original.rsplit('/').next().unwrap_or_default();
        let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        return moved(&format!("{last}/{query}"));
    }
    let work = move || {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let headers: Vec<(&str, &[u8])> =
            parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        handler.handle(&message::Request {
            method: parts.method.as_str(),
            path: parts.uri.path(),
            query: parts.uri.query().unwrap_or_default(),
            headers: &headers,
            peer: peer.map_or(Peer::Unknown, |ConnectInfo(address)| Peer::Address(address.ip())),
        })
    };
    match spawn_blocking(work).await {
        Ok(Reply::Response(message::Response { status, headers, body })) => {
            respond(status, headers, Body::from(body))
        }
        Ok(Reply::Events(events)) => {
            let headers = events.headers();
            respond(200, headers, Body::from_stream(Events::new(events)))
        }
        // It panicked, which the panic hook has reported, or the runtime ends.
        Err(_) => respond(500, Vec::new(), Body::empty()),
    }
}

fn respond(status: u16, headers: Vec<(&'static str, String)>, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) =
            (header::HeaderName::from_bytes(name.as_bytes()), HeaderValue::try_from(value))
        {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn moved(place: &str) -> Response {
    respond(308, vec![("Location", place.to_owned())], Body::empty())
}

/// The events as the body of a response.
struct Events {
    /// `None` while the next event is made.
    events: Option<EventStream>,
    step: Step,
}

enum Step {
    Make,
    Made(JoinHandle<(EventStream, Vec<u8>)>),
    Sleep(Pin<Box<Sleep>>),
}

impl Events {
    fn new(events: EventStream) -> Self {
        Self { events: Some(events), step: Step::Make }
    }
}

impl Stream for Events {
    type Item = Result<Vec<u8>, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match &mut self.step {
                Step::Make => {
                    let Some(mut events) = self.events.take() else { return Poll::Ready(None) };
                    self.step = Step::Made(spawn_blocking(move || {
                        let event = events.event();
                        (events, event)
                    }));
                }
                Step::Made(task) => {
                    let Poll::Ready(made) = Pin::new(task).poll(cx) else { return Poll::Pending };
                    // If it panicked, the events end.
                    let Ok((events, event)) = made else { return Poll::Ready(None) };
                    self.step = Step::Sleep(Box::pin(sleep(events.interval())));
                    self.events = Some(events);
                    return Poll::Ready(Some(Ok(event)));
                }
                Step::Sleep(time) => {
                    let Poll::Ready(()) = time.as_mut().poll(cx) else { return Poll::Pending };
                    self.step = Step::Make;
                }
            }
        }
    }
}
