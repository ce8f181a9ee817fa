//! The page in a browser: a server on loopback that passes requests on to the sockets of programs.
//!
//! Everybody on the machine can connect to it, so it asks for a token, which is part of the address that it prints. The
//! token of a program is added here and does not reach the browser.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use offloop::observe::{Handler, Peer, Reply, Request as PageRequest};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::http::{Endpoint, RequestError, query_value};
use crate::programs::{Lookup, Program};
use crate::{FAILED, Failure, USAGE, text};

/// The most connections at once. More wait to be accepted.
const CONNECTIONS: usize = 256;
/// The time in which a request has to arrive.
const HEAD: Duration = Duration::from_secs(10);

type Body = BoxBody<Bytes, hyper::Error>;

/// A program of the page.
struct Mounted {
    /// The name below which it is served.
    name: String,
    service: String,
    /// Its present place. It changes when the program is restarted.
    endpoint: Mutex<Endpoint>,
}

struct Site {
    lookup: Lookup,
    programs: Vec<Mounted>,
    token: String,
    port: u16,
    is_loopback: bool,
}

/// Serves the page for the programs that the lookup finds, until a signal ends the process.
pub(crate) fn serve(lookup: &Lookup, address: &str) -> Result<(), Failure> {
    let addresses = addresses(address)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let found = lookup.find().await;
        if found.programs.is_empty() {
            return Err(lookup.nothing(&found));
        }
        for warning in &found.warnings {
            eprintln!("offloop: {warning}");
        }
        let listener = TcpListener::bind(&addresses[..]).await.map_err(|error| {
            Failure::new(
                FAILED,
                format!("{address} cannot be listened on: {error}. Choose another: --web 127.0.0.1:0"),
            )
        })?;
        let local = listener.local_addr()?;
        let site = Site {
            lookup: lookup.clone(),
            programs: mount(found.programs),
            token: random_token()?,
            port: local.port(),
            is_loopback: local.ip().is_loopback(),
        };
        crate::print(format!("http://{local}/?token={}\n", site.token).as_bytes())?;
        accept(&listener, Arc::new(site)).await
    })
}

fn addresses(address: &str) -> Result<Vec<SocketAddr>, Failure> {
    if let Ok(ip) = address.parse::<IpAddr>() {
        return Ok(vec![(ip, 0).into()]);
    }
    let whole = if address.contains(':') { address.to_owned() } else { format!("{address}:0") };
    let found: Vec<_> = whole.to_socket_addrs().into_iter().flatten().collect();
    if found.is_empty() {
        let message = format!("`{}` is no address: an example is 127.0.0.1:8812", text::clean(address, 200));
        return Err(Failure::new(USAGE, message));
    }
    Ok(found)
}

/// Gives each program a name that can stand in an address.
fn mount(programs: Vec<Program>) -> Vec<Mounted> {
    let mut mounted: Vec<Mounted> = Vec::new();
    for program in programs {
        let allowed = |character: char| character.is_ascii_alphanumeric() || "-_".contains(character);
        let plain: String =
            program.service.chars().map(|it| if allowed(it) { it } else { '-' }).take(60).collect();
        let is_free = |name: &str| !name.is_empty() && mounted.iter().all(|other| other.name != name);
        let name = if is_free(&plain) { plain } else { format!("{plain}-{}", mounted.len() + 1) };
        mounted.push(Mounted { name, service: program.service, endpoint: Mutex::new(program.endpoint) });
    }
    mounted
}

/// Returns 128 bits that nobody can guess, in letters and digits.
fn random_token() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

