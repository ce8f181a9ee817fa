//! Everything that is asked of the server. Nothing else in this crate speaks to it.
//!
//! All methods run on the [network's thread](crate::network), and each request ends within [`Settings::answer`]. Of the
//! client library only the connection is used: the requests to its storage are made here, one message each, so that none is
//! repeated or queued by a layer that does not know the protocol. Whether to ask again is for the machines in
//! [`protocol`](crate::protocol) to decide.

mod blobs;
mod jobs;
mod layout;
mod parties;
mod shares;
mod states;
#[cfg(all(test, target_os = "linux"))]
pub(crate) mod tests;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::client::RequestErrorKind;
use async_nats::{Client, ConnectOptions, Event, HeaderMap, Message as Raw, Request};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::timeout;

pub use blobs::BlobError;
pub(crate) use blobs::{INLINE, NotStored};
pub(crate) use jobs::{JobHeaders, Message, Pull};
pub use layout::LayoutError;
pub(crate) use parties::{Asked, DeadJob, Items, Question, Reply};
pub(crate) use states::{Announcement, Events, StoredBytes};

use crate::connection::{Connection, Credentials};
use crate::names::{Names, STORED_AT};
use crate::protocol::Settings;

/// The interval in which the connection is tested. A half-open one is noticed after three.
const PING: Duration = Duration::from_secs(3);

/// The interval in which the server's clock is read again, since it may be set.
const CLOCK: Duration = Duration::from_secs(60);

/// A way to a cluster that cannot be right.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL cannot be read.
    #[error("the URL of the cluster {url:?} is not valid: {reason}; it should be like nats://host:4222")]
    Url {
        /// The URL, without a password.
        url: String,
        /// The reason.
        reason: String,
    },
    /// The credentials cannot be read.
    #[error("the credentials for the cluster cannot be used: {0}")]
    Credentials(String),
    /// The name of a namespace or of a queue is not allowed.
    #[error("{what} {name:?} is not allowed: use 1 to 64 letters, digits, `_` and `-`")]
    Name {
        /// The kind of thing that has the name.
        what: &'static str,
        /// The name.
        name: String,
    },
}

/// The state of the connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) is_up: bool,
    /// Counts the connections that were made.
    pub(crate) epoch: u64,
    /// The reason why it is not up, as far as it is known.
    pub(crate) reason: String,
}

/// The server's clock, as far as it is known here.
#[derive(Debug, Clone, Copy)]
struct ServerClock {
    /// Nanoseconds since 1970, when the answer was made.
    nanos: u64,
    /// When the answer came, so that the clock is rather late than early.
    at: Instant,
}

/// The access to a cluster's server. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: Client,
    names: Names,
    settings: Settings,
    replicas: u32,
    /// The bytes that the namespace may store, if that was said.
    storage: Option<u64>,
    link: watch::Receiver<Link>,
    clock: Mutex<Option<ServerClock>>,
}

/// An error that the server has answered.
#[derive(Debug, Clone, Deserialize)]
struct ApiError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// An answer of the server, which is one of the two.
#[derive(Deserialize)]
struct Either<T> {
    error: Option<ApiError>,
    #[serde(flatten)]
    answer: Option<T>,
}

/// The reason why a request to the server has no answer that can be used.
#[derive(Debug, Clone)]
enum Failure {
    /// There was no answer in time.
    Silent,
    /// Nobody listens there: the server stores nothing, or has no such stream.
    Nobody,
    /// It would be larger than the server allows.
    TooLarge,
    /// The server has refused it.
    Refused(ApiError),
}

