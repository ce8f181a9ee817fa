//! Requests to a program, over its socket or over TCP.
//!
//! Each request has a connection of its own: both ends are mostly on one machine, where that costs little, and no state
//! has to be kept right when a program is restarted. Every step has a time limit, and every body a limit in size.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::text;

/// The time that a program has to answer.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);
/// The time that a program has to accept a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// The largest document that is read.
const MOST: usize = 16 << 20;

/// The place at which a program answers.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    address: Address,
    token: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Unix(PathBuf),
    /// The host and port, and the path below which the routes are. It begins and ends with a slash.
    Tcp {
        authority: String,
        prefix: String,
    },
}

/// A request that was not answered as hoped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RequestError {
    /// Nobody listens there.
    NobodyListens,
    /// There is no answer in time.
    TooSlow,
    /// The program has answered with this status, and said why.
    Refused(StatusCode, String),
    /// The connection failed, or the answer makes no sense.
    Broken(String),
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NobodyListens => f.write_str("nobody listens there (any more)"),
            Self::TooSlow => f.write_str("no answer in time: it may be stopped, or its machine too busy"),
            Self::Refused(StatusCode::UNAUTHORIZED, reason) => {
                write!(f, "it asks for a token, see --token-file: {reason}")
            }
            Self::Refused(status, reason) if reason.is_empty() => {
                write!(f, "it answered with status {status}")
            }
            Self::Refused(_, reason) | Self::Broken(reason) => f.write_str(reason),
        }
    }
}

impl From<io::Error> for RequestError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Self::NobodyListens,
            _ => Self::Broken(error.to_string()),
        }
    }
}

impl From<hyper::Error> for RequestError {
    fn from(error: hyper::Error) -> Self {
        Self::Broken(format!("the connection failed: {error}"))
    }
}

impl From<serde_json::Error> for RequestError {
    fn from(error: serde_json::Error) -> Self {
        let error = text::clean(&error.to_string(), 200);
        Self::Broken(format!("the answer is no document of offloop: {error}"))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Unix(path) => f.write_str(&text::clean(&path.display().to_string(), 1000)),
            Address::Tcp { authority, prefix } => write!(f, "http://{authority}{prefix}"),
        }
    }
}

/// Leaves out the token.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

impl Endpoint {
    pub(crate) fn unix(path: PathBuf, token: Option<String>) -> Self {
        Self { address: Address::Unix(path), token }
    }

    /// Reads an address such as `http://127.0.0.1:8811/offloop/?token=abc`, or `127.0.0.1:8811`. A token in it has
    /// precedence over the one given. Fails with a sentence.
    pub(crate) fn parse(address: &str, token: Option<String>) -> Result<Self, String> {
        let whole = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let uri: Uri = whole
            .parse()
            .map_err(|error| format!("`{}` is no address: {error}", text::clean(address, 200)))?;
        if uri.scheme_str() != Some("http") {
            return Err(
                "only http:// can be read. If the program is on another machine, reach it through a tunnel: \
                        ssh -L 8811:127.0.0.1:8811 MACHINE"
                    .to_owned(),
            );
        }
        let Some(authority) = uri.authority() else { return Err(format!("`{whole}` names no host")) };
        let authority = match authority.port_u16() {
            Some(_) => authority.to_string(),
            None => format!("{}:80", authority.host()),
        };
        let mut prefix = uri.path().to_owned();
        if !prefix.ends_with('/') {
            prefix.push('/');
        }
        let own = uri.query().and_then(|query| query_value(query, "token"));
        Ok(Self { address: Address::Tcp { authority, prefix }, token: own.or(token) })
    }

    /// Returns the socket's path, or `None` for an address.
    pub(crate) fn path(&self) -> Option<&Path> {
        match &self.address {
            Address::Unix(path) => Some(path),
            Address::Tcp { .. } => None,
        }
    }

    /// Asks for a document, at a route such as `service`.
    pub(crate) async fn get<T: DeserializeOwned>(&self, route: &str) -> Result<T, RequestError> {
        self.ask(Method::GET, route, ANSWER).await
    }

