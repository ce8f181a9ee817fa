//! The routes of the view, whatever carries them.

use std::time::Duration;

use super::document::{Service, VERSION};
use super::message::{Action, Request, Response};
use super::{access, exposition, settings, siblings, snapshot, stack};
use crate::metrics;

/// The page, one file.
const PAGE: &str = include_str!("page.html");

/// The interval of events, in seconds: by default, at least and at most.
const INTERVAL: (f64, f64, f64) = (1.0, 0.2, 60.0);

/// Answers requests for the view. For a program that has a server of its own; [`Server`](super::Server) is one, and so is
/// the router of the feature `axum`.
///
/// The routes are those below the place where it is mounted:
///
/// | request | answer |
/// | --- | --- |
/// | `GET` of the place itself | the page |
/// | `GET snapshot` | [`Snapshot`](super::document::Snapshot) of this process |
/// | `GET service` | [`Service`]: this process, and those of the same service and user on this machine |
/// | `GET events?every=SECONDS` | the same as server-sent events |
/// | `GET jobs/PID/JOB/stack` | [`Stack`](super::document::Stack) of a job that runs |
/// | `POST jobs/PID/JOB/cancel` | cancels it, if the program allows that |
/// | `GET metrics` | the text format of Prometheus |
///
/// Errors are JSON: `{"error": "…"}`, a sentence that says what to do.
#[derive(Debug, Clone, Default)]
pub struct Handler {
    token: Option<String>,
    allow_cancel: bool,
}

/// Sets up a [`Handler`].
#[derive(Debug, Clone, Default)]
#[must_use = "a builder does nothing until `build`"]
pub struct HandlerBuilder {
    handler: Handler,
    service: Option<String>,
}

impl HandlerBuilder {
    /// Names the service of this process, for all its handlers and servers. Default: `OFFLOOP_SERVICE`, else the name of
    /// the program.
    pub fn service(mut self, name: impl Into<String>) -> Self {
        self.service = Some(name.into());
        self
    }

    /// Sets the token that requests must have. Default: none, and then only this machine may look.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.handler.token = Some(token.into());
        self
    }

    /// Sets whether jobs can be cancelled from the view. Default false.
    pub fn allow_cancel(mut self, allow: bool) -> Self {
        self.handler.allow_cancel = allow;
        self
    }

    /// Makes the handler.
    pub fn build(self) -> Handler {
        if let Some(service) = self.service {
            settings::set_service(service);
        }
        self.handler
    }
}

/// An answer.
#[derive(Debug)]
#[must_use]
#[non_exhaustive]
pub enum Reply {
    /// A whole response.
    Response(Response),
    /// Events, one after the other until the client goes away.
    Events(EventStream),
}

/// Server-sent events: the state of the service, again and again.
///
/// Those who have a server send the headers with the status 200, then [`event`](Self::event) after each
/// [`interval`](Self::interval), until the client goes away.
#[derive(Debug, Clone)]
#[must_use]
pub struct EventStream {
    handler: Handler,
    interval: Duration,
    has_begun: bool,
}

impl EventStream {
    /// Returns the headers of the response.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        // A proxy that would collect the events is told not to.
        Response::new(200, "text/event-stream", "").with("X-Accel-Buffering", "no").headers
    }

    /// Returns the time between two events.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Makes the next event, as it is to be sent. Blocks for half a second at most, for processes that do not answer.
    pub fn event(&mut self) -> Vec<u8> {
        // The client comes back two seconds after it has lost the connection.
        let prefix = if std::mem::replace(&mut self.has_begun, true) { "" } else { "retry: 2000\n" };
        format!("{prefix}event: service\ndata: {}\n\n", self.handler.service().to_json()).into_bytes()
    }
}

impl Handler {
    /// Returns a builder. By default there is no token, and nothing can be cancelled.
    pub fn builder() -> HandlerBuilder {
        HandlerBuilder::default()
    }

    /// Answers a request. Blocks for half a second at most for processes that do not answer, and for ten seconds at most
    /// for the stack of a job; so it should not be called on an event loop.
    pub fn handle(&self, request: &Request<'_>) -> Reply {
        if let Some(refusal) = access::refusal(request, self.token.as_deref()) {
            return Reply::Response(refusal);
        }
        let parts: Vec<&str> = request.path.trim_start_matches('/').split('/').collect();
        let response = match (parts.as_slice(), request.method) {
            ([""], "GET") => page(),
            (["snapshot"], "GET") => self.answer_snapshot(request),
            (["service"], "GET") => Response::json(200, &self.service()),
            (["events"], "GET") => {
                return Reply::Events(EventStream {
                    handler: self.clone(),
                    interval: interval(request),
                    has_begun: false,
                });
            }
            (["metrics"], "GET") => {
                Response::new(200, "text/plain; version=0.0.4; charset=utf-8", exposition::text())
            }
            (["jobs", pid, job, "stack"], "GET") => Self::on_job(pid, job, Action::Stack),
            (["jobs", pid, job, "cancel"], "POST") => self.cancel(request, pid, job),
            (["" | "snapshot" | "service" | "events" | "metrics"] | ["jobs", _, _, "stack"], _) => {
                Response::error(405, "this can only be read: ask for it by GET").with("Allow", "GET")
            }
            (["jobs", _, _, "cancel"], _) => {
                Response::error(405, "this changes something: ask for it by POST").with("Allow", "POST")
            }
            _ => Response::error(
                404,
                "there is no such page: see snapshot, service, events, metrics, jobs/PID/JOB/stack",
            ),
        };
        Reply::Response(response)
    }