impl Store {
    /// Makes the connection, in the background: it is made, and made again, until this and its clones are dropped.
    pub(crate) async fn connect(connection: &Connection) -> Result<Self, ConnectError> {
        if !crate::names::is_name(&connection.namespace) {
            return Err(ConnectError::Name { what: "the namespace", name: connection.namespace.clone() });
        }
        let (sender, link) =
            watch::channel(Link { reason: "not connected yet".to_owned(), ..Link::default() });
        let mut options = ConnectOptions::new()
            .name(&connection.name)
            .retry_on_initial_connect()
            .ping_interval(PING)
            .connection_timeout(connection.settings.answer * 2)
            .require_tls(connection.tls)
            .reconnect_delay_callback(reconnect_delay)
            .event_callback(move |event| {
                note(&sender, event);
                std::future::ready(())
            });
        for root in &connection.roots {
            options = options.add_root_certificates(root.clone());
        }
        if let Some((certificate, key)) = &connection.certificate {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        let urls: Vec<&str> = connection.url.split(',').map(str::trim).collect();
        let in_url = urls.iter().find_map(|url| credentials_in(url));
        options = match in_url.as_ref().unwrap_or(&connection.credentials) {
            Credentials::None => options,
            Credentials::User { user, password } => options.user_and_password(user.clone(), password.clone()),
            Credentials::Token(token) => options.token(token.clone()),
            Credentials::Nkey(seed) => options.nkey(seed.clone()),
            Credentials::Creds(text) => {
                options.credentials(text).map_err(|error| ConnectError::Credentials(error.to_string()))?
            }
        };
        let client = options
            .connect(&urls[..])
            .await
            .map_err(|error| ConnectError::Url { url: connection.public_url(), reason: error.to_string() })?;
        let store = Self(Arc::new(Inner {
            client,
            names: Names::new(&connection.namespace),
            settings: connection.settings.clone(),
            replicas: connection.replicas,
            storage: connection.storage,
            link,
            clock: Mutex::new(None),
        }));
        tokio::spawn(keep_clock(Arc::downgrade(&store.0)));
        Ok(store)
    }

    /// Returns the state of the connection, which can be waited for.
    pub(crate) fn link(&self) -> watch::Receiver<Link> {
        self.0.link.clone()
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.0.settings
    }

    pub(crate) fn names(&self) -> &Names {
        &self.0.names
    }

    /// Returns the age of what was stored then, by the server's clock; zero if that is not known yet. It is rather too low
    /// than too high.
    fn age(&self, stored_at: u64) -> Duration {
        let clock = *self.0.clock.lock().expect("nothing panics in here");
        clock.map_or(Duration::ZERO, |ServerClock { nanos, at }| {
            (Duration::from_nanos(nanos) + at.elapsed()).saturating_sub(Duration::from_nanos(stored_at))
        })
    }

    /// Makes a request and waits for its answer, within [`Settings::answer`]. While there is no connection nothing is
    /// sent, so that no request is made long after it was given up.
    async fn request(
        &self,
        subject: String,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<Raw, Failure> {
        self.request_within(self.0.settings.answer, subject, headers, payload).await
    }

    async fn request_within(
        &self,
        wait: Duration,
        subject: String,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<Raw, Failure> {
        let request = async {
            if !self.0.link.borrow().is_up {
                let mut link = self.0.link.clone();
                link.wait_for(|link| link.is_up).await.map_err(|_| Failure::Silent)?;
            }
            let mut request = Request::new().payload(payload).timeout(None);
            if let Some(headers) = headers {
                request = request.headers(headers);
            }
            self.0.client.send_request(subject, request).await.map_err(|error| match error.kind() {
                RequestErrorKind::NoResponders => Failure::Nobody,
                RequestErrorKind::MaxPayloadExceeded => Failure::TooLarge,
                _ => Failure::Silent,
            })
        };
        timeout(wait, request).await.unwrap_or(Err(Failure::Silent))
    }

    /// Makes a request to the interface of the server's storage.
    async fn api<T: DeserializeOwned>(
        &self,
        method: &str,
        arguments: &serde_json::Value,
    ) -> Result<T, Failure> {
        self.api_within(self.0.settings.answer, method, arguments).await
    }

    async fn api_within<T: DeserializeOwned>(
        &self,
        wait: Duration,
        method: &str,
        arguments: &serde_json::Value,
    ) -> Result<T, Failure> {
        let payload = if arguments.is_null() { Bytes::new() } else { arguments.to_string().into() };
        read_answer(&self.request_within(wait, format!("$JS.API.{method}"), None, payload).await?)
    }

    /// Sends a message without waiting for anything but room in the connection's queue.
    async fn send(&self, subject: String, payload: Bytes) {
        let send = self.0.client.publish(subject, payload);
        // It may get lost, as it may on its way.
        let _ = timeout(self.0.settings.answer, send).await;
    }
}

/// Returns the name and the password, or the token, in a URL. The client library leaves them out.
fn credentials_in(url: &str) -> Option<Credentials> {
    let (_, rest) = url.split_once("://")?;
    let (login, _) = rest.split('/').next()?.rsplit_once('@')?;
    Some(match login.split_once(':') {
        Some((user, password)) => Credentials::User { user: decoded(user), password: decoded(password) },
        None => Credentials::Token(decoded(login)),
    })
}

/// Decodes the `%` escapes in a part of a URL. One that is none stays as it is.
fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        if let Some(byte) = part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            bytes.push(byte);
            bytes.extend(&part.as_bytes()[2..]);
        } else {
            bytes.push(b'%');
            bytes.extend(part.as_bytes());
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn read_answer<T: DeserializeOwned>(message: &Raw) -> Result<T, Failure> {
    let answer: Either<T> = serde_json::from_slice(&message.payload).map_err(|_| Failure::Silent)?;
    match answer {
        Either { error: Some(error), .. } => Err(Failure::Refused(error)),
        Either { answer: Some(answer), .. } => Ok(answer),
        Either { .. } => Err(Failure::Silent),
    }
}

/// Notes what has happened to the connection.
fn note(link: &watch::Sender<Link>, event: Event) {
    let reason = match event {
        Event::Connected => {
            link.send_modify(|link| {
                *link = Link { is_up: true, epoch: link.epoch + 1, reason: String::new() };
            });
            return;
        }
        Event::Disconnected => "the connection was lost".to_owned(),
        Event::Closed => "the connection was closed".to_owned(),
        Event::ClientError(error) => error.to_string(),
        // The server tells an operation that is not permitted, and keeps the connection.
        Event::ServerError(error) => {
            return link.send_modify(|link| link.reason = format!("the server says: {error}"));
        }
        _ => return,
    };
    link.send_modify(|link| (link.is_up, link.reason) = (false, reason));
}

/// Returns the pause before a connection is tried again: up to 1 s, and not the same for all that have lost theirs.
fn reconnect_delay(attempts: usize) -> Duration {
    let longest = 10_u64 << attempts.clamp(1, 7);
    Duration::from_millis(longest.min(1000)).mul_f64(0.5 + random() / 2.0)
}

/// Returns a random number from 0 to 1.
pub(crate) fn random() -> f64 {
    // Without random bits all wait equally long.
    f64::from(getrandom::u32().unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}

/// Reads the server's clock after each connection and from time to time, while somebody uses the store.
async fn keep_clock(store: std::sync::Weak<Inner>) {
    let mut failures = 0;
    loop {
        let Some(inner) = store.upgrade() else { return };
        let mut link = inner.link.clone();
        let store_now = Store(inner);
        failures = if store_now.read_clock().await { 0 } else { failures + 1 };
        // Thousands of parties may ask at once. A server that is late has to serve those before, too.
        let again = store_now.settings().pause.saturating_mul(1 << failures.min(6)).min(CLOCK);
        let pause = if failures == 0 { CLOCK } else { again }.mul_f64(0.5 + random() / 2.0);
        drop(store_now);
        link.borrow_and_update();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = link.changed() => if changed.is_err() { return } else { failures = 0 },
        }
    }
}

/// Reads a time such as `2026-11-26T18:00:00.123456789Z`. Returns nanoseconds since 1970.
fn parse_time(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.split('-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut time = time.split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    if !(1970..3000).contains(&year) || !(1..=12).contains(&month) || fraction.len() > 9 {
        return None;
    }
    // Years begin with March, so that a leap day is the last one.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 719_469;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    let scale = 10_u64.pow(9 - u32::try_from(fraction.len()).ok()?);
    Some(seconds * 1_000_000_000 + fraction.parse::<u64>().ok()? * scale)
}

/// Returns whether the server's error says that there is no room: the stream or its subject is full (10077), or what the
/// account or the server may store is used up (10023, 10047).
fn is_full(err_code: u64) -> bool {
    matches!(err_code, 10077 | 10023 | 10047)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns a header of a stored message.
fn header<'a>(message: &'a Raw, name: &'static str) -> Option<&'a str> {
    message.headers.as_ref()?.get(name).map(async_nats::HeaderValue::as_str)
}

/// Returns the time when a message was stored.
fn stored_at(message: &Raw) -> Option<u64> {
    parse_time(header(message, STORED_AT)?)
}