    /// Asks for a document with this time limit.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        route: &str,
        limit: Duration,
    ) -> Result<T, RequestError> {
        let body = timeout(limit, self.body(method, route)).await.map_err(|_| RequestError::TooSlow)??;
        // The parser limits the depth.
        serde_json::from_slice(&body).map_err(RequestError::from)
    }

    async fn body(&self, method: Method, route: &str) -> Result<Bytes, RequestError> {
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = method;
        let response = self.send(request, route).await?;
        let (status, body) = (response.status(), response.into_body());
        let body = Limited::new(body, MOST).collect().await.map_err(|error| {
            match error.downcast::<hyper::Error>() {
                Ok(error) => RequestError::from(*error),
                Err(_) => {
                    RequestError::Broken(format!("the answer is larger than {}", text::bytes(MOST as u64)))
                }
            }
        })?;
        let body = body.to_bytes();
        if status.is_success() { Ok(body) } else { Err(RequestError::Refused(status, reason(&body))) }
    }

    /// Sends a request to a route, which may have a query, and returns the head of the response. The body may take as
    /// long as it wants.
    pub(crate) async fn send<B>(
        &self,
        mut request: Request<B>,
        route: &str,
    ) -> Result<Response<Incoming>, RequestError>
    where
        B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        let (host, prefix) = match &self.address {
            Address::Unix(_) => ("localhost", "/"),
            Address::Tcp { authority, prefix } => (authority.as_str(), prefix.as_str()),
        };
        let broken = || RequestError::Broken("the request cannot be written".to_owned());
        *request.uri_mut() = format!("{prefix}{route}").parse().map_err(|_| broken())?;
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_str(host).map_err(|_| broken())?);
        headers.insert("x-offloop", HeaderValue::from_static("1"));
        if let Some(token) = &self.token {
            let value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| broken())?;
            headers.insert(AUTHORIZATION, value);
        }
        match &self.address {
            Address::Unix(path) => exchange(connected(UnixStream::connect(path)).await?, request).await,
            Address::Tcp { authority, .. } => {
                exchange(connected(TcpStream::connect(authority)).await?, request).await
            }
        }
    }
}

async fn connected<S>(connecting: impl Future<Output = io::Result<S>>) -> Result<S, RequestError> {
    Ok(timeout(CONNECT, connecting).await.map_err(|_| RequestError::TooSlow)??)
}

async fn exchange<S, B>(stream: S, request: Request<B>) -> Result<Response<Incoming>, RequestError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(256 << 10).handshake(TokioIo::new(stream)).await?;
    // It ends when the response's body is read or dropped. Its error reaches the request as well.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let response = timeout(ANSWER, sender.send_request(request)).await;
    Ok(response.map_err(|_| RequestError::TooSlow)??)
}

/// Returns the sentence of an answer such as `{"error": "..."}`.
fn reason(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Refusal {
        error: String,
    }
    serde_json::from_slice(body).map(|refusal: Refusal| text::clean(&refusal.error, 500)).unwrap_or_default()
}

/// Returns the value of a name in a query. Characters that are escaped are left as they are: no token has any.
pub(crate) fn query_value(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_in_its_short_form_too() {
        let shown = |address| Endpoint::parse(address, None).unwrap().to_string();
        assert_eq!(shown("127.0.0.1:8811"), "http://127.0.0.1:8811/");
        assert_eq!(shown("http://127.0.0.1:8811"), "http://127.0.0.1:8811/");
        assert_eq!(shown("http://[::1]:8811/offloop"), "http://[::1]:8811/offloop/");
        assert_eq!(shown("http://example"), "http://example:80/");
        assert!(Endpoint::parse("https://example", None).unwrap_err().contains("ssh -L"));
        assert!(Endpoint::parse("http://", None).is_err());
        assert!(Endpoint::parse("http://a b", None).is_err());
    }

    #[test]
    fn the_token_of_an_address_is_used_and_never_shown() {
        let endpoint = Endpoint::parse("http://h:1/x/?a=b&token=secret", Some("other".into())).unwrap();
        assert_eq!(endpoint.token.as_deref(), Some("secret"));
        assert!(!format!("{endpoint} {endpoint:?}").contains("secret"));
    }

    #[test]
    fn the_reason_of_a_refusal_is_shown() {
        assert_eq!(
            reason(br#"{"error": "start it with \u001b allow_cancel"}"#),
            "start it with  allow_cancel"
        );
        assert_eq!(reason(b"<html>"), "");
    }
}