    fn snapshot(&self) -> super::document::Snapshot {
        let mut snapshot = snapshot::snapshot();
        snapshot.process.may_cancel = self.allow_cancel;
        snapshot
    }

    /// Answers another process, which looks for those of its service, with nothing if this is none.
    fn answer_snapshot(&self, request: &Request<'_>) -> Response {
        match request.parameter("service") {
            Some(service) if service != settings::service() => {
                Response::error(404, "this process belongs to another service")
            }
            _ => Response::json(200, &self.snapshot()),
        }
    }

    fn service(&self) -> Service {
        let own = self.snapshot();
        let (mut others, missing) = siblings::snapshots(&own.process.service);
        for other in &mut others {
            // Both have to allow it: this process passes the request on.
            other.process.may_cancel &= self.allow_cancel;
        }
        let processes = std::iter::once(own).chain(others).collect();
        Service { version: VERSION, processes, missing }
    }

    fn cancel(&self, request: &Request<'_>, pid: &str, job: &str) -> Response {
        // A form on a page of another site cannot set a header.
        if request.header("x-offloop").is_none_or(|value| value != b"1") {
            return Response::error(
                403,
                "send the header `X-Offloop: 1`, so that no other site's page can cancel",
            );
        }
        if !self.allow_cancel {
            let text = "the program does not allow jobs to be cancelled from here: start the view with \
                        `allow_cancel`";
            return Response::error(403, text);
        }
        Self::on_job(pid, job, Action::Cancel)
    }

    /// Does something with a job of this process, or has another process of the same service do it.
    fn on_job(pid: &str, job: &str, action: Action) -> Response {
        let (Ok(process), Ok(number)) = (pid.parse::<u32>(), job.parse::<u64>()) else {
            return Response::error(404, "name a job as jobs/PID/JOB, with two numbers of the snapshot");
        };
        if process != std::process::id() {
            return siblings::pass_on(process, number, action);
        }
        match action {
            Action::Stack => match stack::of_job(number) {
                Some(stack) => Response::json(200, &stack),
                None => not_running(),
            },
            Action::Cancel => {
                let mut is_cancelled = false;
                metrics::for_each(|_, _, pool| is_cancelled = is_cancelled || pool.cancel_running(number));
                if is_cancelled {
                    Response::json(202, &serde_json::json!({ "cancelled": true }))
                } else {
                    not_running()
                }
            }
        }
    }
}

fn not_running() -> Response {
    Response::error(404, "the job does not run, or does not run any more: look at a new snapshot")
}

fn interval(request: &Request<'_>) -> Duration {
    let (default, least, most) = INTERVAL;
    let wanted = request.parameter("every").and_then(|every| every.parse::<f64>().ok());
    Duration::from_secs_f64(wanted.filter(|every| every.is_finite()).unwrap_or(default).clamp(least, most))
}

/// Returns the page.
fn page() -> Response {
    Response::new(200, "text/html; charset=utf-8", PAGE)
        // What the page cannot say itself: no other site may show it in a frame.
        .with("Content-Security-Policy", format!("{}; frame-ancestors 'self'", policy()))
        .with("X-Frame-Options", "SAMEORIGIN")
}

/// Returns the policy that the page names for itself, with the hashes of its script and its style: what finds its way into
/// the page from elsewhere does not run. Without one, nothing runs at all.
fn policy() -> &'static str {
    let named = PAGE.split_once("http-equiv=\"Content-Security-Policy\"");
    let content = named.and_then(|(_, rest)| rest.split_once("content=\"")?.1.split_once('"'));
    content.map_or("default-src 'none'", |(policy, _)| policy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::message::Peer;

    #[test]
    fn the_page_runs_its_own_script_and_nothing_else() {
        let policy = policy();
        for directive in ["default-src 'none'", "script-src 'sha256-", "connect-src 'self'"] {
            assert!(policy.contains(directive), "{directive}: {policy}");
        }
        assert!(!policy.contains("script-src 'unsafe-inline'") && !policy.contains('\n'), "{policy}");
    }

    #[test]
    fn no_interval_is_too_short_or_too_long() {
        for (query, expected) in
            [("", 1.0), ("every=0", 0.2), ("every=-1", 0.2), ("every=1e9", 60.0), ("every=nan", 1.0)]
        {
            let request = Request { method: "GET", path: "", query, headers: &[], peer: Peer::Socket };
            assert_eq!(interval(&request), Duration::from_secs_f64(expected), "{query}");
        }
    }
}
