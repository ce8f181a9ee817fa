//! Promises of the live view as a router of axum: it is below the path where the program wants it, and beside its routes.

#![cfg(all(feature = "axum", target_os = "linux"))]
#![allow(missing_docs, reason = "a test crate has no users")]

#[path = "observe_support/mod.rs"]
mod support;

use std::future::IntoFuture as _;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;

use axum::Router;
use axum::routing::get as route;
use offloop::observe::{Handler, HandlerBuilder, Service, router};
use support::{ask, connect, eventually, raw};

/// A service with the view below `/offloop`, on threads of its own until the end of the test.
struct App {
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl App {
    fn serve(handler: HandlerBuilder, knows_peers: bool) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let app = Router::new()
            .route("/", route(|| async { "the program's own" }))
            .nest_service("/offloop", router(handler.build()));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        if knows_peers {
            let service = app.into_make_service_with_connect_info::<SocketAddr>();
            runtime.spawn(axum::serve(listener, service).into_future());
        } else {
            runtime.spawn(axum::serve(listener, app).into_future());
        }
        Self { address, _runtime: runtime }
    }

    /// Asks, and ends the connection, which axum would keep.
    fn get(&self, target: &str) -> support::Answer {
        ask(self.address, "GET", target, &["Connection: close"])
    }
}

#[test]
fn the_view_is_below_its_path_and_the_programs_routes_beside_it() {
    let app = App::serve(Handler::builder(), true);
    assert_eq!(app.get("/").body, "the program's own");
    let page = app.get("/offloop/");
    assert!(page.status == 200 && page.body.contains("<title>"), "{page:?}");
    let moved = app.get("/offloop?token=a");
    assert_eq!((moved.status, moved.header("location")), (308, Some("offloop/?token=a")));
    let service: Service = serde_json::from_str(&app.get("/offloop/service").body).unwrap();
    assert_eq!(service.processes[0].process.pid, std::process::id());
    assert_eq!(app.get("/offloop/nowhere").status, 404);
    assert_eq!(app.get("/nowhere").body, "", "that is the program's answer");
    let cancel = ask(app.address, "POST", "/offloop/jobs/1/1/cancel", &["Connection: close"]);
    assert_eq!(cancel.status, 403);
}

#[test]
fn events_come_until_the_client_goes() {
    let app = App::serve(Handler::builder(), true);
    let mut stream = connect(app.address);
    write!(stream, "GET /offloop/events?every=0.2 HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let lines = BufReader::new(stream).lines().map(Result::unwrap);
    let data = lines.filter_map(|line| line.strip_prefix("data: ").map(str::to_owned));
    for event in data.take(3) {
        let service: Service = serde_json::from_str(&event).unwrap();
        assert_eq!(service.processes[0].process.pid, std::process::id());
    }
    eventually("the program still answers", || app.get("/offloop/snapshot").status == 200);
}

#[test]
fn those_who_may_not_look_see_nothing_also_if_the_peer_is_not_known() {
    let known = App::serve(Handler::builder(), true);
    let rebound = "GET /offloop/service HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert_eq!(raw(known.address, rebound).status, 403);
    let unknown = App::serve(Handler::builder(), false);
    assert_eq!(unknown.get("/offloop/service").status, 403);
    let with_token = App::serve(Handler::builder().token("s3cret"), false);
    assert_eq!(with_token.get("/offloop/service").status, 401);
    assert_eq!(with_token.get("/offloop/service?token=s3cret").status, 200);
    assert_eq!(with_token.get("/offloop/nowhere").status, 401);
}