async fn accept(listener: &TcpListener, site: Arc<Site>) -> Result<(), Failure> {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return Ok(()) };
        match listener.accept().await {
            Ok((stream, _)) => {
                let site = site.clone();
                tokio::spawn(async move {
                    serve_connection(stream, site).await;
                    drop(permit);
                });
            }
            // There are too many open files, or the client has gone: others are served when some are closed.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn serve_connection(stream: TcpStream, site: Arc<Site>) {
    let answer = service_fn(move |request| {
        let site = site.clone();
        async move { Ok::<_, Infallible>(site.answer(request).await) }
    });
    // An error means that the client has gone, or does not speak HTTP.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

impl Site {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        if let Some(refusal) = self.refusal(&request) {
            return refusal;
        }
        let path = request.uri().path();
        let (first, rest) =
            path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
        if first.is_empty() {
            return self.front();
        }
        let Some(program) = self.programs.iter().find(|program| program.name == first) else {
            return refuse(StatusCode::NOT_FOUND, "there is no such program here: open the front page again");
        };
        if !path[1..].contains('/') {
            return self.redirect(&format!("{first}/"));
        }
        if rest.is_empty() && request.method() == Method::GET {
            return page();
        }
        let rest = rest.to_owned();
        self.pass_on(program, &rest, request).await
    }

    /// Returns the answer to requests without the token, and to those that a page of another site makes.
    fn refusal(&self, request: &Request<Incoming>) -> Option<Response<Body>> {
        let header = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        if self.is_loopback && !header(header::HOST).is_some_and(|host| is_loopback_name(host, self.port)) {
            return Some(refuse(
                StatusCode::FORBIDDEN,
                "open the address that `offloop top --web` has printed",
            ));
        }
        let of_header = header(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        let of_query = request.uri().query().and_then(|query| query_value(query, "token"));
        let token = of_header.map(str::to_owned).or(of_query).unwrap_or_default();
        if !is_equal(token.as_bytes(), self.token.as_bytes()) {
            let message =
                "the token is missing or wrong: open the address that `offloop top --web` has printed";
            return Some(refuse(StatusCode::UNAUTHORIZED, message));
        }
        let is_own = header(header::HeaderName::from_static("x-offloop")) == Some("1");
        (request.method() != Method::GET && !is_own)
            .then(|| refuse(StatusCode::FORBIDDEN, "the header `X-Offloop: 1` is missing"))
    }

    /// Lists the programs, or goes to the only one.
    fn front(&self) -> Response<Body> {
        if let [only] = &self.programs[..] {
            return self.redirect(&format!("{}/", only.name));
        }
        let mut items = String::new();
        for Mounted { name, service, .. } in &self.programs {
            let shown = escape(if service.is_empty() { name } else { service });
            let _ = writeln!(items, "<li><a href=\"{name}/?token={}\">{shown}</a></li>", self.token);
        }
        let page = format!(
            "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"color-scheme\" content=\"light dark\">\
             <meta name=\"viewport\" content=\"width=device-width\"><title>offloop</title>\n<h1>Programs</h1>\n<ul>\n{items}</ul>\n"
        );
        let mut response = Response::new(full(page));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'"));
        protect(headers);
        response
    }

    fn redirect(&self, to: &str) -> Response<Body> {
        let mut response = Response::new(full(String::new()));
        *response.status_mut() = StatusCode::FOUND;
        if let Ok(place) = HeaderValue::from_str(&format!("/{to}?token={}", self.token)) {
            response.headers_mut().insert(header::LOCATION, place);
        }
        protect(response.headers_mut());
        response
    }

    /// Sends a request to its program, and streams the answer back.
    async fn pass_on(&self, program: &Mounted, route: &str, request: Request<Incoming>) -> Response<Body> {
        let query: Vec<_> = request
            .uri()
            .query()
            .unwrap_or("")
            .split('&')
            .filter(|pair| !pair.is_empty() && !pair.starts_with("token="))
            .collect();
        let route = if query.is_empty() { route.to_owned() } else { format!("{route}?{}", query.join("&")) };
        let method = request.method().clone();
        let send = async |endpoint: &Endpoint| {
            // No route of a program reads a body.
            let mut request = Request::new(Empty::<Bytes>::new());
            *request.method_mut() = method.clone();
            endpoint.send(request, &route).await
        };
        let endpoint = program.endpoint.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut result = send(&endpoint).await;
        if matches!(result, Err(RequestError::NobodyListens))
            && endpoint.path().is_some()
            && let Some(found) = self.lookup.find_again(&program.service).await
        {
            program.endpoint.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&found);
            result = send(&found).await;
        }
        match result {
            Ok(response) => {
                let (mut parts, body) = response.into_parts();
                let kept = [header::CONTENT_TYPE, header::CACHE_CONTROL];
                let headers = kept
                    .into_iter()
                    .filter_map(|name| Some((name.clone(), parts.headers.get(name)?.clone())));
                parts.headers = headers.collect();
                protect(&mut parts.headers);
                Response::from_parts(parts, body.boxed())
            }
            Err(error) => refuse(StatusCode::BAD_GATEWAY, &format!("{}: {error}", program.service)),
        }
    }
}

/// Returns the page. It is that of this program, whatever version the programs have.
fn page() -> Response<Body> {
    let request = PageRequest { method: "GET", path: "/", query: "", headers: &[], peer: Peer::Socket };
    let Reply::Response(page) = Handler::builder().build().handle(&request) else {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "there is no page");
    };
    let mut response = Response::new(full(page.body));
    for (name, value) in page.headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    protect(response.headers_mut());
    response
}

fn protect(headers: &mut HeaderMap) {
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // The token is part of the address.
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

fn refuse(status: StatusCode, message: &str) -> Response<Body> {
    let mut response = Response::new(full(serde_json::json!({ "error": message }).to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    protect(response.headers_mut());
    response
}

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

/// Returns whether a `Host` header names this machine. Another name may be one that its owner lets point here.
fn is_loopback_name(host: &str, port: u16) -> bool {
    let name = host.strip_suffix(&format!(":{port}")).unwrap_or(host);
    name == "localhost" || name.trim_matches(['[', ']']).parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// Compares without telling by the time how much is equal.
fn is_equal(one: &[u8], two: &[u8]) -> bool {
    one.len() == two.len()
        && one.iter().zip(two).fold(0, |different, (one, two)| different | (one ^ two)) == 0
}

fn escape(text: &str) -> String {
    text.chars().fold(String::new(), |mut escaped, character| {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            _ => escaped.push(character),
        }
        escaped
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_name_for_this_machine_is_refused() {
        for good in ["127.0.0.1:8812", "localhost:8812", "[::1]:8812", "localhost"] {
            assert!(is_loopback_name(good, 8812), "{good}");
        }
        for bad in ["evil.example:8812", "127.0.0.1.evil.example", "localhost:1", ""] {
            assert!(!is_loopback_name(bad, 8812), "{bad}");
        }
    }

    #[test]
    fn tokens_differ_and_are_compared_whole() {
        let token = random_token().unwrap();
        assert_eq!(token.len(), 32);
        assert_ne!(token, random_token().unwrap());
        assert!(is_equal(token.as_bytes(), token.as_bytes()));
        assert!(!is_equal(&token.as_bytes()[..31], token.as_bytes()));
        assert!(!is_equal(b"", token.as_bytes()));
    }

    #[test]
    fn an_address_may_lack_its_port() {
        assert_eq!(addresses("127.0.0.1").unwrap()[0].to_string(), "127.0.0.1:0");
        assert_eq!(addresses("::1").unwrap()[0].to_string(), "[::1]:0");
        assert_eq!(addresses("nonsense address").unwrap_err().code, USAGE);
    }
}
